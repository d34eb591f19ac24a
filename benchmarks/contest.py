"""Lets several programs run the same work in turn: one computes while the others wait.

A contestant is a process that reads one command a line from its standard input and answers each with one line of
JSON. `serve` is its side, `Contestant` and `take_turns` are the side of the program that compares. No imports
beyond the standard library, so that a contestant may be a Python without JAX, or without torch.
"""

import contextlib
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def serve(step: Callable[[], None], **commands: Callable[[], Any]) -> None:
  """Answers commands until the input ends.

  'steps <count>' gives the seconds of each of so many calls of `step`, 'memory' the peak resident bytes of this
  process, and each of `commands` what its function returns (also `memory`, where an accelerator has its own).
  """
  answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not stand among the answers
  for line in sys.stdin:
    name, *arguments = line.split()
    if name == 'steps':
      answer = [seconds(step) for _ in range(int(arguments[0]))]
    else:
      answer = ({'memory': peak_memory} | commands)[name]()
    print(json.dumps(answer), file=answers, flush=True)


def seconds(function: Callable[[], Any]) -> float:
  """Returns how long a call takes."""
  start = time.perf_counter()
  function()
  return time.perf_counter() - start


def bandwidth() -> float:
  """Returns bytes per second that all processors together read from memory: the best of five turns over 1 GiB."""
  import concurrent.futures
  import os

  import numpy as np

  parts = np.array_split(np.ones(1 << 28, np.float32), os.cpu_count() or 1)
  with concurrent.futures.ThreadPoolExecutor(len(parts)) as threads:
    return (1 << 30) / min(seconds(lambda: list(threads.map(np.max, parts))) for _ in range(5))


def peak_memory() -> int:
  """Returns the largest resident size that this process has had, in bytes (Linux)."""
  with open('/proc/self/status') as file:
    return int(re.search(r'VmHWM:\s*(\d+) kB', file.read()).group(1)) * 1024


class Contestant(contextlib.AbstractContextManager):
  """A process that runs `serve`; use it in a `with` block, which ends it."""

  def __init__(self, command: Sequence[str]):
    self._command = list(command)
    self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

  def ask(self, command: str) -> Any:
    """Sends one command and waits for the answer."""
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.write(command + '\n')
      self._process.stdin.flush()
    answer = self._process.stdout.readline()
    if not answer:
      raise RuntimeError(f'{" ".join(self._command)} ended with status {self._process.wait()} when asked for '
                         f'{command!r}. Its own message stands above.')
    return json.loads(answer)

  def __exit__(self, *exception: Any) -> None:
    self._process.stdin.close()
    self._process.wait()


def take_turns(contestants: Mapping[str, Contestant], *, blocks: int, steps: int,
               between: Callable[[], None] = lambda: None) -> dict[str, list[float]]:
  """Returns, for each contestant, the median seconds of a step in each block.

  Args:
    contestants: by name; every block runs `steps` steps of each, in turn.
    blocks: how many turns each gets.
    steps: steps of a turn.
    between: called before every block.
  """
  medians: dict[str, list[float]] = {name: [] for name in contestants}
  for _ in range(blocks):
    between()
    for name, contestant in contestants.items():
      medians[name].append(statistics.median(contestant.ask(f'steps {steps}')))
      time.sleep(0.3)  # threads of the one before stop spinning
  return medians


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
  """Returns the median over blocks of the ratio within a block, where noise of the machine is most alike."""
  return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))
