"""Rows with settings and prompts of their own in one batch, beside one call for each.

  python benchmarks/row_settings.py                        # GPT-2 small's shape, random weights
  python benchmarks/row_settings.py --model FOLDER         # a model of yours, such as SmolLM2's folder

64 rows of 16 to 32 tokens and at most 32 new tokens, each with its own temperature, top-p, top-k, min-p, seed and
length, and one of 32 prompts of 20 vectors. Both ways give the same tokens, except where two were nearly as likely:
their share is printed, and so is how many programs a second call with new temperatures compiles.
"""

import argparse
import time

import numpy as np
from our_step import frozen_model, made
from sizes import SIZES

import prompt_tuning as pt
from prompt_tuning.models import generation

ROWS, NEW, PROMPTS = 64, 32, 32


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--model', help="a folder; none is GPT-2 small's shape")
  parser.add_argument('--size', choices=[name for name, size in SIZES.items() if size.family == 'gpt2'], default='gpt2')
  options = parser.parse_args()
  if options.model:
    model = pt.load_model(options.model)
  else:
    module, batches = made(SIZES[options.size])
    model = frozen_model(module, batches[0])
  random = np.random.default_rng(0)
  inputs = [random.integers(3, model.module.config.vocab_size, random.integers(16, 33)).tolist() for _ in range(ROWS)]
  vectors = [0.05 * random.normal(size=(20, model.width)).astype(np.float32) for _ in range(PROMPTS)]
  prompts = [vectors[b % PROMPTS] for b in range(ROWS)]
  settings = {'temperature': random.uniform(0, 1.5, ROWS), 'topk': random.integers(0, 50, ROWS),
              'topp': random.uniform(0.5, 1, ROWS), 'minp': random.uniform(0, 0.1, ROWS)}
  seeds, lengths = list(range(ROWS)), random.integers(NEW // 2, NEW + 1, ROWS).tolist()

  def ask(rows: list[int], temperatures: np.ndarray) -> list[list[int]]:
    of = lambda values: [values[b] for b in rows]
    others = {name: of(settings[name].tolist()) for name in ('topk', 'topp', 'minp')}
    sampler = pt.Sampling(of(temperatures.tolist()), **others)
    return [ids.tolist() for ids in model.predict(
      of(inputs), of(prompts), sampler=sampler, seed=of(seeds), max_length=of(lengths), batch_size=ROWS)]

  everyone = list(range(ROWS))
  ask(everyone, settings['temperature'])
  programs = generation.start._cache_size() + generation.proceed._cache_size()
  ask(everyone, settings['temperature'][::-1].copy())
  compiled = generation.start._cache_size() + generation.proceed._cache_size() - programs
  ask([0], settings['temperature'])
  times = {'one batch': [], 'one call for each': []}
  for _ in range(3):
    start = time.perf_counter()
    together = ask(everyone, settings['temperature'])
    times['one batch'].append(time.perf_counter() - start)
    start = time.perf_counter()
    alone = [ask([b], settings['temperature'])[0] for b in everyone]
    times['one call for each'].append(time.perf_counter() - start)
  tokens, slowest = sum(map(len, alone)), np.median(times['one call for each'])
  print('| | s | tokens/s | one call for each = 1 |\n|---|---|---|---|')
  for name, seconds in times.items():
    print(f'| {name} | {np.median(seconds):.2f} | {tokens / np.median(seconds):.0f} '
          f'| {slowest / np.median(seconds):.2f} |')
  same = sum(a == b for a, b in zip(alone, together, strict=True))
  print(f'\nThe same tokens: {same} of {ROWS} rows. Programs that new temperatures compile: {compiled}.')


if __name__ == '__main__':
  main()
