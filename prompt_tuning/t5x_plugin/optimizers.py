"""`optimizers.…` in T5X's gin files: an optimizer that updates only parameters that match a pattern."""

from collections.abc import Sequence
from typing import Any

from flax import traverse_util
from t5x import optimizers as t5x_optimizers

from prompt_tuning import trees


class Partial(t5x_optimizers.MultiOptimizer):
  """Updates the parameters whose whole path matches a pattern; all others are frozen and have no state.

  T5X marks a frozen parameter's state with None. If Orbax writes these marks, a resumed run takes them for arrays and
  does not find them; so they are removed before saving and restored after reading.

  Attributes:
    trainable: regular expressions.
  """

  def __init__(self, optimizer: t5x_optimizers.OptimizerDef, trainable: Sequence[str] = ('.*/prompt/.*',)):
    """Updates parameters that match `trainable` with `optimizer`."""
    self.trainable = tuple(trainable)
    chosen = traverse_util.ModelParamTraversal(lambda path, _: matches(path, self.trainable))
    super().__init__([(chosen, optimizer)])

  def init_state(self, params: Any) -> t5x_optimizers.OptimizerState:
    """Returns the state of the trainable parameters.

    Raises:
      ValueError: there are no trainable parameters.
    """
    names = ['/'.join(path) for path in traverse_util.flatten_dict(_plain(params))]
    if not any(matches(f'/{name}', self.trainable) for name in names):
      raise ValueError(f'No parameter matches PROMPT_REGEX={list(self.trainable)}; the first are {names[:3]}. '
                       'Use a pattern that matches a whole path, such as ".*/prompt/.*".')
    return super().init_state(params)

  def state_dict(self, target: Any, state: Any) -> Any:
    """Returns the values to save: parameters, and the state of the trainable ones."""
    saved = super().state_dict(target, state)
    states = traverse_util.flatten_dict(saved['state']['param_states'], keep_empty_nodes=True)
    frozen = _frozen(saved['target'], states)
    kept = {path: value for path, value in states.items() if path not in frozen}
    return saved | {'state': saved['state'] | {'param_states': traverse_util.unflatten_dict(kept)}}

  def restore_state(self, opt_target: Any, opt_state: Any, state_dict: Any) -> tuple[Any, Any]:
    """Returns parameters and state from values saved by this optimizer or by T5X's."""
    whole = super().state_dict(opt_target, opt_state)
    marks = _frozen(whole['target'], traverse_util.flatten_dict(whole['state']['param_states'], keep_empty_nodes=True))
    read = traverse_util.flatten_dict(state_dict['state']['param_states'], keep_empty_nodes=True)
    states = traverse_util.unflatten_dict({**dict.fromkeys(marks), **read})
    state = {**state_dict['state'], 'param_states': states}
    return super().restore_state(opt_target, opt_state, {**state_dict, 'state': state})


def matches(path: str, patterns: Sequence[str]) -> bool:
  """Returns True if one of the patterns matches the whole path, which may start with '/'."""
  return trees.matches(path, patterns) or trees.matches(path.lstrip('/'), patterns)


def _frozen(target: Any, states: dict[tuple[str, ...], Any]) -> set[tuple[str, ...]]:
  """Returns the paths of parameters whose state is None; the state of a trainable one may hold other Nones."""
  parameters = traverse_util.flatten_dict(_plain(target), keep_empty_nodes=True)
  return {path for path, value in states.items() if value is None and path in parameters}


def _plain(tree: Any) -> dict[str, Any]:
  return t5x_optimizers.unfreeze(tree)
