"""LoRA of PEFT: the output of a module is x·W + x·Aᵀ·Bᵀ·s, with s = lora_alpha / r, or lora_alpha / √r (rslora).

  MODULE.lora_A.weight [r, in], MODULE.lora_B.weight [out, r]

Here down = Aᵀ and up = s·Bᵀ. A module that holds several layers side by side (GPT-2's query, key and value) has one A;
layers with factors of their own become one update of their ranks' sum, with zeros between them.
"""

import collections
import math
from typing import Any

import numpy as np
from absl import logging

from prompt_tuning import trees
from prompt_tuning.checkpoints.peft_folder import ARRAYS, CONFIG, Stored
from prompt_tuning.checkpoints.peft_modules import Modules, arrays_by_module, stored_name
from prompt_tuning.files.json_files import Fields, Size, fields_of, shown
from prompt_tuning.types import Flat

PARTS = ('down', 'up')
_A, _B = 'lora_A.weight', 'lora_B.weight'
# Fields that change what a module computes, in ways that are not supported here.
_REFUSED = ('use_dora', 'lora_bias', 'layer_replication', 'trainable_token_indices', 'target_parameters',
            'alora_invocation_tokens', 'use_qalora', 'use_bdlora', 'arrow_config', 'kasa_config', 'monteclora_config',
            'velora_config', 'megatron_config', 'ensure_weight_tying')
# Fields that only chose what was trained, and how.
_HARMLESS = ('peft_type', 'task_type', 'peft_version', 'base_model_name_or_path', 'auto_mapping', 'revision',
             'inference_mode', 'target_modules', 'exclude_modules', 'modules_to_save', 'fan_in_fan_out', 'lora_dropout',
             'layers_to_transform', 'layers_pattern', 'loftq_config', 'eva_config', 'corda_config', 'lora_ga_config',
             'megatron_core', 'qalora_group_size', 'runtime_config')
_STARTS = (True, False, None, 'gaussian', 'eva', 'orthogonal')  # those that leave the frozen weights as they are


class _Config(Fields):
  r: Size = 8
  lora_alpha: float = 8
  use_rslora: bool | None = None
  bias: str | None = None
  init_lora_weights: bool | str | None = None
  rank_pattern: dict[str, Size] | None = None
  alpha_pattern: dict[str, float] | None = None


def read(adapter: Stored, modules: Modules) -> Flat:
  """Returns the factors of the updates, `decoder/layers_0/self_attention/query/kernel/down` and the like.

  Raises:
    ValueError: the adapter has a field that is not supported, or does not fit the modules.
  """
  config = _checked(adapter)
  tensors = {}
  for module, found in arrays_by_module(adapter, modules, r'lora_[AB]\.weight', 'kernel'):
    names = modules.parts[module]
    rank = _of(config.rank_pattern, module, config.r)
    width, outs = modules.shape(names[0])[0], [modules.shape(name)[1] for name in names]
    wanted = {_A: (rank, width), _B: (sum(outs), rank)}
    if {end: array.shape for end, array in found.items()} != wanted:
      told = lambda shapes: ', '.join(f'{end} {list(shape)}' for end, shape in sorted(shapes.items()))
      raise ValueError(f'{adapter.folder}/{ARRAYS} holds for {module} '
                       f'{told({end: array.shape for end, array in found.items()})}; expected {told(wanted)}, by the '
                       f'rank in {CONFIG}. Give the model that the adapter was trained for.')
    scale = _of(config.alpha_pattern, module, config.lora_alpha) / (rank**0.5 if config.use_rslora else rank)
    ups = modules.split(module, found[_B].T * np.float32(scale), 1)
    for name, up in zip(names, ups, strict=True):
      tensors |= {f'{name}/kernel/down': np.ascontiguousarray(found[_A].T),
                  f'{name}/kernel/up': np.ascontiguousarray(up)}
  return tensors


