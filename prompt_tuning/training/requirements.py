"""What must hold before a run trains, so that it is found now rather than after many steps."""

from collections.abc import Mapping

from prompt_tuning.data.target_checks import check_targets
from prompt_tuning.data.tasks import Mixture, Task
from prompt_tuning.data.turn_checks import check_turns
from prompt_tuning.losses import Loss
from prompt_tuning.models.cached_texts import require_cacheable
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.rows.layouts import Layout
from prompt_tuning.training.evaluations import Evaluations, require_splits, require_targets
from prompt_tuning.tuning.method import Method


def require_usable(*, model: LanguageModel, method: Method, task: Task | Mixture, split: str,
                   lengths: Mapping[str, int], loss: Loss, train_steps: int, evaluations: Evaluations,
                   microbatches: int | None, packed: bool) -> tuple[Layout, list[str]]:
  """Ensures that model, method, data and loss fit; the arguments are those of `loop.train`.

  Returns:
    The layout of examples, and warnings about targets.

  Raises:
    ValueError: something does not fit; the message says what to change.
  """
  if train_steps <= model.step:
    raise ValueError(f'train_steps={train_steps} cannot be used: the model starts at step {model.step}, and the steps '
                     f'of its checkpoint count too. Give {model.step} plus the number of steps to train.')
  if model.vocabulary is None:
    raise ValueError('The model was loaded without a vocabulary, so examples cannot be read. '
                     'Give load_model(..., vocabulary=...).')
  require_splits(task, split, evaluations)
  loss.require_whole_batches(microbatches, packed)
  for part, _ in task.parts(split):
    if hasattr(part.split(split), 'require_model'):  # scores of a teacher
      part.split(split).require_model(model.weights_digest, model.path or 'this model')
  require_targets(loss, task, split, model, lengths)
  layout = model.layout(method.layout())
  if layout.cached:
    require_cacheable(task, split, packed=packed, mesh=model.module.config.mesh)
  check_turns(task, split, layout, lengths)
  return layout, check_targets(task, split, model.vocabulary, model.layout(), lengths)
