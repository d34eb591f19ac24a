"""A model's representations of texts: one vector per text, at the position that predicts its first target."""

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
  """Returns [N, V] logits, or [N, D] hidden states, at the last position before each example's target.

  If a prompt comes after the text (`layouts.after_eos`) of a decoder-only model, this is the last position of the
  prompt. Losses that compare rows use the same position.

  Args:
    model: the frozen model, with a vocabulary.
    conditioning: the model's conditioning.
    layout: the layout of examples.
    examples: with 'inputs'; a decoder-only model does not read targets, nor does the first position of a decoder.
    of: 'logits', or 'hidden' for the output of the last norm.
    batch_size: rows per batch.
    lengths: maximum tokens of 'inputs' and 'targets'; an absent one is the longest found.

  Raises:
    ValueError: `of` is not valid, or there are no examples.
  """
  if of not in ('logits', 'hidden'):
    raise ValueError(f'Representations got of={of!r}. Use "logits" or "hidden".')
  found = []
  for batch, part in eval_batches(examples, model.vocabulary, layout, batch_size=batch_size, lengths=lengths):
    rows = represent_batch(model.module, model.params, batch, conditioning, hidden=of == 'hidden')
    found.append(np.asarray(rows)[:len(part)])
  return np.concatenate(found)


def top_tokens(model: LanguageModel, logits: Any, count: int = 10) -> list[list[str]]:
  """Returns the texts of each row's most likely tokens, the most likely first.

  Args:
    model: the model, whose vocabulary decodes the tokens.
    logits: [N, V], `representations` of logits.
    count: the number of tokens per row.

  Raises:
    ValueError: the rows are not logits over the model's vocabulary.
  """
  logits = np.asarray(logits)
  words = model.module.config.vocab_size
  if logits.ndim != 2 or logits.shape[1] != words or not 0 < count <= words:
    raise ValueError(f'top_tokens got logits of shape {logits.shape} and count={count}, expected [N, {words}] and 1 to '
                     f'{words} tokens. Give representations of="logits".')
  best = np.argsort(-logits, axis=1, kind='stable')[:, :count]
  return [[model.vocabulary.decode([int(i)]) for i in row] for row in best]
