"""The classification head of a run: its labels, and how it changes model, method and loss."""

import dataclasses
from collections.abc import Callable

from prompt_tuning.data.target_checks import evaluated
from prompt_tuning.data.tasks import Mixture, Task
from prompt_tuning.models import heads
from prompt_tuning.models.abilities import is_encoder
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.runs.base import Run
from prompt_tuning.runs.choice import Choice
from prompt_tuning.runs.train_run import TrainRun
from prompt_tuning.tuning.headed import Headed
from prompt_tuning.tuning.method import Method

LOSSES = {'single': 'cross_entropy', 'multi': 'several_labels', 'regression': 'squared_error'}
_MOST = 1000  # labels; more are probably texts or numbers


def around(run: Run, model: LanguageModel, task: Callable[[], Task | Mixture]) -> LanguageModel:
  """Returns the model with the run's head, if it has one.

  Args:
    run: the run.
    model: its frozen model.
    task: returns its task, which has the labels unless the run names them.

  Raises:
    ValueError: the model needs a head and has none, cannot have one, or the labels do not suit the problem.
  """
  if run.head is None:
    if run.verbaliser is not None and run.problem is None and run.head_labels is None:
      return heads.with_verbaliser(model, run.verbaliser)
    if run.problem is not None or run.head_labels is not None:
      raise ValueError(f'problem={run.problem} and head_labels={run.head_labels} cannot be used without head=. Give '
                       'head=cls or head=mean, or leave them out.')
    if is_encoder(model.module) and not model.module.config.classes:
      raise ValueError(f'{model.path} is an encoder-only model without a classification head. Give head=cls or '
                       'head=mean, verbaliser=LABEL=WORD,… for its head of masked words, or a model with a decoder.')
    return model
  if run.verbaliser is not None:
    raise ValueError(f'head={run.head} and verbaliser=… cannot be used together: the verbaliser is a head. Give one of '
                     'them.')
  problem = run.problem or 'single'
  labels = run.head_labels
  if labels is None and problem != 'regression' and is_encoder(model.module):
    if not isinstance(run, TrainRun):
      raise ValueError('The labels of the head are unknown. Give head_labels=A,B,…, as the run that trained it says.')
    labels = labels_of(task(), run.split, problem)
  return heads.with_head(model, labels or (), pooling=run.head, problem=problem, seed=run.seed or 0)


def labels_of(task: Task | Mixture, split: str, problem: str) -> tuple[str, ...]:
  """Returns the labels that the targets of a split have, in alphabetical order.

  Raises:
    ValueError: targets are not texts, or there are too many different ones.
  """
  texts = [example.get('targets') for part, _ in task.parts(split) for example in evaluated(part, split, None)]
  if not texts or not all(isinstance(text, str) for text in texts):
    raise ValueError(f'The targets of {task.name} are not a finite number of texts, so they do not tell the labels of '
                     'the head. Give head_labels=A,B,….')
  split_up = (text.split(',') if problem == 'multi' else [text] for text in texts)
  found = sorted({label.strip() if problem == 'multi' else label for labels in split_up for label in labels} - {''})
  if len(found) > _MOST:
    raise ValueError(f'The targets of {task.name} are {len(found)} different labels, such as {found[0]!r:.60}; at most '
                     f'{_MOST} are taken from the data. Use problem=regression for numbers, or give head_labels=.')
  return tuple(found)


def complete(run: Run, model: LanguageModel) -> Run:
  """Returns a run that names the labels of the head that its model has got."""
  labelled = run.head is not None and model.module.config.problem != 'regression'
  return dataclasses.replace(run, head_labels=model.module.config.labels) if labelled else run


def method(made: Method, model: LanguageModel) -> Method:
  """Returns a method that trains the head of the model too, if the model has one."""
  head = heads.described(model)
  return Headed(made, head) if head and not isinstance(made, Headed) else made


def loss(chosen: Choice, model: LanguageModel) -> Choice:
  """Returns the loss of the problem of the model's head, if the model has a head; else the chosen one.

  Raises:
    ValueError: another loss was chosen.
  """
  head = heads.described(model)
  if not head:
    return chosen
  found = LOSSES[head['problem']]
  if chosen.name not in ('cross_entropy', found):
    raise ValueError(f'loss={chosen.name} cannot be used with a classification head of problem={head["problem"]}, '
                     f'whose loss is {found}. Leave it out.')
  return chosen if chosen.name == found else Choice(found)
