"""Packing and buckets of lengths beside padding: T5 1.1 small, inputs of at most 512 tokens, P = 100.

  python benchmarks/packing.py

Random weights, float32, dropout 0. The lengths of inputs are log-normal with sigma 0.6 and the mean of two tasks, 1.3
tokens a word, cut at 512: SST-2 with 13 words and targets of 2 tokens (a label and the end), RTE with 64 words and
targets of 4 or 6. A step of every shape runs turn about. The time of a step depends on its shape only, so rates are
the examples and tokens that a step has in the mean of many batches, divided by the time that it has likewise.
"""

import argparse
import collections
import dataclasses
import statistics
import time

import contest
import jax
import jax.numpy as jnp
import numpy as np
from our_step import frozen_model, made
from sizes import SIZES

from prompt_tuning.data import packing, tasks
from prompt_tuning.data.pipeline import TrainBatches
from prompt_tuning.data.vocabularies import PassThroughVocabulary
from prompt_tuning.devices import compilation
from prompt_tuning.losses import Loss
from prompt_tuning.models.compiled import hidden_states
from prompt_tuning.prompts import Prompt, PromptTuning
from prompt_tuning.rows import layouts
from prompt_tuning.training.optimizers import Adafactor
from prompt_tuning.training.step import TrainState, make_step
from prompt_tuning.types import Batch

LENGTHS = {'inputs': 512, 'targets': 8}
EXAMPLES, LOOKED_AT = 20_000, 1024  # those of a task; those over which the mean of batches is taken, at least


@dataclasses.dataclass(frozen=True)
class Lengths:
  """How long a task's examples are.

  Attributes:
    words: of an input, in the mean.
    targets: tokens of targets, each as often.
    buckets: of inputs' lengths.
  """

  words: float
  targets: tuple[int, ...]
  buckets: tuple[int, ...]

  def task(self, name: str, vocabulary: int) -> tasks.Task:
    """Returns examples of such lengths, the end token included, whose tokens mean nothing."""
    random = np.random.default_rng(0)
    sigma = 0.6
    drawn = random.lognormal(np.log(1.3 * self.words) - sigma**2 / 2, sigma, EXAMPLES)
    counts = np.clip(np.rint(drawn), 2, LENGTHS['inputs']).astype(int)
    ids = lambda count: random.integers(3, vocabulary, count - 1)
    return tasks.Task(name, {'train': [{'inputs': ids(count), 'targets': ids(random.choice(self.targets))}
                                       for count in counts]})


TASKS = {'SST-2': Lengths(words=13, targets=(2,), buckets=(16, 32, 64, 128)),
         'RTE': Lengths(words=64, targets=(4, 6), buckets=(64, 128, 256))}


