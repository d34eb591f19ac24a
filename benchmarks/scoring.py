"""What scores and a training step need beyond the weights, beside the same with all logits at once.

  python benchmarks/scoring.py                                         # a small model with a vocabulary of 150,000
  python benchmarks/scoring.py --model FOLDER --rows 16 --tokens 64 --targets 2     # SmolLM2 and the reviews' shape

Each way is a process of its own: its peak resident memory less that after the model was loaded, and the median of three
calls. "step" is a training step of a prompt of 20 vectors; its targets are the last tokens of each row.
"""

import argparse
import contextlib
import pathlib
import statistics
import sys

import contest

WAYS = ('score, chunks', 'score, all logits', 'step, chunks', 'step, all logits')


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--model', help='a folder; none is a model of 2 layers and width 256')
  parser.add_argument('--rows', type=int, default=8)
  parser.add_argument('--tokens', type=int, default=1000, help='of a row')
  parser.add_argument('--targets', type=int, help='of them, the last ones are targets; none: all but the first')
  parser.add_argument('--way', choices=WAYS, help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.way:
    serve(options)
    return
  command = [sys.executable, str(pathlib.Path(__file__)), *sys.argv[1:], '--way']
  print(f'{options.rows} rows of {options.tokens} tokens\n\n| | MB beyond the weights | s |\n|---|---|---|')
  for way in WAYS:
    with contextlib.ExitStack() as stack:
      contestant = stack.enter_context(contest.Contestant([*command, way]))
      before = contestant.ask('memory')
      seconds = contestant.ask('steps 4')[1:]
      beyond = (contestant.ask('memory') - before) / 1e6
      print(f'| {way} | {beyond:,.0f} | {statistics.median(seconds):.2f} |', flush=True)


def serve(options: argparse.Namespace) -> None:
  """Runs one way."""
  import jax
  import jax.numpy as jnp
  import numpy as np
  from our_step import frozen_model

  import prompt_tuning as pt
  from prompt_tuning.losses import Loss, chunks
  from prompt_tuning.models.decoder_only import DecoderConfig, DecoderOnly
  from prompt_tuning.prompts import Prompt, PromptTuning
  from prompt_tuning.rows import layouts
  from prompt_tuning.training.optimizers import Adafactor
  from prompt_tuning.training.step import TrainState, make_step

  task, _, way = options.way.partition(', ')
  if way == 'all logits':
    chunks._columns = lambda *_: 1 << 40
  random, method = np.random.default_rng(0), PromptTuning(Prompt(20))
  if options.model:
    model = pt.load_model(options.model)
    layout = model.layout(method.layout())
  else:
    module = DecoderOnly(DecoderConfig(vocab_size=150_000, width=256, heads=4, head_dim=64, layers=2, mlp_dim=512))
    layout = module.layout(method.layout())
    model = frozen_model(module, layouts.assemble([[layout.example([1], [1])]], layout.row_lengths(
      {'inputs': 1, 'targets': 1})))
  ids = random.integers(3, model.module.config.vocab_size, (options.rows, options.tokens))
  first = options.tokens - (options.targets or options.tokens - 1)
  jax.block_until_ready(model.params)

  def score() -> None:
    found = model.score(ids[:, :first].tolist(), ids[:, first:].tolist(), per_token=True)
    assert len(found) == options.rows

  optimizer = Adafactor().build(0)
  trained = method.initialise(jax.random.key(1), model)
  state = TrainState(jnp.int32(0), trained, optimizer.init(trained))
  run = jax.jit(make_step(model.module, method, optimizer, loss=Loss()), donate_argnums=1)
  batch = layouts.assemble([[layout.example(row[:first], row[first:])] for row in ids],
                           layout.row_lengths({'inputs': first, 'targets': options.tokens - first}))

  def step() -> None:
    nonlocal state
    state, sums = run(model.params, state, batch)
    assert np.isfinite(float(sums['loss']))

  contest.serve(score if task == 'score' else step)


if __name__ == '__main__':
  main()
