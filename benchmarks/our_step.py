"""Contestant: the package's own training step. Started by train_step.py."""

import argparse
import dataclasses
import statistics
from typing import Any

import contest
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from sizes import SIZES, Size

from prompt_tuning import trees
from prompt_tuning.devices import compilation
from prompt_tuning.models.cached_texts import CachedTexts
from prompt_tuning.models.decoder_only import DecoderConfig, DecoderOnly
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.models.quantised import INT8, is_quantisable, quantise
from prompt_tuning.models.t5 import T5, T5Config
from prompt_tuning.prompts import Prompt, PromptTuning
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Visibility
from prompt_tuning.training.optimizers import Adafactor
from prompt_tuning.training.step import TrainState, make_step
from prompt_tuning.types import Batch


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('--size', choices=SIZES, required=True)
  parser.add_argument('--rematerialise', default='none')
  parser.add_argument('--microbatches', type=int, default=1)
  parser.add_argument('--dtype', choices=['float32', 'bfloat16', INT8], default='float32',
                      help='of frozen weights; activations are bfloat16 but for float32')
  parser.add_argument('--inputs', type=int, help="tokens of an input, instead of the size's")
  parser.add_argument('--targets', type=int, help='likewise')
  parser.add_argument('--prompt', type=int, help='length of the prompt, likewise')
  parser.add_argument('--alone', action='store_true', help='the prompt does not see the input')
  parser.add_argument('--behind', action='store_true', help='the prompt stands behind the input')
  parser.add_argument('--cached', action='store_true', help='and the input is read once')
  parser.add_argument('--cache', required=True, help='folder of compiled programs')
  options = parser.parse_args()
  size = SIZES[options.size]
  changes = {name: getattr(options, name) for name in ('inputs', 'targets', 'prompt')}
  size = dataclasses.replace(size, **{name: value for name, value in changes.items() if value})
  compilation.use_cache(options.cache)  # as the programs do

  method = PromptTuning(Prompt(size.prompt), layouts.after_eos if options.behind else layouts.before,
                        Visibility(input=not options.alone), cached=options.cached)
  module, batches = made(size, options.rematerialise, asked=method.layout(),
                         dtype=jnp.float32 if options.dtype == 'float32' else jnp.bfloat16)
  model = frozen_model(module, batches[0], options.dtype)
  params = model.params
  texts = CachedTexts(model, options.cache, memory_limit=1 << 30) if options.cached else None
  fed = lambda batch: {**batch, 'context': texts.of(batch['context'])} if texts else batch
  optimizer = Adafactor().build(0)
  trained = method.initialise(jax.random.key(1), model)
  state = TrainState(jnp.int32(0), trained, optimizer.init(trained))
  run = compilation.compile_step(
    jax.jit(make_step(module, method, optimizer, microbatches=options.microbatches), donate_argnums=1),
    params, state, fed(batches[0]))
  done = 0

  def step() -> None:
    nonlocal state, done
    state, sums = run(params, state, fed(batches[done % len(batches)]))
    done += 1
    assert np.isfinite(float(sums['loss']))

  product = jax.jit(jnp.dot)
  tokens = size.batch * (size.prompt + size.inputs)

  def matmul_rate() -> float:
    """Returns FLOP/s of the better of the model's most common products: all tokens through the MLP's kernels."""
    rates = []
    for inner, outer in ((size.width, size.mlp_dim), (size.mlp_dim, size.width)):
      dtype = module.config.dtype
      left, right = small_numbers((tokens, inner), dtype), small_numbers((inner, outer), dtype)
      multiply = lambda left=left, right=right: product(left, right).block_until_ready()
      multiply()
      times = [contest.seconds(multiply) for _ in range(20)]
      rates.append(2 * tokens * inner * outer / statistics.median(times))
    return max(rates)

  more = {} if jax.default_backend() == 'cpu' else {
    'memory': lambda: jax.devices()[0].memory_stats()['peak_bytes_in_use']}
  contest.serve(step, matmul_rate=matmul_rate, feeding=lambda: contest.seconds(lambda: fed(batches[0])), **more)


def made(size: Size, rematerialise: str = 'none', *,
         asked: layouts.Layout | None = None, dtype: Any = jnp.float32) -> tuple[nn.Module, list[Batch]]:
  """Returns the model of a size, and batches for it."""
  shape = dict(vocab_size=size.vocabulary, width=size.width, heads=size.heads, head_dim=size.head_dim,
               mlp_dim=size.mlp_dim, rematerialise=rematerialise, dtype=dtype)
  if size.family == 't5':
    module = T5(T5Config(**shape, encoder_layers=size.layers, decoder_layers=size.layers))
  else:
    module = DecoderOnly(DecoderConfig(
      **shape, layers=size.layers, mlp_activations=('gelu',), norm='layer', bias=True, tied=True, family='gpt2',
      query_scale=size.head_dim**-0.5, position_count=1024))
  random = np.random.default_rng(0)
  layout = module.layout(asked or layouts.Layout(size.prompt))
  ids = lambda length: random.integers(3, size.vocabulary, length)
  # Without targets of its own a text is its first token and all that follow.
  lengths = {'inputs': size.inputs, 'targets': size.targets} if size.targets else {
    'inputs': 1, 'targets': size.inputs - 1}
  return module, [layouts.assemble(
    [[layout.example(ids(lengths['inputs']), ids(lengths['targets']))] for _ in range(size.batch)],
    layout.row_lengths(lengths)) for _ in range(4)]


def frozen_model(module: nn.Module, batch: Batch, dtype: str = 'float32') -> LanguageModel:
  """Returns a model whose numbers mean nothing."""
  shapes = jax.eval_shape(module.init, jax.random.key(0), batch)['params']

  def parameter(path: str, leaf: Any) -> Any:
    if dtype == INT8 and is_quantisable(path):
      return quantise(small_numbers(leaf.shape, jnp.bfloat16))
    return small_numbers(leaf.shape, jnp.bfloat16 if dtype == INT8 else jnp.dtype(dtype))

  return LanguageModel(module, trees.map_named(parameter, shapes))


@jax.jit(static_argnums=(0, 1))
def small_numbers(shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
  """Returns numbers between -0.05 and 0.05 without a temporary array, as the generators of random numbers need one."""
  return (0.05 * jnp.sin(12.9898 * jnp.arange(np.prod(shape), dtype=jnp.float32))).reshape(shape).astype(dtype)


if __name__ == '__main__':
  main()
