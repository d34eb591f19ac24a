"""How long a training step waits for its examples: a SeqIO task that feeds T5 1.1 base on the CPU.

  python benchmarks/feeding.py            # needs the extra `seqio`

The texts are 20,000 lists of 60 random integers, the batch is 8 rows, inputs 128, targets 8, P = 100, float32: the work
of benchmarks/train_step.py. The first step (compiling) and the writing of the split's file are measured apart.
"""

import argparse
import os
import statistics
import tempfile
import time

import contest
import jax
import jax.numpy as jnp
import numpy as np
import seqio
import tensorflow as tf
from our_step import frozen_model, made
from sizes import SIZES

from prompt_tuning.data import pipeline, prefetch, registry
from prompt_tuning.data.vocabulary_folders import load_vocabulary
from prompt_tuning.devices import compilation
from prompt_tuning.models.loading import find_model
from prompt_tuning.prompts import Prompt, PromptTuning
from prompt_tuning.rows import layouts
from prompt_tuning.training.optimizers import Adafactor
from prompt_tuning.training.step import TrainState, make_step

EXAMPLES = 20_000


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--size', choices=SIZES, default='base')
  parser.add_argument('--steps', type=int, default=8)
  options = parser.parse_args()
  size = SIZES[options.size]
  with tempfile.TemporaryDirectory() as cache:
    os.environ['XDG_CACHE_HOME'] = cache
    print(measure(size, options.steps))


def measure(size, steps: int) -> str:
  """Returns what was found, as text."""
  seqio.TaskRegistry.add('benchmark', seqio.FunctionDataSource(texts, ['train']), {
    name: seqio.Feature(seqio.ByteVocabulary()) for name in ('inputs', 'targets')},
    [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim])
  vocabulary = load_vocabulary(find_model('t5_integers'))
  lengths = {'inputs': size.inputs, 'targets': size.targets}
  task = registry.get('benchmark', vocabulary, lengths)
  writing = contest.seconds(lambda: task.split('train'))
  source = pipeline.TrainBatches(task, vocabulary, layouts.Layout(size.prompt), lengths=lengths, batch_size=size.batch)
  alone = statistics.median(contest.seconds(lambda: next(source)) for _ in range(300))

  model = frozen_model(made(size)[0], next(source))
  method, optimizer = PromptTuning(Prompt(size.prompt)), Adafactor().build(0)
  trained = method.initialise(jax.random.key(1), model)
  state = TrainState(jnp.int32(0), trained, optimizer.init(trained))
  batches = prefetch.Prefetched(source)
  step = compilation.compile_step(
    jax.jit(make_step(model.module, method, optimizer), donate_argnums=1), model.params, state,
    next(batches))
  waited, took = [], []
  for _ in range(steps + 1):
    began = time.perf_counter()
    batch = next(batches)
    waited.append(time.perf_counter() - began)
    state, sums = step(model.params, state, batch)
    assert np.isfinite(float(sums['loss']))
    took.append(time.perf_counter() - began)
  batches.close()
  share = sum(waited[1:]) / sum(took[1:])
  return (f'writing {EXAMPLES:,} examples once: {writing:.1f} s; a batch alone: {alone * 1e3:.2f} ms\n'
          f'a step: {statistics.median(took[1:]):.2f} s, of which it waits for its batch {share:.2%}')


def texts(split, shuffle_files=False, seed=None) -> tf.data.Dataset:
  """Returns the examples as SeqIO wants them."""
  numbers = np.random.default_rng(0).integers(1, 7, (EXAMPLES, 60))
  lines = [' '.join(map(str, row)) for row in numbers]
  return tf.data.Dataset.from_tensor_slices({'inputs': lines, 'targets': [line[:5] for line in lines]})


if __name__ == '__main__':
  main()
