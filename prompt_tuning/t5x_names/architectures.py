"""`architectures.…`: the shape of the frozen model."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from prompt_tuning.models import ends
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.models.stack_config import ATTENTION
from prompt_tuning.models.t5 import T5Config

__all__ = ['GPT', 'T5', 'NewEnds']
_REMATERIALISE = {'none': 'none', 'minimal': 'none', 'legacy': 'none', 'full': 'full'}
_SHAPE = ('vocab_size', 'width', 'heads', 'head_dim', 'mlp_dim', 'encoder_layers', 'decoder_layers')


@dataclasses.dataclass(frozen=True)
class T5:
  """A T5. Without any of the first seven the shape is read from the checkpoint.

  Attributes:
    vocab_size: V.
    width: D.
    heads: H.
    head_dim: K.
    mlp_dim: F.
    encoder_layers: layers of the encoder.
    decoder_layers: layers of the decoder.
    mlp_activations: ('gelu', 'linear') for 1.1 and mT5, ('relu',) for 1.0.
    tied: the output layer is the embedding (1.0).
    relative_buckets: buckets of the relative position bias.
    relative_max_distance: distance at which the last bucket starts.
    dropout_rate: share of activations dropped in training.
    dtype: type of the activations.
    rematerialise: 'none' or 'full'; T5X's 'minimal' and 'legacy' mean 'none'.
    attention: the program that computes attention: 'auto', 'xla', 'cudnn' or 'pallas'.
    scale: of the weights that a new model starts from: 1.0.
    activation_partitioning_dims: a hint for several devices: 1.
  """

  vocab_size: int | None = None
  width: int | None = None
  heads: int | None = None
  head_dim: int | None = None
  mlp_dim: int | None = None
  encoder_layers: int | None = None
  decoder_layers: int | None = None
  mlp_activations: tuple[str, ...] = ('gelu', 'linear')
  tied: bool = False
  relative_buckets: int = 32
  relative_max_distance: int = 128
  dropout_rate: float = 0.0
  dtype: Any = 'bfloat16'
  rematerialise: str = 'none'
  attention: str = 'auto'
  scale: float = 1.0
  activation_partitioning_dims: int = 1

  def __post_init__(self) -> None:
    _check_choices(self.rematerialise, self.attention)
    if self.scale != 1.0:
      raise ValueError(f'SCALE is {self.scale}, but new models start from weights of scale 1.0 only. Leave it out.')
    if self.activation_partitioning_dims != 1:
      raise ValueError(f'ACTIVATION_PARTITIONING_DIMS is {self.activation_partitioning_dims}, but the width of '
                       'activations is not split here. Leave it out; partitioning.PjitPartitioner.mesh_shape splits '
                       'rows and heads.')

  def changes(self) -> dict[str, Any]:
    """Returns what is chosen for every model, whatever its shape."""
    return {'dropout_rate': self.dropout_rate, 'rematerialise': _REMATERIALISE[self.rematerialise],
            'attention': self.attention}

  def config(self) -> T5Config | None:
    """Returns the config, or None where the checkpoint tells the shape.

    Raises:
      ValueError: a part of the shape is missing.
    """
    missing = [name for name in _SHAPE if getattr(self, name) is None]
    if len(missing) == len(_SHAPE):
      return None
    if missing:
      raise ValueError(f'architectures.T5 lacks {", ".join(missing)}. Give the whole shape, as the files of '
                       'configs/models/sizes do, or nothing of it, to read it from the checkpoint.')
    shape = {name: getattr(self, name) for name in (
      *_SHAPE, 'mlp_activations', 'tied', 'relative_buckets', 'relative_max_distance')}
    return T5Config(**shape, **self.changes(), scaled=self.tied, dtype=jnp.dtype(self.dtype))


@dataclasses.dataclass(frozen=True)
class GPT:
  """A GPT-2: learned positions, LayerNorm in front of attention and MLP, GELU by tanh, biases.

  Attributes:
    vocab_size: V.
    width: D.
    heads: H, each of width D / H.
    layers: L.
    position_count: the longest row, what stands in front included.
    mlp_dim: F; 0 is 4 D.
    tied: the output layer is the embedding (GPT-2); else it has weights of its own, without bias (minGPT).
    dropout_rate: share of activations dropped in training.
    dtype: type of the activations.
    rematerialise: as for `T5`.
    attention: as for `T5`.
  """

  vocab_size: int
  width: int
  heads: int
  layers: int
  position_count: int
  mlp_dim: int = 0
  tied: bool = True
  dropout_rate: float = 0.0
  dtype: Any = 'float32'
  rematerialise: str = 'none'
  attention: str = 'auto'

  def __post_init__(self) -> None:
    _check_choices(self.rematerialise, self.attention)
    if self.width % self.heads:
      raise ValueError(f'architectures.GPT has width {self.width} and {self.heads} heads. Give a number of heads that '
                       'divides the width.')

  def changes(self) -> dict[str, Any]:
    """Returns what is chosen for every model, whatever its shape."""
    return {'dropout_rate': self.dropout_rate, 'rematerialise': _REMATERIALISE[self.rematerialise],
            'attention': self.attention}

  def config(self) -> DecoderConfig:
    """Returns the config."""
    head_dim = self.width // self.heads
    return DecoderConfig(
      vocab_size=self.vocab_size, width=self.width, heads=self.heads, head_dim=head_dim, layers=self.layers,
      mlp_dim=self.mlp_dim or 4 * self.width, mlp_activations=('gelu',), norm='layer', norm_epsilon=1e-5, bias=True,
      query_scale=head_dim**-0.5, position_count=self.position_count, tied=self.tied, family='gpt2',
      initial_scale=0.02,
      dtype=jnp.dtype(self.dtype), **self.changes())


@dataclasses.dataclass(frozen=True)
class NewEnds:
  """New input and output layers around a frozen decoder-only model, see `models/ends.py`.

  Attributes:
    classes: labels of a position.
    tokens: the input is so many tokens.
    features: the input is real vectors of this width instead.
    seed: of the new layers' first values.
  """

  classes: int
  tokens: int = 0
  features: int = 0
  seed: int = 0

  def around(self, model: LanguageModel) -> LanguageModel:
    """Returns the model between new ends."""
    return ends.with_new_ends(model, **dataclasses.asdict(self))


def _check_choices(rematerialise: str, attention: str) -> None:
  if rematerialise not in _REMATERIALISE:
    raise ValueError(f'LAYER_REMAT is {rematerialise!r}. Give one of {", ".join(_REMATERIALISE)}.')
  if attention not in ATTENTION:
    raise ValueError(f'attention is {attention!r}. Give one of {", ".join(ATTENTION)}.')
