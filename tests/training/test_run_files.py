"""The content of a run's folder, and that no failure loses any of it."""

import json
import os
import pathlib
import shutil
import subprocess

import numpy as np
import pytest
import toy_run
from toy_run import TASK

from prompt_tuning import prompts, trees
from prompt_tuning.checkpoints.prompt_files import write_numpy_prompt
from prompt_tuning.checkpoints.state import read_state
from prompt_tuning.evaluation import saved
from prompt_tuning.files import local, storage
from prompt_tuning.training import run_files
from prompt_tuning.tuning.retrained import Retrained


def names_in(folder):
  return sorted(str(path.relative_to(folder)) for path in pathlib.Path(folder).rglob('*')
                if path.is_file() and 'events' not in path.name)


@pytest.fixture(scope='module')
def ended(tmp_path_factory):
  """A finished run, and its folder."""
  folder = tmp_path_factory.mktemp('ended') / 'run'
  return toy_run.train(folder, files={'config.gin': 'X = 1\n'}), folder


def test_a_runs_folder_holds_these_files_and_no_temporary_ones(ended):
  _, folder = ended
  assert names_in(folder) == [
    'README.md', 'best.safetensors', 'checkpoint_106/state.safetensors', 'config.gin',
    'inference_eval/turn-000103.jsonl', 'inference_eval/turn-000106.jsonl', 'inference_eval/turn-metrics.jsonl',
    'last.safetensors', 'metrics.jsonl', 'model-info.txt',
    'numpy_checkpoints/checkpoint_106/encoder.prompt.prompt.prompt']
  assert (folder / 'config.gin').read_text() == 'X = 1\n'


def test_the_numpy_checkpoint_the_last_file_and_the_state_hold_what_was_trained(ended):
  run, folder = ended
  vectors = run.trained[prompts.PATH]
  path = folder / 'numpy_checkpoints/checkpoint_106/encoder.prompt.prompt.prompt'
  np.testing.assert_array_equal(np.load(path, allow_pickle=False), vectors)
  last = saved.load_prompt(str(folder / 'last.safetensors'))
  np.testing.assert_array_equal(last.vectors, vectors)
  assert last.about['model'] == 'toy' and last.about['step'] == 106
  arrays, metadata = read_state(folder / 'checkpoint_106/state.safetensors')
  np.testing.assert_array_equal(arrays[f'trained/{prompts.PATH}'], vectors)
  assert metadata['step'] == 106 and metadata['run']['seed'] == 5 and metadata['data']['rows'] == 6 * 4


def test_model_info_lists_every_parameter_and_counts_them(ended, tiny):
  _, folder = ended
  lines = (folder / 'model-info.txt').read_text().splitlines()
  assert lines[0] == 'Variable encoder/prompt/prompt/prompt size 36 shape (3, 12) float32 trained'
  frozen = {line.split()[1]: line for line in lines if line.endswith(' frozen')}
  named = trees.unstack(trees.flatten(tiny.params))
  assert frozen == {
    name: f'Variable {name} size {array.size} shape {array.shape} float32 frozen' for name, array in named.items()}
  assert lines[-5:] == ['Total number of parameters: 9228', '', 'Trained: 36', 'Frozen: 9192', 'Step: 100']


def test_model_info_counts_a_retrained_parameter_as_trained_only(tiny, tmp_path):
  trained = trees.flatten(Retrained(['encoder/layers_1/mlp/wo/kernel']).initialise(None, tiny))
  run_files.write_model_info(tmp_path, tiny.params, trained, 0)
  text = (tmp_path / 'model-info.txt').read_text()
  assert text.count('encoder/layers_1/mlp/wo/kernel') == 1
  assert f'Total number of parameters: 9192\n\nTrained: {14 * 12}\nFrozen: {9192 - 14 * 12}\n' in text


def test_answers_of_an_evaluation_are_lines_of_input_target_and_prediction(ended):
  _, folder = ended
  lines = [json.loads(line) for line in open(folder / 'inference_eval/turn-000106.jsonl')]
  assert [(line['input']['inputs_pretokenized'], line['target']) for line in lines] == [
    (example['inputs'], example['targets']) for example in TASK.split('validation')]
  assert all(isinstance(line['prediction'], str) for line in lines)


def save(folder, step, trained, optimizer, keep=1):
  run_files.save(str(folder), step, trained={prompts.PATH: trained}, optimizer={'v': optimizer},
                 metadata={'run': 'this'}, about={}, keep=keep)


@pytest.mark.parametrize(('keep', 'kept'), [(1, [4]), (2, [3, 4]), (None, [1, 2, 3, 4])])
def test_as_many_states_are_kept_as_asked_for(tmp_path, keep, kept):
  for step in (1, 2, 3, 4):
    save(tmp_path, step, np.full((3, 2), step, np.float32), np.zeros(3), keep)
  assert run_files.saved_steps(str(tmp_path)) == kept
  numpy_folders = (tmp_path / 'numpy_checkpoints').iterdir()
  assert sorted(path.name for path in numpy_folders) == [f'checkpoint_{step}' for step in kept]
  assert (saved.load_prompt(str(tmp_path)).vectors == 4).all()


