"""The short way: `tune` and `evaluate`, with defaults that work."""

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from prompt_tuning import prompts
from prompt_tuning.data import metrics as metric_functions
from prompt_tuning.data import registry, tasks
from prompt_tuning.decoding.samplers import Greedy, Sampler
from prompt_tuning.evaluation import saved
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.runs.training import measure
from prompt_tuning.training import loop
from prompt_tuning.training.optimizers import Adafactor
from prompt_tuning.training.schedules import create_schedule
from prompt_tuning.tuning.method import Method

Examples = str | tasks.Task | tasks.Mixture | Sequence[Mapping[str, Any]] | Sequence[tuple[Any, Any]]


def tune(model: LanguageModel, examples: Examples, *, method: Method | None = None,
         prompt_length: int = 20, steps: int = 1000, batch_size: int = 32, learning_rate: float | None = None,
         validation: Examples | None = None, lengths: Mapping[str, int] | None = None, model_dir: str | None = None,
         seed: int = 0, quiet: bool = False, **settings: Any) -> loop.Run:
  """Tunes a prompt, or the tensors of another method, for a frozen model.

  Args:
    model: the frozen model.
    examples: the training examples: a task or its name, the path of a .jsonl or .tsv file with the columns `inputs` and
      `targets`, or a list of such dicts or of pairs; texts or token ids.
    method: the tuning method; None means a prompt that starts from sampled rows of the embedding.
    prompt_length: P, if no method is given.
    steps: the number of training steps.
    batch_size: examples per step.
    learning_rate: of Adafactor, which falls linearly to 0 at the last step; None means the method's. An `optimizer` has
      its own.
    validation: the examples to evaluate on; None means the task's validation split, or its training split if it has
      none.
    lengths: maximum tokens of 'inputs' and 'targets'; None means the longest of the first thousand examples, with
      buckets if few inputs are far longer than the rest.
    model_dir: the run's folder; None means a new temporary one. An existing run is resumed.
    seed: of initial values, order and dropout.
    quiet: print nothing.
    **settings: further arguments of `training.loop.train`, such as `optimizer`, `evaluations` and `packed`.

  Returns:
    The run; `.prompt` is the best prompt, `.metrics` are those of the last evaluation.
  """
  task = as_task(examples, 'train', model, lengths)
  judged = None if validation is None else as_task(validation, 'validation', model, lengths)
  if method is None:
    rows = model.embeddings()
    method = prompts.PromptTuning(prompts.Prompt(
      prompt_length, prompts.from_sample_of_embeddings(rows, min(5000, len(rows)))))
  if lengths is None:
    lengths, buckets = measure(model, task, 'train')
    if buckets is not None and not settings.get('packed'):
      settings.setdefault('buckets', buckets)
  if 'evaluations' not in settings:
    settings['evaluations'] = loop.Evaluations(
      task=judged, split=(judged or task).judged_split(), period=max(1, steps // 4), loss_steps=4, examples=200,
      sampler=Greedy())
  elif judged is not None:
    settings['evaluations'] = dataclasses.replace(settings['evaluations'], task=judged)
  if 'optimizer' not in settings:
    settings['optimizer'] = Adafactor(create_schedule(
      'linear_decay', method.learning_rate if learning_rate is None else learning_rate, warmup_steps=model.step,
      total_steps=model.step + steps))
  elif learning_rate is not None:
    raise ValueError(f'learning_rate={learning_rate} cannot be used with optimizer=, which has a rate of its own. '
                     'Leave one of them out.')
  return loop.train(
    model=model, method=method, task=task, lengths=lengths, train_steps=model.step + steps, batch_size=batch_size,
    model_dir=model_dir or tempfile.mkdtemp(prefix='prompt_tuning_'), seed=seed, quiet=quiet,
    **settings)


def evaluate(model: LanguageModel, examples: Examples, prompt: Any = None, *,
             sampler: Sampler = Greedy(), split: str = 'validation', batch_size: int = 32,
             num_examples: int | None = None) -> dict[str, float]:
  """Returns the task's metrics for a frozen model, with or without a prompt.

  Args:
    model: the frozen model.
    examples: as for `tune`.
    prompt: a saved prompt, an array [P, D], or `saved.Trained` tensors; None evaluates the frozen model alone.
    sampler: chooses the tokens.
    split: the split of a task; for a list, all examples are used.
    batch_size: rows per batch.
    num_examples: evaluate on only this many examples, from the first.
  """
  from prompt_tuning.evaluation.evaluate import evaluate as judge

  task = as_task(examples, split, model)
  if prompt is None:
    trained = saved.Trained({})
  elif isinstance(prompt, saved.Trained):
    trained = prompt
  else:
    trained = (prompt if isinstance(prompt, saved.SavedPrompt) else saved.SavedPrompt(prompt)).as_trained()
  found: dict[str, float] = {}
  for each, _ in task.parts(split):
    result = judge(model, trained.conditioning(model), model.layout(trained.layout()), each, sampler=sampler,
                   split=split, batch_size=batch_size, num_examples=num_examples)
    prefix = f'{each.name}/' if isinstance(task, tasks.Mixture) else ''
    found.update({prefix + name: value for name, value in result.metrics.items()})
  return found


def as_task(examples: Examples, split: str, model: LanguageModel,
            lengths: Mapping[str, int] | None = None) -> tasks.Task | tasks.Mixture:
  """Returns a task made of any form of examples; a list becomes the split of that name."""
  if isinstance(examples, (tasks.Task, tasks.Mixture)):
    return examples
  if isinstance(examples, str):
    return registry.get(examples, model.vocabulary, lengths)
  rows = [dict(e) if isinstance(e, Mapping) else {'inputs': e[0], 'targets': e[1]} for e in examples]
  if not rows:
    raise ValueError('The list of examples is empty. Give at least one example.')
  return tasks.Task('examples', {split: rows}, (metric_functions.get('accuracy'),))
