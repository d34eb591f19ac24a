"""Rotary positions in a `config.json`: for one layer, or for each kind of layer."""

from collections.abc import Mapping
from typing import Any

from prompt_tuning.models.positions import Rotary


def read_rotary(config: Mapping[str, Any], kind: str) -> Rotary:
  """Returns the rotary positions of layers of a kind; transformers 5 stores them all in `rope_parameters`.

  Raises:
    ValueError: their scaling is not supported.
  """
  given = config.get('rope_parameters') or {}
  given = given.get(kind, given)
  if not given:
    local = kind == 'sliding_attention' and 'rope_local_base_freq' in config
    base = config['rope_local_base_freq'] if local else config.get('rope_theta', 10000.0)
    given = {'rope_theta': base, **({} if local else config.get('rope_scaling') or {})}
  how = given.get('rope_type', given.get('type', 'default'))
  if given.get('partial_rotary_factor', 1.0) != 1.0:
    raise ValueError(f'sets partial_rotary_factor to {given["partial_rotary_factor"]!r}; the supported value is 1.0.')
  if how == 'default':
    return Rotary(given['rope_theta'])
  if how == 'linear':
    return Rotary(given['rope_theta'], given['factor'])
  if how == 'llama3':
    return Rotary(given['rope_theta'], given['factor'], given['original_max_position_embeddings'],
                  given['low_freq_factor'], given['high_freq_factor'])
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