@pytest.mark.parametrize('damage', [
  lambda content: content[:-20], lambda content: content[:-50] + b'\0' + content[-49:], lambda content: b''])
def test_a_damaged_newest_state_is_an_error_that_names_it_and_says_how_to_go_on(ended, tmp_path, damage):
  shutil.copytree(ended[1], tmp_path / 'run')
  newest = tmp_path / 'run/checkpoint_106/state.safetensors'
  newest.write_bytes(damage(newest.read_bytes()))
  with pytest.raises(ValueError, match=rf'^{newest} .*from an older state, delete the folder .*checkpoint_106'):
    toy_run.train(tmp_path / 'run')


def test_a_resumed_run_removes_what_killed_ones_have_left(ended, tmp_path):
  shutil.copytree(ended[1], tmp_path / 'run')
  killed = subprocess.Popen(['true'])
  killed.wait()
  left = [f'last.safetensors.tmp-{killed.pid}', f'checkpoint_106/state.safetensors.tmp-{killed.pid}',
          f'inference_eval/turn-000103.jsonl.tmp-{local._host()}-{killed.pid}-{"0" * 16}']
  for name in left:
    (tmp_path / 'run' / name).write_bytes(b'half')
  toy_run.train(tmp_path / 'run', files={'config.gin': 'X = 1\n'})
  assert names_in(tmp_path / 'run') == names_in(ended[1])


def test_a_full_disk_while_saving_leaves_the_old_state_good(full_disk, tmp_path):
  old, new = np.zeros((2000, 3), np.float32), np.ones((2000, 3), np.float32)
  save(tmp_path, 1, old, old)
  for trained, optimizer in ((new, new[:0]), (new[:3], new)):  # no space for the trained tensors, or for the state
    with full_disk(6000), pytest.raises(OSError, match=r'cannot be written: .*too large.* Free some space'):
      save(tmp_path, 2, trained, optimizer)
    step, arrays, _ = run_files.read_newest(str(tmp_path))
    assert step == 1 and not arrays[f'trained/{prompts.PATH}'].any() and not arrays['optimizer/v'].any()
    assert not [name for name in names_in(tmp_path) if 'tmp' in name]
  save(tmp_path, 2, new, new)
  assert run_files.saved_steps(str(tmp_path)) == [2]


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path):
  (tmp_path / 'file').write_text('')
  for folder in (tmp_path / 'file', tmp_path / 'file/run'):
    with pytest.raises(OSError, match=rf'model_dir={folder} cannot be written \(.*\). Give a folder that this'):
      run_files.prepare(str(folder))


def test_a_folder_of_somebody_else_is_an_error_that_names_it(tmp_path):
  tmp_path.chmod(0o500)
  root = os.geteuid() == 0
  if root:
    os.seteuid(65534)  # root may write everywhere
  try:
    with pytest.raises(PermissionError, match=rf'model_dir={tmp_path}/run cannot be written \(Permission denied\)'):
      run_files.prepare(str(tmp_path / 'run'))
  finally:
    if root:
      os.seteuid(0)


def test_a_state_of_other_tensors_is_refused(tmp_path):
  arrays = {'trained/a': np.zeros(3), 'trained/b': np.zeros(2)}
  with pytest.raises(ValueError, match=r'does not fit this run: trained/b, trained/c. Choose another folder'):
    run_files.restore({'a': np.zeros(3), 'c': np.zeros(2)}, arrays, 'trained')
  with pytest.raises(ValueError, match=r'does not fit this run: trained/b \(2,\) instead of \(4,\)'):
    run_files.restore({'a': np.zeros(3), 'b': np.zeros(4)}, arrays, 'trained')


def test_a_folder_without_a_state_holds_no_run(tmp_path):
  assert run_files.read_newest(str(tmp_path / 'absent')) is None
  (tmp_path / 'checkpoint_7').mkdir()  # a run that was killed while saving its first state
  assert run_files.read_newest(str(tmp_path)) is None


def read(step):
  found, arrays, _ = run_files.read_newest('gs://bucket/run')
  assert found == step and (arrays[f'trained/{prompts.PATH}'] == step).all()


def save_in_bucket(step, keep=1):
  run_files.save('gs://bucket/run', step, trained={prompts.PATH: np.full((3, 2), step, np.float32)},
                 optimizer={'v': np.zeros(3)}, metadata={}, about={}, keep=keep)