def _checked(adapter: Stored) -> _Config:
  file = f'{adapter.folder}/{CONFIG}'
  config = fields_of(file, adapter.config, _Config)
  refused = [name for name in _REFUSED if adapter.config.get(name)]
  refused += ['bias'] * (config.bias not in (None, 'none')) + [
    'init_lora_weights'] * (config.init_lora_weights not in _STARTS)
  refused += ['alpha_pattern'] * (not all(map(math.isfinite, (config.alpha_pattern or {}).values())))
  if refused:
    name = refused[0]
    advice = ('Save it with PEFT as a plain LoRA (path_initial_model_for_weight_conversion)'
              if name == 'init_lora_weights' else 'Train it without, or merge it into its model with PEFT')
    raise ValueError(f'{file} sets {name} to {shown(adapter.config[name])}, which is not supported: outputs would '
                     f'differ. {advice}.')
  known = {*_REFUSED, *_HARMLESS, *_Config.__struct_fields__}
  unknown = sorted(name for name, value in adapter.config.items() if value and name not in known)
  if unknown:
    logging.warning('%s has %d unknown fields, which are not used: %s. If they change what a module computes, outputs '
                    'differ from PEFT\'s.', file, len(unknown), ', '.join(map(repr, unknown)))
  return config


def _of(pattern: dict[str, Any] | None, module: str, default: Any) -> Any:
  """Returns the value of the first pattern that matches the end of a module's name, as PEFT does."""
  return next((value for key, value in (pattern or {}).items() if trees.matches(module, [rf'(.*\.)?({key})'])), default)


def form(tensors: Flat, modules: Modules) -> tuple[dict[str, Any], Flat]:
  """Returns the config and arrays of low-rank updates; their scale is 1.

  Raises:
    ValueError: a factor is missing, or belongs to something else than a dense layer of the base model.
  """
  own: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}  # module -> our name of a layer -> its factors
  for name in dict.fromkeys(tensor.rpartition('/')[0] for tensor in tensors):
    layer = name.removesuffix('/kernel')
    if layer == name:
      raise ValueError(f'{name} is not the kernel of a dense layer: PEFT has no such update. Keep this '
                       "package's file.")
    factors = [tensors.get(f'{name}/{part}') for part in PARTS]
    shape, rank = modules.shape(layer), None if factors[1] is None else len(factors[1])
    if shape is None or [getattr(each, 'shape', None) for each in factors] != [(shape[0], rank), (rank, shape[1])]:
      raise ValueError(f'{name} has the factors {[list(getattr(each, "shape", ())) for each in factors]}; the base '
                       f'model needs [in, r] and [r, out] of a matrix {list(shape or ())}. Give the model that it was '
                       'trained for.')
    own.setdefault(modules.owner(layer), {})[layer] = factors[0], factors[1]
  arrays, ranks = {}, {}
  for module, updates in own.items():
    down, up = _joined(updates, module, modules)
    arrays |= {stored_name(module, _A): down.T, stored_name(module, _B): up.T}
    ranks[module] = len(up)
  usual = collections.Counter(ranks.values()).most_common(1)[0][0]
  unusual = {module: rank for module, rank in ranks.items() if rank != usual}
  return {'peft_type': 'LORA', 'r': usual, 'lora_alpha': usual, 'rank_pattern': unusual, 'alpha_pattern': unusual,
          'lora_dropout': 0.0, 'bias': 'none', 'use_rslora': False, 'target_modules': modules.targets(own.keys()),
          'fan_in_fan_out': not modules.in_by_out.isdisjoint(own)}, arrays


def _joined(updates: dict[str, tuple[np.ndarray, np.ndarray]], module: str, modules: Modules) -> tuple[
    np.ndarray, np.ndarray]:
  """Returns the factors [in, r] and [r, out] of the update of a whole module."""
  downs: list[np.ndarray] = []  # those that differ
  for down, _ in updates.values():
    if not any(np.array_equal(down, each) for each in downs):
      downs.append(down)
  columns = []
  for name in modules.parts[module]:
    down, up = updates.get(name, (None, None))
    zeros = lambda rank, width=modules.shape(name)[1]: np.zeros((rank, width), np.float32)
    columns.append(np.concatenate([
      up if down is not None and np.array_equal(down, each) else zeros(each.shape[1]) for each in downs]))
  return np.concatenate(downs, axis=1), modules.join(module, columns, 1)
