"""Rotary positions in a `config.json`: for one layer, or for each kind of layer."""

from collections.abc import Mapping
from typing import Any

from prompt_tuning.files.json_files import Fields, Positive, Size, checked, shown
from prompt_tuning.models.positions import Rotary


class _Stored(Fields):
  rope_parameters: dict[str, Any] | None = None
  rope_scaling: dict[str, Any] | None = None
  rope_theta: Positive = 10000.0
  rope_local_base_freq: Positive | None = None


class _Scaling(Fields):
  """The fields of `rope_parameters`, for one kind of layer."""

  rope_theta: Positive
  rope_type: str | None = None
  type: str | None = None  # before transformers 4.43
  partial_rotary_factor: float | None = None


class _Linear(Fields):
  factor: Positive


class _Llama3(_Linear):
  original_max_position_embeddings: Size
  low_freq_factor: Positive
  high_freq_factor: Positive


def read_rotary(config: Mapping[str, Any], kind: str) -> Rotary:
  """Returns the rotary positions of layers of a kind; transformers 5 stores them all in `rope_parameters`.

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
  if not given:
    local = stored.rope_local_base_freq if kind == 'sliding_attention' else None
    given = {'rope_theta': local} if local else stored.rope_scaling or {}
  scaling = checked({'rope_theta': stored.rope_theta, **given}, _Scaling)
  how = scaling.rope_type or scaling.type or 'default'
  if scaling.partial_rotary_factor not in (None, 1.0):
    raise ValueError(f'sets partial_rotary_factor to {scaling.partial_rotary_factor!r}; the supported value is 1.0.')
  if how == 'default':
    return Rotary(scaling.rope_theta)
  if how == 'linear':
    return Rotary(scaling.rope_theta, checked(given, _Linear).factor)
  if how == 'llama3':
    more = checked(given, _Llama3)
    if more.low_freq_factor >= more.high_freq_factor:
      raise ValueError(f'sets low_freq_factor to {more.low_freq_factor} and high_freq_factor to '
                       f'{more.high_freq_factor}; the first must be lower. Download it again.')
    return Rotary(scaling.rope_theta, more.factor, more.original_max_position_embeddings, more.low_freq_factor,
                  more.high_freq_factor)
  raise ValueError(f'scales rotary positions by {how!r}; supported are default, linear and llama3.')


def write_rotary(rotary: Rotary) -> dict[str, Any]:
  """Returns the `rope_parameters` of a layer: the inverse of `read_rotary`."""
  if rotary.original:
    return {'rope_type': 'llama3', 'rope_theta': rotary.base, 'factor': rotary.factor,
            'original_max_position_embeddings': rotary.original, 'low_freq_factor': rotary.low,
            'high_freq_factor': rotary.high}
  if rotary.factor != 1.0:
    return {'rope_type': 'linear', 'rope_theta': rotary.base, 'factor': rotary.factor}
  return {'rope_type': 'default', 'rope_theta': rotary.base}
