"""Losses by name."""

import functools
import inspect
from collections.abc import Mapping
from typing import Any

from prompt_tuning.losses.cross_entropy import cross_entropy
from prompt_tuning.losses.distillation import distillation
from prompt_tuning.losses.label_values import several_labels, squared_error
from prompt_tuning.losses.loss import Loss, LossFunction
from prompt_tuning.losses.margin import margin
from prompt_tuning.losses.pairwise_cosine import pairwise_cosine
from prompt_tuning.losses.pairwise_distance import pairwise_distance
from prompt_tuning.names import Registry, require_known

LOSSES: Registry = Registry('loss', {
  'cross_entropy': cross_entropy,
  'distillation': distillation,
  'margin': margin,
  'pairwise_cosine': pairwise_cosine,
  'pairwise_distance': pairwise_distance,
  'several_labels': several_labels,
  'squared_error': squared_error,
}, ', or register yours with prompt_tuning.register_loss')
register_loss = LOSSES.register
"""Registers a loss, `register_loss(name, function)`, and returns it; ValueError if another loss has the name.
`--loss NAME` then minimises it, with its keyword arguments as `--loss.ARGUMENT`. `losses.Loss` has the signature."""


def make_loss(name: str, options: Mapping[str, Any], *, divisor: float | str | None = None,
              vocabulary: Any = None) -> Loss:
  """Returns the loss of a name.

  Args:
    name: of `LOSSES`.
    options: the function's keyword arguments; of one with `prepare`, the arguments of that. And `of`, see `Loss`.
    divisor: what the sum is divided by: None (nothing), a number, or 'tokens'.
    vocabulary: the model's, for label words.

  Raises:
    ValueError: there is no such loss or option.
  """
  function, options = LOSSES.find(name), dict(options)
  of = options.pop('of', 'logits')
  prepare = getattr(function, 'prepare', None)
  known = [each.name for each in inspect.signature(prepare or function).parameters.values()
           if each.kind is each.KEYWORD_ONLY]
  require_known(options, [*known, 'of'], f'The loss {name}', 'option')
  needed = [each.name for each in inspect.signature(prepare or function).parameters.values()
            if each.kind is each.KEYWORD_ONLY and each.default is each.empty and each.name not in options]
  if needed:
    raise ValueError(f'The loss {name} needs the option {needed[0]}. Give it beside the loss.')
  if function is cross_entropy:
    return Loss(**options, normalizing_factor=divisor, of=of)
  if prepare is not None:
    options = prepare(vocabulary, **options)
  chosen: LossFunction = functools.partial(function, **options) if options else function
  return Loss(normalizing_factor=divisor, function=chosen, of=of)