class Contestant:
  """One way of making batches, and a step for each of their shapes.

  Attributes:
    steps: shape -> a function that runs one step.
    shares: shape -> which share of the batches has it.
    examples: in a batch, in the mean.
    tokens: likewise, of inputs and targets; neither padding nor prompt.
    feeding: seconds that making a batch takes, in the mean.
  """

  def __init__(self, model, method, batches: TrainBatches, batch_size: int):
    found, counts, began = {}, collections.Counter(), time.perf_counter()
    for _ in range(max(1, LOOKED_AT // batch_size)):
      batch = next(batches)
      shape = batch['encoder']['tokens'].shape, batch['decoder']['tokens'].shape
      found.setdefault(shape, batch)
      counts.update({shape: 1, 'examples': int(batch['decoder']['segments'].max(axis=1).sum()),
                     'tokens': real_tokens(batch)})
    batches_read = sum(counts[shape] for shape in found)
    self.feeding = (time.perf_counter() - began) / batches_read
    self.shares = {shape: counts[shape] / batches_read for shape in found}
    self.examples, self.tokens = counts['examples'] / batches_read, counts['tokens'] / batches_read
    self.steps = {shape: made_step(model, method, batch) for shape, batch in found.items()}

  def seconds(self) -> float:
    """Returns how long a step takes, in the mean of its shapes, each of which is run once."""
    return sum(self.shares[shape] * contest.seconds(step) for shape, step in self.steps.items())


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--size', choices=[name for name in SIZES if SIZES[name].family == 't5'], default='small')
  parser.add_argument('--tasks', nargs='+', choices=TASKS, default=list(TASKS))
  parser.add_argument('--rows', type=int, default=4, help='of a batch, padded or packed')
  parser.add_argument('--bucket_rows', type=int, default=8, help='of a batch in buckets')
  parser.add_argument('--blocks', type=int, default=7, help='turns of each')
  options = parser.parse_args()
  for name in options.tasks:
    print(compare(name, options), flush=True)


def compare(name: str, options: argparse.Namespace) -> str:
  """Returns the table of one task, in Markdown, and how far packed and padded rows agree."""
  size, lengths = SIZES[options.size], TASKS[name]
  method, layout = PromptTuning(Prompt(size.prompt)), layouts.Layout(size.prompt)
  module, (first, *_) = made(size)
  model = frozen_model(module, first)
  task, vocabulary = lengths.task(name, size.vocabulary), PassThroughVocabulary(size.vocabulary)
  make = lambda rows, **kind: Contestant(model, method, TrainBatches(
    task, vocabulary, layout, lengths=LENGTHS, batch_size=rows, **kind), rows)
  contestants = {'padded': make(options.rows), 'packed': make(options.rows, packed=True),
                 f'in buckets {lengths.buckets}': make(options.bucket_rows, buckets=lengths.buckets)}
  taken = collections.defaultdict(list)
  for _ in range(options.blocks):
    for title, contestant in contestants.items():
      taken[title].append(contestant.seconds())
  rates = {title: [contestant.examples / seconds for seconds in taken[title]]
           for title, contestant in contestants.items()}
  lines = [f'### Lengths of {name}', '',
           '| rows | positions of a row | examples/step | s/step | ms to make a batch | examples/s | tokens/s '
           '| examples/s, padded = 1 |', '|---|---|---|---|---|---|---|---|']
  for title, each in contestants.items():
    typical = statistics.median(taken[title])
    positions = ' or '.join(f'{encoder[1]} + {decoder[1]}' for encoder, decoder in sorted(each.steps))
    lines.append(f'| {title} | {positions} | {each.examples:.2f} | {typical:.3f} | {each.feeding * 1e3:.1f} '
                 f'| {each.examples / typical:.2f} | {each.tokens / typical:.0f} '
                 f'| {contest.paired_ratio(rates[title], rates["padded"]):.2f} |')
  loss, gradient = difference(model, method, layout, task, vocabulary)
  return '\n'.join([*lines, '', f'Packed and padded rows of the same examples differ in the loss by {loss:.1e} of it, '
                    f'in the gradient by {gradient:.1e} of its norm.', ''])


def made_step(model, method, batch: Batch):
  """Returns a function that runs one step on this batch, compiled, and waits for its end."""
  optimizer = Adafactor().build(0)
  trained = method.initialise(jax.random.key(1), model)
  state = TrainState(jnp.int32(0), trained, optimizer.init(trained))
  run = compilation.compile_step(jax.jit(make_step(model.module, method, optimizer), donate_argnums=1),
                                 model.params, state, batch)

  def step() -> None:
    nonlocal state
    state, sums = run(model.params, state, batch)
    assert np.isfinite(float(sums['loss']))

  step()
  return step


def real_tokens(batch: Batch) -> int:
  """Returns how many tokens of inputs and targets a batch has."""
  inputs = (batch['encoder']['segments'] > 0) & (batch['encoder']['prompt_slots'] < 0)
  return int(inputs.sum() + (batch['decoder']['segments'] > 0).sum())


def difference(model, method, layout: layouts.Layout, task: tasks.Task, vocabulary) -> tuple[float, float]:
  """Returns how much loss and gradient of a packed row differ from those of its examples in padded rows."""
  examples = [layout.example([*example['inputs'], vocabulary.eos_id], [*example['targets'], vocabulary.eos_id])
              for example in task.split('train')[:64]]
  wide = packing.make_room(examples, layout.row_lengths(LENGTHS))
  row, *_ = packing.pack(examples, wide, most=len(examples))
  trained = method.initialise(jax.random.key(1), model)

  @jax.jit
  def of(params, batch):
    def loss(trained):
      x, project = hidden_states(model.module, params, batch, method.condition(trained, model))
      return Loss()(x, batch, project)

    (total, _), gradient = jax.value_and_grad(loss, has_aux=True)(trained)
    return total, jax.flatten_util.ravel_pytree(gradient)[0]

  packed, padded = (jax.device_get(of(model.params, layouts.assemble(rows, lengths))) for rows, lengths in (
    ([row], wide), ([[example] for example in row], layout.row_lengths(LENGTHS))))
  return (abs(packed[0] - padded[0]) / abs(padded[0]),
          np.linalg.norm(packed[1] - padded[1]) / np.linalg.norm(padded[1]))


if __name__ == '__main__':
  main()
