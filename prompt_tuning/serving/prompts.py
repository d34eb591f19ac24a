"""The prompts of an engine: loaded, replaced and dropped by name while it runs."""

import collections
import dataclasses
import os
import threading
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from prompt_tuning.evaluation.saved import load_for
from prompt_tuning.models import packed
from prompt_tuning.models.packed import KeysValues
from prompt_tuning.models.row_prompts import handed
from prompt_tuning.models.text_rows import bucket
from prompt_tuning.names import nearest
from prompt_tuning.rows.conditioning import Conditioning, Visibility
from prompt_tuning.rows.layouts import Layout
from prompt_tuning.serving.requests import UnknownPrompt


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
  """A loaded prompt, or none: the frozen model alone.

  Attributes:
    layout: of the inputs of its answers.
    in_front: what comes before the inputs, as a Conditioning of one row.
    lengths: name of a cache -> the places that it takes there.
    vectors: [P, D], those inside the rows, or None.
    added: [L - 1, P, D], what further layers add to them, or None.
    scales: stack -> factors on inputs and outputs of its dense layers, [L, width] by their names; empty if not scaled.
    about: what its file says.
  """

  layout: Layout
  in_front: Conditioning = Conditioning()
  lengths: Mapping[str, int] = dataclasses.field(default_factory=dict)
  vectors: np.ndarray | None = None
  added: np.ndarray | None = None
  scales: Mapping[str, Mapping[str, np.ndarray]] = dataclasses.field(default_factory=dict)
  about: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Prompts:
  """See the top of this file. Its methods may be called from any thread.

  Args:
    model: the frozen model.
    memory: bytes of the keys and values that are kept; the least recently used are dropped first.
    most: places for a prompt, an input and an answer together.
  """

  def __init__(self, model: Any, memory: int, most: int = 1 << 30):
    self._model, self._memory, self._most = model, memory, most
    self._lock = threading.Lock()
    self._loaded: dict[str | None, Loaded] = {None: Loaded(model.layout(Layout()))}
    self._kept: collections.OrderedDict[Loaded, dict[str, KeysValues]] = collections.OrderedDict()

  def load(self, name: str, prompt: Any) -> None:
    """Loads a prompt, or replaces that of this name; answers that are running keep the one that they began with.

    Args:
      name: how requests name it.
      prompt: the path of a run, a prompt, a prefix or a PEFT folder; or one that was loaded.

    Raises:
      OSError: the file cannot be read.
      ValueError: it does not fit the model, or is of a kind that the engine cannot serve.
    """
    if not isinstance(name, str) or not name:
      raise ValueError(f'name={name!r} cannot be used: expected a text of at least one character.')
    about: dict[str, Any] = {}
    if isinstance(prompt, str | os.PathLike):
      about['path'], prompt = str(prompt), load_for(self._model, str(prompt))
    about |= getattr(prompt, 'about', {})
    loaded = _prepared(self._model, prompt, about)
    own = 0 if loaded.vectors is None else len(loaded.vectors)
    length = max(loaded.lengths.values(), default=0) + own
    if length + 2 > self._most:
      raise ValueError(f'It takes {length} positions, which leaves no room for an input and a generation: '
                       f'max_length is {self._most}. Serve with a larger one, or a shorter prompt.')
    about.setdefault('length', length)
    with self._lock:
      self._kept.pop(self._loaded.get(name), None)
      self._loaded[name] = loaded

  def drop(self, name: str) -> None:
    """Forgets a prompt. Raises UnknownPrompt if there is none of this name."""
    loaded = self.get(name)
    with self._lock:
      self._loaded.pop(name, None)
      self._kept.pop(loaded, None)

  def get(self, name: str | None) -> Loaded:
    """Returns a prompt. Raises UnknownPrompt if there is none of this name."""
    with self._lock:
      found = self._loaded.get(name)
    if found is None:
      raise UnknownPrompt(f'No prompt named {name!r} is loaded.{nearest(str(name), self.names())}')
    return found

  def names(self) -> list[str]:
    """Returns the names, sorted."""
    with self._lock:
      return sorted(name for name in self._loaded if name is not None)

  def about(self, name: str) -> dict[str, Any]:
    """Returns what the file of a prompt says. Raises UnknownPrompt if there is none of this name."""
    return dict(self.get(name).about)

  def __contains__(self, name: object) -> bool:
    with self._lock:
      return name is not None and name in self._loaded

  def __len__(self) -> int:
    with self._lock:
      return len(self._loaded) - 1

  @property
  def bytes(self) -> int:
    """The memory of the keys and values that are kept."""
    with self._lock:
      return self._bytes()

  def _bytes(self) -> int:
    return sum(array.nbytes for found in self._kept.values() for array in jax.tree.leaves(found))

  def before(self, loaded: Loaded) -> dict[str, KeysValues]:
    """Returns what comes before the inputs in each cache, [L, 1, kv_heads, S, K]; S is at least the true length."""
    if not loaded.lengths:
      return {}
    with self._lock:
      if loaded in self._kept:
        self._kept.move_to_end(loaded)
        return self._kept[loaded]
    found = _computed(self._model, loaded)
    with self._lock:
      self._kept[loaded] = found
      while len(self._kept) > 1 and self._bytes() > self._memory:
        self._kept.popitem(last=False)
    return found


