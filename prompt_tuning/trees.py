"""Small functions on nested dicts of arrays: flat names, regular expressions, layer-by-layer names."""

import contextlib
import functools
import re
import signal
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from prompt_tuning.types import Flat, Params

_STACKED = re.compile(r'(^|/)(?:shared_)?layers(?:/(\d+)_of_(\d+))?(/|$)')
_SECONDS = 2.0  # of all threads; a comparison needs microseconds
_LAYER = re.compile(r'(^|/)layers_(\d+)(/|$)')


def flatten(tree: Mapping[str, Any], prefix: str = '') -> Flat:
  """Returns `tree` as one dict of '/'-joined paths, in sorted order."""
  flat = {}
  for key in sorted(tree):
    value = tree[key]
    path = f'{prefix}/{key}' if prefix else key
    if isinstance(value, Mapping):
      flat.update(flatten(value, path))
    else:
      flat[path] = value
  return flat


def unflatten(flat: Mapping[str, Any]) -> Params:
  """Returns the nested dict of '/'-joined paths: the inverse of `flatten`."""
  tree: Params = {}
  for path, value in flat.items():
    *parents, leaf = path.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[leaf] = value
  return tree


def is_stacked(path: str) -> bool:
  """Returns True if `path` names an array of all layers, as inside the scan."""
  return _STACKED.search(path) is not None


def layer_number(path: str, index: int) -> int:
  """Returns which layer of the stack the entry `index` of a stacked array is.

  A stack of different layers repeats a group of them: `a/layers/2_of_4/b` holds the layers 2, 6, 10, …; the last ones
  of a stack may be apart, then `a/shared_layers/15_of_5/b` holds the layers 15, 20, 25, …
  """
  place, size = _STACKED.search(path).group(2, 3)
  return index if place is None else int(place) + int(size) * index


def layer_name(path: str, index: int) -> str:
  """Returns the checkpoint's name of one layer of a stacked path: `a/layers/b`, 3 -> `a/layers_3/b`."""
  return _STACKED.sub(rf'\g<1>layers_{layer_number(path, index)}\g<4>', path, count=1)


def without_group(path: str) -> str:
  """Returns a stacked path without the place in a group: `a/layers/2_of_4/b` -> `a/layers/b`."""
  return _STACKED.sub(r'\g<1>layers\g<4>', path, count=1)


def of_groups(path: str, paths: Iterable[str]) -> list[str]:
  """Returns the stacked paths that are `path` without the place in a group, in the order of the layers."""
  return sorted((each for each in paths if is_stacked(each) and without_group(each) == path),
                key=lambda each: layer_number(each, 0))


def names_of_layers(path: str, shapes: Mapping[str, Sequence[int]]) -> list[str]:
  """Returns the checkpoint's names of a path without the place in a group, in the order of the layers that have it.

  Args:
    path: as in `of_groups`.
    shapes: stacked path -> shape.
  """
  found = {layer_number(each, i): layer_name(each, i) for each in of_groups(path, shapes)
           for i in range(shapes[each][0])}
  return [found[number] for number in sorted(found)]


def split_layer_name(name: str, paths: Collection[str] = ()) -> tuple[str, int | None]:
  """Returns the stacked path of a checkpoint's name and the index of its layer there, or the name itself and None.

  Args:
    name: the checkpoint's name.
    paths: the stacked paths of the model, if its layers may differ.
  """
  match = _LAYER.search(name)
  if match is None:
    return name, None
  layer, path = int(match.group(2)), _LAYER.sub(r'\g<1>layers\g<3>', name, count=1)
  if path in paths:
    return path, layer
  groups = {(int(found.group(2)), int(found.group(3)), found.group(0).strip('/'))
            for found in map(_STACKED.search, paths) if found and found.group(3)}
  held = [(first, size, place) for first, size, place in groups if layer >= first and (layer - first) % size == 0]
  if not held:
    return path, layer
  first, size, place = max(held)  # the last part of the stack that begins before the layer
  return _LAYER.sub(rf'\g<1>{place}\g<3>', name, count=1), (layer - first) // size


