"""Makes gin's names for things that a run chooses by name."""

import inspect
from collections.abc import Callable, Collection
from typing import Any

from prompt_tuning.runs.choice import Choice


def choosing(name: str, like: Callable[..., Any], /, *, without: Collection[str] = (),
             **renamed: str) -> Callable[..., Choice]:
  """Returns a function with the parameters of `like` that returns the choice with a name.

  Args:
    name: in the registry of such things.
    like: the class or function that the registry has.
    without: parameters that gin cannot set.
    renamed: gin's name of a parameter -> its name in `like`.
  """
  theirs = {new: old for old, new in renamed.items()}
  parameters = [each.replace(name=theirs.get(each.name, each.name), kind=each.POSITIONAL_OR_KEYWORD)
                for each in inspect.signature(like).parameters.values() if each.name not in without]
  signature = inspect.Signature(sorted(parameters, key=lambda each: each.default is not each.empty))

  def choose(*given: Any, **options: Any) -> Choice:
    bound = signature.bind_partial(*given, **options).arguments
    missing = [each.name for each in signature.parameters.values()
               if each.default is each.empty and each.name not in bound]
    if missing:
      raise TypeError(f'{name}() missing {len(missing)} required positional arguments: {", ".join(map(repr, missing))}')
    return Choice(name, {renamed.get(key, key): value for key, value in bound.items()})

  choose.__signature__ = signature
  choose.__name__ = choose.__qualname__ = name
  choose.__doc__ = f'Chooses {name}.'
  return choose
