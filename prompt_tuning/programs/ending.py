"""How a program begins and ends: reading its arguments, its exit status, and what it says of an error."""

import os
import traceback
from collections.abc import Callable
from typing import TypeVar

from prompt_tuning.files import terminal
from prompt_tuning.programs import current_folder

TRACEBACK = 'PROMPT_TUNING_TRACEBACK'
T = TypeVar('T')


def described(program: str, make: Callable[[], T], words: Callable[[str], str]) -> T | None:
  """Returns what a program's arguments describe; None, after a message, if they cannot be used: its status is 2.

  Args:
    program: its name, for messages.
    make: reads the arguments.
    words: the library's messages in the words that the user typed.
  """
  terminal.open_streams()
  try:
    current_folder.put_last()
    return make()
  except (ValueError, OSError, ImportError) as error:
    terminal.say(f'prompt-tuning {program}: {words(str(error))}')
    return None


def in_one_process(program: str, make: Callable[[], T], work: Callable[[T], object],
                   words: Callable[[str], str]) -> int:
  """Does what a program's arguments describe, in one process; returns the exit status; see `described`, `status_of`."""
  found = described(program, make, words)
  if found is None:
    return 2

  def start() -> None:
    from prompt_tuning.devices import compilation, multihost

    multihost.start(None, None, None, wanted=False)
    compilation.use_cache()
    work(found)

  return status_of(program, start, words)


def status_of(program: str, work: Callable[[], object], words: Callable[[str], str]) -> int:
  """Does a program's work; returns the exit status: 0, or another one after a message that says what to change.

  Args:
    program: its name, for messages.
    work: what it does.
    words: the library's messages in the words that the user typed.
  """
  from prompt_tuning.devices import multihost

  try:
    with terminal.worded(words):
      return _status(program, work)
  except Exception:
    if multihost.is_single_process():
      raise
    traceback.print_exc()  # now: an orderly exit would wait for the others
    return multihost.leave(1)


def _status(program: str, work: Callable[[], object]) -> int:
  from prompt_tuning.devices import multihost

  try:
    work()
  except (ValueError, OSError, ImportError, FloatingPointError, RuntimeError, MemoryError) as error:
    if multihost.lost(error):
      terminal.say(f'\nprompt-tuning {program}: another process of this run has ended or cannot be reached '
                   f'({str(error).splitlines()[0]:.200}). What was saved last is kept: the same command on all hosts '
                   'resumes from there.')
      return multihost.leave(3)
    if os.environ.get(TRACEBACK) or isinstance(error, RuntimeError):
      raise
    message = str(error)
    if isinstance(error, MemoryError):
      message = (f'There is not enough memory{message and f" ({message})"}. Give a smaller batch_size=, '
                 'max_input_length= or max_target_length=.')
    terminal.say(f'\nprompt-tuning {program}: {message}\n(Set {TRACEBACK}=1 to see the traceback.)')
    return multihost.leave(2)
  except KeyboardInterrupt as error:
    if not error.args:  # a run that has saved its state says so itself
      kept = ('Files that were not complete are not kept.' if program in ('eval', 'infer') else
              'What was saved before is kept, and the same command resumes from it.')
      terminal.say(f'\nprompt-tuning {program}: interrupted. {kept}')
    return multihost.leave(130)
  except SystemExit as error:
    from prompt_tuning.devices.preemption import Preempted

    if isinstance(error, Preempted):
      raise
    terminal.say(f'\nprompt-tuning {program}: ended by {error!r}, which was raised here:\n'
                 f'{"".join(traceback.format_tb(error.__traceback__)[-1:])}'
                 'Tasks, metrics and modules must raise errors instead. What was saved before is kept.')
    return multihost.leave(1)
  return 0