def unstack(flat: Mapping[str, Any]) -> Flat:
  """Returns arrays under the checkpoint's names, layer by layer: `[L, ...]` becomes L entries."""
  named = {}
  for path, value in flat.items():
    if is_stacked(path):
      named.update({layer_name(path, i): value[i] for i in range(value.shape[0])})
    else:
      named[path] = value
  return named


def stack(named: Mapping[str, Any]) -> Flat:
  """Returns arrays under stacked paths: the inverse of `unstack`.

  Raises:
    ValueError: layers of a path are missing.
  """
  flat: Flat = {}
  layers: dict[str, dict[int, Any]] = {}
  for name, value in named.items():
    path, layer = split_layer_name(name)
    if layer is None:
      flat[name] = value
    else:
      layers.setdefault(path, {})[layer] = value
  for path, found in layers.items():
    missing = sorted(set(range(max(found) + 1)) - set(found))
    if missing:
      raise ValueError(f'{path} lacks layers {missing}. Give every layer from 0 to {max(found)}.')
    flat[path] = np.stack([found[i] for i in range(len(found))])
  return flat


def matches(name: str, patterns: Iterable[str]) -> bool:
  """Returns True if one of the regular expressions matches the whole of `name`.

  Raises:
    ValueError: one is not a regular expression, or takes too long, which is noticed in the main thread.
  """
  patterns = tuple(patterns)
  with _time_limit(patterns, name):
    return any(_compiled(pattern).fullmatch(name) for pattern in patterns)


def occurs(pattern: str, text: str, flags: int = 0) -> bool:
  """Returns True if a regular expression matches a part of a text; raises as `matches` does. `flags` are re's."""
  with _time_limit([pattern], text):
    return _compiled(pattern, flags).search(text) is not None


@contextlib.contextmanager
def _time_limit(patterns: Iterable[str], text: str) -> Iterator[None]:
  """A context that ends with a ValueError after some seconds of processor time: patterns come from users."""
  def stop(number: int, frame: Any) -> None:
    raise ValueError(f'One of the patterns {", ".join(map(repr, patterns))} takes too long to compare with '
                     f'{text[:80]!r}: it can match a text in too many ways. Write it without repetitions of '
                     'repetitions, as in (a+)+.')

  if threading.current_thread() is not threading.main_thread() or not hasattr(signal, 'setitimer'):
    yield
    return
  before = signal.signal(signal.SIGVTALRM, stop)
  signal.setitimer(signal.ITIMER_VIRTUAL, _SECONDS)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before or signal.SIG_DFL)


def patterns(given: Sequence[str] | str) -> tuple[str, ...]:
  """Returns regular expressions as a tuple; a single one may be given as text.

  Raises:
    ValueError: one is not a regular expression.
  """
  found = tuple(given) if isinstance(given, list | tuple) else (given,)
  for pattern in found:
    if not isinstance(pattern, str):
      raise ValueError(f'The pattern {pattern!r} is not a text. Write a regular expression in quotes.')
    _compiled(pattern)
  return found


@functools.lru_cache
def _compiled(pattern: str, flags: int = 0) -> re.Pattern[str]:
  try:
    return re.compile(pattern, flags)
  except (re.error, OverflowError, RecursionError) as error:
    raise ValueError(f'The pattern {pattern!r} is not a regular expression ({error}). '
                     'Write .* to match any text.') from error


def map_named(function: Callable[[str, Any], Any], tree: Mapping[str, Any]) -> Params:
  """Returns the tree of `function(path, leaf)`."""
  return unflatten({path: function(path, leaf) for path, leaf in flatten(tree).items()})


def described(tree: Mapping[str, Any]) -> str:
  """Returns the number of parameters in the tree and the first names, for `repr`."""
  names = list(flatten(tree))
  more = f' and {len(names) - 2} more' if len(names) > 2 else ''
  return f'{count(tree):,} parameters in {", ".join(names[:2])}{more}'


def count(tree: Mapping[str, Any]) -> int:
  """Returns the number of parameters in the tree."""
  return sum(int(np.prod(leaf.shape)) for leaf in flatten(tree).values())
