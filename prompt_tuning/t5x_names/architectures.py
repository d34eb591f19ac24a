"""`architectures.…`: the shape of the frozen model."""

import dataclasses
from typing import Any

from prompt_tuning.models.stack_config import ATTENTION
from prompt_tuning.runs.choice import Choice

__all__ = ['GPT', 'T5', 'NewEnds']
_REMATERIALISE = {'none': 'none', 'minimal': 'none', 'legacy': 'none', 'full': 'full'}
_SHAPE = ('vocab_size', 'width', 'heads', 'head_dim', 'mlp_dim', 'encoder_layers', 'decoder_layers')


@dataclasses.dataclass(frozen=True)
class Architecture:
  """What every architecture has.

  Attributes:
    dropout_rate: share of activations dropped in training.
    dtype: type of the activations.
    rematerialise: 'none' or 'full'; T5X's 'minimal' and 'legacy' mean 'none'.
    attention: the program that computes attention: 'auto', 'xla', 'cudnn' or 'pallas'.
  """

  dropout_rate: float = 0.0
  dtype: Any = 'float32'
  rematerialise: str = 'none'
  attention: str = 'xla'

  def __post_init__(self) -> None:
    if self.rematerialise not in _REMATERIALISE:
      raise ValueError(f'LAYER_REMAT is {self.rematerialise!r}. Give one of {", ".join(_REMATERIALISE)}.')
    if self.attention not in ATTENTION:
      raise ValueError(f'attention is {self.attention!r}. Give one of {", ".join(ATTENTION)}.')

  def chosen(self) -> Choice | None:
    """Returns the shape, or None if the checkpoint gives it."""
    raise NotImplementedError

  def settings(self, *, trains: bool) -> dict[str, Any]:
    """Returns the settings of a run."""
    changes = {'dropout_rate': self.dropout_rate, 'rematerialise': _REMATERIALISE[self.rematerialise]}
    return {'architecture': self.chosen(), 'activation_dtype': str(self.dtype), 'attention': self.attention,
            **(changes if trains else {})}

  def _options(self, without: tuple[str, ...] = ()) -> dict[str, Any]:
    common = {field.name for field in dataclasses.fields(Architecture)} | {*without}
    return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name not in common}


@dataclasses.dataclass(frozen=True)
class T5(Architecture):
  """A T5, see `models.t5_config.T5Config`. Without any of the first seven the shape is read from the checkpoint.

  Attributes:
    scale: scale of a new model's initial weights: 1.0.
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
  dtype: Any = 'bfloat16'
  scale: float = 1.0
  activation_partitioning_dims: int = 1

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.scale != 1.0:
      raise ValueError(f'SCALE is {self.scale}, but new models start from weights of scale 1.0 only. Leave it out.')
    if self.activation_partitioning_dims != 1:
      raise ValueError(f'ACTIVATION_PARTITIONING_DIMS is {self.activation_partitioning_dims}, but the width of '
                       'activations is not split here. Leave it out; partitioning.PjitPartitioner.mesh_shape splits '
                       'rows and heads.')
    missing = [name for name in _SHAPE if getattr(self, name) is None]
    if 0 < len(missing) < len(_SHAPE):
      raise ValueError(f'architectures.T5 lacks {", ".join(missing)}. Give the whole shape, as the files of '
                       'configs/models/sizes do, or nothing of it, to read it from the checkpoint.')

  def chosen(self) -> Choice | None:
    """Returns the shape, or None if the checkpoint gives it."""
    if self.vocab_size is None:
      return None
    return Choice('t5', self._options(without=('scale', 'activation_partitioning_dims')))


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPT(Architecture):
  """A GPT-2, see `models.new_models.gpt2`."""

  vocab_size: int
  width: int
  heads: int
  layers: int
  position_count: int
  mlp_dim: int = 0
  tied: bool = True

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.width % self.heads:
      raise ValueError(f'architectures.GPT has width {self.width} and {self.heads} heads. Give a number of heads that '
                       'divides the width.')

  def chosen(self) -> Choice:
    """Returns the shape."""
    return Choice('gpt2', self._options())


def NewEnds(classes: int, tokens: int = 0, features: int = 0, seed: int = 0) -> dict[str, int]:
  """Returns new input and output layers around a frozen decoder-only model, see `models/new_layers.py`."""
  return {'classes': classes, 'tokens': tokens, 'features': features, 'seed': seed}
