"""Runs programs in separate processes on simulated devices; none outlives the block that started it."""

import contextlib
import dataclasses
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

HERE = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Started:
  """A process and its output, including errors.

  Attributes:
    process: in a separate process group.
    log: the file with its output.
  """

  process: subprocess.Popen
  log: pathlib.Path

  @property
  def printed(self) -> str:
    """Its output so far."""
    return self.log.read_text(errors='replace')

  def ended(self, limit: float) -> int:
    """Returns its exit status; fails with its output if it does not end within `limit` seconds."""
    try:
      return self.process.wait(limit)
    except subprocess.TimeoutExpired:
      raise AssertionError(f'still running after {limit} s; it printed:\n{self.printed[-4000:]}') from None

  def says(self, text: str, limit: float) -> None:
    """Returns once it has printed `text`; fails if it ends before, or after `limit` seconds."""
    deadline = time.monotonic() + limit
    while text not in self.printed:
      assert self.process.poll() is None and time.monotonic() < deadline, f'no {text!r} in:\n{self.printed[-4000:]}'
      time.sleep(0.02)


@contextlib.contextmanager
def started(*commands: Sequence[str], devices: int = 1, **environment: str) -> Iterator[list[Started]]:
  """Starts Python with each command's arguments; at the end of the block, kills remaining processes and children.

  Args:
    *commands: arguments for the interpreter.
    devices: the number of simulated devices per process.
    **environment: additional variables.
  """
  environment = {**os.environ, 'PYTHONPATH': f'{HERE.parent}:{HERE.parent.parent}', 'JAX_NUM_CPU_DEVICES': str(devices),
                 'NPROC': '64', **environment}  # on few cores, several devices wait for one another without threads
  with tempfile.TemporaryDirectory() as folder:
    found = []
    try:
      for i, command in enumerate(commands):
        log = pathlib.Path(folder) / f'{i}.log'
        with open(log, 'w') as file:
          found.append(Started(subprocess.Popen([sys.executable, *command], env=environment, stdout=file,
                                                stderr=subprocess.STDOUT, start_new_session=True), log))
      yield found
    finally:
      for each in found:
        with contextlib.suppress(ProcessLookupError):
          os.killpg(each.process.pid, signal.SIGKILL)
        each.process.wait()


def joined(count: int) -> list[list[str]]:
  """Returns the flags with which each of several processes on this machine finds the others."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{free.getsockname()[1]}'
  return [[f'--coordinator_address={address}', f'--process_count={count}', f'--process_index={i}']
          for i in range(count)]


def train(model_folder: str, folder: str, steps: int, *more: str) -> list[str]:
  """Returns the command line that trains, without evaluation."""
  values = {
    'INITIAL_CHECKPOINT_PATH': f"'{model_folder}'", 'MODEL_DIR': f"'{folder}'", 'TRAIN_STEPS': steps,
    'MIXTURE_OR_TASK_NAME': "'Add1'", 'TASK_FEATURE_LENGTHS': "{'inputs': 9, 'targets': 5}", 'PROMPT_LENGTH': 3,
    'BATCH_SIZE': 4, 'RANDOM_SEED': 3, 'VOCABULARY': '@seqio.PassThroughVocabulary()',
    'seqio.PassThroughVocabulary.size': 29, 'train_script.train.infer_eval_dataset_cfg': None,
    'train_script.train.train_eval_dataset_cfg': None}
  files = ('models/from_checkpoint_prompt', 'runs/prompt_finetune')
  return ['-m', 'prompt_tuning.train', *(f'--gin_file=prompt_tuning/configs/{file}.gin' for file in files),
          *(f'--gin.{name}={value}' for name, value in values.items()), *more]
