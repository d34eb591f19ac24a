"""Whether saved tensors fit a model, by the metadata of their file."""

from collections.abc import Mapping
from typing import Any

from absl import logging

from prompt_tuning.rows.conditioning import Facts
from prompt_tuning.tuning.prompt import PROMPTS
from prompt_tuning.types import Flat


def require_same_model(made_for: Mapping[str, Any] | None, facts: Facts) -> None:
  """Raises ValueError if the trained tensors were made for another model, by their metadata."""
  here = facts.made_for()
  if made_for is None or dict(made_for) == here:
    return
  told = lambda each: ', '.join(f'{name} {each.get(name)}' for name in here)
  raise ValueError(f'The trained tensors were made for a model of {told(made_for)}, but this model is of {told(here)}. '
                   'Give the model that they were trained for; eval, infer and load_trained use them anyway with '
                   'any_model=True.')


def require_stack(tensors: Flat, facts: Facts) -> None:
  """Raises ValueError if a prompt belongs to a stack that prompts of this model do not belong to."""
  for stack, name in PROMPTS.items():
    if name in tensors and stack != facts.prompted:
      raise ValueError(f'The file holds {name}, a prompt of the {stack}, but prompts of this model belong to the '
                       f'{facts.prompted}. Give the model that it was trained for.')


def warn_of_other_weights(digest: str | None, model: Any) -> None:
  """Says it if the tensors were trained for other weights of the same shape, such as another fine-tuned model."""
  here = getattr(model, 'weights_digest', None)  # an outline has no weights
  if digest is not None and here is not None and digest != here:
    logging.warning('The trained tensors were made for other weights of this shape than those of %s (digest %s there, '
                    '%s here). Results may be worse than in training.', model.path, digest, here)
