"""Lines of figures, as `metrics.jsonl` holds them: one JSON object each, with its step; null stands for NaN."""

import json
from typing import Any, NamedTuple

from absl import logging

from prompt_tuning.files import json_files, storage


class Line(NamedTuple):
  """A line of figures.

  Attributes:
    number: from 1.
    content: its bytes, line feed included.
    figures: its object, with an integer `step`; None if it is damaged.
  """

  number: int
  content: bytes
  figures: dict[str, Any] | None


def parse(content: bytes) -> list[Line]:
  """Returns the lines of a file of figures, without half a line at its end, which a killed process leaves."""
  lines = [Line(number, line.rstrip(b'\r\n') + b'\n', _figures(line))
           for number, line in enumerate(content.splitlines(), start=1) if line.strip()]
  return lines[:-1] if lines and lines[-1].figures is None else lines


def figures_of(path: str) -> list[dict[str, Any]]:
  """Returns the figures in a file, of lines that name a folder; damaged lines are counted in a warning."""
  found = parse(storage.read_bytes(path))
  lines = [line.figures for line in found if line.figures is not None and isinstance(line.figures.get('folder'), str)]
  if len(lines) < len(found):
    logging.warning('%s: %d of %d lines are damaged and not shown.', path, len(found) - len(lines), len(found))
  return lines


def _figures(line: bytes) -> dict[str, Any] | None:
  try:
    found = json.loads(line)
  except (ValueError, RecursionError):
    return None
  usable = isinstance(found, dict) and type(found.get('step')) is int
  return {**found, **json_files.numbers_of(found)} if usable else None
