"""The most memory that was in use so far, as the devices count it, or else the process."""

import sys

import jax


def peak() -> dict[str, float]:
  """Returns `peak_device_bytes` of the fullest device of this process; `peak_process_bytes` if they do not count.

  CPUs do not: what a process holds there is its resident memory, that of Python and its libraries included. Both are of
  the process, so in one that has done other work before, such as a notebook's, they may be of that.
  """
  counted = [(device.memory_stats() or {}).get('peak_bytes_in_use') for device in jax.local_devices()]
  found = [count for count in counted if count is not None]
  return {'peak_device_bytes': float(max(found))} if found else {'peak_process_bytes': float(_resident())}


def words(figures: dict[str, float]) -> str:
  """Returns the peak among figures for a progress line; '' if it is not among them."""
  return next((f'{figures[name] / 1e9:.2f} GB' for name in ('peak_device_bytes', 'peak_process_bytes')
               if name in figures), '')


def _resident() -> int:
  """Returns the most bytes of memory that the process has held."""
  try:
    with open('/proc/self/status') as file:  # what getrusage counts includes the program that started this one
      return next(int(line.split()[1]) * 1024 for line in file if line.startswith('VmHWM:'))
  except (OSError, StopIteration):
    import resource

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == 'darwin' else size * 1024
