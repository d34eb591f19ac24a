"""Prefix tuning (Li and Liang 2021): trained keys and values before every layer's own.

  attention_l(x) = softmax(q · [K_l; k(x)]) [V_l; v(x)],    K_l, V_l of P vectors for each head; φ = {K_l, V_l}.

Keys and values are trained directly, or made by a small network during training (embedding, hidden layer with tanh,
output), which stabilises training on few examples; only keys and values are kept. For decoder-only models, and for T5's
three attentions. In delta layers (Gated DeltaNet), which keep a state instead of keys, keys and values are written into
the state before the first token: S_l = Σ_p k_p v_pᵀ for each head. More expressive than a prompt if the frozen model is
small; for vectors in the rows, see a prompt.

A prefix that starts from the keys and values of a document's tokens and is trained to predict what the model predicts
after reading the document is a cartridge (Eyuboglu et al. 2025, arXiv:2506.06266). Its first vectors can be kept as
they are: models attend much to the first tokens of any text, and training is unstable if these change.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning.checks import check_fields
from prompt_tuning.names import require_number
from prompt_tuning.rows.conditioning import Conditioning, Frozen, StackConditioning
from prompt_tuning.rows.layouts import Layout
from prompt_tuning.tuning.method import Method
from prompt_tuning.tuning.rates import in_scale
from prompt_tuning.types import Array, Flat, Params

# Attention -> stack and field of its prefix in a Conditioning.
_PLACES = {'encoder': ('encoder', 'prefix'), 'decoder': ('decoder', 'prefix'), 'cross': ('decoder', 'memory_prefix'),
           'delta': ('decoder', 'state_prefix')}
_PARTS = ('keys', 'values')
_OF_TOKENS = 0.02  # the learning rate of a cartridge
_SMALL, _STANDARD = nn.initializers.normal(0.02), nn.initializers.normal(1.0)


@dataclasses.dataclass(frozen=True)
class Prefix(Method):
  """The method: P keys and values before every layer's own.

  Attributes:
    length: P.
    init: initialiser of keys and values, a function `(key, shape) -> array` with shape [L, P, heads, K]; with
      `hidden`, of the network's embedding [P, width]. None is a normal distribution with a standard deviation of 0.02,
      which changes little at first; with `hidden`, of 1.
    attentions: the attentions with a prefix, from 'encoder' (self-attention), 'decoder' (self-attention), 'cross'
      (cross-attention) and 'delta' (the state of delta layers); empty means all that the model has, without 'delta' for
      a network or given keys and values.
    hidden: width of the network's hidden layer; 0 trains keys and values directly.
    width: width of the network's embedding; 0 means the model's width.
    init_from: initial keys and values [L, P, kv_heads, K] of one attention, instead of `init`: those of a text
      (`model.read([text]).as_prefix()`), or of another prefix.
    text: start from the keys and values of this text, which has `length` tokens; decoder-only models.
    frozen: this many first keys and values keep their initial values.
  """

  length: int = 10
  init: Any = None
  attentions: Sequence[str] = ()
  hidden: int = 0
  width: int = 0
  init_from: tuple[Array, Array] | None = dataclasses.field(default=None, compare=False, repr=False)
  text: str | None = None
  frozen: int = 0

  def __post_init__(self) -> None:
    check_fields(self)
    object.__setattr__(self, 'attentions', tuple(self.attentions))
    wrong = set(self.attentions) - set(_PLACES)
    if wrong or self.length < 1:
      raise ValueError(f'A prefix got length={self.length} and attentions={list(self.attentions)}. '
                       f'Use a length of at least 1, and attentions from {", ".join(_PLACES)}.')
    require_number('frozen', self.frozen, least=0, below=self.length, whole=True)
    if self.frozen and self.hidden:
      raise ValueError(f'frozen={self.frozen} and hidden={self.hidden} cannot be used together: the network makes all '
                       'keys and values. Leave out one of them.')
    if 'delta' in self.attentions and (self.hidden or self.init_from is not None or self.text is not None):
      raise ValueError("attentions with 'delta' cannot be used with hidden, init_from or text, which are of keys and "
                       'values in attention. Leave out one of them.')
    if self.init_from is not None and self.hidden:
      raise ValueError(f'init_from and hidden={self.hidden} cannot be used together: the network makes its own keys '
                       'and values. Leave out hidden or init_from.')

  def rate(self, model: Any) -> float:
    """Returns a rate that suits keys and values of tokens, if some are kept; else one in the scale of the embedding."""
    if self.frozen:
      return _OF_TOKENS
    if self.hidden:
      return self.learning_rate
    return in_scale(self.learning_rate, model.embeddings())

  def layout(self) -> Layout:
    """Returns the plain layout behind keys and values."""
    return Layout(prefixed=True)

  def build(self, model: Any) -> 'Prefix':
    """Returns the method with the keys and values of its text; without weights to read it, as it is."""
    if self.text is None or not hasattr(model, 'read'):
      return self
    return dataclasses.replace(self, init_from=model.read([self.text]).as_prefix())

  def initialise(self, key: Array, model: Frozen) -> Params:
    """Returns φ: `decoder/prefix/keys` and `…/values` [L, P, heads, K], or a network that makes them.

    Raises:
      ValueError: the model has no such attention, or `init_from` has another shape.
    """
    shapes, given = _shapes(model), self.hidden or self.init_from is not None
    missing = [name for name in self.attentions if name not in shapes]
    if missing:
      raise ValueError(f'A prefix got the attention {missing[0]}, but the model has the attentions '
                       f'{", ".join(shapes)}. Leave attentions out to use all of them.')
    trained, names = {}, tuple(self.attentions or (name for name in shapes if not given or name != 'delta'))
    if self.init_from is not None:
      return {names[0]: {'prefix': self._given(names, shapes)}}
    for i, name in enumerate(names):
      own = jax.random.fold_in(key, i)
      if self.hidden:
        made = self._network(*shapes[name][0], model.width).init(own)['params']
      else:
        made = {part: (self.init or _SMALL)(jax.random.fold_in(own, j), (layers, self.length, heads, head_dim))
                for j, (part, (layers, heads, head_dim)) in enumerate(zip(_PARTS, shapes[name], strict=True))}
      trained[name] = {'prefix': made}
    return trained

  def _given(self, names: Sequence[str], shapes: Mapping[str, '_Pair']) -> dict[str, Array]:
    """Returns copies of `init_from`: training donates the memory of the initial values."""
    layers, heads, head_dim = shapes[names[0]][0]
    wanted = (layers, self.length, heads, head_dim)
    found = [tuple(array.shape) for array in self.init_from]
    if len(names) > 1:
      raise ValueError(f'init_from holds keys and values of one attention, but the prefix has the attentions '
                       f'{", ".join(names)}. Set attentions to one of them.')
    if found != [wanted, wanted]:
      raise ValueError(f'init_from has keys and values of shapes {found}, but the model and the length need {wanted} '
                       '(layers, length, heads, head width) for both. Set the length to the number of tokens of the '
                       'text, or use keys and values of the same model.')
    keys, values = self.init_from
    return {'keys': jnp.array(keys, jnp.float32), 'values': jnp.array(values, jnp.float32)}

  def condition(self, trained: Params, model: Frozen) -> Conditioning:
    """Returns keys and values as conditioning, [L, 1, heads, P, K]."""
    named, given = self.export(trained, model), {}
    _require_fit(named, _shapes(model))
    for name, (stack, field) in _PLACES.items():
      if f'{name}/prefix/keys' in named:
        pair = (self._held(jnp.asarray(named[f'{name}/prefix/{part}'])) for part in _PARTS)
        given.setdefault(stack, {})[field] = tuple(jnp.swapaxes(each, 1, 2)[:, None] for each in pair)
    return Conditioning(**{stack: StackConditioning(**fields) for stack, fields in given.items()})

  def _held(self, array: Array) -> Array:
    """Returns keys or values [L, P, heads, K] whose frozen rows get no gradient."""
    if not self.frozen:
      return array
    return jnp.concatenate([jax.lax.stop_gradient(array[:, :self.frozen]), array[:, self.frozen:]], axis=1)

  def keep(self, before: Params, after: Params) -> Params:
    """Returns the trained tensors with the frozen rows of before."""
    if not self.frozen:
      return after
    return jax.tree.map(lambda old, new: jnp.concatenate([old[:, :self.frozen], new[:, self.frozen:]], axis=1),
                        before, after)

  def describe(self) -> dict[str, Any]:
    """Returns the description, with the number of frozen rows if there are any."""
    return super().describe() | ({'frozen': self.frozen} if self.frozen else {})

  def export(self, trained: Params, model: Frozen) -> Flat:
    """Returns keys and values, without the network."""
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
    """Returns the method for keys and values [L, P, kv_heads, K]."""
    attentions = [name for name in _PLACES if any(tensor.startswith(f'{name}/') for tensor in tensors)]
    wanted = {f'{name}/prefix/{part}' for name in attentions for part in _PARTS}
    if set(tensors) != wanted:
      raise ValueError(f'The file holds {", ".join(sorted(tensors))}, but a prefix needs {", ".join(sorted(wanted))}. '
                       'Save it again.')
    shape = next(iter(tensors.values())).shape
    return cls(length=shape[1] if len(shape) > 1 else 1, attentions=attentions)

  def _network(self, layers: int, heads: int, head_dim: int, width: int) -> 'Network':
    return Network(self.length, layers, heads, head_dim, self.width or width, self.hidden, self.init or _STANDARD)


class Network(nn.Module):
  """The network that makes a prefix's keys and values during training: tanh(E · W + b) · U + c.

  Attributes:
    length: P.
    layers: L.
    heads: kv_heads.
    head_dim: K.
    width: width of the embedding E [P, width].
    hidden: width of the hidden layer.
    first_values: initialiser of the embedding.
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


_Pair = tuple[tuple[int, int, int], tuple[int, int, int]]


def _shapes(model: Frozen) -> dict[str, _Pair]:
  """Returns attention -> layers, heads and head width of its keys, and of its values."""
  found, states = {name: (shape, shape) for name, shape in model.prefix_shapes().items()}, model.facts.state_shapes
  return {**found, 'delta': states} if states else found


def _require_fit(named: Mapping[str, Any], shapes: Mapping[str, _Pair]) -> None:
  """Raises ValueError if keys and values belong to another model."""
  for name, array in named.items():
    attention, _, part = name.split('/')
    if attention not in shapes:
      raise ValueError(f'{name} is a prefix of the attention {attention!r}, but the model has {", ".join(shapes)}. '
                       'Choose a prefix that was trained for this model.')
    layers, heads, head_dim = shapes[attention][_PARTS.index(part)]
    if array.ndim != 4 or (array.shape[0], *array.shape[2:]) != (layers, heads, head_dim):
      raise ValueError(f'{name} has shape {tuple(array.shape)}, but the model needs [{layers}, P, {heads}, {head_dim}] '
                       '(layers, length, heads, head width). Choose a prefix that was trained for this model.')
