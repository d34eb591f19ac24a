"""Distils a document into a prefix (a cartridge) or a prompt: studies it, trains, and compares what was distilled."""

import dataclasses
import tempfile
from collections.abc import Sequence
from typing import Any

from prompt_tuning.checks import typed
from prompt_tuning.data import files
from prompt_tuning.distilling import comparison, phases, start
from prompt_tuning.distilling.comparison import LOSS
from prompt_tuning.distilling.phases import Studied
from prompt_tuning.distilling.reading import Reading, Text
from prompt_tuning.distilling.settings import Study
from prompt_tuning.evaluation import saved
from prompt_tuning.files import progress, storage, terminal
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.names import require_number
from prompt_tuning.runs import objects, training
from prompt_tuning.runs.choice import Choice
from prompt_tuning.runs.distill_run import DistillRun
from prompt_tuning.training import lock, loop, metric_log
from prompt_tuning.training.optimizers import Adafactor
from prompt_tuning.training.schedules import create_schedule
from prompt_tuning.tuning.method import Method
from prompt_tuning.tuning.prefix import Prefix
from prompt_tuning.tuning.prompt import PromptTuning

START = 'start.safetensors'


@typed
def distill(model: LanguageModel, document: str | Sequence[int], *, questions: Any = None,
            method: str | Method = 'prefix', length: int | None = None, frozen: int | None = None,
            first: str = 'first', study: Study = Study(), steps: int = 500, batch_size: int = 8,
            learning_rate: float | None = None, model_dir: str | None = None, seed: int = 0, quiet: bool = False,
            **settings: Any) -> saved.Trained:
  """Distils a document, or a long system prompt, into a prefix or a prompt that can take its place.

  The frozen model with the document before it is the teacher of itself without it (Eyuboglu et al. 2025): it answers
  questions about the document, and training makes what is before the questions predict the answers as it does.

  Args:
    model: a decoder-only model with a vocabulary.
    document: a text, which is read as the chat template writes it, if the model has one; or token ids, read as they
      are.
    questions: a file or table with the columns `question` and, optionally, `answer`; a list of texts or of pairs; None
      lets the model ask.
    method: 'prefix' (a cartridge), 'prompt', 'residual' or 'factored', or a method, whose tensors start from the
      document too.
    length: of a method that is a name: 256 keys and values, or the vectors of a prompt, 20.
    frozen: how many first keys and values of a prefix stay those of the document: 1.
    first: 'first' starts from the document's first tokens, 'sampled' from others.
    study: how questions are asked and answered.
    steps: the number of training steps.
    batch_size: rows that are run together.
    learning_rate: of Adafactor, which falls linearly to 0; None means the method's.
    model_dir: the run's folder; None means a new temporary one. An existing run is resumed, in any phase.
    seed: of questions, answers, order and dropout.
    quiet: print nothing.
    **settings: further arguments of `training.loop.train`, such as `optimizer` and `microbatches`.

  Returns:
    The best tensors by the divergence of held-out answers; the folder has the figures, see `comparison`.

  Raises:
    ValueError: something does not fit; the message says what to change.
  """
  require_number('steps', steps, least=1, whole=True)
  require_number('learning_rate', learning_rate, above=0, none=True)
  folder = model_dir or tempfile.mkdtemp(prefix='prompt_tuning_')
  chosen = _method(model, method, length, frozen)
  _require_fit(model, document, study, chosen, first)
  with lock.held(folder):
    with progress.display(quiet=quiet) as display:
      studied = phases.study(model, document, folder, study, questions=questions, seed=seed, batch_size=batch_size,
                             display=display)
    rate = create_schedule('linear_decay', learning_rate or chosen.rate(model), warmup_steps=model.step,
                           total_steps=model.step + steps)
    start_from = first_values(model, studied, chosen, first, seed)
    loop.train(**{
      'model': model, 'method': chosen, 'task': studied.task, 'lengths': studied.lengths, 'model_dir': folder,
      'train_steps': model.step + steps, 'optimizer': Adafactor(rate), 'loss': LOSS,
      'batch_size': batch_size, 'seed': seed, 'quiet': quiet, 'settings': {'first': first}, 'start_from': start_from,
      'evaluations': loop.Evaluations(period=max(1, steps // 4), examples=0, objective='loss', loss_steps=_batches(
        studied, batch_size)), **settings})
    trained = saved.load_trained(folder)
    with progress.display(quiet=quiet) as display, metric_log.phase('Comparing', display):
      figures = comparison.compare(model, studied, trained, batch_size=batch_size)
    table = comparison.write(folder, figures)
  if not quiet:
    terminal.say(table)
  return trained


