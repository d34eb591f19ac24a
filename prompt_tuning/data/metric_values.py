"""What metrics compare: pairs of a target and a prediction, their normal forms, and labels."""

import importlib.util
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np


def library(module: str, metric: str) -> ModuleType:
  """Returns a module that a metric needs; the ImportError says how to install it."""
  require_library(module, metric)
  return importlib.import_module(module)


def require_library(module: str, metric: str) -> None:
  """Raises an ImportError that says how to install it if the package of a module is absent; imports nothing."""
  package = module.split('.')[0]
  if importlib.util.find_spec(package) is None:
    raise ImportError(f"The metric {metric} needs {package}, which is not installed: `pip install '.[metrics]'`.")


def pairs(targets: Sequence[Any], predictions: Sequence[Any]) -> list[tuple[Any, Any]]:
  """Returns targets with their predictions; raises ValueError if the counts differ or are 0, or a target is None."""
  if len(targets) != len(predictions) or len(targets) == 0:
    raise ValueError(f'A metric got {len(targets)} targets and {len(predictions)} predictions. '
                     'Give one prediction for each target, and at least one target.')
  for i, target in enumerate(targets):
    if target is None:
      raise ValueError(f'Example {i} has no target to compare with. Give every example a target, or leave it out.')
  return list(zip(targets, predictions, strict=True))


def normal(value: Any) -> Any:
  """Returns the form of a text in which equal texts are the same; ids as lists, and anything else unchanged."""
  return ' '.join(value.split()) if isinstance(value, str) else exact(value)


def exact(value: Any) -> Any:
  """Returns a text, or an array as a list."""
  return value if isinstance(value, str) else np.asarray(value).tolist()


def labels(targets: Sequence[Any], predictions: Sequence[Any], metric: str) -> tuple[list[str], list[str]]:
  """Returns labels as texts in their normal form; raises ValueError if one is neither a text nor a number."""
  def label(value: Any) -> str:
    value = normal(value)
    if isinstance(value, int | float):
      return repr(int(value) if float(value).is_integer() else value)
    if not isinstance(value, str):
      raise ValueError(f'The metric {metric} compares texts or numbers, but got {value!r:.60}. Use another metric.')
    return value

  pairs(targets, predictions)
  return [label(target) for target in targets], [label(prediction) for prediction in predictions]


def mean(values: Sequence[float]) -> float:
  """Returns the mean in percent."""
  return 100.0 * float(np.mean(values))


def lower_is_better(name: str) -> bool:
  """Returns True for the name of a figure, with or without its task, of which less is better."""
  return name.rpartition('/')[2] in ('loss', 'ece')
