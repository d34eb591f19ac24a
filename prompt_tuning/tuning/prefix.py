"""Prefix tuning (Li and Liang 2021): trained keys and values in front of every layer's own.

  attention_l(x) = softmax(q · [K_l; k(x)]) [V_l; v(x)],    K_l, V_l of P vectors for each head; φ = {K_l, V_l}.

Free, or made by a small network during training (embedding, hidden layer with tanh, output), which steadies it with
few examples; what is kept is keys and values. For decoder-only models, and for T5's three attentions. Stronger than a
prompt where the frozen model is small; for one vector a layer in the rows, see a prompt.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning.rows.conditioning import Conditioning, Frozen, StackConditioning
from prompt_tuning.tuning.method import Method
from prompt_tuning.types import Array, Flat, Params

# Attention -> where its prefix goes in a Conditioning.
_PLACES = {'encoder': ('encoder', 'prefix'), 'decoder': ('decoder', 'prefix'), 'cross': ('decoder', 'memory_prefix')}
_PARTS = ('keys', 'values')


@dataclasses.dataclass(frozen=True)
class Prefix(Method):
  """The method: P keys and values in front of every layer's own.

  Attributes:
    length: P.
    init: first values of keys and values, a function `(key, shape) -> array` with shape [L, P, kv_heads, K]; with
      `hidden`, of the network's embedding [P, width].
    attentions: which of 'encoder' (self-attention), 'decoder' (self-attention) and 'cross' (of a decoder to an
      encoder) get one; empty is all that the model has.
    hidden: width of the network's hidden layer; 0 trains keys and values themselves.
    width: of the network's embedding; 0 is the model's width.
    init_from: keys and values [L, P, kv_heads, K] to start from instead, of one attention: those of a text
      (`model.read([text]).as_prefix()`), or another prefix's.
    text: start from the keys and values of this text, of `length` tokens; decoder-only models.
  """

  length: int = 10
  init: Any = nn.initializers.normal(1.0)
  attentions: Sequence[str] = ()
  hidden: int = 0
  width: int = 0
  init_from: tuple[Array, Array] | None = dataclasses.field(default=None, compare=False, repr=False)
  text: str | None = None

  def __post_init__(self) -> None:
    object.__setattr__(self, 'attentions', tuple(self.attentions))
    wrong = set(self.attentions) - set(_PLACES)
    if wrong or self.length < 1:
      raise ValueError(f'A prefix is asked for with length {self.length} and attentions {list(self.attentions)}. '
                       f'Give a length of at least 1, and some of {", ".join(_PLACES)}.')
    if self.init_from is not None and self.hidden:
      raise ValueError(f'A prefix shall start from given keys and values, but a network of hidden width {self.hidden} '
                       'makes its own. Leave out hidden or init_from.')

  def build(self, model: Any) -> 'Prefix':
    """Returns the method with the keys and values of its text; without weights to read it, as it is."""
    if self.text is None or not hasattr(model, 'read'):
      return self
    return dataclasses.replace(self, init_from=model.read([self.text]).as_prefix())

  def initialise(self, key: Array, model: Frozen) -> Params:
    """Returns φ: `decoder/prefix/keys` and `…/values` [L, P, kv_heads, K], or a network that makes them.

    Raises:
      ValueError: the model has no such attention, or what is to be started from has another shape.
    """
    shapes = model.prefix_shapes()
    missing = [name for name in self.attentions if name not in shapes]
    if missing:
      raise ValueError(f'A prefix is asked for in {missing[0]}, but the model has the attentions {", ".join(shapes)}. '
                       'Leave attentions out for all of them.')
    trained, names = {}, tuple(self.attentions or shapes)
    if self.init_from is not None:
      return {names[0]: {'prefix': self._given(names, shapes)}}
    for i, name in enumerate(names):
      layers, heads, head_dim = shapes[name]
      own = jax.random.fold_in(key, i)
      if self.hidden:
        made = self._network(layers, heads, head_dim, model.width).init(own)['params']
      else:
        shape = (layers, self.length, heads, head_dim)
        made = {part: self.init(jax.random.fold_in(own, j), shape) for j, part in enumerate(_PARTS)}
      trained[name] = {'prefix': made}
    return trained

  def _given(self, names: Sequence[str], shapes: Mapping[str, tuple[int, int, int]]) -> dict[str, Array]:
    """Returns copies of what the prefix starts from: training gives the memory of its first values away."""
    layers, heads, head_dim = shapes[names[0]]
    wanted = (layers, self.length, heads, head_dim)
    found = [tuple(array.shape) for array in self.init_from]
    if len(names) > 1:
      raise ValueError(f'A prefix of {", ".join(names)} shall start from keys and values of one attention. Name that '
                       'one in attentions.')
    if found != [wanted, wanted]:
      raise ValueError(f'A prefix shall start from keys and values of shapes {found}, but the model and the length '
                       f'want {wanted} (layers, length, heads, head width) twice. Set the length to that of the text, '
                       'in tokens, or take keys and values of the same model.')
    keys, values = self.init_from
    return {'keys': jnp.array(keys, jnp.float32), 'values': jnp.array(values, jnp.float32)}

  def condition(self, trained: Params, model: Frozen) -> Conditioning:
    """Hands keys and values over as [L, 1, kv_heads, P, K]."""
    named, given = self.export(trained, model), {}
    _require_fit(named, model.prefix_shapes())
    for name, (stack, field) in _PLACES.items():
      if f'{name}/prefix/keys' in named:
        pair = (jnp.asarray(named[f'{name}/prefix/{part}']) for part in _PARTS)
        given.setdefault(stack, {})[field] = tuple(jnp.swapaxes(each, 1, 2)[:, None] for each in pair)
    return Conditioning(**{stack: StackConditioning(**fields) for stack, fields in given.items()})

  def export(self, trained: Params, model: Frozen) -> Flat:
    """Returns what is kept of φ: keys and values, without the network."""
    flat = {}
    for name, tree in trained.items():
      made = tree['prefix']
      if 'embedding' in made:
        made = self._network(*model.prefix_shapes()[name], model.width).apply({'params': made})
      flat |= {f'{name}/prefix/{part}': made[part] for part in _PARTS}
    return flat

  @classmethod
  def owns(cls, name: str) -> bool:
    """Returns True for `decoder/prefix/keys` and the like."""
    return name.rpartition('/')[0] in {f'{attention}/prefix' for attention in _PLACES}

  @classmethod
  def read(cls, tensors: Flat, about: Mapping[str, Any]) -> 'Prefix':
    """Returns the method of keys and values [L, P, kv_heads, K]."""
    attentions = [name for name in _PLACES if any(tensor.startswith(f'{name}/') for tensor in tensors)]
    wanted = {f'{name}/prefix/{part}' for name in attentions for part in _PARTS}
    if set(tensors) != wanted:
      raise ValueError(f'The file holds {", ".join(sorted(tensors))}, but a prefix is {", ".join(sorted(wanted))}. '
                       'Save it again.')
    shape = next(iter(tensors.values())).shape
    return cls(length=shape[1] if len(shape) > 1 else 1, attentions=attentions)

  def _network(self, layers: int, heads: int, head_dim: int, width: int) -> 'Network':
    return Network(self.length, layers, heads, head_dim, self.width or width, self.hidden, self.init)


class Network(nn.Module):
  """What makes the keys and values of a prefix while it is trained: tanh(E · W + b) · U + c.

  Attributes:
    length: P.
    layers: L.
    heads: kv_heads.
    head_dim: K.
    width: of the embedding E [P, width].
    hidden: width of the hidden layer.
    first_values: of the embedding.
  """

  length: int
  layers: int
  heads: int
  head_dim: int
  width: int
  hidden: int
  first_values: Any

  @nn.compact
  def __call__(self) -> dict[str, Array]:
    """Returns keys and values [L, P, kv_heads, K]."""
    dense = nn.initializers.lecun_normal()
    shape = (2, self.layers, self.heads, self.head_dim)
    embedding = self.param('embedding', self.first_values, (self.length, self.width))
    inner = embedding @ self.param('hidden_kernel', dense, (self.width, self.hidden))
    inner = jnp.tanh(inner + self.param('hidden_bias', nn.initializers.zeros, (self.hidden,)))
    flat = inner @ self.param('output_kernel', dense, (self.hidden, 2 * self.layers * self.heads * self.head_dim))
    both = flat.reshape(self.length, *shape) + self.param('output_bias', nn.initializers.zeros, shape)
    keys, values = jnp.moveaxis(both, 0, 2)  # [P, 2, L, kv_heads, K] -> [2, L, P, kv_heads, K]
    return {'keys': keys, 'values': values}


def _require_fit(named: Mapping[str, Any], shapes: Mapping[str, tuple[int, int, int]]) -> None:
  """Raises ValueError if keys and values are of another model."""
  for name, array in named.items():
    attention = name.split('/')[0]
    if attention not in shapes:
      raise ValueError(f'{name} is a prefix of the attention {attention!r}, but the model has {", ".join(shapes)}. '
                       'Choose a prefix that was trained for this model.')
    layers, heads, head_dim = shapes[attention]
    if array.ndim != 4 or (array.shape[0], *array.shape[2:]) != (layers, heads, head_dim):
      raise ValueError(f'{name} has shape {tuple(array.shape)}, but the model wants [{layers}, P, {heads}, {head_dim}] '
                       '(layers, length, heads, head width). Choose a prefix that was trained for this model.')
