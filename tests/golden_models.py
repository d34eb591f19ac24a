"""The models and batches of the golden data, read as users read theirs."""

import functools
import pathlib

import jax.numpy as jnp
import numpy as np

from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.models.loading import load_model
from prompt_tuning.models.row_prompts import collect_prompts
from prompt_tuning.models.t5 import T5Config
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning, StackConditioning

CONFIGS = {
  'tiny': T5Config(vocab_size=32128, width=4, heads=2, head_dim=2, mlp_dim=8, encoder_layers=2, decoder_layers=2,
                   relative_buckets=4, relative_max_distance=8),
  'small': T5Config(vocab_size=128, width=32, heads=4, head_dim=8, mlp_dim=64, encoder_layers=2, decoder_layers=2,
                    relative_buckets=8, relative_max_distance=16),
}


@functools.cache
def t5x_model(shared: pathlib.Path, name: str) -> LanguageModel:
  """Returns the model 'tiny' (of a, b and c) or 'small' (of d), from T5X's native checkpoint."""
  path = {'tiny': 't5x_native/checkpoint_3', 'small': 't5x/d_small/ckpt_native'}[name]
  return load_model(str(shared / path), config=CONFIGS[name])


@functools.cache
def hugging_face_model(shared: pathlib.Path, name: str) -> LanguageModel:
  """Returns a model that transformers saved."""
  return load_model(str(shared / 'hf' / name))


def make_batch(inputs, targets, prompt_length: int = 0):
  """Returns the batch of arrays [B, T] and [B, S] that are padded with 0 on the right, in the same places."""
  layout = layouts.Layout(prompt_length)
  rows = [[layout.example(i[i > 0], t[t > 0])] for i, t in zip(np.asarray(inputs), np.asarray(targets), strict=True)]
  return layouts.assemble(rows, {'encoder': inputs.shape[1] + prompt_length, 'decoder': targets.shape[1]})


def make_generation_batch(inputs, prompts, model: LanguageModel):
  """Returns a batch without targets and its Conditioning, one prompt or None for each row."""
  chosen, conditioning = collect_prompts(list(prompts), len(prompts), model)
  rows = [[layouts.Layout(placement=placement).example(ids[ids > 0], [], prompt_length=length, prompt_id=number)]
          for ids, (number, length, placement) in zip(np.asarray(inputs), chosen, strict=True)]
  longest = max(len(row[0]['encoder']['tokens']) for row in rows)
  return layouts.assemble(rows, {'encoder': longest, 'decoder': 1}), conditioning


def conditioning_of(prompt) -> Conditioning:
  """Returns what hands one prompt [P, D] to the encoder; nothing where it is None."""
  if prompt is None:
    return Conditioning()
  return Conditioning(encoder=StackConditioning(prompt=jnp.asarray(prompt)[None]))
