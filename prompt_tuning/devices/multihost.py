"""Runs one program in several processes, each with its own devices: how they connect and coordinate.

Every process computes the same values outside of compiled functions, so all take the same branches. One of them, the
main process, writes the files that are written once.
"""

import os
import re
import sys

HEARTBEAT = 20  # seconds without a heartbeat after which a process counts as dead, and the others stop
PIECE = 1 << 28  # bytes that are sent at once: JAX cannot index arrays of 2 GiB
# Variables in which clusters say how many processes a run has.
_OF_SEVERAL = ('SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE', 'JAX_NUM_PROCESSES')
_PORT = '10.0.0.1:8476'


def start(address: str | None = None, count: int | None = None, index: int | None = None, *,
          wanted: bool = False) -> None:
  """Joins the other processes of this run; must be called before JAX is used.

  Without arguments, JAX finds the processes on TPU pods, on GKE, and under Slurm and Open MPI; if it finds none, this
  process is alone.

  Args:
    address: host and port of process 0.
    count: the number of processes.
    index: the index of this process, from 0.
    wanted: there must be other processes.

  Raises:
    ValueError: an argument is missing, or the other processes cannot be found.
  """
  if address is None and count == 1:
    return
  index = None if address is None and count is None and index == 0 else index  # some scripts always pass index 0
  given = {'coordinator_address': address, 'process_count': count, 'process_index': index}
  missing = [name for name, value in given.items() if value is None]
  if 0 < len(missing) < len(given):
    raise ValueError(f'{", ".join(f"--{name}" for name in missing)} {"is" if len(missing) == 1 else "are"} missing. '
                     f'Give all three, such as --coordinator_address={_PORT} --process_count=4 --process_index=0, or '
                     'none if the cluster provides them (TPU pods, GKE, Slurm, Open MPI).')
  import jax

  if jax.distributed.is_initialized():
    return
  told = [name for name in _OF_SEVERAL if os.environ.get(name, '1') not in ('', '0', '1')]
  if told and jax_is_used():
    raise ValueError(f'{told[0]}={os.environ[told[0]]} says that this run has several processes, but JAX was used '
                     'before they were joined, so this one would train alone. Start the program anew, without code '
                     'that uses JAX before it.')
  try:
    jax.distributed.initialize(address, count, index, heartbeat_timeout_seconds=HEARTBEAT,
                               shutdown_timeout_seconds=2 * HEARTBEAT)
  except (ValueError, RuntimeError) as error:
    if missing and not wanted and re.search('should be defined|must be called before', str(error)):
      return  # there are no other processes, or a single process already uses JAX
    raise ValueError(f'The processes of this run cannot be joined: {str(error).splitlines()[0]} Check that process 0 '
                     'is running and reachable, that all have the same address and count, and each a different index; '
                     'or set --coordinator_address, --process_count and --process_index.') from error


def jax_is_used() -> bool:
  """Whether a device of JAX has been asked for; afterwards processes cannot be joined any more."""
  from jax._src import xla_bridge

  return xla_bridge.backends_are_initialized()


def is_main() -> bool:
  """Returns True if this process writes the files that are written once."""
  return is_single_process() or sys.modules['jax'].process_index() == 0


def is_single_process() -> bool:
  """Returns True if there is no other process."""
  jax = sys.modules.get('jax')
  return jax is None or not jax.distributed.is_initialized() or jax.process_count() == 1


def from_main(content: bytes | None) -> bytes | None:
  """Returns the main process's content; other processes may pass None."""
  if is_single_process():
    return content
  import numpy as np
  from jax.experimental.multihost_utils import broadcast_one_to_all

  pieces, rest = map(int, broadcast_one_to_all(np.int32((-1, 0) if content is None else divmod(len(content), PIECE))))
  if pieces < 0:
    return None
  received = bytearray()
  for size in [PIECE] * pieces + [rest] * (rest > 0):
    held = np.frombuffer(content, np.uint8, size, len(received)) if is_main() else np.zeros(size, np.uint8)
    received += np.asarray(broadcast_one_to_all(held)).astype(np.uint8).tobytes()
  return content if is_main() else bytes(received)


def lost(error: Exception) -> bool:
  """Returns True if an error means that another process is no longer reachable."""
  if is_single_process():
    return False
  own = re.match('RESOURCE_EXHAUSTED|INVALID_ARGUMENT|UNIMPLEMENTED|NOT_FOUND|FAILED_PRECONDITION', str(error))
  return 'Gloo' in str(error) or (type(error).__name__ == 'JaxRuntimeError' and not own)


def leave(status: int) -> int:
  """Returns the exit status of a process that has printed its error; ends it at once if other processes run.

  They notice, and end, too. An orderly end would wait for them, and they for what this process should have computed.
  """
  if not is_single_process():
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  return status
