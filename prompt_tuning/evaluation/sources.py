"""Which trained prompts are the best starts for another task (Vu et al. 2022, SPoT).

  loss(s) = mean cross-entropy of the target task's targets with the prompt of the source task s
  similarity(s) = cos(mean vector of the prompt of s, mean vector of a prompt of the target task)

The loss needs no training. It is high for a prompt that is sure of other answers, even if most of the target's tokens
are those that the prompt predicts: then the accuracy of tokens tells more. The similarity, as in the paper, needs a
prompt that was trained shortly on the target task.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging

from prompt_tuning.data.tasks import Mixture, Task
from prompt_tuning.evaluation.evaluate import evaluate_loss
from prompt_tuning.evaluation.saved import Trained
from prompt_tuning.evaluation.similarities import similarities
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.names import printable

MEASURES = ('loss', 'token_accuracy', 'similarity')


@dataclasses.dataclass(frozen=True)
class Source:
  """What trained tensors are worth for another task.

  Attributes:
    name: theirs; '' is the frozen model alone.
    trained: the tensors.
    loss: for each token of the target task's targets.
    token_accuracy: share of these tokens that are predicted, given those before them, 0 to 1.
    similarity: to a prompt of the target task, -1 to 1; None without one, or for tensors that are not a prompt.
  """

  name: str
  trained: Trained = dataclasses.field(repr=False)
  loss: float
  token_accuracy: float
  similarity: float | None = None


def rank(model: LanguageModel, task: Task | Mixture, sources: Mapping[str, Trained], *, lengths: Mapping[str, int],
         target: Trained | None = None, by: str = 'loss', split: str = 'train', examples: int = 200,
         batch_size: int = 32) -> list[Source]:
  """Returns sources for a task, the best first, with the frozen model alone among them.

  What does not fit the model is left out, with a warning that says why.

  Args:
    model: the frozen model.
    task: the target task.
    sources: name -> trained tensors.
    lengths: maximum tokens of 'inputs' and 'targets'.
    target: a prompt that was trained on the target task, to compare prompts with.
    by: what decides: 'loss', 'token_accuracy', or 'similarity', which needs `target`; tensors without one come last.
    split: the split of the task that the loss is computed on.
    examples: so many of its examples, from the first, rounded up to whole batches.
    batch_size: examples per batch.

  Raises:
    ValueError: no source fits the model, the target is not a prompt, or the task cannot be read.
  """
  if by not in MEASURES or (by == 'similarity' and target is None):
    raise ValueError(f'by={by!r} cannot be used: expected {", ".join(MEASURES[:-1])}, or similarity with target=, a '
                     'prompt that was trained on the target task.')
  if target is not None:
    similarities({'The prompt of the target task': target})
  found = []
  for name, trained in {'': Trained({}), **sources}.items():
    try:
      conditioning, layout = trained.conditioning(model), model.layout(trained.layout())
      alike = None
      if target is not None and trained.prompt() is not None:
        alike = float(similarities({'target': target, name: trained})['mean'][0, 1])
    except ValueError as error:
      logging.warning('Left out: %s: %s', printable(name), printable(str(error)))
      continue
    figures = evaluate_loss(model, conditioning, layout, task, split=split, lengths=lengths, batch_size=batch_size,
                            steps=math.ceil(examples / batch_size))
    found.append(Source(name, trained, figures['loss'], figures['token_accuracy'], alike))
  if len(found) < 2:
    raise ValueError(f'None of {len(sources)} sources fits the model {model.path}. Give prompts that were trained for '
                     'it.')
  measure = {'loss': lambda source: -source.loss, 'token_accuracy': lambda source: source.token_accuracy,
             'similarity': lambda source: -2.0 if source.similarity is None else source.similarity}[by]
  return sorted(found, key=lambda source: np.nan_to_num(measure(source), nan=-np.inf), reverse=True)


def mean_of(sources: Sequence[Source]) -> Trained:
  """Returns the mean of sources' tensors, with the metadata of the first.

  Raises:
    ValueError: their tensors have different names or shapes.
  """
  first = sources[0].trained
  shapes = [{name: np.shape(array) for name, array in source.trained.tensors.items()} for source in sources]
  wrong = next((source.name for source, shape in zip(sources, shapes, strict=True) if shape != shapes[0]), None)
  if wrong is not None:
    raise ValueError(f'{sources[0].name} and {wrong} have tensors of different shapes, which have no mean.')
  means = {name: np.mean([np.asarray(source.trained.tensors[name], np.float32) for source in sources], axis=0)
           for name in first.tensors}
  return Trained(means, {**first.about, 'mean_of': [source.name for source in sources]})
