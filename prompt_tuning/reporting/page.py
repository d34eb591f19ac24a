"""The page of a report. The only file besides those of chat templates that imports jinja2."""

import dataclasses
import datetime
import importlib.resources
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np

from prompt_tuning import __version__
from prompt_tuning.evaluation.reports import principal_components
from prompt_tuning.evaluation.similarities import similarities
from prompt_tuning.names import printable
from prompt_tuning.reporting import charts
from prompt_tuning.reporting.folder import Folder
from prompt_tuning.reporting.of_model import Examined, OfModel

_SHOWN = 12  # right and wrong examples of a run
_CURVES = 4  # so many charts are shown; a click shows the others
_PARTS = ('cross_ent_loss', 'z_loss')  # of the loss
_LONGEST = 600  # characters of a text that is shown
_PROMPT = '/prompt'  # the end of the name of a prompt's vectors


def render(folders: Sequence[Folder], of_model: Sequence[OfModel]) -> str:
  """Returns the HTML of a report: texts of data and of models are escaped.

  Args:
    folders: the runs.
    of_model: for each what its model tells.
  """
  environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                   lstrip_blocks=True)
  environment.filters |= {'clean': _clean, 'figure': _figure, 'vectors': _vectors}
  template = importlib.resources.files(__package__).joinpath('report.html').read_text()
  runs = [{'folder': folder, 'model': model, 'moved': moved(folder, model.start), 'colour': i % charts.COLOURS}
          for i, (folder, model) in enumerate(zip(folders, of_model, strict=True))]
  same, different = settings(folders)
  return environment.from_string(template).render(
    runs=runs, same=same, different=different, version=__version__, curves=curves(folders),
    open_curves=_CURVES, metrics=metrics(folders),
    alike=alike(folders), components=components(folders, of_model), costs=[costs(*each) for each in zip(
      folders, of_model, strict=True)], examples=examples,
    made=datetime.datetime.now().strftime('%Y-%m-%d %H:%M'))


def settings(folders: Sequence[Folder]) -> tuple[dict[str, str], dict[str, list[str]]]:
  """Returns the settings in which the runs agree, and for others the value of each run ('' if it has none)."""
  names = dict.fromkeys(name for each in folders for name in each.settings if name != 'output')
  rows = {name: [_setting(each.settings[name]) if name in each.settings else '' for each in folders] for name in names}
  same = {name: values[0] for name, values in rows.items() if len(set(values)) == 1}
  return same, {name: values for name, values in rows.items() if name not in same}


def _setting(value: Any) -> str:
  """Returns a setting as text; of a choice, such as a method, its name and its options."""
  write = lambda each: each if isinstance(each, str) else json.dumps(each, ensure_ascii=False, default=str)
  if isinstance(value, Mapping) and 'name' in value:
    return ', '.join([write(value['name']), *(f'{key}={write(each)}' for key, each in value.items() if key != 'name')])
  return write(value)


def curves(folders: Sequence[Folder]) -> dict[str, str]:
  """Returns charts by title: the training loss, and each figure of evaluations that has more than one value."""
  series = {each.name: each.points('train', 'loss') for each in folders}
  found = {}
  if any(series.values()):
    found['Training loss for each token'] = charts.lines(series, x='step', y='loss', logarithmic=True)
  for kind, of_what in (('training_eval', 'given targets'), ('inference_eval', 'predictions')):
    for part in dict.fromkeys(part for each in folders for part in each.parts(kind)):
      own = dict.fromkeys(name for each in folders for line in each.figures if line['folder'] == part for name in line)
      for name in own:
        shown = {each.name: each.points(part, name) for each in folders}
        if name not in ('step', *_PARTS) and ':' not in name and any(len(points) > 1 for points in shown.values()):
          title = f'{name} of {of_what}, {part.partition("/")[2]}'
          found[title] = charts.lines(shown, x='step', y=name, dots=True, logarithmic='loss' in name)
  return found


def metrics(folders: Sequence[Folder]) -> list[tuple[str, list[Any]]]:
  """Returns rows of the figures of the tensors that a run keeps: a name, and for each run the frozen and the tuned."""
  after = [(each.trained.about.get('best') or {}).get('metrics') or {} if each.trained else {} for each in folders]
  names = dict.fromkeys(name for each in after for name in each if ':' not in name)
  return [(name, [(each.before.get(name), tuned.get(name)) for each, tuned in zip(folders, after, strict=True)])
          for name in names]


def moved(folder: Folder, start: Mapping[str, np.ndarray] | str) -> dict[str, list[tuple[float, float]]] | str:
  """Returns for each trained tensor and row (of a prompt: vector) its norm and how far it is from its start."""
  if isinstance(start, str):
    return start
  found = {}
  for name, array in folder.trained.tensors.items():
    after, before = (np.asarray(each, np.float64) for each in (array, start[name]))
    rows = name.endswith(_PROMPT)
    norm = lambda values, rows=rows: np.linalg.norm(values, axis=-1).tolist() if rows else [
      float(np.linalg.norm(values))]
    found[name] = list(zip(norm(after), norm(after - before), strict=True))
  return found


