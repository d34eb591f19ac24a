"""A cartridge beside the document that it stands for: the time and memory of a training step, and of the first token.

  python benchmarks/cartridges.py            # SmolLM2-135M's shape, a document of 1,024 tokens, a cartridge of 256
  python benchmarks/cartridges.py --quick    # a toy, to see that it runs

A decoder-only model with random weights, float32, batch 1, 64 tokens of question and answer, everything rematerialised.
"The document in the row": the same loss of a row that holds the document too, and a prefix of one. Memory is what the
compiled step holds beside its arguments. The first token is that of a question of 32 tokens; the document is read for
it, or was read before (its keys and values are kept), or a cartridge is there instead.
"""

import argparse
import dataclasses
import statistics

import contest
import jax
import jax.numpy as jnp
import numpy as np
from our_step import frozen_model

from prompt_tuning.data.vocabularies import PassThroughVocabulary
from prompt_tuning.evaluation.saved import Trained
from prompt_tuning.losses import Loss, distillation
from prompt_tuning.models.decoder_only import DecoderConfig, DecoderOnly
from prompt_tuning.models.positions import Rotary
from prompt_tuning.rows import layouts
from prompt_tuning.rows.target_fields import with_fields
from prompt_tuning.serving.engine import Engine
from prompt_tuning.serving.requests import Request
from prompt_tuning.training.optimizers import Adafactor
from prompt_tuning.training.step import TrainState, make_step
from prompt_tuning.tuning.prefix import Prefix

SMOL = dict(vocab_size=49152, layers=30, width=576, heads=9, kv_heads=3, head_dim=64, mlp_dim=1536)
TOY = dict(vocab_size=256, layers=2, width=24, heads=4, kv_heads=2, head_dim=6, mlp_dim=32)
TOP = 20


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--document', type=int, default=1024, help='tokens of the document')
  parser.add_argument('--length', type=int, default=256, help='keys and values of the cartridge')
  parser.add_argument('--steps', type=int, default=5, help='measured steps, and first tokens')
  parser.add_argument('--quick', action='store_true', help='a toy model and a document of 64 tokens')
  options = parser.parse_args()
  if options.quick:
    options.document, options.length = 64, 16
  shape = TOY if options.quick else SMOL
  module = DecoderOnly(DecoderConfig(
    **shape, family='llama', mlp_activations=('silu', 'linear'), query_scale=shape['head_dim']**-0.5, tied=True,
    rotary=(Rotary(),) * shape['layers'], windows=(0,) * shape['layers'], rematerialise='full'))
  question = batch_of(module, 32, 32)
  model = dataclasses.replace(frozen_model(module, question), vocabulary=PassThroughVocabulary(shape['vocab_size']))
  print('| a training step | s/step | MB of temporaries |\n|---|---|---|')
  for name, length, batch in (('cartridge', options.length, question),
                              ('the document in the row', 1, batch_of(module, options.document + 32, 32))):
    seconds, memory = step_of(model, length, batch, options.steps)
    print(f'| {name} | {seconds:.3f} | {memory / 1e6:.0f} |')
  print('\n| the first token | s |\n|---|---|')
  for name, seconds in first_tokens(model, options).items():
    print(f'| {name} | {seconds:.4f} |')


def batch_of(module, inputs, targets):
  """Returns a batch of one row, with a teacher's probabilities."""
  random, layout = np.random.default_rng(0), module.layout(layouts.Layout(prefixed=True))
  size = module.config.vocab_size
  row = layout.example(random.integers(3, size, inputs), random.integers(3, size, targets))
  ids = np.argsort(random.random((targets, size)), -1)[:, :TOP]
  row = with_fields(row, {'teacher_ids': ids, 'teacher_log_probs': np.full(ids.shape, np.log(0.5 / TOP), np.float32)})
  return layouts.assemble([[row]], layout.row_lengths({'inputs': inputs, 'targets': targets}))


def step_of(model, length, batch, count):
  """Returns the median seconds of a step, and the bytes that it holds beside its arguments."""
  method, optimizer = Prefix(length), Adafactor(0.02).build(0)
  trained = method.initialise(jax.random.key(1), model)
  state = TrainState(jnp.int32(0), trained, optimizer.init(trained))
  loss = Loss(function=distillation, normalizing_factor='tokens')
  step = jax.jit(make_step(model.module, method, optimizer, loss=loss), donate_argnums=1)
  run = step.lower(model.params, state, batch).compile()

  def once() -> None:
    nonlocal state
    state, sums = run(model.params, state, batch)
    assert np.isfinite(float(sums['loss']))

  once()
  return statistics.median(contest.seconds(once) for _ in range(count)), run.memory_analysis().temp_size_in_bytes


def first_tokens(model, options):
  """Returns name -> median seconds until the first token of an answer."""
  random = np.random.default_rng(1)
  ids = lambda length: random.integers(3, model.module.config.vocab_size, length).tolist()
  document, question = ids(options.document), ids(32)
  keys, values = model.read([document[:options.length]]).as_prefix()
  cartridge = Trained({'decoder/prefix/keys': np.asarray(keys), 'decoder/prefix/values': np.asarray(values)})
  context = model.read([document])
  first = lambda inputs, *prompt, **behind: model.predict([inputs], *prompt, max_length=1, **behind)
  with Engine(model, slots=1) as engine:
    engine.prompts.load('cartridge', cartridge)
    served = lambda inputs, prompt=None: engine.submit(Request(inputs, prompt, max_tokens=1)).result()
    ways = {'with the document, which is read': lambda: first([*document, *question]),
            'with the document, which was read': lambda: first(question, context=context),
            'with the cartridge': lambda: first(question, cartridge),
            'served, the document in the request': lambda: served([*document, *question]),
            'served with the cartridge': lambda: served(question, 'cartridge')}
    found = {}
    for name, way in ways.items():
      way()  # compiles
      found[name] = statistics.median(contest.seconds(way) for _ in range(options.steps))
  return found


if __name__ == '__main__':
  main()
