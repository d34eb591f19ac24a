"""Flaxformer's T5 with a prompt before the input of the encoder, or of a decoder-only model.

Flaxformer embeds tokens and makes masks in different modules: here the stack inserts the prompt into the embedded
tokens and lengthens the masks that it gets. Callers, such as T5X's models and decoding functions, see no prompt in
tokens or logits. Packed rows would share one prompt, so they are rejected.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flaxformer.architectures.t5 import t5_architecture
from flaxformer.components.attention import dense_attention

from prompt_tuning.types import Array


def lengthen(mask: Array | None, length: int, *axes: int) -> Array | None:
  """Returns a mask or tokens with `length` ones prepended along axes: prompts are never padding. None stays None."""
  if mask is None or not length:
    return mask
  return jnp.pad(mask, [(length if axis in axes else 0, 0) for axis in range(mask.ndim)], constant_values=1)


class PromptEncoder(t5_architecture.Encoder, kw_only=True):
  """An encoder that reads a prompt and then the text; it returns [B, P + T, D].

  Attributes:
    prompt: prepends the vectors, a `train_prompts.Prompt`.
  """

  prompt: nn.Module

  def embed_and_combine_inputs(self, inputs: Array, *args: Any, enable_dropout: bool = True, **named: Any) -> Array:
    """Returns [B, P + T, D] for tokens [B, T]; dropout applies to both prompt and text."""
    embedded = super().embed_and_combine_inputs(inputs, *args, enable_dropout=False, **named)
    return self.input_dropout(self.prompt(embedded), deterministic=not enable_dropout)

  def encode_from_continuous_inputs(self, inputs: Array, encoder_mask: Array, logit_mask: Array, **named: Any) -> Array:
    """Applies the layers to [B, P + T, D], given masks [B, 1, T, T] and [B, T, 1] of the text."""
    length = self.prompt.length
    logit_mask = lengthen(logit_mask, length, 1)
    there = logit_mask[..., 0]
    padding = dense_attention.make_attention_mask(there, there, dtype=self.dtype)
    encoder_mask = padding * lengthen(encoder_mask, length, 2, 3)
    return super().encode_from_continuous_inputs(inputs, encoder_mask, logit_mask, **named)


class PromptEncoderDecoder(t5_architecture.EncoderDecoder):
  """An encoder-decoder whose decoder also attends to the encoded prompt."""

  def encode(self, encoder_input_tokens: Array, encoder_segment_ids: Array | None = None, *args: Any,
             **named: Any) -> Array:
    """Returns [B, P + T, D] for tokens [B, T].

    Raises:
      ValueError: the rows are packed.
    """
    _refuse_packing(encoder_segment_ids)
    return super().encode(encoder_input_tokens, encoder_segment_ids, *args, **named)

  # T5X checks for the argument `prefill` to find out whether the decoder can start from a text.
  def decode(self, encoded: Array, encoder_input_tokens: Array, *args: Any, prefill: bool = False,
             **named: Any) -> Array:
    """Returns logits [B, S, V], given [B, P + T, D] and the text's tokens [B, T]."""
    length = encoded.shape[1] - encoder_input_tokens.shape[1]
    return super().decode(encoded, lengthen(encoder_input_tokens, length, 1), *args, prefill=prefill, **named)


class PromptDecoder(t5_architecture.Decoder, kw_only=True):
  """A decoder that reads a prompt and then the text; for `PromptDecoderOnly`.

  Attributes:
    prompt: prepends the vectors, a `train_prompts.Prompt`.
  """

  prompt: nn.Module

  def embed_and_combine_inputs(self, decoder_input_tokens: Array, *args: Any, enable_dropout: bool = True,
                               decode: bool = False, **named: Any) -> Array:
    """Returns [B, P + T, D] for tokens [B, T], or [B, 1, D] for one step after a cache that holds the prompt."""
    behind_cache = decode and bool(self.variables.get('cache'))
    embedded = super().embed_and_combine_inputs(decoder_input_tokens, *args, enable_dropout=False, decode=decode,
                                                **named)
    prompted = embedded if behind_cache else self.prompt(embedded)
    return self.input_dropout(prompted, deterministic=not enable_dropout)

  def decode_from_continuous_inputs(self, embedded_inputs: Array, *args: Any, logit_mask: Array, **named: Any) -> Array:
    """Returns logits [B, P + T, V], given the mask [B, T, 1] of the text."""
    length = embedded_inputs.shape[1] - logit_mask.shape[1]
    return super().decode_from_continuous_inputs(
      embedded_inputs, *args, logit_mask=lengthen(logit_mask, length, 1), **named)


class PromptDecoderOnly(t5_architecture.DecoderOnly):
  """A decoder-only model with a prompt before the text; every cache starts with the prompt."""

  def __call__(self, decoder_input_tokens: Array, decoder_target_tokens: Array | None,
               decoder_segment_ids: Array | None = None, decoder_positions: Array | None = None,
               decoder_causal_attention: Array | None = None, *, decode: bool = False,
               max_decode_length: int | None = None, prefill_lengths: Array | None = None, **named: Any) -> Array:
    """Returns the text's logits [B, T, V].

    Raises:
      ValueError: the rows are packed.
    """
    _refuse_packing(decoder_segment_ids)
    length = self.decoder.prompt.length
    if not decode:
      named['decoder_attention_mask'] = dense_attention.make_decoder_mask(
        lengthen(decoder_target_tokens, length, 1), dtype=self.dtype,
        decoder_causal_attention=lengthen(decoder_causal_attention, length, 1))
    logits = super().__call__(
      decoder_input_tokens, None, decoder_positions=decoder_positions, decode=decode,
      max_decode_length=max_decode_length and length + max_decode_length,
      prefill_lengths=None if prefill_lengths is None else length + prefill_lengths, **named)
    return logits[:, -decoder_input_tokens.shape[1]:]


def _refuse_packing(segment_ids: Array | None) -> None:
  if segment_ids is not None:
    raise ValueError('The rows are packed, but each row has only one prompt. Set utils.DatasetConfig.pack = False for '
                     'train/ and train_eval/, as in runs/prompt_finetune.gin.')
