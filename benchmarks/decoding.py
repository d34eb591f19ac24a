"""Greedy decoding beside transformers' `generate`: GPT-2 small, random weights, 8 rows of 128 tokens, 64 new tokens.

  python benchmarks/decoding.py                                  # where the extra `peers` is installed
  python benchmarks/decoding.py --peer_python path/to/python

Float32; both give all 64 tokens to every row. Each contestant is a process of its own; they take turns. "Share of the
bandwidth": all weights read once a token (after the first, which prefill gives), in bytes per second, as a share of the
measured rate at which the processors read memory.
"""

import argparse
import contextlib
import pathlib
import statistics
import sys

import contest
from sizes import SIZES

NEW = 64


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--size', choices=[name for name, size in SIZES.items() if size.family == 'gpt2'], default='gpt2')
  parser.add_argument('--blocks', type=int, default=5, help='turns of each contestant')
  parser.add_argument('--peer_python', default=sys.executable, help='an interpreter that can import transformers')
  parser.add_argument('--contestant', choices=['ours', 'transformers'], help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.contestant:
    made = {'ours': ours, 'transformers': transformers_generate}[options.contestant](SIZES[options.size])
    contest.serve(made, first=lambda: contest.seconds(lambda: made(1)), bandwidth=contest.bandwidth)
    return
  command = [str(pathlib.Path(__file__)), '--size', options.size, '--contestant']
  with contextlib.ExitStack() as stack:
    contestants = {name: stack.enter_context(contest.Contestant([python, *command, name])) for name, python in (
      ('ours', sys.executable), ('transformers', options.peer_python))}
    for contestant in contestants.values():
      contestant.ask('steps 2')  # compiles
      contestant.ask('first')
    first, rates = {name: [] for name in contestants}, []

    def between() -> None:
      rates.append(contestants['ours'].ask('bandwidth'))
      for name, contestant in contestants.items():
        first[name].append(contestant.ask('first'))

    times = contest.take_turns(contestants, blocks=options.blocks, steps=1, between=between)
  size, rate = SIZES[options.size], statistics.median(rates)
  weights = 4 * (size.layers * (4 * size.width * size.heads * size.head_dim + 2 * size.width * size.mlp_dim)
                 + size.width * size.vocabulary)
  print(f'Memory is read at {rate / 1e9:.1f} GB/s; the weights are {weights / 1e6:.0f} MB.\n')
  print('| | s | s to the first token | tokens/s | tokens/s, transformers = 1 | ms/token after it | share of the '
        'bandwidth |\n|---|---|---|---|---|---|---|')
  for name, seconds in times.items():
    typical, start = statistics.median(seconds), statistics.median(first[name])
    each = (typical - start) / (NEW - 1)
    print(f'| {name} | {typical:.2f} | {start:.2f} | {size.batch * NEW / typical:.0f} '
          f'| {contest.paired_ratio(times["transformers"], seconds):.2f} | {1000 * each:.1f} '
          f'| {weights / each / rate:.0%} |')


def ours(size):
  """Returns a function that decodes with this package."""
  import jax
  import numpy as np
  from our_step import frozen_model, made

  from prompt_tuning.decoding.samplers import Greedy
  from prompt_tuning.models.generation import generate
  from prompt_tuning.rows import layouts
  from prompt_tuning.rows.conditioning import Conditioning

  module, batches = made(size)
  model, layout, random = frozen_model(module, batches[0]), module.layout(layouts.Layout()), np.random.default_rng(0)
  rows = [[layout.question(random.integers(3, size.vocabulary, size.inputs))] for _ in range(size.batch)]
  batch = layouts.assemble(rows, {'decoder': size.inputs}, side=layout.question_side)

  def decode(count: int = NEW) -> None:
    tokens, _ = generate(module, model.params, batch, Conditioning(), jax.random.key(0), sampler=Greedy(),
                         max_length=count, end_ids=(-1,), layers=model.layers)
    assert np.asarray(tokens).shape == (size.batch, 1, count)

  return decode


def transformers_generate(size):
  """Returns a function that decodes with transformers."""
  import torch
  import transformers

  model = transformers.GPT2LMHeadModel(transformers.GPT2Config(
    vocab_size=size.vocabulary, n_embd=size.width, n_head=size.heads, n_layer=size.layers, n_inner=size.mlp_dim)).eval()
  ids = torch.randint(3, size.vocabulary, (size.batch, size.inputs))

  def decode(count: int = NEW) -> None:
    with torch.no_grad():
      found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, min_new_tokens=count,
                             do_sample=False, pad_token_id=0)
    assert found.shape == (size.batch, size.inputs + count)

  return decode


if __name__ == '__main__':
  main()
