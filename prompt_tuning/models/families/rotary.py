"""Rotary positions in a `config.json`: for one layer, or for each kind of layer."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from prompt_tuning.files.json_files import Fields, Positive, Size, checked, shown
from prompt_tuning.models.positions import Rotary
from prompt_tuning.models.rotary_scaling import Dynamic, LongRope, Yarn


class _Stored(Fields):
  rope_parameters: dict[str, Any] | None = None
  rope_scaling: dict[str, Any] | None = None
  rope_theta: Positive = 10000.0
  rope_local_base_freq: Positive | None = None
  partial_rotary_factor: Positive | None = None
  max_position_embeddings: Size | None = None
  original_max_position_embeddings: Size | None = None


class _Scaling(Fields):
  """The fields of `rope_parameters`, for one kind of layer."""

  rope_theta: Positive
  rope_type: str | None = None
  type: str | None = None  # before transformers 4.43
  partial_rotary_factor: Positive | None = None
  original_max_position_embeddings: Size | None = None


class _Linear(Fields):
  factor: Positive


class _Llama3(_Linear):
  original_max_position_embeddings: Size
  low_freq_factor: Positive
  high_freq_factor: Positive


class _Yarn(Fields):
  factor: Positive | None = None
  attention_factor: Positive | None = None
  beta_fast: Positive | None = None
  beta_slow: Positive | None = None
  mscale: float | None = None
  mscale_all_dim: float | None = None
  truncate: bool | None = None


class _LongRope(Fields):
  short_factor: list[Positive]
  long_factor: list[Positive]
  factor: Positive | None = None
  attention_factor: Positive | None = None


def read_rotary(config: Mapping[str, Any], kind: str, head_dim: int = 0) -> Rotary:
  """Returns the rotary positions of layers of a kind; transformers 5 stores them all in `rope_parameters`.

  Args:
    config: the `config.json`.
    kind: of layers.
    head_dim: K, to check how many frequencies there are; 0 leaves that out.

  Raises:
    KeyError: a field is missing.
    ValueError: a value cannot be used, or their scaling is not supported.
  """
  stored = checked(config, _Stored)
  given = stored.rope_parameters or {}
  if kind in given:
    given = given[kind]
    if not isinstance(given, dict):
      raise ValueError(f'sets {kind} of rope_parameters to {shown(given)}: expected an object. Download it again.')
  local = stored.rope_local_base_freq if kind == 'sliding_attention' else None
  if not given:
    given = {'rope_theta': local} if local else stored.rope_scaling or {}
  scaling = checked({'rope_theta': local or stored.rope_theta, **given}, _Scaling)
  how = scaling.rope_type or scaling.type or 'default'
  share = scaling.partial_rotary_factor or stored.partial_rotary_factor or 1.0
  if share > 1.0:
    raise ValueError(f'sets partial_rotary_factor to {share!r}: expected at most 1.0, the whole head. Download it '
                     'again.')
  plain = Rotary(scaling.rope_theta, share=share)
  if head_dim:
    _require_pairs(plain, head_dim)
  if how == 'default':
    return plain
  if how not in _READERS:
    raise ValueError(f'scales rotary positions by {how!r}; supported are default, {", ".join(_READERS)}.')
  original = stored.original_max_position_embeddings or scaling.original_max_position_embeddings
  return _READERS[how](given, plain, head_dim, original, stored.max_position_embeddings)


def _linear(given: Mapping[str, Any], plain: Rotary, *_: Any) -> Rotary:
  return Rotary(plain.base, checked(given, _Linear).factor, share=plain.share)


def _llama3(given: Mapping[str, Any], plain: Rotary, *_: Any) -> Rotary:
  more = checked(given, _Llama3)
  if more.low_freq_factor >= more.high_freq_factor:
    raise ValueError(f'sets low_freq_factor to {more.low_freq_factor} and high_freq_factor to '
                     f'{more.high_freq_factor}; the first must be lower. Download it again.')
  return Rotary(plain.base, more.factor, more.original_max_position_embeddings, more.low_freq_factor,
                more.high_freq_factor, plain.share)


def _dynamic(given: Mapping[str, Any], plain: Rotary, head_dim: int, _: int | None, longest: int | None) -> Rotary:
  if head_dim and plain.dims(head_dim) < 4:
    raise ValueError(f'scales {plain.dims(head_dim)} dimensions of a head by the length of rows; expected at least 4. '
                     'Download it again.')
  return Dynamic(plain.base, checked(given, _Linear).factor, _known(longest), share=plain.share)


def _yarn(given: Mapping[str, Any], plain: Rotary, _: int, original: int | None, longest: int | None) -> Rotary:
  more, original = checked(given, _Yarn), original or _known(longest)
  if plain.base <= 1.0:
    raise ValueError(f'sets rope_theta to {plain.base} with a scaling of type yarn: expected more than 1. Download it '
                     'again.')
  factor = more.factor or _known(longest) / original
  amplitude = more.attention_factor
  if amplitude is None:  # as in section 3.4 of the paper, or as DeepSeek's models divide it
    strength = lambda scale: 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0
    both = more.mscale and more.mscale_all_dim
    amplitude = strength(more.mscale) / strength(more.mscale_all_dim) if both else strength(1.0)
  return Yarn(plain.base, factor, original, share=plain.share, amplitude=amplitude, fast=more.beta_fast or 32.0,
              slow=more.beta_slow or 1.0, whole=more.truncate is not False)


def _longrope(given: Mapping[str, Any], plain: Rotary, head_dim: int, original: int | None,
              longest: int | None) -> Rotary:
  more, original = checked(given, _LongRope), original or _known(longest)
  for name in ('short_factor', 'long_factor'):
    found, wanted = len(getattr(more, name)), plain.dims(head_dim) // 2
    if head_dim and found != wanted:
      raise ValueError(f'sets {name} to {found} numbers; expected {wanted}, one for each rotated pair of dimensions. '
                       'Download it again.')
  amplitude = more.attention_factor
  if amplitude is None:
    factor = more.factor or _known(longest) / original
    amplitude = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
  return LongRope(plain.base, original=original, share=plain.share, amplitude=amplitude,
                  short=tuple(more.short_factor), long=tuple(more.long_factor))


_READERS = {'linear': _linear, 'dynamic': _dynamic, 'yarn': _yarn, 'longrope': _longrope, 'llama3': _llama3}


def _known(longest: int | None) -> int:
  if longest is None:
    raise KeyError('max_position_embeddings')
  return longest


def _require_pairs(rotary: Rotary, head_dim: int) -> None:
  dims = rotary.dims(head_dim)
  if dims % 2 or not dims:
    found = f'has heads of width {head_dim}' if dims == head_dim else (
      f'rotates {dims} of the {head_dim} dimensions of a head')
    raise ValueError(f'{found}, but rotary positions need an even width. Download it again.')


def write_rotary(rotary: Rotary) -> dict[str, Any]:
  """Returns the `rope_parameters` of a layer: the inverse of `read_rotary`, with `write_length`."""
  found: dict[str, Any] = {'rope_theta': rotary.base}
  if rotary.share != 1.0:
    found['partial_rotary_factor'] = rotary.share
  if isinstance(rotary, LongRope):
    return found | {'rope_type': 'longrope', 'original_max_position_embeddings': rotary.original,
                    'attention_factor': rotary.amplitude, 'short_factor': list(rotary.short),
                    'long_factor': list(rotary.long)}
  found['factor'] = rotary.factor
  if isinstance(rotary, Yarn):
    return found | {'rope_type': 'yarn', 'original_max_position_embeddings': rotary.original,
                    'attention_factor': rotary.amplitude, 'beta_fast': rotary.fast, 'beta_slow': rotary.slow,
                    'truncate': rotary.whole}
  if isinstance(rotary, Dynamic):
    return found | {'rope_type': 'dynamic'}
  if rotary.original:
    return found | {'rope_type': 'llama3', 'original_max_position_embeddings': rotary.original,
                    'low_freq_factor': rotary.low, 'high_freq_factor': rotary.high}
  if rotary.factor != 1.0:
    return found | {'rope_type': 'linear'}
  del found['factor']
  return found | {'rope_type': 'default'}


def write_length(rotaries: Sequence[Rotary | None]) -> dict[str, Any]:
  """Returns the lengths that transformers reads outside `rope_parameters`."""
  scaled = [rotary for rotary in rotaries if isinstance(rotary, Dynamic | LongRope)]
  names = {Dynamic: 'max_position_embeddings', LongRope: 'original_max_position_embeddings'}
  return {names[type(rotary)]: rotary.original for rotary in scaled}