def alike(folders: Sequence[Folder]) -> dict[str, Any] | str:
  """Returns similarities among the prompts of several runs, as tables by title; or why there are none."""
  prompts = _prompts(folders)
  if len(prompts) < 2:
    return (f'Similarities compare at least two prompts of vectors; {len(prompts) or "none"} of the {len(folders)} '
            f'run{"s" * (len(folders) > 1)} {"has" if len(prompts) == 1 else "have"} one.')
  try:
    found = similarities(prompts)
  except ValueError as error:
    return str(error)
  titles = {'mean': 'cosine of the mean vectors', 'best': 'mean cosine to the most similar vector'}
  return {'names': list(prompts), 'tables': {title: found[name].tolist() for name, title in titles.items()}}


def components(folders: Sequence[Folder], of_model: Sequence[OfModel]) -> str | None:
  """Returns the vectors of all prompts and their starts along their first two principal components, as a chart.

  None if there are not three vectors of one width.
  """
  ends = {name: np.asarray(prompt.vectors, np.float64) for name, prompt in _prompts(folders).items()}
  starts = {each.name: np.asarray(model.start[prompt.path], np.float64)
            for each, model in zip(folders, of_model, strict=True)
            if (prompt := _prompts([each]).get(each.name)) is not None and not isinstance(model.start, str)}
  if sum(map(len, ends.values())) < 3 or len({array.shape[1] for array in ends.values()}) > 1:
    return None
  points, shares = principal_components(np.concatenate([*ends.values(), *starts.values()]))
  rows = iter(points.tolist())  # in the order in which they were joined
  placed_ends, placed_starts = ({name: list(itertools.islice(rows, len(array))) for name, array in arrays.items()}
                                for arrays in (ends, starts))
  every_run = {each.name: [] for each in folders}  # a run without a prompt keeps its colour
  return charts.scatter(every_run | placed_ends, hollow=placed_starts,
                        x=f'first component ({shares[0]:.0f} % of the variance)',
                        y=f'second ({shares[1]:.0f} %)')


def _prompts(folders: Sequence[Folder]) -> dict[str, Any]:
  """Returns the prompts of vectors among embedded tokens, by run."""
  found = {each.name: each.trained.prompt() for each in folders if each.trained}
  return {name: prompt for name, prompt in found.items() if prompt is not None}


def costs(folder: Folder, model: OfModel) -> dict[str, str]:
  """Returns what a run took, as texts by name; '' if its folder does not tell."""
  rates = {name: [value for _, value in folder.points('train', f'{name}_per_second')]
           for name in ('steps', 'examples', 'tokens')}
  seconds = folder.seconds()
  peaks = {where: max((value for _, value in folder.points('train', f'peak_{where}_bytes')), default=None)
           for where in ('device', 'process')}
  count = sum(int(np.size(array)) for array in folder.trained.tensors.values()) if folder.trained else None
  return {
    'steps logged': f'{max((line["step"] for line in folder.figures), default=0):,}',
    'time in training steps': '' if seconds is None else f'{seconds:,.1f} s',
    **{f'{name}/s, median': f'{np.median(values):,.3g}' if name == 'steps' and values else
       f'{np.median(values):,.0f}' if values else '' for name, values in rates.items()},
    'parameters in the file': '' if count is None else f'{count:,}',
    'file of trained tensors': f'{folder.size:,} bytes' if folder.size else '',
    **{f'peak memory of the {where}': '' if peak is None else f'{peak / 1e6:,.0f} MB'
       for where, peak in peaks.items()},
    'frozen weights in memory': '' if model.weights is None else f'{model.weights / 1e6:,.1f} MB'}


def examples(examined: Examined, right: bool | None) -> dict[str, Any]:
  """Returns the examples of a task that are right, wrong or neither: those of the surest predictions first."""
  found = [line for line in examined.lines if line.right is right]
  ordered = sorted(found, key=lambda line: -(line.confidence or 0.0))
  return {'count': len(found), 'shown': [dataclasses.asdict(line) for line in ordered[:_SHOWN]]}


def _clean(text: Any) -> str:
  """Returns a text without control characters; of a long one the beginning."""
  text = printable(str(text))
  return text if len(text) <= _LONGEST else f'{text[:_LONGEST]}… ({len(text):,} characters)'


def _vectors(moved: Mapping[str, Any] | str) -> str | None:
  """Returns the name of a prompt's vectors among tensors that have moved."""
  return None if isinstance(moved, str) else next((name for name in moved if name.endswith(_PROMPT)), None)


def _figure(value: Any) -> str:
  return '' if value is None else f'{value:.4g}'
