"""Frozen models as an engine runs them: inputs packed into one row, and one more token for each of many slots.

A slot holds the keys and values of one answer in caches of its own length: those of its prompt, of its input, and of
what has been generated. Keys are stored as columns, which XLA's CPU backend multiplies twice as fast. A decoder-only
model has the cache 'self', in which a position's place is its number. An encoder-decoder also has 'memory', the keys
and values of the encoder's output, and 'encoder', the prefix that the encoder's layers see. A model with delta layers
also has a 'state' for each slot, and its packs hold one input. `before` makes what a prompt contributes to each cache,
`read_pack` what a pack of inputs does, `next_tokens` what a generated token does; `written` puts them there.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning.devices import sharding
from prompt_tuning.losses.chunks import at_targets
from prompt_tuning.models.apart import Apart
from prompt_tuning.models.attention import hide, self_visible
from prompt_tuning.models.delta_rule import spans_of
from prompt_tuning.models.layers import gather
from prompt_tuning.models.memory import memory_keys_values
from prompt_tuning.models.parameters import ready
from prompt_tuning.models.scaling import Scaling, Scalings, scaling_of_prompts
from prompt_tuning.models.stack import Front, Own
from prompt_tuning.models.surroundings import Surroundings
from prompt_tuning.models.token_scores import TokenScores, scores_of
from prompt_tuning.rows.conditioning import Conditioning, State, Visibility
from prompt_tuning.types import Array, Params

_ALL = slice(None)
KeysValues = tuple[Array, Array]  # [L, B, kv_heads, S, K] twice
# Name -> keys [L, slots, kv_heads, K, S] and values [L, slots, kv_heads, S, K], arrays or `Apart` by layer; 'state' is
# a State.
Caches = Mapping[str, Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pack:
  """Inputs of several answers, or parts of them, one after another in a row of N positions.

  Attributes:
    tokens: [N].
    segments: [N], the number of the answer that a position belongs to; 0 is padding.
    positions: [N], in the answer's own sequence, its prompt included.
    vectors: [M, D] of prompts in the row, or None.
    rows: [N], the index into `vectors`; -1 is a token.
    added: [L - 1, M, D], what further layers add to the vectors, or None.
    front_segments: [T], the answers of keys and values that stand before their inputs; -1 is padding.
    front_positions: [T].
    targets: [N], the tokens to score.
    weights: [N], 0 where nothing is scored.
  """

  tokens: Array
  segments: Array
  positions: Array
  vectors: Array | None
  rows: Array | None
  added: Array | None
  front_segments: Array
  front_positions: Array
  targets: Array
  weights: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Newest:
  """What each slot reads next.

  Attributes:
    tokens: [B].
    vectors: [B, D], read instead of a token where `of_prompt` is True: an input may end with a prompt.
    of_prompt: [B].
    lengths: name of a cache -> [B], how many of its places are filled.
  """

  tokens: Array
  vectors: Array
  of_prompt: Array
  lengths: Mapping[str, Array]


def cache_shapes(module: nn.Module) -> dict[str, tuple[int, int, int]]:
  """Returns name of a cache -> layers, KV heads and head width."""
  names = {'decoder': 'self', 'cross': 'memory', 'encoder': 'encoder'}
  return {names[name]: shape for name, shape in module.prefix_shapes().items()}


@functools.partial(jax.jit, static_argnames='module')
def before(module: nn.Module, params: Params, conditioning: Conditioning, length: Array) -> dict[str, KeysValues]:
  """Returns what stands before the inputs of one prompt, for each cache.

  Args:
    module: the frozen model.
    params: its parameters.
    conditioning: of one prompt (N is 1); its `prompt` is one that comes before the rows.
    length: [], of a prompt that is padded.
  """
  call = _before_decoder if module.prompted == 'decoder' else _before_t5
  return module.apply({'params': ready(module, params, {})}, params, conditioning, length, method=call)


def _before_decoder(module: nn.Module, _: Params, conditioning: Conditioning, length: Array) -> dict[str, KeysValues]:
  batch, given = {'decoder': {}, 'prompt_ids': jnp.zeros((1, 1), jnp.int32)}, conditioning.decoder
  if module.config.delta and given.prompt is not None:  # padding must not change the state
    given = dataclasses.replace(given, lengths={'prompt': length[None]})
  fronts, state, _ = module.fronts(batch, given)
  joined = lambda name: jnp.concatenate([getattr(front, name) for front in fronts], axis=3)
  found = {'self': (joined('keys'), joined('values'))} if fronts else {}
  return found if state is None else {**found, 'state': state}


def _before_t5(module: nn.Module, params: Params, conditioning: Conditioning, length: Array) -> dict[str, KeysValues]:
  given, found = conditioning.encoder, {}
  if given.prompt is not None:
    given = dataclasses.replace(given, lengths={'prompt': length[None]})
    output, found['encoder'] = module.run_prompt(given)
    scaling = scaling_of_prompts(conditioning.decoder, 1)
    found['memory'] = memory_keys_values(module.config.stack(cross=True), params, output, scaling)
  elif given.prefix is not None:
    found['encoder'] = given.prefix
  if conditioning.decoder.prefix is not None:
    found['self'] = conditioning.decoder.prefix
  if conditioning.decoder.memory_prefix is not None:
    found['memory'] = conditioning.decoder.memory_prefix
  dtype = module.config.dtype
  return jax.tree.map(lambda array: array.astype(dtype), found)


@functools.partial(jax.jit, static_argnames=('module', 'top'))
def read_pack(module: nn.Module, layers: Params, params: Params, pack: Pack, front: KeysValues | None,
              scaling: Scalings | None = None, state: State | None = None, *,
              top: int | None = None) -> tuple[Own, TokenScores | None]:
  """Returns the keys and values [L, 1, kv_heads, N, K] of a pack, with the state after it, and its targets' scores [N].

  Args:
    module: the frozen model.
    layers: its parameters as decoding reads them.
    params: its parameters.
    pack: the inputs.
    front: keys and values [L, 1, kv_heads, T, K] before them, or None.
    scaling: of the pack's positions.
    state: of delta layers before them.
    top: the likeliest tokens at each place; None scores nothing.
  """
  if module.prompted == 'encoder':
    variables = {'params': ready(module, params, {})}
    output = module.apply(variables, pack, front, scaling or {}, method=_read_encoder)
    return memory_keys_values(module.config.stack(cross=True), params, output, (scaling or {}).get('decoder')), None
  variables = {'params': ready(module, layers, {})}
  hidden, own = module.apply(variables, pack, front, scaling or {}, state, method=_read_decoder)
  if top is None:
    return own, None
  project = lambda part: module.apply(variables, part, method='project')
  scores = at_targets(functools.partial(scores_of, top=max(top, 1)), project, hidden, pack.weights[None],
                      pack.targets[None])
  return own, jax.tree.map(lambda array: sharding.whole(module.config.mesh, array[0]), scores)


def _read_decoder(module: nn.Module, pack: Pack, front: KeysValues | None, scaling: Scalings,
                  state: State | None) -> tuple[Array, Own]:
  x, around, fronts = _packed(module.token_embedder, pack, front, causal=True)
  around = dataclasses.replace(around, spans=spans_of(module.config, pack.segments[None]))
  x = module.placed(x, pack.positions[None])
  embedded = module.embedded(x, pack.tokens[None], None if pack.rows is None else pack.rows[None] >= 0)
  return module.decoder(x, around, fronts=fronts, embedded=embedded, scaling=scaling.get('decoder'), state=state,
                        collect=True)


def _read_encoder(module: nn.Module, pack: Pack, front: KeysValues | None, scaling: Scalings) -> Array:
  x, around, fronts = _packed(module.embed, pack, front, causal=False)
  return module.encoder(module.placed(x), around, fronts=fronts, added=pack.added, scaling=scaling.get('encoder'))[0]


def _packed(embed: Callable[[Array], Array], pack: Pack, front: KeysValues | None, *,
            causal: bool) -> tuple[Array, Surroundings, list[Front]]:
  """Returns the vectors [1, N, D] of a pack, and what a stack reads beside them."""
  x = embed(pack.tokens[None])
  rows = None if pack.rows is None else pack.rows[None]
  if rows is not None:
    x = jnp.where((rows >= 0)[..., None], gather(pack.vectors, rows, x.dtype), x)
  visible = self_visible({'segments': pack.segments[None]}, causal=causal, visibility=Visibility())
  fronts = []
  if front is not None:
    seen = pack.segments[:, None] == pack.front_segments[None, :]
    fronts = [Front(*front, hide(seen)[None, None], pack.front_positions)]
  return x, Surroundings((hide(visible),), positions=pack.positions[None], added_rows=rows), fronts


def next_tokens(module: nn.Module, params: Params, newest: Newest, caches: Caches,
                scaling: Scalings | None = None) -> tuple[Array, Own]:
  """Returns the logits [B, V] after the newest token of each slot, and its keys and values [L, B, kv_heads, 1, K].

  With delta layers, the state after it is the third of them.

  The arguments are those of `read_pack`, and the caches; it is called inside a compiled function.
  """
  call = _next_of_decoder if module.prompted == 'decoder' else _next_of_t5
  of_decoder = (scaling or {}).get('decoder')
  return module.apply({'params': ready(module, params, {})}, newest, caches, of_decoder, method=call)


def _next_of_decoder(module: nn.Module, newest: Newest, caches: Caches, scaling: Scaling | None) -> tuple[Array, Own]:
  x = module.token_embedder(newest.tokens[:, None])
  x = jnp.where(newest.of_prompt[:, None, None], newest.vectors[:, None].astype(x.dtype), x)
  positions = newest.lengths['self'][:, None]
  x = module.placed(x, positions)
  embedded = module.embedded(x, newest.tokens[:, None], newest.of_prompt[:, None])
  x, own = module.decoder(x, Surroundings((), positions=positions), fronts=[_front_of_cache(newest, caches)],
                          embedded=embedded, scaling=scaling, state=caches.get('state'), collect=True)
  return module.project(x)[:, 0], own


def _next_of_t5(module: nn.Module, newest: Newest, caches: Caches,
                scaling: Scaling | None) -> tuple[Array, KeysValues]:
  around = Surroundings((), positions=newest.lengths['self'][:, None], memory_bias=_unfilled(newest, caches, 'memory'))
  x, own = module.decoder(module.read_targets(newest.tokens[:, None]), around,
                          fronts=[_front_of_cache(newest, caches)], memory=_rows(caches['memory']),
                          scaling=scaling, collect=True)
  return module.project(x)[:, 0], own


def _front_of_cache(newest: Newest, caches: Caches) -> Front:
  """Returns what each slot has read before."""
  return Front(*_rows(caches['self']), _unfilled(newest, caches, 'self'), jnp.arange(places_in(caches['self'])))


def _rows(cache: tuple[Any, Any]) -> tuple[Any, Any]:
  """Returns a cache with its keys as rows [L, slots, kv_heads, S, K], a view of them."""
  return jax.tree.map(lambda array: array.swapaxes(-1, -2), cache[0]), cache[1]


def places_in(cache: tuple[Any, Any]) -> int:
  """Returns S of a cache."""
  return cache[1].shape[-2]


def _unfilled(newest: Newest, caches: Caches, name: str) -> Array:
  """Returns the bias [B, 1, 1, S] that hides the places of a cache that are not filled."""
  places = jnp.arange(places_in(caches[name]))
  return hide(places < newest.lengths[name][:, None])[:, None, None, :]


def written(cache: tuple[Any, Any], own: KeysValues, slots: Array, places: Array) -> tuple[Any, Any]:
  """Returns a cache with keys and values [L, N, kv_heads, K] written at the places [N] of the slots [N].

  Places outside the cache are not written.
  """

  def put(array: Any, new: Array, *between: slice) -> Any:
    if isinstance(array, Apart):
      return Apart(tuple(layer.at[slots, *between, places].set(new[number], mode='drop')
                         for number, layer in enumerate(array.layers)))
    return array.at[:, slots, *between, places].set(new.swapaxes(0, 1), mode='drop')

  return put(cache[0], own[0], _ALL, _ALL), put(cache[1], own[1], _ALL)


def taken(cache: tuple[Any, Any], slots: Array, places: Array) -> KeysValues:
  """Returns the keys and values [L, 1, kv_heads, T, K] at the places [T] of the slots [T]."""

  def take(array: Any, *between: slice) -> Array:
    if isinstance(array, Apart):
      found = jnp.stack([layer[slots, *between, places] for layer in array.layers])
    else:
      found = array[:, slots, *between, places].swapaxes(0, 1)
    return found.swapaxes(1, 2)[:, None]  # [L, T, kv_heads, K] -> [L, 1, kv_heads, T, K]

  return take(cache[0], _ALL, _ALL), take(cache[1], _ALL)
