"""The shape of a T5."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from prompt_tuning.models.stack_config import StackConfig, require_choices, require_sizes


@dataclasses.dataclass(frozen=True)
class T5Config:
  """The shape of a T5.

  Attributes:
    vocab_size: V, rows of the embedding.
    width: D.
    heads: H.
    head_dim: K; H·K may differ from D.
    mlp_dim: F.
    encoder_layers: layers of the encoder.
    decoder_layers: layers of the decoder.
    mlp_activations: ('gelu', 'linear') for 1.1 and mT5, ('relu',) for 1.0.
    tied: the output layer is the embedding (1.0).
    scaled: the logits are multiplied by D^-0.5 (1.0).
    relative_buckets: buckets of the relative position bias.
    relative_max_distance: distance at which the last bucket starts.
    layer_biases: each layer has separate position biases (umT5); else the layers of a stack share them.
    dropout_rate: share of activations dropped in training.
    dtype: type of the activations; norms, softmax and logits are computed in float32.
    rematerialise: 'none' keeps what the backward pass needs, 'full' keeps only each layer's input.
    attention: the program that computes attention, see `kernels.choose`.
    mesh: the devices that the model is spread over, see `sharding`; None means one.
    family: the family that defines the names and config of a folder; see `families`.
    kind: a description for messages.
    embedding_scale, input_scale, decoder_scale, separate_embeddings, image_end, output_cap, start_id, input_ends: as in
      `StacksConfig`; no T5 has other values.
  """

  vocab_size: int
  width: int
  heads: int
  head_dim: int
  mlp_dim: int
  encoder_layers: int
  decoder_layers: int
  mlp_activations: tuple[str, ...] = ('gelu', 'linear')
  tied: bool = False
  scaled: bool = False
  relative_buckets: int = 32
  relative_max_distance: int = 128
  layer_biases: bool = False
  dropout_rate: float = 0.0
  dtype: Any = jnp.float32
  rematerialise: str = 'none'
  attention: str = 'xla'
  mesh: Mesh | None = None
  family: str = 't5'
  kind = 'an encoder-decoder'
  embedding_scale = input_scale = decoder_scale = 1.0
  separate_embeddings = False
  image_end = -1
  output_cap = 0.0
  start_id = 0
  input_ends = True

  def __post_init__(self) -> None:
    object.__setattr__(self, 'mlp_activations', tuple(self.mlp_activations))
    require_choices(self)
    require_sizes(self, 'vocab_size', 'width', 'heads', 'head_dim', 'mlp_dim', 'encoder_layers', 'decoder_layers')

  def stack(self, *, cross: bool) -> StackConfig:
    """Returns the shape of the decoder (`cross`) or the encoder."""
    return StackConfig(
      layers=self.decoder_layers if cross else self.encoder_layers, causal=cross, cross=cross,
      outputs=self.vocab_size if cross and not self.tied else 0,
      **{name: getattr(self, name) for name in (
        'width', 'heads', 'head_dim', 'mlp_dim', 'mlp_activations', 'relative_buckets', 'relative_max_distance',
        'layer_biases', 'dropout_rate', 'dtype', 'rematerialise', 'attention',
        'mesh')})
