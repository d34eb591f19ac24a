"""How far long work is: bars in a terminal, a text that changes in a notebook, else plain lines a few seconds apart.

What goes through examples calls `tell` or `counted`; whoever waits for it wraps it in `examples_on`. Nothing between
the two knows of progress.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from prompt_tuning.files import terminal

_BETWEEN_LINES, _BETWEEN_TEXTS = 5.0, 0.3  # seconds
_following: list[Callable[[int, int], None]] = []


class Display:
  """Shows nothing: what the others do, for quiet runs and for hosts other than the main one."""

  def show(self, name: str, done: int, total: int, *, unit: str = '', figures: str = '',
           left: float | None = None) -> None:
    """Shows how far a piece of work is.

    Args:
      name: of the work, such as 'step'.
      done: how much is done; the first call for a name starts its clock.
      total: all of it.
      unit: what is counted, if the name does not say it.
      figures: what else is known.
      left: the seconds that the rest takes; None estimates them from all but the first call after it, since what is
        done first compiles.
    """

  def say(self, text: str) -> None:
    """Prints a separate line."""

  def end(self, name: str) -> None:
    """Removes a piece of work."""

  def close(self) -> None:
    """Ends the display; the last state stays."""

  def __enter__(self) -> 'Display':
    return self

  def __exit__(self, *_: object) -> None:
    self.close()


def display(*, quiet: bool = False) -> Display:
  """Returns the display for where the standard error stream is shown."""
  if quiet:
    return Display()
  if terminal.is_terminal():
    return _Bars()
  return _Notebook() if _in_notebook() else _Lines()


def tell(done: int, total: int) -> None:
  """Tells whoever waits how many examples are done."""
  if _following:
    _following[-1](done, total)


def counted(firsts: range) -> Iterator[int]:
  """Yields the number of the first example of each batch, and tells how many are done."""
  for first in firsts:
    tell(first, firsts.stop)
    yield first
  tell(firsts.stop, firsts.stop)


@contextlib.contextmanager
def examples_on(shown: Display, name: str) -> Iterator[None]:
  """A context in which a display shows what `tell` is told."""
  _following.append(lambda done, total: shown.show(name, done, total, unit=' examples'))
  try:
    yield
  finally:
    _following.pop()
    shown.end(name)


@contextlib.contextmanager
def part(before: int, total: int) -> Iterator[None]:
  """A context for a part of the examples: `before` were done before it, and there are `total`."""
  if not _following:
    yield
    return
  whole = _following[-1]
  _following.append(lambda done, _: whole(before + done, total))
  try:
    yield
  finally:
    _following.pop()


class _Lines(Display):
  """Plain lines: the first figures, the last ones, and others a few seconds apart."""

  def __init__(self) -> None:
    self._clocks: dict[str, _Clock] = {}

  def show(self, name: str, done: int, total: int, *, unit: str = '', figures: str = '',
           left: float | None = None) -> None:
    now, clock = self._clock(name, done)
    at_once = left is not None and (clock.said is None or done == total)
    if at_once or now - (clock.said or clock.began) > _BETWEEN_LINES:
      clock.said = now
      terminal.say(_text(name, done, total, unit, figures) + clock.eta(now, total, left))

  def _clock(self, name: str, done: int) -> 'tuple[float, _Clock]':
    """Returns the time, and the clock of a piece of work, which starts again when the work does."""
    now, clock = time.monotonic(), self._clocks.get(name)
    if clock is None or done < clock.done:
      clock = self._clocks[name] = _Clock(now, done, None if clock is None else clock.said)
    clock.advance(now, done)
    return now, clock

  def say(self, text: str) -> None:
    terminal.say(text)

  def end(self, name: str) -> None:
    self._clocks.pop(name, None)


class _Clock:
  """When a piece of work began, how much is done, when it was last said, and what is measured for an estimate."""

  def __init__(self, began: float, done: int, said: float | None):
    self.began, self.done, self.said = began, done, said
    self._since: tuple[float, int] | None = None

  def advance(self, now: float, done: int) -> None:
    """Takes how much is done now."""
    if self._since is None and done > self.done:
      self._since = now, done
    self.done = done

  def eta(self, now: float, total: int, given: float | None) -> str:
    """Returns the end of a text: the seconds that the rest takes, if they are known."""
    if given is None and self._since is not None and self.done > self._since[1]:
      began, before = self._since
      given = (now - began) / (self.done - before) * (total - self.done)
    return '' if given is None else f'  ETA {given:.0f} s'


class _Notebook(_Lines):
  """One text in the output of a notebook's cell, which changes; a line for each piece of work."""

  def __init__(self) -> None:
    super().__init__()
    self._texts: dict[str, str] = {}
    self._handle, self._drawn = None, 0.0

  def show(self, name: str, done: int, total: int, *, unit: str = '', figures: str = '',
           left: float | None = None) -> None:
    now, clock = self._clock(name, done)
    self._texts[name] = _text(name, done, total, unit, figures) + clock.eta(now, total, left)
    self._draw(now)

  def end(self, name: str) -> None:
    super().end(name)
    self._texts.pop(name, None)
    self._draw(time.monotonic())

  def close(self) -> None:
    self._draw(float('inf'))

  def _draw(self, now: float) -> None:
    if now - self._drawn < _BETWEEN_TEXTS:
      return
    from IPython.display import display as draw

    self._drawn = now
    shown = {'text/plain': '\n'.join(self._texts.values())}
    if self._handle is not None:
      self._handle.update(shown, raw=True)
    elif self._texts:
      self._handle = draw(shown, raw=True, display_id=True)