@pytest.mark.parametrize(('keep', 'kept'), [(1, [9]), (2, [8, 9]), (None, [7, 8, 9])])
def test_as_many_states_are_kept_in_a_bucket_as_asked_for(store, keep, kept):
  run_files.prepare('gs://bucket/run')
  assert run_files.read_newest('gs://bucket/run') is None
  for step in (7, 8, 9):
    save_in_bucket(step, keep)
  assert run_files.saved_steps('gs://bucket/run') == kept
  read(9)
  for name in ('', 'numpy_checkpoints'):
    folders = (store.folder / 'bucket/run' / name).glob('checkpoint_*')
    assert sorted(path.name for path in folders if any(path.iterdir())) == [f'checkpoint_{step}' for step in kept]
  assert (saved.load_prompt('gs://bucket/run').vectors == 9).all()


def test_a_state_in_a_bucket_is_put_after_all_else_of_its_step_and_before_old_ones_go(store):
  save_in_bucket(7)
  store.asked.clear()
  growing = storage.GrowingFolder('gs://bucket/run')
  with growing.open('metrics.jsonl'):
    save_in_bucket(8)
  changes = [request.removeprefix('POST bucket/run/') for request in store.asked if request[:4] in ('POST', 'DELE')]
  assert changes == [
    'numpy_checkpoints/checkpoint_8/encoder.prompt.prompt.prompt', 'last.safetensors', 'README.md', 'metrics.jsonl',
    'checkpoint_8/state.safetensors', 'DELETE bucket/run/numpy_checkpoints/checkpoint_7/encoder.prompt.prompt.prompt',
    'DELETE bucket/run/checkpoint_7/state.safetensors']


@pytest.mark.parametrize('status', [403, 503])
@pytest.mark.parametrize('name', ['numpy_checkpoints', 'last', 'checkpoint_8/state'])
def test_a_put_that_fails_while_saving_leaves_the_old_state_good(store, name, status):
  save_in_bucket(7)
  store.failures.append((f'POST bucket/run/{name}', status))
  with pytest.raises(OSError, match=rf'gs://bucket/run/{name}.* cannot be written: the object store (refused|failed)'):
    save_in_bucket(8)
  assert run_files.saved_steps('gs://bucket/run') == [7]
  read(7)
  store.failures.clear()
  save_in_bucket(8)
  assert run_files.saved_steps('gs://bucket/run') == [8]


def test_the_folder_of_a_run_of_t5x_in_a_bucket_gives_its_newest_prompt(store):
  for step in (9, 10):
    storage.write_bytes(f'gs://bucket/run/checkpoint_{step}/checkpoint', b'')
    write_numpy_prompt(f'gs://bucket/run/numpy_checkpoints/checkpoint_{step}/encoder.prompt.prompt.prompt',
                       np.full((3, 2), step, np.float32))
  assert (saved.load_prompt('gs://bucket/run').vectors == 10).all()


def test_states_that_could_not_be_removed_are_removed_at_the_next_save(store):
  save_in_bucket(7)
  store.failures.append(('DELETE', 503))
  save_in_bucket(8)
  assert run_files.saved_steps('gs://bucket/run') == [7, 8]
  read(8)
  store.failures.clear()
  save_in_bucket(9)
  assert run_files.saved_steps('gs://bucket/run') == [9]


def test_a_folder_in_a_bucket_without_a_state_is_no_saved_step(store):
  save_in_bucket(7)
  storage.write_bytes('gs://bucket/run/checkpoint_8/other', b'')
  storage.write_bytes('gs://bucket/run/numpy_checkpoints/checkpoint_9/encoder.prompt.prompt.prompt', b'')
  assert run_files.saved_steps('gs://bucket/run') == [7]
  read(7)


def test_a_run_in_a_bucket_that_failed_goes_on_and_ends_as_a_local_one(store, ended):
  store.failures.append(('POST bucket/run/checkpoint_104', 503))
  with pytest.raises(OSError, match=r'checkpoint_104/state.safetensors cannot be written: the object store failed'):
    toy_run.train('gs://bucket/run', files={'config.gin': 'X = 1\n'})
  assert run_files.saved_steps('gs://bucket/run') == [102]
  store.failures.clear()
  run = toy_run.train('gs://bucket/run', files={'config.gin': 'X = 1\n'})
  here, there = ended[1], store.folder / 'bucket/run'
  assert (run.prompt.vectors == saved.load_prompt(str(here)).vectors).all()
  assert names_in(there) == names_in(here)
  for name in names_in(here):
    if name != 'metrics.jsonl':  # it contains times
      assert (there / name).read_bytes() == (here / name).read_bytes(), name
  figures = lambda path: [{name: value for name, value in json.loads(line).items()
                           if not name.endswith(('per_second', '_bytes'))} for line in open(path / 'metrics.jsonl')]
  assert figures(there) == figures(here)
  events = lambda path: {str(each.parent.relative_to(path)) for each in path.rglob('events*')}
  assert events(there) == events(here) == {'train', 'training_eval/turn', 'inference_eval/turn'}
