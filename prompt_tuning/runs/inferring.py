"""Executes a run that predicts."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prompt_tuning.data import files
from prompt_tuning.data.tasks import Example, Mixture, columns_of
from prompt_tuning.data.templates import Templates
from prompt_tuning.devices import meshes, multihost
from prompt_tuning.evaluation import predictions
from prompt_tuning.evaluation.ensembles import infer_trained
from prompt_tuning.evaluation.ranking import Ranked
from prompt_tuning.files import storage
from prompt_tuning.runs import objects, run_file, use
from prompt_tuning.runs.infer_run import InferRun
from prompt_tuning.runs.training import phase, read_model, say_new_folder

_LINES = {'rows': predictions.json_line, 't5x': predictions.json_line, 'id||text': predictions.text_line}
_MOST = 64  # tokens of a prediction, unless max_target_length is given


def run(described: InferRun, *, config_text: str = '') -> str:
  """Predicts and writes; returns the path of the file.

  Args:
    described: the run's values.
    config_text: its gin configuration, for `config.gin`.

  Raises:
    ValueError, OSError, ImportError: something does not fit or cannot be read; the message says what to change.
  """
  path = described.output
  objects.check_output(path, is_file=True)
  say_new_folder(path)
  given, rows = examples(described)
  words = ranked(described)  # errors are found before the model is read
  model = read_model(described)
  meshes.rows_at_once(model.module.config.mesh, described.batch_size)
  trained = use.trained(described, model)
  if multihost.is_main():  # before the work
    run_file.write(settings_path(described), described.given(), program='infer', config_text=config_text)
  lengths = objects.lengths_given(described)
  lines = infer_trained(
    model, trained, given, sampler=objects.sampler(described), lengths=lengths, batch_size=described.batch_size,
    mode=described.mode, max_length=(lengths or {}).get('targets', _MOST), seed=described.seed or 0,
    ranked=words)
  if described.lines == 'rows':
    lines = _as_rows(rows, lines)
  with phase('Predicting', compiles=True):
    count = predictions.write_lines(path, lines, _LINES[described.lines])
  if multihost.is_main():
    if described.marker:
      storage.write_bytes(f'{path}.COMPLETED', b'')
    print(f'Wrote {count} {"scores" if described.mode == "score" else "predictions"}: {path}')
  return path


def settings_path(described: InferRun) -> str:
  """Returns where the run's values are written: for T5X's lines, `run.toml` next to the file, else `NAME.run.toml`."""
  if described.lines != 'rows':
    return storage.join(os.path.dirname(described.output), run_file.NAME)
  return f'{os.path.splitext(described.output)[0]}.{run_file.NAME}'


def examples(described: InferRun) -> tuple[Sequence[Example], Sequence[Mapping[str, Any]]]:
  """Returns the examples to predict for, and the columns of each.

  Raises:
    ValueError: they cannot be read, or a column has the name of a result.
  """
  name, whole = described.data.name, described.reads_table and described.split == 'all'
  if described.reads_lines or (whole and described.mode != 'score'):
    found = files.read_inputs(name, inputs=described.template, cut=described.cut,
                              vocabulary=lambda: objects.vocabulary(described), columns=described.columns)
  else:
    task = objects.task(described)
    if isinstance(task, Mixture):
      raise ValueError(f'{task.name} is a mixture. Give one of its tasks: {", ".join(t.name for t in task.tasks)}.')
    found = task.split(described.split)
  rows = [columns_of(example) for example in found]
  results = {'predict': ('prediction',), 'predict_with_aux': ('prediction', 'aux'), 'score': ('score',)}
  written = (*results[described.mode], *(('scores', 'confidence') if described.label_words is not None else ()))
  taken = [result for result in written if any(result in row for row in rows)]
  if described.lines == 'rows' and taken:
    raise ValueError(f'{name} already has a column {taken[0]!r}, which the results are written to. Rename it.')
  return found, rows


def ranked(described: InferRun) -> Ranked | None:
  """Returns the words to rank; None if predictions are generated.

  Raises:
    ValueError: the words cannot be ranked, or the run has no label map to take them from.
  """
  if described.label_words is None:
    return None
  words = described.label_words
  if words == 'task':
    words = Templates(described.template, described.target_template, described.labels).labels
    if not words:
      raise ValueError("label_words='task' cannot be used: the run has no label map. Give labels=, or the words "
                       'themselves, such as label_words=negative,positive.')
  return Ranked(words, described.label_score)


def _as_rows(rows: Sequence[Mapping[str, Any]], lines: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
  """Yields each example's columns with its result."""
  for row, line in zip(rows, lines, strict=True):
    yield {**row, **{name: value for name, value in line.items() if name != 'inputs'}}
