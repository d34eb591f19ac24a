"""Which host and which process this is, and whether another process of this host still runs."""

import contextlib
import functools
import os
import socket


@functools.cache
def name() -> str:
  """Returns this host's name; in a container, also the namespace in which its processes are numbered."""
  with contextlib.suppress(OSError):
    return f'{socket.gethostname()} {os.readlink("/proc/self/ns/pid")}'
  return socket.gethostname()


def started(process: int) -> str | None:
  """Returns when a process of this host was started, as the system counts it; None if it does not run.

  Numbers of processes are used again, so a number alone does not identify one. '' means that the time is unknown.
  """
  try:
    os.kill(process, 0)
  except (ProcessLookupError, OverflowError):
    return None
  except PermissionError:
    pass  # another user's
  try:
    with open(f'/proc/{process}/stat', encoding='utf-8', errors='replace') as file:
      fields = file.read().rpartition(')')[2].split()
  except OSError:
    return ''
  return None if fields[0] in 'ZX' else fields[19]  # a dead process may wait for its parent
