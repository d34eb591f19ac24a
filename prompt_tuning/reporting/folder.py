"""What the folder of a run holds, read without its model."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from prompt_tuning.evaluation import metric_lines, saved
from prompt_tuning.files import json_files, storage
from prompt_tuning.runs import run_file
from prompt_tuning.training import run_files


@dataclasses.dataclass(frozen=True)
class Folder:
  """What a run has left in its folder.

  Attributes:
    path: the folder.
    name: a short name, different for each run of a report.
    settings: those of its run.toml; {} if it has none.
    figures: the lines of its metrics.jsonl.
    before: the metrics of the frozen model alone; {} if they were not computed.
    trained: the tensors to use, the best if the run kept them; None if it has saved none.
    size: bytes of the file of these tensors.
  """

  path: str
  name: str
  settings: Mapping[str, Any]
  figures: Sequence[Mapping[str, Any]]
  before: Mapping[str, float]
  trained: saved.Trained | None
  size: int

  def points(self, part: str, figure: str) -> list[tuple[int, float]]:
    """Returns pairs of a step and a figure of one part of the log, such as 'train'."""
    return [(line['step'], line[figure]) for line in self.figures
            if line['folder'] == part and type(line.get(figure)) in (int, float)]

  def parts(self, kind: str) -> list[str]:
    """Returns the parts of the log below a folder, such as 'inference_eval', in order of appearance."""
    return list(dict.fromkeys(line['folder'] for line in self.figures if line['folder'].startswith(f'{kind}/')))

  def seconds(self) -> float | None:
    """Returns the seconds that the logged training steps took, without compiling and evaluating; None if unknown."""
    rates = self.points('train', 'steps_per_second')
    first = int(self.trained.about.get('start_step', 0)) if self.trained else 0
    spans = [(step - before) / rate for (step, rate), before in
             zip(rates, [first, *(step for step, _ in rates)], strict=False) if rate > 0 and step > before]
    return sum(spans) if spans else None


def read(paths: Sequence[str]) -> list[Folder]:
  """Reads the folders of runs.

  Raises:
    FileNotFoundError: one is not the folder of a run.
    ValueError: one is given twice, or a file in it is damaged.
  """
  plain = [path.rstrip('/') or path for path in paths]
  twice = next((path for path in plain if plain.count(path) > 1), None)
  if twice is not None:
    raise ValueError(f'{twice} is given twice. Give each run once.')
  return [_read(path, name) for path, name in zip(plain, short_names(plain), strict=True)]


def short_names(paths: Sequence[str]) -> list[str]:
  """Returns paths without the folders that they have in common."""
  parts = [(path if storage.is_remote(path) else os.path.abspath(path)).split('/') for path in paths]
  shared = 0
  while len(paths) > 1 and len({tuple(each[:shared + 1]) for each in parts}) == 1:
    shared += 1
  return ['/'.join(each[shared:]) if len(paths) > 1 else each[-1] for each in parts]


def _read(path: str, name: str) -> Folder:
  held = {each: storage.exists(storage.join(path, each))
          for each in (saved.METRICS, saved.BEST, saved.LAST, run_file.NAME, run_files.BEFORE)}
  if not any(held.values()):
    raise FileNotFoundError(f'{path} is not the folder of a run: it holds none of {", ".join(held)}. Give the folder '
                            'that a run has as its output.')
  tensors = next((storage.join(path, each) for each in (saved.BEST, saved.LAST) if held[each]), None)
  return Folder(
    path, name,
    settings=run_file.read(storage.join(path, run_file.NAME)) if held[run_file.NAME] else {},
    figures=metric_lines.figures_of(storage.join(path, saved.METRICS)) if held[saved.METRICS] else [],
    before=_numbers(storage.join(path, run_files.BEFORE)) if held[run_files.BEFORE] else {},
    trained=saved.load_trained(tensors) if tensors else None,
    size=len(storage.read_bytes(tensors)) if tensors else 0)


def _numbers(path: str) -> dict[str, float]:
  try:
    found = json.loads(storage.read_bytes(path))
  except ValueError as error:
    raise ValueError(f'{path} is damaged: {error}. Delete it, to leave the frozen model out.') from error
  if not isinstance(found, dict):
    raise ValueError(f'{path} holds {found!r:.60}, expected numbers by name. Delete it, to leave the frozen model out.')
  return json_files.numbers_of(found)
