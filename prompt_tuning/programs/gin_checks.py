"""Checks of what gin files gave, after a run was made: the types of values, and that all overrides were used."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from prompt_tuning.programs import gin_types


def check_types(config: Any, modules: Mapping[str, Any]) -> None:
  """Compares the values that the run has asked for with the types of the parameters.

  Args:
    config: `gin.config`.
    modules: what comes before a dot in gin files -> the module that has the names after it.

  Raises:
    ValueError: one has another type; the message names the macro or the parameter that sets it.
  """
  macros = {scope: values['value'] for (scope, name), values in config._CONFIG.items() if name == 'gin.macro'}
  is_reference = lambda value: isinstance(value, config.ConfigurableReference)
  macro_of = lambda value: value.scopes[-1] if value.selector == 'gin.macro' and value.scopes else None
  for (_, selector), values in list(config._OPERATIVE_CONFIG.items()):
    if selector == 'gin.macro' or not selector.startswith(tuple(modules)):
      continue
    found = list(gin_types.resolved(values, macros, is_reference, macro_of))
    make = _of_selector(selector, modules)
    wrong = None if make is None else gin_types.first_mismatch(make, [(name, value) for name, _, value in found])
    if wrong is not None:
      macro = next(macro for name, macro, _ in found if name == wrong[0])
      raise ValueError(f'{macro or f"{selector}.{wrong[0]}"}={wrong[1]!r} cannot be used: expected {wrong[2]}.')


def _of_selector(selector: str, modules: Mapping[str, Any]) -> Any:
  """Returns what a full name in gin refers to; None if it is not one of the package."""
  module = max((each for each in modules if f'{selector}.'.startswith(f'{each}.')), key=len)
  value: Any = modules[module]
  for part in selector.removeprefix(f'{module}.').split('.'):
    value = getattr(value, part, None)
  return value


def check_used(config: Any, modules: Mapping[str, Any], bindings: Sequence[str], files: Sequence[str]) -> None:
  """Finds overrides and files that the run has not used.

  Args:
    config: `gin.config`, after the run was made.
    modules: see `check_types`; what users' modules add may be called later.
    bindings: the overrides.
    files: the gin files of the command.

  Raises:
    ValueError: one sets what nothing has asked for, such as PROMPT_LENGTH with a method other than a prompt.
  """
  used, given = config._OPERATIVE_CONFIG, config._CONFIG
  method = given.get(('PROMPT', 'gin.macro'), {}).get('value')
  # A command with PROMPT=None asks for the model alone, whatever it says about prompts.
  prompted = method is None or any(name.endswith('train_prompts.Prompt') for _, name in used)
  for binding in bindings:
    name = binding.partition('=')[0].strip()
    scope, _, last = name.rpartition('/')
    owner, _, parameter = last.rpartition('.')
    if not owner and not prompted and name.startswith(('PROMPT_', 'CLASS_LABELS')):
      raise ValueError(f'--gin.{name} sets nothing: {_of_prompts(method)}')
    own = next((parameters[parameter] for (where, each), parameters in given.items() if where == scope
                and f'.{each}'.endswith(f'.{owner}') and parameter in parameters), None)
    ours = any(f'.{each}'.endswith(f'.{owner}') and each.startswith(tuple(modules)) for _, each in given)
    if owner and ours and not any(f'.{each}'.endswith(f'.{owner}') and parameter in parameters
                         and f'/{where}/'.endswith(f'/{scope}/' if scope else '/') and parameters[parameter] == own
                         for (where, each), parameters in used.items()):
      raise ValueError(f'--gin.{name} sets nothing: nothing in this run reads it. Leave it out.')
  for path in files:
    if not prompted and re.search(r'(^|/)prompts/\w+\.gin$', path):
      raise ValueError(f'--gin_file={path} sets nothing: {_of_prompts(method)}')


def _of_prompts(method: Any) -> str:
  return (f'PROMPT is {str(method).removesuffix("()")}, which does not read it. Leave it out, or set the parameters of '
          'that method. To start any method from the tensors of a run, set train_script.train.start_from.')