def first_values(model: LanguageModel, studied: Studied, method: Method, first: str, seed: int) -> saved.Trained:
  """Returns the first values of a method's tensors, made of the tokens of a studied document."""
  tokens = _tokens([token for reading in studied.readings for token in reading.ids], method, first, seed)
  return start.as_trained(model, tokens, prefix=isinstance(method, Prefix))


def _tokens(ids: Sequence[int], method: Method, first: str, seed: int) -> list[int]:
  """Returns the tokens that a method's first values are made of. Raises ValueError if there are not enough."""
  prefix = isinstance(method, Prefix)
  return start.tokens_of(ids, method.length if prefix else method.prompt.length, first=first, seed=seed,
                         kept=method.frozen if prefix else 0)


def _require_fit(model: LanguageModel, document: Text, study: Study, method: Method, first: str) -> None:
  """Raises ValueError, before any work, if the model cannot study the document or the method start from it."""
  phases.require_usable(model, document)
  if not isinstance(method, Prefix | PromptTuning) or method.tasks is not None:
    raise ValueError(f'The method {type(method).__name__} cannot be used: a document is distilled into keys and values '
                     'or a prompt. Use prefix, prompt, residual or factored.')
  _tokens(Reading(model, document, study.question_template).ids, method, first, 0)


def run(described: DistillRun) -> str:
  """Distils a document as a run describes it, or resumes that; returns the table of figures."""
  train = described.train
  objects.check_output(train.output)
  document = '\n'.join(line for _, line in files.read_lines(described.document))
  objects.optimizer(train, 0)  # errors are found before the model is read
  if described.questions is not None:
    files.read_rows(described.questions)
  training.say_new_folder(train.output)
  model = training.read_model(train)
  method = objects.method(train.method, model)
  _require_fit(model, document, described.study, method, described.first)
  with lock.held(train.output):
    with progress.display() as display:
      studied = phases.study(model, document, train.output, described.study, questions=described.questions,
                             seed=train.seed or 0, batch_size=train.batch_size, display=display)
    path = storage.join(train.output, START)
    if train.start_from is None:
      if not storage.exists(path):
        start.write(path, first_values(model, studied, method, described.first, train.seed or 0), described.first)
      start.require_same(path, described.first)
      train = dataclasses.replace(train, start_from=path)
    train = dataclasses.replace(
      train, max_input_length=train.max_input_length or studied.lengths['inputs'],
      max_target_length=train.max_target_length or studied.lengths['targets'],
      loss_steps=_batches(studied, train.batch_size))
    training.build(train, model, studied.task).run()
    with training.phase('Comparing'):
      figures = comparison.compare(model, studied, saved.load_trained(train.output), batch_size=train.batch_size)
    comparison.draw(train.output, figures)
    return comparison.write(train.output, figures)


def _method(model: LanguageModel, method: str | Method, length: int | None, frozen: int | None) -> Method:
  """Returns a method, made for the model if it is a name."""
  if isinstance(method, Method):
    wrong = next((f'{name}={value}' for name, value in (('length', length), ('frozen', frozen)) if value is not None),
                 None)
    if wrong is not None:
      raise ValueError(f'{wrong} cannot be used with a method that has been made, which has its own. Leave one of them '
                       'out.')
    return method.build(model)
  options = {'length': length, 'frozen': frozen}
  if method == 'prefix':
    options = {'length': 256, 'frozen': 1} | {name: value for name, value in options.items() if value is not None}
    options['frozen'] = min(options['frozen'], options['length'] - 1) if frozen is None else frozen
  return objects.method(Choice(method, {name: value for name, value in options.items() if value is not None}), model)


def _batches(studied: Studied, batch_size: int) -> int:
  """Returns how many batches all held-out answers are."""
  return -(-len(studied.task.split('validation')) // batch_size)
