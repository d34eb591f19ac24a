"""Decoder-only models: all families of `families` but T5.

What comes before every row is shared by all rows as keys and values, computed once or given: a cached context, a
learned prefix, or a prompt whose layout has no slots in the rows. These keys and values do not depend on later
positions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning.devices import sharding
from prompt_tuning.models import dense
from prompt_tuning.models.attention import hide, self_visible
from prompt_tuning.models.decoder_config import DecoderConfig
from prompt_tuning.models.decoding_steps import Steps
from prompt_tuning.models.delta_rule import spans_of
from prompt_tuning.models.fronts import (
  empty_cache,
  front_of,
  front_of_context,
  of_rows,
  parted,
  repeated,
  spread,
  state_of,
  with_products,
)
from prompt_tuning.models.layer_embeddings import LayerEmbeddings
from prompt_tuning.models.layer_kinds import dense_shapes, state_shapes, stored_shape
from prompt_tuning.models.norms import norm
from prompt_tuning.models.places import places_before, prompt_in_front, require_order, require_positions
from prompt_tuning.models.scaling import Scaling, scaling_of, scaling_of_prompts
from prompt_tuning.models.slots import added_vectors, entries, fill_prompt, prompt_rows, separate_rows
from prompt_tuning.models.stack import Front, Own, Stack
from prompt_tuning.models.surroundings import Surroundings
from prompt_tuning.rows.conditioning import Conditioning, Facts, StackConditioning, State, Visibility
from prompt_tuning.rows.layouts import CausalLayout, LabelLayout, Layout, after_eos
from prompt_tuning.types import Array, Batch


class DecoderOnly(nn.Module):
  """A language model, called with a batch of `layouts.assemble` and a Conditioning.

  Attributes:
    config: the model's shape.
  """

  config: DecoderConfig
  prompted = 'decoder'  # the stack that a prompt belongs to

  def setup(self) -> None:
    config = self.config
    embed = lambda rows, width: nn.Embed(rows, width, dtype=config.dtype, embedding_init=nn.initializers.normal(0.02))
    width = config.embedding_width or config.width
    if config.features:
      self.input_layer = dense.Dense(width, dtype=config.dtype)
    else:
      self.token_embedder = embed(config.vocab_size, width)
    if config.embedding_width:
      self.input_projection = dense.Dense(config.width, use_bias=False, dtype=config.dtype)
      self.output_projection = dense.Dense(width, use_bias=False, dtype=config.dtype)
    if config.position_count:
      self.position_embedder = embed(config.position_count + config.position_offset, config.width)
    if config.embedding_norm:
      self.embedding_norm = norm(config)
    if config.layer_embedding:
      self.layer_embeddings = LayerEmbeddings(config)
    self.decoder = Stack(config)

  def facts(self) -> Facts:
    """Returns the properties of the model that do not need its weights."""
    config = self.config
    return Facts(config.family, config.embedding_width or config.width, (config.layers,), config.vocab_size,
                 self.prompted, self.prefix_shapes(), config.embedding_scale, dense_shapes(config, 'decoder'),
                 config.width if config.embedding_width else 0, state_shapes(config))

  def prefix_shapes(self) -> dict[str, tuple[int, int, int]]:
    """Returns layers, KV heads and head width of each attention."""
    shape = stored_shape(self.config)
    return {'decoder': (self.config.stored_layers, shape.kv_heads, shape.head_dim)}

  def layout(self, asked: Layout) -> CausalLayout:
    """Returns the layout of this model's examples: input and target in one row, or a separate cached input.

    Raises:
      ValueError: an input cannot be cached: the prompt does not come after it, or the input depends on the prompt.
    """
    wrong = [text for found, text in (
      (asked.placement is not after_eos, f'the placement is {asked.placement.__name__}'),
      (asked.isolated, 'the prompt does not see the input'),
      (self.config.prefix_lm, 'in a prefix-LM the input sees the prompt'),
      (self.config.classes, 'the positions of the input are labelled'),
      (self.config.delta, 'the state of the delta layers is not cached with keys and values')) if found]
    if asked.cached and wrong:
      raise ValueError(f'cached=True cannot be used: {" and ".join(wrong)}. Use placement=after_eos and a prompt that '
                       'sees the input, or leave out cached=True.')
    given = {'isolated': asked.isolated, 'cached': asked.cached, 'prefix_lm': self.config.prefix_lm,
             'within': asked.within, 'prefixed': asked.prefixed}
    if self.config.classes:
      return LabelLayout(asked.prompt_length, asked.placement, classes=self.config.classes,
                         inputs=self.config.features or self.config.vocab_size, **given)
    return CausalLayout(asked.prompt_length, asked.placement, started=self.config.started and asked.started,
                        vocab_size=self.config.vocab_size, **given)

  def __call__(self, batch: Batch, conditioning: Conditioning = Conditioning(), *,
               dropout: Array | None = None, hidden: bool = False) -> Array:
    """Returns logits [B, T, V] in float32, aligned with the batch's targets.

    Args:
      batch: see `layouts`.
      conditioning: the model's conditioning; the caller merges its `parameters`.
      dropout: [B] random keys, or None.
      hidden: return the last norm's output [B, T, D] instead.
    """
    x, _, _, _ = self._read(batch, conditioning, dropout, collect=False)
    return x if hidden else self.project(x)

  def prefill(self, batch: Batch, conditioning: Conditioning) -> tuple[Array, list[Front], State | None, Array]:
    """Runs the rows, padded left so that they end with their last token, to start generation.

    Returns:
      Logits [B, V] after the last token, all keys and values so far, the delta layers' state, and the last positions
      [B].
    """
    x, own, fronts, positions = self._read(batch, conditioning, None, collect=True)
    keys_values, state = parted(own)
    seen = hide(batch['decoder']['segments'] > 0)[:, None, None, :]
    return self.project(x[:, -1:])[:, 0], [*fronts, Front(*keys_values, seen, positions)], state, positions[:, -1]

  def decode_next(self, tokens: Array, positions: Array, fronts: list[Front], scaling: Scaling | None = None,
                  state: State | None = None) -> tuple[Array, Own]:
    """Runs one more token of each row.

    Args:
      tokens: [B].
      positions: [B], the tokens' positions.
      fronts: the keys and values before them.
      scaling: of the rows.
      state: of the delta layers before them.

    Returns:
      Logits [B, V], and the tokens' keys and values [L, B, kv_heads, 1, K], with the state after them.
    """
    tokens, positions = tokens[:, None], positions[:, None]
    x = self.placed(self.token_embedder(tokens), positions)
    x, own = self.decoder(x, Surroundings((), positions=positions), fronts=fronts, embedded=self.embedded(x, tokens),
                          scaling=scaling, state=state, collect=True)
    return self.project(x)[:, 0], own

  def _read(self, batch: Batch, conditioning: Conditioning, dropout: Array | None, *,
            collect: bool) -> tuple[Array, Own | None, list[Front], Array]:
    layout, given = batch['decoder'], conditioning.decoder
    for row in conditioning.each_kind():
      clash = 'decoder.layer_prompts' in row and {'decoder.prompt', 'decoder.prefix'} & set(row)
      if clash or 'decoder.memory_prefix' in row or any(name.startswith('encoder.') for name in row):
        raise ValueError(f'A decoder-only model got {", ".join(row)}. Use decoder.prefix and decoder.prompt, or '
                         'decoder.layer_prompts.')
    if self.config.delta:
      require_order(batch, given)
    fronts, state, offset = self.fronts(batch, given)
    positions = layout['positions'] + offset
    require_positions(self.config, places_before(batch, conditioning), layout['tokens'].shape[1])
    vectors, rows = self._vectors(layout), None
    added = added_vectors(given, self.config.layers)
    if 'prompt_slots' in layout and given.prompt is not None:
      rows = prompt_rows(layout, batch['prompt_ids'], given)
      vectors = fill_prompt(vectors, rows, given)
    visible = self_visible(layout, causal=self.config.causal, visibility=given.visibility)
    plain = given.visibility == Visibility() and 'bidirectional' not in layout
    around = Surroundings((hide(visible),), layout['segments'] if plain else None, positions=positions, added_rows=rows,
                          spans=spans_of(self.config, layout['segments']), dropout=dropout)
    x = self.placed(vectors, positions)
    embedded = self.embedded(x, layout.get('tokens'), None if rows is None else rows >= 0)
    x, own = self.decoder(x, around, fronts=fronts, added=None if rows is None else added, embedded=embedded,
                          scaling=scaling_of(given, batch, 'decoder'), state=state, collect=collect)
    return x, own, fronts, positions

  def _vectors(self, layout: Batch) -> Array:
    """Returns the embedded inputs of the rows [B, T, D], before positions are added."""
    return self.input_layer(layout['features']) if self.config.features else self.token_embedder(layout['tokens'])

  def fronts(self, batch: Batch, given: StackConditioning) -> tuple[list[Front], State | None, Array | int]:
    """Returns the keys and values before every row, the delta layers' state there, and the number of positions."""
    before, start, prompt_ids, state = [], 0, batch['prompt_ids'], None
    if given.context is not None:
      front, start = front_of_context(given.context, len(prompt_ids))
      before, state = [front], given.context.state
      if len(start) > 1 and any(each is not None for each in (given.prompt, given.layer_prompts, given.state_prefix)):
        given, prompt_ids = of_rows(given, prompt_ids)
    if given.state_prefix is not None:
      state = with_products(state, given.state_prefix, self.config)
    found, lengths = {}, given.lengths  # what each field hands to the rows, in the order of the row
    if given.prefix is not None:
      found['prefix'] = given.prefix
    if given.layer_prompts is not None:
      scaling = scaling_of_prompts(given, given.layer_prompts.shape[1])
      own = self.run_layer_prompts(given.layer_prompts, start, scaling, state, entries(given, 'layer_prompts'))
      found['layer_prompts'], state = parted(own)
    if prompt_in_front(batch, given):
      seen, place = before, start  # what the prompt sees, and its first position
      if given.prefix is not None:
        each = jnp.arange(given.prompt.shape[0])[:, None]
        front, count = front_of(given.prefix, each, lengths.get('prefix'), placed=True, start=start)
        seen, place = [*before, front], start + count
      found['prompt'], state = parted(self.run_prompt(given, seen, place, state))
    if state is not None and (found.keys() & {'layer_prompts', 'prompt'} or given.state_prefix is not None):
      state = state_of(state, prompt_ids)
    for name, keys_values in found.items():
      front, count = front_of(keys_values, prompt_ids, lengths.get(name), placed=True, start=start)
      before, start = [*before, front], start + count
    return before, state, start

  def run_prompt(self, given: StackConditioning, before: Sequence[Front] = (), start: Array | int = 0,
                 state: State | None = None) -> Own:
    """Returns every layer's keys and values [L, N, kv_heads, P, K] of prompts [N, P, D] before the rows.

    Args:
      given: holds the prompts.
      before: the keys and values that they see.
      start: their first position, or [N, 1].
      state: of the delta layers before them.
    """
    index = jnp.arange(given.prompt.shape[1])
    seen = index[:, None] >= index[None, :]
    if not given.visibility.prompt:
      seen = index[:, None] == index[None, :]
    x = self.placed(given.prompt.astype(self.config.dtype), start + index)
    around = Surroundings((hide(seen)[None, None],), positions=start + index, added_rows=separate_rows(given),
                          spans=spans_of(self.config, entries(given, 'prompt')))
    added, scaling = added_vectors(given, self.config.layers), scaling_of_prompts(given, len(x))
    _, own = self.decoder(x, around, fronts=before, added=added, embedded=self.embedded(x), scaling=scaling,
                          state=state, collect=True)
    return own

  def run_layer_prompts(self, vectors: Array, start: Array | int = 0, scaling: Scaling | None = None,
                        state: State | None = None, segments: Array | None = None) -> Own:
    """Returns every layer's keys and values [L, N, kv_heads, P, K] of vectors at its input [L, N, P, D].

    Args:
      vectors: the inputs.
      start: their first position, or [N, 1].
      scaling: of the N entries.
      state: of the delta layers before them.
      segments: [N, P], 0 for padding.
    """
    vectors = vectors.astype(self.config.dtype)
    around = Surroundings((jnp.zeros((1, 1, 1, 1)),), positions=start + jnp.arange(vectors.shape[2]),
                          spans=spans_of(self.config, segments))
    _, own = self.decoder(vectors[0], around, inputs=vectors, scaling=scaling, state=state, collect=True)
    return own

  def embedded(self, x: Array, tokens: Array | None = None, prompt: Array | None = None) -> Array | None:
    """Returns what each layer reads beside the input, as `LayerEmbeddings`; tokens of a new input head have none."""
    if not self.config.layer_embedding:
      return None
    return self.layer_embeddings(x, None if self.config.classes else tokens, prompt)

  def placed(self, vectors: Array, positions: Array) -> Array:
    """Returns vectors, tokens or prompts, as the input of the stack at their positions."""
    config = self.config
    scale = config.embedding_scale * config.input_scale
    x = vectors * jnp.asarray(scale, vectors.dtype) if scale != 1.0 else vectors
    if config.embedding_norm:
      x = self.embedding_norm(x)
    if config.embedding_width:
      x = self.input_projection(x)
    return x + self.position_embedder(positions + config.position_offset) if config.position_count else x

  def project(self, x: Array) -> Array:
    """Returns the logits [B, T, V] in float32 of hidden states [B, T, D], see `__call__`."""
    config = self.config
    if config.embedding_width:
      x = self.output_projection(x)
    logits = self.decoder.logits(x) if config.outputs else (
      dense.apply({'kernel': self.token_embedder.embedding.T}, x, jnp.float32))
    if config.output_scale != 1.0:
      logits = logits * config.output_scale
    if config.output_cap:
      logits = config.output_cap * jnp.tanh(logits / config.output_cap)
    return sharding.constrain(logits, config.mesh, 'batch', None, 'vocab')

  def begin(self, params: Mapping[str, Any], batch: Batch, conditioning: Conditioning, *, count: int,
            max_length: int) -> tuple[Steps, Own, Array]:
    """Starts `count` generations per row, see `generation.generate`; the rows are padded left."""
    config = self.config
    in_rows = batch['decoder']['tokens'].shape[1]
    first, fronts, state, last = self.apply({'params': params}, batch, conditioning, method='prefill')
    rows = first.shape[0]
    require_positions(config, places_before(batch, conditioning), in_rows, max_length - 1)
    scaling = scaling_of(conditioning.decoder, batch, 'decoder')
    layers, heads, head_dim = self.prefix_shapes()['decoder']
    cache = empty_cache(config, layers, rows, count, heads, max_length, head_dim)
    if state is not None:
      cache = (*cache, repeated(state, rows, count))
    steps = Steps(self, jnp.repeat(first, count, axis=0), jnp.repeat(last, count),
                  [spread(front, count) for front in fronts], scaling and scaling.spread(count))
    return steps, cache, jnp.any(batch['decoder']['segments'] > 0, axis=1)
