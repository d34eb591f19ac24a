"""The module of T5 1.0, T5 1.1 and mT5 (Raffel et al. 2020; Shazeer 2020; Xue et al. 2021), and of T5Gemma."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning.devices import sharding
from prompt_tuning.models import dense
from prompt_tuning.models.attention import cross_visible, hide, self_visible
from prompt_tuning.models.fronts import concatenated, empty_cache, front_of, joined, spread, written
from prompt_tuning.models.layer_kinds import dense_shapes
from prompt_tuning.models.memory import chosen_prompts, memory_front, memory_keys_values
from prompt_tuning.models.scaling import Scaling, scaling_of, scaling_of_prompts
from prompt_tuning.models.slots import added_vectors, fill_prompt, prompt_rows, separate_rows
from prompt_tuning.models.stack import Front, Stack
from prompt_tuning.models.stacks_config import StacksConfig
from prompt_tuning.models.surroundings import Surroundings
from prompt_tuning.models.t5_config import T5Config
from prompt_tuning.rows.conditioning import Conditioning, Facts, StackConditioning, Visibility
from prompt_tuning.rows.layouts import Layout
from prompt_tuning.types import Array, Batch

_DECODER = 1 << 16  # separates the decoder's dropout keys from the encoder's, whose layers count from 0


class T5(nn.Module):
  """An encoder-decoder, called with a batch of `layouts.assemble` and a Conditioning.

  Attributes:
    config: the model's shape.
  """

  config: T5Config | StacksConfig
  prompted = 'encoder'  # the stack that a prompt belongs to

  def layout(self, asked: Layout) -> Layout:
    """Returns the layout of this model's examples.

    Raises:
      ValueError: inputs cannot be cached, because their positions see the prompt.
    """
    if asked.cached:
      raise ValueError('cached=True cannot be used: this model has an encoder, in which the text before the prompt '
                       'sees the prompt. Choose a decoder-only model, or leave out cached=True.')
    config = self.config
    return dataclasses.replace(asked, vocab_size=config.vocab_size, start_id=config.start_id, ended=config.input_ends)

  def facts(self) -> Facts:
    """Returns the properties of the model that do not need its weights."""
    config = self.config
    return Facts(config.family, config.width, (config.encoder_layers, config.decoder_layers), config.vocab_size,
                 self.prompted, self.prefix_shapes(), config.embedding_scale,
                 dense_shapes(config.stack(cross=False), 'encoder') | dense_shapes(config.stack(cross=True), 'decoder'))

  def prefix_shapes(self) -> dict[str, tuple[int, int, int]]:
    """Returns layers, KV heads and head width of each attention."""
    of = lambda stack: (stack.layers, stack.kv_heads or stack.heads, stack.head_dim)
    decoder = of(self.config.stack(cross=True))
    return {'encoder': of(self.config.stack(cross=False)), 'decoder': decoder, 'cross': decoder}

  def setup(self) -> None:
    config = self.config
    encoder, decoder = config.stack(cross=False), config.stack(cross=True)
    initialise = nn.initializers.normal(1.0 / (config.embedding_scale * config.input_scale))
    embed = lambda stack: nn.Embed(config.vocab_size, stack.width, dtype=config.dtype, embedding_init=initialise)
    self.token_embedder = embed(encoder)
    self.decoder_token_embedder = embed(decoder) if config.separate_embeddings else None
    if config.image_end >= 0:
      self.image_end = self.param('image_end', nn.initializers.zeros, (config.width,))
    self.encoder, self.decoder = Stack(encoder), Stack(decoder)

  def embed(self, tokens: Array) -> Array:
    """Returns the encoder's embedded tokens [B, T, D], as a prompt stands among them."""
    return self._replaced(self.token_embedder(tokens), tokens, self.config.embedding_scale * self.config.input_scale)

  def placed(self, vectors: Array) -> Array:
    """Returns vectors, tokens or prompts, as the input of the encoder."""
    return _times(vectors, self.config.embedding_scale * self.config.input_scale)

  def read_targets(self, tokens: Array) -> Array:
    """Returns tokens as the input of the decoder [B, S, D]."""
    embed, scale = self.decoder_token_embedder or self.token_embedder, self.config.decoder_scale
    return _times(self._replaced(embed(tokens), tokens, scale), scale)

  def _replaced(self, x: Array, tokens: Array, scale: float) -> Array:
    """Returns embedded tokens, where the end of an image is a vector of its own, which is not scaled."""
    if self.config.image_end < 0:
      return x
    return jnp.where((tokens == self.config.image_end)[..., None], (self.image_end / scale).astype(x.dtype), x)

  def __call__(self, batch: Batch, conditioning: Conditioning = Conditioning(), *,
               dropout: Array | None = None, hidden: bool = False) -> Array:
    """Returns logits [B, S, V] in float32, aligned with the batch's targets.

    Args:
      batch: see `layouts`.
      conditioning: the model's conditioning; the caller merges its `parameters`.
      dropout: [B] random keys, or None.
      hidden: return the output of the decoder's last norm [B, S, D] instead.
    """
    memory, of_prompt = self.read(batch, conditioning, dropout=dropout)
    return self.decode(batch, memory, conditioning, of_prompt, dropout=dropout, hidden=hidden)

  def encode(self, batch: Batch, conditioning: Conditioning, *, dropout: Array | None = None) -> Array:
    """Returns the encoder's output [B, T, D] of the rows."""
    return self.read(batch, conditioning, dropout=dropout)[0]

  def read(self, batch: Batch, conditioning: Conditioning, *,
           dropout: Array | None = None) -> tuple[Array, Array | None]:
    """Returns the encoder's output [B, T, D] of the rows, and that of prompts [N, P, D] that are run separately.

    A prompt that comes before the rows and sees nothing of the input is run once for all rows, without dropout.

    Raises:
      ValueError: the Conditioning has a field that this model cannot use.
    """
    useless = [f'decoder.{name}' for name in conditioning.decoder.given()
               if name in ('prompt', 'layer_prompts', 'added', 'context')]
    useless += [f'encoder.{name}' for name in conditioning.encoder.given()
                if name in ('memory_prefix', 'layer_prompts', 'context')]
    if useless:
      raise ValueError(f'T5 got conditioning.{useless[0]}, which it cannot use. Put a prompt into '
                       'conditioning.encoder.')
    layout, given = batch['encoder'], conditioning.encoder
    fronts, offset = prefixed(given, batch)
    x, rows, of_prompt = self.embed(layout['tokens']), None, None
    added = added_vectors(given, self.config.encoder_layers)
    if 'prompt_slots' in layout and given.prompt is not None:
      rows = prompt_rows(layout, batch['prompt_ids'], given)
      x = fill_prompt(x, rows, given)
    elif given.prompt is not None:
      if any('encoder.prompt' in row and {'encoder.prefix', 'decoder.memory_prefix'} & set(row)
             for row in conditioning.each_kind()):
        raise ValueError('T5 got a prompt that sees nothing of the input, together with a prefix of the encoder or of '
                         'cross-attention. Let the prompt see the input, or leave one out.')
      of_prompt, run = self.run_prompt(given)
      front, own = front_of(run, batch['prompt_ids'], given.lengths.get('prompt'), placed=True, start=offset)
      fronts, offset = [*fronts, front], offset + own
    visible = self_visible(layout, causal=False, visibility=given.visibility)
    around = Surroundings((hide(visible),), positions=layout['positions'] + offset, added_rows=rows, dropout=dropout)
    x, _ = self.encoder(self.placed(x), around, fronts=fronts, added=None if rows is None else added,
                        scaling=scaling_of(given, batch, 'encoder'))
    return x, of_prompt

  def run_prompt(self, given: StackConditioning) -> tuple[Array, tuple[Array, Array]]:
    """Returns the output [N, P, D], and the keys and values [L, N, H, P, K], of prompts that are run separately."""
    count, length, _ = given.prompt.shape
    index = jnp.arange(length)
    lengths = given.lengths.get('prompt', jnp.full([count], length))
    seen = (index < lengths[:, None])[:, None, :]
    if not given.visibility.prompt:
      seen = seen & (index[:, None] == index[None, :])
    around = Surroundings((hide(seen)[:, None],), added_rows=separate_rows(given))
    return self.encoder(self.placed(given.prompt.astype(self.config.dtype)), around,
                        added=added_vectors(given, self.config.encoder_layers),
                        scaling=scaling_of_prompts(given, count), collect=True)

  def decode(self, batch: Batch, memory: Array, conditioning: Conditioning, of_prompt: Array | None = None, *,
             dropout: Array | None = None, hidden: bool = False) -> Array:
    """Returns logits [B, S, V] (or `hidden` states) of all target positions, given the result of `read`."""
    layout, given = batch['decoder'], conditioning.decoder
    x = self.read_targets(layout['tokens'])
    if dropout is not None:
      dropout = jax.vmap(lambda key: jax.random.fold_in(key, _DECODER))(dropout)
    fronts, offset = prefixed(given, batch)
    around = Surroundings(
      (hide(self_visible(layout, causal=True, visibility=Visibility())),), positions=layout['positions'] + offset,
      memory=memory, dropout=dropout, memory_segments=(layout['memory_segments'], batch['encoder']['segments']),
      memory_bias=hide(cross_visible(layout['memory_segments'], batch['encoder']['segments'])))
    if of_prompt is not None:
      chosen, bias = chosen_prompts(of_prompt, conditioning.encoder, batch)
      around = dataclasses.replace(around, prompt_memory=chosen, prompt_memory_bias=bias)
    x, _ = self.decoder(x, around, fronts=fronts, memory_front=memory_front(given, batch),
                        scaling=scaling_of(given, batch, 'decoder'))
    return x if hidden else self.project(x)

  def decode_next(self, tokens: Array, index: Array, cache: tuple[Array, Array], memory: tuple[Array, Array],
                  memory_bias: Array, fronts: Sequence[Front] = (), offset: Array | int = 0,
                  memory_front: Front | None = None,
                  scaling: Scaling | None = None) -> tuple[Array, tuple[Array, Array]]:
    """Runs the decoder on one more token per row.

    Args:
      tokens: [B·N] the last token of each of N sequences for each of B inputs; before their first token, any.
      index: [] the number of tokens before it.
      cache: keys and values [L, B·N, kv_heads, S, K] of earlier tokens; places from `index` on are ignored.
      memory: keys and values [L, B, kv_heads, T, K] of the encoder's output.
      memory_bias: [B·N, 1, 1, T].
      fronts: a prefix.
      offset: the number of its positions.
      memory_front: a prefix of the memory.
      scaling: of the rows.

    Returns:
      Logits [B·N, V], and this token's keys and values [L, B·N, kv_heads, 1, K].
    """
    tokens = jnp.where(index == 0, self.config.start_id, tokens)
    x = self.read_targets(tokens[:, None])
    places = jnp.arange(cache[0].shape[3])
    before = Front(*cache, hide(places < index)[None, None, None, :], places + offset)
    around = Surroundings((), positions=index[None] + offset, memory_bias=memory_bias)
    x, own = self.decoder(x, around, fronts=(*fronts, before), memory=memory, memory_front=memory_front,
                          scaling=scaling, collect=True)
    return self.project(x)[:, 0], own

  def begin(self, params: Mapping[str, Any], batch: Batch, conditioning: Conditioning, *, count: int,
            max_length: int) -> tuple['Steps', tuple[Array, Array], Array]:
    """Starts `count` generations per row, see `generation.generate`; the decoder's part of the batch is not read."""
    apply = functools.partial(self.apply, {'params': params})
    decoder = self.config.stack(cross=True)
    output, of_prompt = apply(batch, conditioning, method='read')
    rows = output.shape[0]
    scaling = scaling_of(conditioning.decoder, batch, 'decoder')
    memory = memory_keys_values(decoder, params, output, scaling)
    bias = hide(jnp.repeat(batch['encoder']['segments'] > 0, count, axis=0))[:, None, None, :]
    given = conditioning.decoder
    fronts, offset = prefixed(given, batch)
    fronts = [spread(front, count) for front in fronts]
    if not isinstance(offset, int):
      offset = jnp.repeat(offset, count, axis=0)
    of_memory = memory_front(given, batch)
    if of_prompt is not None:
      chosen, seen = chosen_prompts(of_prompt, conditioning.encoder, batch)
      of_memory = concatenated(Front(*memory_keys_values(decoder, params, chosen, scaling), seen), of_memory)
    of_memory = spread(of_memory, count)
    cache = empty_cache(decoder, decoder.layers, rows, count, decoder.kv_heads or decoder.heads, max_length,
                        decoder.head_dim)
    steps = Steps(self, memory, bias, fronts, offset, of_memory, scaling and scaling.spread(count))
    return steps, cache, jnp.any(batch['encoder']['segments'] > 0, axis=1)

  def project(self, x: Array) -> Array:
    """Returns the logits [B, S, V] in float32 of hidden states [B, S, D], see `__call__`."""
    config = self.config
    embed = self.decoder_token_embedder or self.token_embedder
    logits = dense.apply({'kernel': embed.embedding.T}, x, jnp.float32) if config.tied else self.decoder.logits(x)
    if config.scaled:
      logits = logits * config.width**-0.5
    if config.output_cap:
      logits = config.output_cap * jnp.tanh(logits / config.output_cap)
    return sharding.constrain(logits, config.mesh, 'batch', None, 'vocab')


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Steps:
  """The decoding step for the inputs of a batch; the arrays are those of `T5.decode_next`."""

  module: T5 = dataclasses.field(metadata={'static': True})
  memory: tuple[Array, Array]
  memory_bias: Array
  fronts: list[Front]
  offset: Array | int
  memory_front: Front | None
  scaling: Scaling | None

  def __call__(self, params: Mapping[str, Any], ids: Array, index: Array,
               cache: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
    """Returns the logits [B, N, V] after the newest tokens [B, N], and the cache with them, see `decoding`."""
    logits, own = self.module.apply(
      {'params': params}, ids.reshape(-1), index, joined(cache), self.memory, self.memory_bias, self.fronts,
      self.offset, self.memory_front, self.scaling, method='decode_next')
    return logits.reshape(*ids.shape, -1), written(cache, own, index)


def prefixed(given: StackConditioning, batch: Batch) -> tuple[list[Front], Array | int]:
  """Returns the prefix before a stack, and the number of its positions."""
  if given.prefix is None:
    return [], 0
  front, offset = front_of(given.prefix, batch['prompt_ids'], given.lengths.get('prefix'), placed=True)
  return [front], offset


def _times(x: Array, scale: float) -> Array:
  return x * jnp.asarray(scale, x.dtype) if scale != 1.0 else x
