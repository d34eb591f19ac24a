"""Several processes on this machine run one program, as the hosts of a pod do."""

import json
import pathlib
import shutil
import signal

import numpy as np
import pod
import processes
import pytest

PODS = ['two', pytest.param('four', marks=pytest.mark.slow)]  # a process takes seconds to start


@pytest.fixture(scope='module')
def model_folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('models') / 'toy'
  pod.make_model(folder)
  return str(folder)


@pytest.fixture(scope='module')
def alone(model_folder, tmp_path_factory):
  """The results of one process with one device, and its folder."""
  folder = tmp_path_factory.mktemp('alone')
  return pod.play(model_folder, str(folder)), folder


def play(count, devices, **settings):
  """Returns the results of each process."""
  program = [str(processes.HERE / 'pod.py'), f'--settings={json.dumps(settings)}']
  commands = [[*program, *flags] for flags in processes.joined(count)]
  with processes.started(*commands, devices=devices) as hosts:
    for host in hosts:
      assert host.ended(120) == 0, host.printed
    lines = [next(line for line in host.printed.splitlines() if line.startswith('{')) for host in hosts]
    return [{**json.loads(line), 'printed': host.printed} for line, host in zip(lines, hosts, strict=True)]


@pytest.fixture(scope='module')
def two(model_folder, tmp_path_factory):
  """The results of two processes with two devices each, and their folders."""
  folder = tmp_path_factory.mktemp('two')
  found = play(2, 2, model_folder=model_folder, folder=f'{folder}/{{}}', shape=(1, 2, 2), told=True)
  return found, folder


@pytest.fixture(scope='module')
def four(model_folder, two, tmp_path_factory):
  """The results of four processes with one device each, which resume a state of the two on another mesh."""
  folder = tmp_path_factory.mktemp('four')
  begin(two, folder / '0')
  found = play(4, 1, model_folder=model_folder, folder=f'{folder}/{{}}', shape=(2, 2, 1), judged=False)
  return found, folder


def begin(two, folder):
  """Makes the folder of a run that stopped partway through that of the two processes."""
  shutil.copytree(two[1] / '0' / 'checkpoint_103', folder / 'checkpoint_103')
  lines = (two[1] / '0' / 'metrics.jsonl').read_text().splitlines()
  (folder / 'metrics.jsonl').write_text(''.join(f'{line}\n' for line in lines if json.loads(line)['step'] <= 103))


def losses(folder):
  lines = [json.loads(line) for line in (pathlib.Path(folder) / 'metrics.jsonl').read_text().splitlines()]
  return {line['step']: line['loss'] for line in lines if line['folder'] == 'train'}


@pytest.mark.parametrize('pod_of', PODS)
def test_every_process_trains_what_one_alone_trains(alone, pod_of, request):
  (wanted, own), (found, folder) = alone, request.getfixturevalue(pod_of)
  assert list(losses(own)) == list(losses(folder / '0')) == [101, 102, 103, 104, 105, 106]
  np.testing.assert_allclose(list(losses(folder / '0').values()), list(losses(own).values()), rtol=1e-5)
  np.testing.assert_allclose(found[0]['prompt'], wanted['prompt'], atol=1e-5 * np.abs(wanted['prompt']).max())
  assert [each['prompt'] for each in found] == [found[0]['prompt']] * len(found)  # bit for bit


def test_every_process_judges_and_answers_as_one_alone_does(alone, two):
  (wanted, _), (found, folder) = alone, two
  for each in found:
    assert each['metrics'] == pytest.approx(wanted['metrics'], rel=1e-5)
    for ours, theirs in zip(each['answers'], wanted['answers'], strict=True):
      assert ours[:2] == theirs[:2]  # the input and its prediction
      assert ours[2] == pytest.approx(theirs[2], rel=1e-5)
  written = [json.loads(line) for line in (folder / '0' / 'answers.jsonl').read_text().splitlines()]
  assert [line['prediction'] for line in written] == [said for _, said, _ in wanted['answers']]


@pytest.mark.parametrize('pod_of', PODS)
def test_the_main_process_alone_writes(pod_of, request):
  assert [path.name for path in request.getfixturevalue(pod_of)[1].iterdir()] == ['0']


def test_processes_of_which_one_is_told_to_end_end_behind_the_same_step_and_go_on_to_the_same_bits(two):
  found, folder = two
  assert [each['status'] for each in found] == [0, 0]
  assert found[0]['stopped'] == found[1]['stopped'] > 100
  said = f'SIGTERM: saved at step {found[0]["stopped"]} of 3100. Run the same command again to resume.'
  assert said in found[0]['printed'] and said not in found[1]['printed']
  step = found[0]['stopped'] + 2
  for name in (f'checkpoint_{step}/state.safetensors', 'last.safetensors'):
    assert (folder / '0/told' / name).read_bytes() == (folder / '0/straight' / name).read_bytes(), name


def test_each_process_reads_what_its_devices_hold(alone, two):
  assert alone[0]['read'] == alone[0]['held']
  for each in two[0]:
    assert each['read'] == each['held'] < 0.6 * alone[0]['held']


@pytest.mark.slow
def test_parameters_that_are_spread_over_processes_can_be_retrained(model_folder, tmp_path):
  only = {'model_folder': model_folder, 'steps': (1,), 'judged': False, 'retrained': True}
  alone = pod.play(**only, folder=str(tmp_path / 'alone'))
  for each in play(2, 2, **only, folder=f'{tmp_path}/{{}}', shape=(1, 2, 2)):
    for name, array in alone['retrained'].items():
      np.testing.assert_allclose(each['retrained'][name], array, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_state_of_two_processes_is_gone_on_with_by_one(alone, two, model_folder, tmp_path):
  begin(two, tmp_path / 'run')
  found = pod.play(model_folder, str(tmp_path / 'run'), judged=False)
  np.testing.assert_allclose(found['prompt'], alone[0]['prompt'], atol=1e-5 * np.abs(alone[0]['prompt']).max())
  np.testing.assert_allclose(list(losses(tmp_path / 'run').values()), list(losses(alone[1]).values()), rtol=1e-5)


def test_a_process_that_loses_another_says_so_and_ends_with_a_status_of_its_own(model_folder, tmp_path):
  commands = [processes.train(model_folder, str(tmp_path), 10**6, *flags) for flags in processes.joined(2)]
  with processes.started(*commands) as (main, other):
    main.says('step 10/', 60)
    other.process.send_signal(signal.SIGKILL)
    assert main.ended(60) == 3
    last = main.printed.splitlines()[-1]
  assert last.startswith('prompt-tuning train: another process of this run has ended or cannot be reached')
  assert last.endswith('What was saved last is kept: the same command on all hosts resumes from there.')
