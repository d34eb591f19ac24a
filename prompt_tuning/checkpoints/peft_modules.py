"""The modules of a base model under PEFT's names, and which of this package's layers each of them holds."""

import dataclasses
import functools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from prompt_tuning import trees
from prompt_tuning.checkpoints.fused import PART, Cut, cut_of, cuts_in
from prompt_tuning.checkpoints.loading import Rule
from prompt_tuning.checkpoints.peft_folder import ARRAYS, Stored
from prompt_tuning.names import nearest, printable

_PREFIX = 'base_model.model.'
_ROUTER = 'router/kernel'


@dataclasses.dataclass(frozen=True)
class Modules:
  """See the top of this file.

  Attributes:
    parts: module ('transformer.h.0.attn.c_attn') -> the layers that it holds side by side, in their order
      ('decoder/layers_0/self_attention/query', …).
    shapes: stacked path of each parameter -> shape.
    in_by_out: the modules whose weight is [in, out], as GPT-2's are; others have [out, in].
    cuts: module that holds several layers -> how they share its outputs.
  """

  parts: Mapping[str, list[str]]
  shapes: Mapping[str, tuple[int, ...]]
  in_by_out: frozenset[str]
  cuts: Mapping[str, Cut] = dataclasses.field(default_factory=dict)

  @functools.cached_property
  def owners(self) -> dict[str, str]:
    """Our name of a layer -> the module that holds it, under its usual name."""
    return {name: module for module, names in reversed(self.parts.items()) for name in names}

  def shape(self, name: str, part: str = 'kernel') -> tuple[int, ...] | None:
    """Returns the shape of a layer's kernel [in, out], or of another parameter; None if it has none."""
    path, layer = trees.split_layer_name(f'{name}/{part}', self.shapes)
    found = self.shapes.get(path)
    return found if layer is None or found is None else found[1:]

  def split(self, module: str, array: np.ndarray, axis: int) -> list[np.ndarray]:
    """Returns the parts of an array that belong to the layers of a module, along the axis of its outputs."""
    return self.cuts[module].split(array, axis) if module in self.cuts else [array]

  def join(self, module: str, parts: list[np.ndarray], axis: int) -> np.ndarray:
    """Returns the array of a module: the inverse of `split`."""
    return self.cuts[module].join(parts, axis) if module in self.cuts else parts[0]

  def owner(self, name: str) -> str:
    """Returns the module of a layer. Raises ValueError if PEFT has none."""
    if name not in self.owners:
      raise ValueError(f'{name} is not a module of the base model, so PEFT cannot change it.'
                       f"{nearest(name, self.owners)} Keep this package's file, or give the model that it was trained "
                       'for.')
    return self.owners[name]

  def targets(self, chosen: Collection[str]) -> list[str]:
    """Returns the shortest ends of names by which PEFT finds these modules and no others."""
    others, found = set(self.owners.values()) - set(chosen), set()
    for module in chosen:
      words = module.split('.')
      ends = ('.'.join(words[start:]) for start in reversed(range(len(words))))
      found.add(next((end for end in ends if not any(other.endswith(end) for other in others)), module))
    return sorted(found)


def modules_of(rules: Iterable[Rule], stacked: Mapping[str, Any], config: Any = None) -> Modules:
  """Returns the modules of a model, without experts and their routers, which transformers has as bare parameters.

  Args:
    rules: the table of names of its family.
    stacked: stacked path of each parameter -> an array or its shape and type.
    config: its config, as in `cuts_in`.
  """
  rules = list(rules)
  parts: dict[str, dict[int, str]] = {}
  in_by_out, cuts, known = set(), {}, cuts_in(rules, config)
  mixtures = tuple(path.removesuffix(_ROUTER) for path in stacked if path.endswith(_ROUTER))
  for rule in rules:
    name, _, parameter = rule.ours.rpartition('/')
    if parameter not in ('kernel', 'scale') or rule.path.startswith(mixtures):
      continue
    paths = trees.of_groups(rule.path, stacked)
    layers = [trees.layer_number(path, i) for path in paths for i in range(stacked[path].shape[0])]
    for layer in layers or ([None] if rule.path in stacked else ()):
      fused = PART.fullmatch(rule.their_name(layer))
      theirs, number = (fused[1], int(fused[2])) if fused else (rule.their_name(layer), 0)
      module = theirs.rpartition('.')[0]
      parts.setdefault(module, {})[number] = name if layer is None else name.replace('{i}', str(layer))
      if not rule.transpose:
        in_by_out.add(module)
      if fused:
        cuts[module] = cut_of(theirs, known)
  return Modules({module: [found[i] for i in sorted(found)] for module, found in parts.items()},
                 {path: tuple(array.shape) for path, array in stacked.items()}, frozenset(in_by_out), cuts)


def arrays_by_module(adapter: Stored, modules: Modules, ends: str, parameter: str) -> Iterator[
    tuple[str, dict[str, np.ndarray]]]:
  """Yields the modules of an adapter, each with its arrays.

  Args:
    adapter: the adapter.
    modules: those of the base model.
    ends: regular expression of the ends of names, after the module's.
    parameter: what its layers have: 'kernel', or 'scale' of norms.

  Raises:
    ValueError: an array has another name, or belongs to no such module of the base model.
  """
  found: dict[str, dict[str, np.ndarray]] = {}
  for name, array in adapter.arrays.items():
    match = re.fullmatch(rf'{re.escape(_PREFIX)}(.+)\.({ends})', name)
    if match is None:
      raise ValueError(f'{adapter.folder}/{ARRAYS} holds {printable(name)}, which cannot be read from an adapter of '
                       f'type {adapter.kind}; expected {_PREFIX}MODULE.{ends}. No array is dropped silently: save the '
                       'adapter without it.')
    known = modules.parts.get(match[1], ())
    if not any(modules.shape(each, parameter) for each in known):
      suited = [module for module, names in modules.parts.items() if modules.shape(names[0], parameter)]
      raise ValueError(f'{adapter.folder}/{ARRAYS} holds {printable(name)}, but the base model has no module '
                       f'{printable(match[1])} that an adapter of type {adapter.kind} can change.'
                       f'{nearest(match[1], suited)} Give the model that the adapter was trained for.')
    found.setdefault(match[1], {})[match[2]] = array
  if not found:
    raise ValueError(f'{adapter.folder}/{ARRAYS} holds no array. Save the adapter again.')
  yield from found.items()


def stored_name(module: str, end: str) -> str:
  """Returns the name of an array in an adapter."""
  return f'{_PREFIX}{module}.{end}'