class _Bars(Display):
  """Bars that move, below the lines that are printed."""

  def __init__(self) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    console = Console(stderr=True)
    console.on_broken_pipe = lambda: terminal.silence(console.file)  # rich would end the program
    whole = lambda width=None: Column(no_wrap=True, min_width=width)
    self._bar: Progress | None = Progress(  # in a narrow terminal the end of the figures is cut, and nothing else
      TextColumn('{task.description} {task.completed:.0f}/{task.total:.0f}{task.fields[unit]}', table_column=whole()),
      BarColumn(bar_width=12, table_column=whole(12)), TextColumn('ETA', table_column=whole(3)),
      TimeRemainingColumn(table_column=whole(7)),
      TextColumn('{task.fields[figures]}', table_column=Column(no_wrap=True, ratio=1)), console=console, expand=True)
    self._tasks: dict[str, Any] = {}

  def show(self, name: str, done: int, total: int, *, unit: str = '', figures: str = '',
           left: float | None = None) -> None:
    def update(bar: Any) -> None:
      if not bar.live.is_started:
        bar.start()
      if name not in self._tasks:
        self._tasks[name] = bar.add_task(name, total=total, completed=done, figures=figures, unit=unit)
      elif done < bar.tasks[bar.task_ids.index(self._tasks[name])].completed:
        bar.reset(self._tasks[name])  # the work starts again, with other examples
      bar.update(self._tasks[name], completed=done, total=total, figures=figures)

    self._do(update)

  def say(self, text: str) -> None:
    if self._bar is None:
      terminal.say(text)
    self._do(lambda bar: bar.console.print(terminal.in_words(text), markup=False, highlight=False))

  def end(self, name: str) -> None:
    if name in self._tasks:
      self._do(lambda bar: bar.remove_task(self._tasks.pop(name)))

  def close(self) -> None:
    self._do(lambda bar: bar.stop())
    self._bar = None

  def _do(self, change: Callable[[Any], None]) -> None:
    try:
      if self._bar is not None:
        change(self._bar)
    except (OSError, ValueError):  # the terminal was closed
      self._bar = None


def _text(name: str, done: int, total: int, unit: str, figures: str) -> str:
  return f'{name} {done}/{total}{unit}' + f'  {figures}' * bool(figures)


def _in_notebook() -> bool:
  """Returns True in the kernel of a notebook, which shows texts that change; the shell IPython is a terminal."""
  shell = sys.modules['IPython'].get_ipython() if 'IPython' in sys.modules else None
  return hasattr(shell, 'kernel')
