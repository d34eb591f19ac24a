"""What a kind of model can do; what it cannot is an error that says what to do instead."""

from typing import Any


def is_encoder(module: Any) -> bool:
  """Returns True for an encoder-only model, which predicts labels and writes no text."""
  return getattr(module.config, 'kind', '') == 'an encoder-only model'


def require_writing(module: Any, what: str) -> None:
  """Raises ValueError if the model is encoder-only; `what` is what it cannot do, such as 'generate texts'."""
  if is_encoder(module):
    raise ValueError(f'An encoder-only model cannot {what}: it predicts labels. Give it a head with '
                     'prompt_tuning.with_head and use prompt_tuning.classify, or use a model with a decoder.')


def require_reading(module: Any) -> None:
  """Raises ValueError if the model cannot read a text as a cached context."""
  require_writing(module, 'read a text as a context')
  if module.prompted == 'encoder':
    raise ValueError('Only a decoder-only model can read a text as a context, but this one has an encoder. Put the '
                     'text into the inputs.')
