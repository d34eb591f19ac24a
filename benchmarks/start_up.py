"""Measures how long the demo takes from the program's start to its first training steps, without and with a cache.

  python3 benchmarks/start_up.py

The first run finds an empty cache of compiled programs, as on a fresh machine; the second finds what the first left.
What is timed is the first line of figures, which comes after ten steps, so the first step was earlier.
"""

import os
import subprocess
import sys
import tempfile
import time


def first_line(cache: str, model_dir: str) -> float:
  """Returns the seconds from the start of the demo to its first line of figures."""
  command = [sys.executable, '-m', 'prompt_tuning.scripts.demo', '--model_dir', model_dir]
  began = time.monotonic()
  with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
                        env={**os.environ, 'JAX_COMPILATION_CACHE_DIR': cache}) as process:
    for line in process.stderr:
      if line.startswith('step 10/'):
        seconds = time.monotonic() - began
        process.terminate()
        return seconds
  raise RuntimeError('The demo ended without a line of figures.')


def main() -> None:
  """Prints both times."""
  with tempfile.TemporaryDirectory() as folder:
    cache = os.path.join(folder, 'cache')
    for name in ('empty cache', 'second start'):
      print(f'{name}: {first_line(cache, os.path.join(folder, name)):.1f} s to ten training steps')


if __name__ == '__main__':
  main()
