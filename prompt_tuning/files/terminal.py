"""Lines for the terminal. It may be closed, or a file on a full disk: no run ends because of that."""

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

_words: list[Callable[[str], str]] = []  # those of the program that runs: the library's messages in its users' words


@contextlib.contextmanager
def worded(words: Callable[[str], str]) -> Iterator[None]:
  """A context in which what is said or logged is in the words that a function gives it."""
  from absl import logging

  def translate(record: Any) -> bool:
    record.msg, record.args = words(record.getMessage()), ()
    return True

  logger = logging.get_absl_logger()
  logger.addFilter(translate)
  _words.append(words)
  try:
    yield
  finally:
    _words.pop()
    logger.removeFilter(translate)


def in_words(text: str) -> str:
  """Returns a line of the library in the words of the program that runs; unchanged if none does."""
  return _words[-1](text) if _words else text


def say(text: str) -> None:
  """Prints a line about the progress, on the standard error stream."""
  _print(in_words(text), sys.stderr)


def show(text: str) -> None:
  """Prints a result, on the standard output stream."""
  _print(in_words(text), sys.stdout)


def is_terminal() -> bool:
  """Returns True if the standard error stream is shown in a terminal."""
  with contextlib.suppress(AttributeError, ValueError):  # there is none, or it is closed
    return sys.stderr.isatty()
  return False


def open_streams() -> None:
  """Opens the standard streams that were closed when the program started, so that they lead nowhere.

  Otherwise the next file would get the number of such a stream, and libraries would print into that file.
  """
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
  for name in ('stdout', 'stderr'):
    if getattr(sys, name) is None:
      setattr(sys, name, open(os.devnull, 'w', encoding='utf-8'))


def silence(stream: TextIO) -> None:
  """Lets a stream that nobody reads any more lead nowhere; otherwise Python would end with an error because of it."""
  with contextlib.suppress(OSError, ValueError):
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def _print(text: str, stream: TextIO | None) -> None:
  if stream is None:
    return
  try:
    print(text, file=stream, flush=True)
  except ValueError:
    pass  # it is closed
  except OSError as error:
    if error.errno in (errno.EPIPE, errno.EIO, errno.EBADF):
      silence(stream)
