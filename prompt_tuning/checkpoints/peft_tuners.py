"""IA3, LoRA and LN_TUNING of PEFT: what changes modules of the base model.

  IA3        MODULE.ia3_l                        [out, 1], factors on the output (bias included), or [1, in], on the
                                                 input of a module of `feedforward_modules`
  LORA       see `peft_low_rank.py`
  LN_TUNING  MODULE.ln_tuning_layers.weight, .bias  [D], which replace those of a norm

GPT-2's query, key and value are one module; PEFT multiplies the input of a module once for all that it holds.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from prompt_tuning import trees
from prompt_tuning.checkpoints import peft_low_rank
from prompt_tuning.checkpoints.peft_folder import ARRAYS, CONFIG, Stored
from prompt_tuning.checkpoints.peft_modules import Modules, arrays_by_module, stored_name
from prompt_tuning.types import Flat

_SCALES = re.compile(r'(encoder|decoder)/scales/(.+)/(input|output)')
KINDS = ('IA3', 'LORA', 'LN_TUNING')
_NORM_PARTS = {'ln_tuning_layers.weight': 'scale', 'ln_tuning_layers.bias': 'bias'}


def read(adapter: Stored, modules: Modules | None) -> Flat:
  """Returns the trained tensors of an adapter under this package's names.

  Raises:
    ValueError: the modules are not known, the adapter does not fit them, or it has a field that is not supported.
  """
  if modules is None:
    raise ValueError(f'{adapter.folder} is an adapter of type {adapter.kind}, which changes modules of its base model, '
                     'so the model is needed to read it. Specify it (--model of `prompt-tuning convert`).')
  if adapter.config.get('modules_to_save'):
    raise ValueError(f'{adapter.folder}/{CONFIG} sets modules_to_save, whole modules beside the adapter, which cannot '
                     'be read. Train without it.')
  return {'IA3': _scales, 'LORA': peft_low_rank.read, 'LN_TUNING': _norms}[adapter.kind](adapter, modules)


def form(arrays: Flat, modules: Modules | None) -> tuple[dict[str, Any], Flat]:
  """Returns the config and arrays of PEFT for scales, low-rank updates or norms; ({}, {}) of other tensors.

  Raises:
    ValueError: PEFT cannot hold them, or the modules of the base model are not known.
  """
  write = _form_of(arrays)
  if write is None:
    return {}, {}
  if modules is None:
    raise ValueError(f'Found {next(iter(arrays))}, which PEFT stores under the names of the base model. Specify the '
                     'model (--model of `prompt-tuning convert`).')
  return write(arrays, modules)


def needs_modules(tensors: Mapping[str, Any]) -> bool:
  """Returns True if `form` needs the modules of the base model to write these tensors."""
  return _form_of(tensors) is not None


def _form_of(tensors: Mapping[str, Any]) -> Callable[[Flat, Modules], tuple[dict[str, Any], Flat]] | None:
  return next((write for belongs, write in _FORMS if tensors and all(map(belongs, tensors))), None)


def _scales(adapter: Stored, modules: Modules) -> Flat:
  tensors: dict[str, np.ndarray] = {}
  for module, found in arrays_by_module(adapter, modules, 'ia3_l', 'kernel'):
    names, array = modules.parts[module], found['ia3_l']
    width, outs = modules.shape(names[0])[0], [modules.shape(name)[1] for name in names]
    if array.shape not in ((1, width), (sum(outs), 1)):
      raise ValueError(f'{adapter.folder}/{ARRAYS} holds {stored_name(module, "ia3_l")} {list(array.shape)}; expected '
                       f'[{sum(outs)}, 1] or [1, {width}]. Give the model that the adapter was trained for.')
    side = 'output' if array.shape == (sum(outs), 1) else 'input'
    own = modules.split(module, array[:, 0], 0) if side == 'output' else [array[0]] * len(names)
    for name, factors in zip(names, own, strict=True):
      path, layer = trees.split_layer_name(name)
      stack, _, dense = path.partition('/layers/')
      layers = trees.names_of_layers(f'{path}/kernel', modules.shapes)
      if layer is None:
        raise ValueError(f'{adapter.folder} scales {module}, but only layers of a stack can be scaled. Train it '
                         'without this module.')
      table = tensors.setdefault(f'{stack}/scales/{dense}/{side}', np.ones(
        (len(layers), max(_width(each.removesuffix('/kernel'), side, modules) for each in layers)), np.float32))
      table[layers.index(f'{name}/kernel'), :len(factors)] = factors
  return tensors


def _scales_form(tensors: Flat, modules: Modules) -> tuple[dict[str, Any], Flat]:
  own: dict[str, dict[str, dict[str, np.ndarray]]] = {}  # module -> side -> our name of a layer -> factors
  for tensor, array in tensors.items():
    stack, dense, side = _SCALES.fullmatch(tensor).groups()
    if len(modules.shapes.get(f'{stack}/layers/{dense}/kernel', ())) > 3:  # of experts
      modules.owner(f'{stack}/layers_0/{dense}')
    layers = [name.removesuffix('/kernel') for name in trees.names_of_layers(f'{stack}/layers/{dense}/kernel',
                                                                             modules.shapes)]
    widths = [_width(name, side, modules) for name in layers]
    if not layers or array.shape != (len(layers), max(widths)):
      raise ValueError(f'{tensor} has shape {list(array.shape)}, which does not fit the base model. Give the model '
                       'that it was trained for.')
    for name, width, factors in zip(layers, widths, array, strict=True):
      own.setdefault(modules.owner(name), {}).setdefault(side, {})[name] = factors[:width]
  arrays = {}
  for module, sides in own.items():
    names = modules.parts[module]
    if len(sides) > 1:
      raise ValueError(f'The scales multiply input and output of {module}, but PEFT multiplies one of them. Train one, '
                       "or keep this package's file.")
    ((side, found),) = sides.items()
    if side == 'output':
      ones = lambda name: np.ones(modules.shape(name)[1], np.float32)
      factors = modules.join(module, [found[name] if name in found else ones(name) for name in names], 0)[:, None]
    else:
      factors = next(iter(found.values()))[None]
      if found.keys() != set(names) or any((each != factors[0]).any() for each in found.values()):
        raise ValueError(f'{module} holds {", ".join(names)}, whose input PEFT multiplies once, but the scales differ '
                         "among them. Keep this package's file.")
    arrays[stored_name(module, 'ia3_l')] = factors
  inputs = [module for module, sides in own.items() if 'input' in sides]
  feedforward = modules.targets(inputs)
  others = modules.targets(own.keys() - set(inputs))
  return {'peft_type': 'IA3', 'target_modules': sorted({*feedforward, *others}), 'feedforward_modules': feedforward,
          'fan_in_fan_out': not modules.in_by_out.isdisjoint(own)}, arrays


def _width(name: str, side: str, modules: Modules) -> int:
  """Returns how many factors a layer reads; if layers differ, narrower ones read the first of their row."""
  return modules.shape(name)[side == 'output']


def _norms(adapter: Stored, modules: Modules) -> Flat:
  tensors = {}
  for module, found in arrays_by_module(adapter, modules, r'ln_tuning_layers\.(?:weight|bias)', 'scale'):
    (name,) = modules.parts[module]
    wanted = {end: modules.shape(name, part) for end, part in _NORM_PARTS.items() if modules.shape(name, part)}
    if {end: array.shape for end, array in found.items()} != wanted:
      raise ValueError(f'{adapter.folder}/{ARRAYS} holds {_told(module, found)}; expected '
                       f'{_told(module, wanted)}. Give the model that the adapter was trained for.')
    tensors |= {f'{name}/{_NORM_PARTS[end]}': array for end, array in found.items()}
  return tensors


def _told(module: str, arrays: Mapping[str, Any]) -> str:
  return ', '.join(f'{stored_name(module, end)} {list(getattr(array, "shape", array))}'
                   for end, array in sorted(arrays.items()))


def _norms_form(tensors: Flat, modules: Modules) -> tuple[dict[str, Any], Flat]:
  arrays, chosen = {}, {name.rpartition('/')[0] for name in tensors}
  for name in sorted(chosen):
    module = modules.owner(name)
    for end, part in _NORM_PARTS.items():
      shape = modules.shape(name, part)
      own = tensors.get(f'{name}/{part}')
      if own is None and shape is not None:
        raise ValueError(f'{name}/{part} is not retrained, but PEFT replaces a norm whole. Retrain it too '
                         "(patterns='.*norm/.*').")
      if own is not None:
        if own.shape != shape:
          raise ValueError(f'{name}/{part} has shape {list(own.shape)}, but the base model has '
                           f'{"none" if shape is None else list(shape)}. Give the model that it was trained for.')
        arrays[stored_name(module, end)] = own
  return {'peft_type': 'LN_TUNING', 'target_modules': modules.targets({modules.owner(name) for name in chosen})}, arrays


# Which tensors a form is for, and the function that writes it.
_FORMS = (
  (_SCALES.fullmatch, _scales_form),
  (lambda name: name.rpartition('/')[2] in peft_low_rank.PARTS, peft_low_rank.form),
  (re.compile(r'.*norm/(scale|bias)').fullmatch, _norms_form))
