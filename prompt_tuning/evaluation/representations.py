"""What a model makes of whole texts: one vector for each, where its first target would be predicted."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from prompt_tuning.data.pipeline import eval_batches
from prompt_tuning.data.tasks import Example
from prompt_tuning.losses import at_first_target
from prompt_tuning.models.compiled import apply_model
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.rows.conditioning import Conditioning
from prompt_tuning.rows.layouts import Layout, target_rows
from prompt_tuning.types import Array, Batch, Params


@functools.partial(jax.jit, static_argnames=('module', 'hidden'))
def represent_batch(module: nn.Module, params: Params, batch: Batch, conditioning: Conditioning, *,
                    hidden: bool = False) -> Array:
  """Returns [B, V] logits, or [B, D] hidden states, at each row's first weighted position."""
  return at_first_target(apply_model(module, params, batch, conditioning, hidden=hidden),
                         target_rows(batch)['loss_weights'])


def representations(model: LanguageModel, conditioning: Conditioning, layout: Layout, examples: Sequence[Example], *,
                    of: str = 'logits', batch_size: int = 32,
                    lengths: Mapping[str, int] | None = None) -> np.ndarray:
  """Returns [N, V] logits, or [N, D] hidden states, of the last position before each example's target.

  With a prompt behind the text (`layouts.after_eos`) of a decoder-only model that is the last position of the prompt.
  Losses that compare rows look at the same.

  Args:
    model: the frozen model, with a vocabulary.
    conditioning: what it is handed.
    layout: how examples are laid out.
    examples: with 'inputs'; targets are not read by a decoder-only model, nor by the first position of a decoder.
    of: 'logits' or 'hidden', the output of the last norm.
    batch_size: rows run together.
    lengths: most tokens of 'inputs' and 'targets'; what is absent is the longest found.

  Raises:
    ValueError: `of` is something else, or there is no example.
  """
  if of not in ('logits', 'hidden'):
    raise ValueError(f'Representations of {of!r} are asked for. Choose logits or hidden.')
  found = []
  for batch, part in eval_batches(examples, model.vocabulary, layout, batch_size=batch_size, lengths=lengths):
    rows = represent_batch(model.module, model.params, batch, conditioning, hidden=of == 'hidden')
    found.append(np.asarray(rows)[:len(part)])
  return np.concatenate(found)


def top_tokens(model: LanguageModel, logits: Any, count: int = 10) -> list[list[str]]:
  """Returns the texts of each row's likeliest tokens, the likeliest first.

  Args:
    model: its vocabulary spells them.
    logits: [N, V], `representations` of logits.
    count: how many.

  Raises:
    ValueError: the rows are not over the model's words.
  """
  logits = np.asarray(logits)
  words = model.module.config.vocab_size
  if logits.ndim != 2 or logits.shape[1] != words or not 0 < count <= words:
    raise ValueError(f'The {count} likeliest tokens of rows of shape {logits.shape} are asked for, wanted [N, {words}] '
                     f'and 1 to {words} tokens. Give representations of="logits".')
  best = np.argsort(-logits, axis=1, kind='stable')[:, :count]
  return [[model.vocabulary.decode([int(i)]) for i in row] for row in best]
