"""Tuning methods by name, and lookup of the methods that own a file's tensors."""

from collections.abc import Mapping
from typing import Any

from prompt_tuning.names import Registry
from prompt_tuning.tuning.factored import Factored
from prompt_tuning.tuning.layer_prompts import LayerPrompts
from prompt_tuning.tuning.low_rank import LowRank
from prompt_tuning.tuning.method import Method
from prompt_tuning.tuning.multitask import MultitaskPrompt
from prompt_tuning.tuning.prefix import Prefix
from prompt_tuning.tuning.prompt import PromptTuning
from prompt_tuning.tuning.residual import Residual
from prompt_tuning.tuning.retrained import Retrained
from prompt_tuning.tuning.scales import Scales
from prompt_tuning.tuning.together import Together
from prompt_tuning.types import Flat

METHODS: Registry = Registry('method', {
  'prompt': PromptTuning,
  'prefix': Prefix,
  'layer_prompts': LayerPrompts,
  'scales': Scales,
  'low_rank': LowRank,
  'retrained': Retrained,
  'residual': Residual,
  'factored': Factored,
  'together': Together,
  'multitask': MultitaskPrompt,
}, ', or register yours with prompt_tuning.register_method')
get_method = METHODS.find
register_method = METHODS.register
"""Registers a method, `register_method(name, method)`, and returns it: a dataclass derived from `Method`, or its
`Settings`. ValueError if another method has the name. `--method NAME` then trains it, with its fields as flags."""


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
