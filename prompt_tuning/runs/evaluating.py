"""Executes a run that evaluates."""

import contextlib
import functools
from collections.abc import Mapping

from absl import logging

from prompt_tuning.data.target_checks import evaluated, require_labels
from prompt_tuning.data.tasks import Task, short_names, unique_names
from prompt_tuning.devices import meshes, multihost
from prompt_tuning.evaluation import evaluate as library
from prompt_tuning.evaluation.ensembles import elected, evaluate_trained, of_members
from prompt_tuning.evaluation.ranking import Ranked
from prompt_tuning.files import storage
from prompt_tuning.models.ensembles import Ensemble
from prompt_tuning.runs import objects, run_file, use
from prompt_tuning.runs.changed_examples import have_changed
from prompt_tuning.runs.eval_run import EvalRun
from prompt_tuning.runs.training import phase, read_model, say, say_new_folder
from prompt_tuning.training import metric_log, run_files


def run(described: EvalRun, *, config_text: str = '') -> dict[str, Mapping[str, float]]:
  """Evaluates, prints and writes; returns task -> metrics.

  Args:
    described: the run's values.
    config_text: its gin configuration, for `config.gin`.

  Raises:
    ValueError, OSError, ImportError: something does not fit or cannot be read; the message says what to change.
  """
  if described.output is not None:
    objects.check_output(described.output)
    say_new_folder(described.output)
  task = objects.task(described)
  parts = [(each, ranked(described, each)) for each, _ in task.parts(described.split)]
  model = read_model(described)
  meshes.rows_at_once(model.module.config.mesh, described.batch_size)
  trained = use.trained(described, model)
  members = dict(zip(described.prompts, trained.members, strict=True)) if isinstance(trained, Ensemble) else {}
  each_trained = list(members.values()) or [trained]
  step = max(int(one.about.get('step', model.step)) for one in each_trained)
  folder = described.output
  settings = {path: run_file.read_beside(path) for path in described.prompts}
  same = [path for path, own in settings.items() if own.get('data') == described.data.plain()]
  if same and described.split in ('all', 'train'):
    say(f'{described.data.name} holds the rows that the prompt was trained on. Without '
        'data=FILE, the validation rows of the run are evaluated.')
  for path, one in zip(described.prompts, each_trained, strict=False):  # none for the frozen model alone
    if path in same and have_changed(settings[path], one.about, model):
      say(f'Warning: {described.data.name} holds other examples than when {path} was trained: these figures and those '
          'of its training are not of the same rows.')
  found = {}
  tasks = [each for each, _ in parts]
  for (each, words), name, short in zip(parts, unique_names(tasks), short_names(tasks), strict=True):
    judge = functools.partial(
      evaluate_trained, model, task=each, sampler=objects.sampler(described), split=described.split,
      lengths=objects.lengths_given(described), batch_size=described.batch_size, num_examples=described.examples,
      seed=described.seed or 0, ranked=words)
    alone: dict[str, library.Evaluation] = {}
    for path, member in members.items():
      with phase(f'Evaluating {short} with {path}', compiles=True):
        alone[path] = judge(member)
    with phase(f'Evaluating {short}', compiles=True):
      result = elected(list(alone.values()), each) if described.ensemble == 'vote' else judge(trained)
    if folder is not None and multihost.is_main() and not found:  # now that all inputs fit
      run_file.write(storage.join(folder, run_file.NAME), described.given(), program='eval', config_text=config_text)
      tensors = {f'{tensor} of {path}': array for path, member in members.items()
                 for tensor, array in member.tensors.items()} or each_trained[0].tensors
      run_files.write_model_info(folder, model.params, tensors, step)
    beside = of_members(alone) if alone else {}
    found[name] = {**result.metrics, **{f'{metric}, {label}': value for label, metrics in beside.items()
                                        for metric, value in metrics.items()}}
    if multihost.is_main():
      for label, metrics in beside.items():
        _print(f'{short}, {label}', metrics)
      _print(f'{short}, {len(result.lines)} examples' + f', ensemble ({described.ensemble})' * bool(members),
             result.metrics)
      if result.classes is not None:
        print(result.classes)
      _report(described, short, step, result, found[name])
  if folder is not None and multihost.is_main():
    print(f'Wrote {folder}')
  return found


def ranked(described: EvalRun, task: Task) -> Ranked | None:
  """Returns the words to rank for one task; None if predictions are generated.

  Raises:
    ValueError: the task has no label map, or the words cannot be ranked; or a metric needs a label that no target has.
  """
  require_labels(task, described.split, described.examples)
  if described.label_words is None:
    return None
  if described.label_words == 'task' and not task.labels:
    raise ValueError(f"label_words='task' cannot be used: the task {task.name} has no label map. Give labels=, or "
                     'the words themselves, such as label_words=negative,positive.')
  words = Ranked(task.labels if described.label_words == 'task' else described.label_words, described.label_score)
  for example in evaluated(task, described.split, described.examples):
    target = example.get('targets_pretokenized', example.get('targets'))
    if isinstance(target, str):  # others can only be read with the vocabulary
      words.require(target)
  return words


def _print(what: str, metrics: Mapping[str, float]) -> None:
  print(f'{what}: ' + ', '.join(f'{metric} {value:.4g}' for metric, value in metrics.items()))


def _report(described: EvalRun, name: str, step: int, result: library.Evaluation, metrics: Mapping[str, float]) -> None:
  cut = result.truncated
  if cut['inputs'] or cut['targets']:
    logging.warning('Of %d examples, %d inputs and %d targets were longer than the lengths %s and were cut.',
                    cut['examples'], cut['inputs'], cut['targets'], objects.lengths_given(described))
  if described.output is None:
    return
  library.write(result, described.output, name, step, most=described.written_examples)
  folder = storage.join(described.output, 'inference_eval')
  metric_log.append_metrics(described.output, name, step, metrics)
  with contextlib.closing(storage.GrowingFolder(storage.join(folder, name))) as grown, \
       contextlib.closing(metric_log.open_tensorboard(grown.path)) as writer:
    metric_log.add_scalars(writer, step, metrics, judged=True)
