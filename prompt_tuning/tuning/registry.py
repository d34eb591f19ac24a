"""Tuning methods by name, and lookup of the methods that own a file's tensors."""

from collections.abc import Mapping
from typing import Any

from prompt_tuning import trees
from prompt_tuning.tuning.layer_prompts import LayerPrompts
from prompt_tuning.tuning.low_rank import LowRank
from prompt_tuning.tuning.method import Method
from prompt_tuning.tuning.prefix import Prefix
from prompt_tuning.tuning.prompt import PromptTuning
from prompt_tuning.tuning.retrained import Retrained
from prompt_tuning.types import Flat

METHODS: dict[str, type[Method]] = {
  'prompt': PromptTuning,
  'prefix': Prefix,
  'layer_prompts': LayerPrompts,
  'low_rank': LowRank,
  'retrained': Retrained,
}


def register_method(name: str, method: type[Method]) -> type[Method]:
  """Registers a method under a name and makes its files readable; returns the method.

  Raises:
    ValueError: another method has this name.
  """
  if METHODS.setdefault(name, method) is not method:
    raise ValueError(f'There is already a method {name!r} ({METHODS[name].__name__}). Give the new one another name.')
  return method


def get_method(name: str) -> type[Method]:
  """Returns the class of a method.

  Raises:
    ValueError: there is no method with this name.
  """
  if name not in METHODS:
    raise ValueError(f'There is no method {name!r}.{trees.nearest(name, METHODS)} Choose one of {", ".join(METHODS)}, '
                     'or register yours with prompt_tuning.register_method.')
  return METHODS[name]


def read_methods(tensors: Flat, about: Mapping[str, Any]) -> list[tuple[Method, Flat]]:
  """Returns the methods that own a file's tensors, each with its tensors; names that no method owns are parameters.

  Raises:
    ValueError: a method's tensors do not belong together.
  """
  parts: dict[type[Method], Flat] = {}
  for name, array in tensors.items():
    special = (method for method in METHODS.values() if method is not Retrained and method.owns(name))
    parts.setdefault(next(special, Retrained), {})[name] = array
  return [(method.read(own, about), own) for method, own in parts.items()]