def _prepared(model: Any, prompt: Any, about: Mapping[str, Any]) -> Loaded:
  """Returns a prompt as the engine uses it. Raises ValueError if it cannot."""
  asked, given = handed(prompt, model)
  if given.parameters:
    raise ValueError(f'It changes parameters of the model ({sorted(given.parameters)[0]}), which all requests share. '
                     'Serve prompts, prefixes, layer prompts and scales; or save a model with the changes.')
  own = getattr(given, model.prompted)
  layout = model.layout(dataclasses.replace(asked, isolated=not own.visibility.input, cached=False))
  in_rows = own.prompt is not None and not layout.in_front
  if in_rows and own.visibility != Visibility():
    raise ValueError(f'Its vectors are among the tokens, with {own.visibility}, which rows of one pack cannot have. '
                     'Serve a prompt that sees everything, or one before the input.')
  if in_rows and own.added is not None and model.prompted == 'decoder':
    raise ValueError('It adds vectors in every layer among the tokens of a decoder-only model. Serve one whose vectors '
                     'come before the input.')
  lengths = {}
  if model.prompted == 'decoder':
    parts = ('prefix', 'layer_prompts', *(() if in_rows else ('prompt',)))
    clash = own.layer_prompts is not None and (own.prefix is not None or own.prompt is not None)
    lengths['self'] = sum(own.longest(name) for name in parts)
    unused = [f'encoder.{name}' for name in given.encoder.given()] + ['decoder.memory_prefix'] * (
      own.memory_prefix is not None)
  else:
    isolated = 0 if in_rows else own.longest('prompt')
    clash = bool(isolated) and (own.prefix is not None or given.decoder.memory_prefix is not None)
    lengths = {'encoder': own.longest('prefix') + isolated, 'self': given.decoder.longest('prefix'),
               'memory': given.decoder.longest('memory_prefix') + isolated}
    unused = [f'decoder.{name}' for name in given.decoder.given()
               if name not in ('prefix', 'memory_prefix', 'scales')]
    unused += [f'encoder.{name}' for name in own.given() if name not in ('prefix', 'prompt', 'added', 'scales')]
  if clash or unused:
    raise ValueError(f'It has {", ".join(unused or given.given())}, which cannot be served'
                     f'{"" if unused else " together"}.')
  vectors = np.asarray(own.prompt[0], np.float32) if in_rows else None
  added = np.asarray(own.added[:, 0], np.float32) if in_rows and own.added is not None else None
  scales = {stack: {place: np.asarray(array[:, 0], np.float32) for place, array in scales.items()}
            for stack in ('encoder', 'decoder') if (scales := getattr(given, stack).scales)}
  front = dataclasses.replace(own, **({'prompt': None, 'added': None} if in_rows else {}))
  return Loaded(layout, dataclasses.replace(given, **{model.prompted: front}),
                {name: length for name, length in lengths.items() if length}, vectors, added, scales, about)


def _computed(model: Any, loaded: Loaded) -> dict[str, KeysValues]:
  """Returns what `packed.before` does for a prompt, padded so that prompts of many lengths share few programs."""
  own = getattr(loaded.in_front, model.prompted)
  length, given = own.longest('prompt'), loaded.in_front
  if length:
    more = bucket(length) - length
    pad = lambda array, axis: jnp.pad(array, [(0, more if each == axis else 0) for each in range(array.ndim)])
    own = dataclasses.replace(own, prompt=pad(own.prompt, 1),
                              added=None if own.added is None else pad(own.added, 2))
    given = dataclasses.replace(given, **{model.prompted: own})
  return packed.before(model.module, model.params, given, jnp.int32(length))
