"""The shape of an encoder-decoder whose stacks may differ."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from prompt_tuning.models.stack_config import StackConfig, require_choices, require_sizes


@dataclasses.dataclass(frozen=True)
class StacksConfig:
  """The shape of an encoder-decoder that is made of two stacks, and the layers around them (T5Gemma).

  Attributes:
    vocab_size: V, rows of the embeddings.
    encoder: the encoder's stack.
    decoder: the decoder's stack.
    embedding_scale: factor on the encoder's embedded tokens, and on prompts, which take the place of tokens; other
      tools store prompts multiplied by it (T5Gemma 2).
    input_scale: factor on the same vectors, but other tools store prompts without it (T5Gemma).
    decoder_scale: factor on the decoder's embedded tokens.
    separate_embeddings: the decoder has an embedding of its own.
    image_end: the token whose input is a vector of its own, because an image comes before it; -1 means none.
    tied: the output layer is the decoder's embedding.
    output_cap: limit of the logits; 0 means none.
    start_id: the token that the decoder starts with.
    dropout_rate: share of activations dropped in training.
    dtype: type of the activations; norms, softmax and logits are computed in float32.
    rematerialise: 'none' keeps what the backward pass needs, 'full' keeps only each layer's input.
    attention: the program that computes attention, see `kernels.choose`.
    mesh: the devices that the model is spread over, see `sharding`; None means one.
    family: the family that defines the names and config of a folder; see `families`.
    kind: a description for messages.
    scaled: as in `T5Config`.
    input_ends: inputs have an end token.
  """

  vocab_size: int
  encoder: StackConfig
  decoder: StackConfig
  embedding_scale: float = 1.0
  input_scale: float = 1.0
  decoder_scale: float = 1.0
  separate_embeddings: bool = True
  image_end: int = -1
  tied: bool = False
  output_cap: float = 0.0
  start_id: int = 0
  dropout_rate: float = 0.0
  dtype: Any = jnp.float32
  rematerialise: str = 'none'
  attention: str = 'xla'
  mesh: Mesh | None = None
  family: str = 't5gemma'
  kind = 'an encoder-decoder like T5Gemma'
  scaled = False
  input_ends = False

  def __post_init__(self) -> None:
    require_choices(self)
    require_sizes(self, 'vocab_size')
    for stack in self.stacks:
      require_sizes(stack, 'width', 'heads', 'head_dim', 'mlp_dim', 'layers')
    shared = {name: getattr(self, name) for name in ('dropout_rate', 'dtype', 'rematerialise', 'attention', 'mesh')}
    object.__setattr__(self, 'encoder', dataclasses.replace(
      self.encoder, causal=False, cross=False, outputs=0, **shared))
    object.__setattr__(self, 'decoder', dataclasses.replace(
      self.decoder, causal=True, cross=True, memory_width=self.encoder.width,
      outputs=0 if self.tied else self.vocab_size, **shared))

  @property
  def stacks(self) -> tuple[StackConfig, StackConfig]:
    """The encoder's and the decoder's."""
    return self.encoder, self.decoder

  @property
  def width(self) -> int:
    """D of the encoder, which prompts belong to."""
    return self.encoder.width

  @property
  def encoder_layers(self) -> int:
    """Layers of the encoder."""
    return self.encoder.layers

  @property
  def decoder_layers(self) -> int:
    """Layers of the decoder."""
    return self.decoder.layers

  def stack(self, *, cross: bool) -> StackConfig:
    """Returns the shape of the decoder (`cross`) or the encoder."""
    return self.decoder if cross else self.encoder
