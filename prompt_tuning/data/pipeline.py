"""Turns examples into batches: lay out, shuffle, pack or sort, batch. The only file that imports grain.

Training reads an endless stream of examples whose order depends only on the seed: every epoch of a task is a new
permutation of its examples, and the tasks of a mixture alternate by their rates. The stream is cut into blocks. The
examples of a block become rows (packed: as many per row as fit; in buckets: ordered by length), and rows become
batches. The position in the stream is therefore three counters, with any packing and any number of hosts: each host
makes its own rows of every batch, and together they make exactly what one host would.

Evaluation reads its examples once, in order. If a few inputs are far longer than the rest, only the batches that hold
them are as long.
"""

import dataclasses
import functools
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import grain
import numpy as np
from absl import logging

from prompt_tuning.data.buckets import Buckets, bucket_lengths, usual_length
from prompt_tuning.data.packing import Row, make_room, pack
from prompt_tuning.data.preprocessing import FEATURES, Preprocessor, has_empty_inputs, row_lengths, weighted
from prompt_tuning.data.shuffled import Shuffled
from prompt_tuning.data.tasks import Example, Mixture, Task
from prompt_tuning.data.vocabularies import Vocabulary
from prompt_tuning.files import progress
from prompt_tuning.rows import layouts
from prompt_tuning.types import Batch

BLOCK = 1024  # examples that are packed or sorted together
_SORTED = 32  # minimum batches sorted together: at each border between buckets, one is padded to the longer bucket
_PROMPT = '_prompt_id'  # key of an example: the number of its task's prompt
_MULTIPLE = 8  # measured lengths are rounded up to it


class TrainBatches:
  """Endless batches of a task or mixture, the same for the same seed.

  Args:
    task: the task or mixture to train on.
    vocabulary: tokenises examples that are texts.
    layout: the positions of tokens and prompt.
    lengths: maximum tokens of 'inputs' and 'targets', including the end token but not the prompt.
    batch_size: rows per batch, over all hosts.
    seed: decides the order, and the examples of endless tasks.
    packed: put several examples into a row if they fit.
    buckets: input lengths, ascending: the rows of a batch have similar lengths, and its arrays are as long as their
      bucket. The length in `lengths` is always a bucket; with None it is the only one.
    rows: which rows of each batch to make, see `only`.
    split: the split to read.
    side: the padding side.
    block: how many examples are packed or sorted together; None means at least 1024.
    prompts: the names of the tasks that have prompts of their own, in the order of `prompt_ids`; () if all rows use the
      first.
    fields: further keys of an example that the loss reads, see `Loss.fields`.

  Attributes:
    lengths: array lengths of the batch: T for 'encoder', S for 'decoder'; with buckets, the longest. With packing,
      decoder rows fit the targets of as many examples as an encoder row usually holds.
    in_front: whether a prompt comes before the rows, which have no slots for it.
  """

  def __init__(self, task: Task | Mixture, vocabulary: Vocabulary, layout: layouts.Layout, *,
               lengths: Mapping[str, int], batch_size: int, seed: int = 0, packed: bool = False,
               buckets: Sequence[int] | None = None, rows: slice = slice(None), split: str = 'train',
               side: str = 'right', block: int | None = None, prompts: Sequence[str] = (), fields: Sequence[str] = ()):
    self._stream, self._numbered = stream(task, split, seed, prompts), bool(prompts)
    if layout.in_front:  # what comes before a row belongs to all its examples
      empty = not getattr(vocabulary, 'start', ()) and has_empty_inputs(task, split)
      layout = dataclasses.replace(layout, within=empty or layout.within or (packed and len(prompts) > 1))
    self.in_front = layout.in_front
    self._preprocess = Preprocessor(vocabulary, layout, lengths, fields)
    self.lengths = row_lengths(layout, lengths)
    self._batch_size, self._side, self._seed = batch_size, side, seed
    self._block_size = block or BLOCK
    self._read = -1, []  # index and rows of the last block read
    self._buckets, self._most = None, 1
    if buckets is not None:
      self._buckets = Buckets([row_lengths(layout, {**lengths, 'inputs': length})
                               for length in bucket_lengths(buckets, lengths['inputs'], packed=packed)])
      batches = math.ceil(self._block_size / batch_size)  # a batch never spans two blocks
      self._block_size = batch_size * (batches if block else max(batches, _SORTED))
    if packed:
      first = self._examples(0)
      self.lengths = make_room(first, self.lengths)
      # Empty examples give the upper bound on examples per row.
      plain = {'placement': layouts.before, 'within': True} if layout.placement in layouts.IN_TURNS.values() else {}
      least = dataclasses.replace(layout, **plain).example([0], [0])
      self._most = max(1, min(length // len(least[stack]['tokens']) for stack, length in self.lengths.items()))
      self._read = 0, pack(first, self.lengths, most=self._most)
    self.only(rows)
    self.restore({'block': 0, 'row': 0, 'rows': 0})

  def only(self, rows: slice) -> None:
    """Makes only these rows of each batch from now on, as one host of several does; `slice(None)` makes all.

    The examples of a batch, their order, their ids and the saved state do not depend on it. Examples of other rows are
    not tokenised, unless rows are packed or in buckets: then an example's row depends on the lengths of all examples.

    Raises:
      ValueError: the batch has no such rows, or they are not contiguous.
    """
    self._own = range(self._batch_size)[rows]
    asked = [n for n in (rows.start, rows.stop) if n is not None]
    if not self._own or self._own.step != 1 or not all(0 <= n <= self._batch_size for n in asked):
      raise ValueError(f'rows={rows} does not select rows of a batch, which has the rows 0 to {self._batch_size - 1}. '
                       'Give a slice of at least one of them, without a step.')

  @property
  def truncated(self) -> dict[str, int]:
    """How many 'inputs' and 'targets' were truncated, of how many 'examples' read by this object on this host."""
    return dict(self._preprocess.truncated)

  def state(self) -> dict[str, int]:
    """Returns the position in the stream: the next row's block, its index there, and the rows returned so far."""
    return {'block': self._block, 'row': self._row, 'rows': self._count}

  def restore(self, state: Mapping[str, int]) -> None:
    """Moves to a position that `state` returned; the same batches follow as did then."""
    wanted = {'block', 'row', 'rows'}
    if set(state) != wanted:
      raise ValueError(f'The saved data state has the keys {sorted(state)}, expected {sorted(wanted)}. '
                       'It was saved by another version: start a new run.')
    self._block, self._row, self._count = (int(state[name]) for name in ('block', 'row', 'rows'))

  def __iter__(self) -> Iterator[Batch]:
    return self

  def __next__(self) -> Batch:
    rows: list[Row | int] = []
    while len(rows) < self._batch_size:
      block = self._read_block()
      end = min(len(block), self._row + self._batch_size - len(rows))
      rows += block[self._row:end]
      self._row = end
      if end == len(block):
        self._block, self._row = self._block + 1, 0
    lengths = self.lengths if self._buckets is None else self._buckets.lengths(rows)
    own = [[self._example(row)] if isinstance(row, int) else row for row in rows[self._own.start:self._own.stop]]
    batch = layouts.assemble(own, lengths, side=self._side, first_id=self._count + self._own.start)
    # The batch's shape must not depend on how many examples fitted.
    missing = self._most - batch['prompt_ids'].shape[1]
    batch['prompt_ids'] = np.pad(batch['prompt_ids'], ((0, 0), (0, missing)))
    self._count += len(rows)
    return batch

  def _read_block(self) -> Sequence[Row | int]:
    """Returns the rows of the block; without packing or buckets, only the example index of each row."""
    if self._most == 1 and self._buckets is None:
      return self._numbers(self._block)
    if self._read[0] != self._block:
      examples = self._examples(self._block)
      rows = (pack(examples, self.lengths, most=self._most) if self._buckets is None else
              self._buckets.rows(examples, self._batch_size, seed=self._seed, block=self._block))
      self._read = self._block, rows
    return self._read[1]

  def _numbers(self, block: int) -> range:
    return range(block * self._block_size, (block + 1) * self._block_size)

  def _examples(self, block: int) -> list[layouts.Segment]:
    return [self._example(i) for i in self._numbers(block)]

  def _example(self, number: int) -> layouts.Segment:
    example = self._stream[number]
    return self._preprocess(example, prompt_id=example[_PROMPT] if self._numbered else 0)


class EvalBatches:
  """Batches of a finite sequence of examples, once and in order; the last is padded with empty rows.

  Iteration yields pairs `(batch, examples)`: the examples of the batch's first rows. `weighted` yields the same with
  the examples' loss weights, `questions` without targets, for generation.

  Attributes:
    examples: all examples.
    texts: maximum tokens of 'inputs' and 'targets'.
    lengths: array lengths of the batch: T for 'encoder', S for 'decoder'.
    truncated: how many 'inputs' and 'targets' were truncated, of how many 'examples'.
    heed: called before each batch; what it raises ends the iteration.
    input_lengths: the tokens of each input.
  """

  def __init__(self, examples: Sequence[Example], vocabulary: Vocabulary, members: Sequence[tuple[int, layouts.Layout]],
               *, lengths: Mapping[str, int], batch_size: int, side: str, fields: Sequence[str]):
    self.heed: Callable[[], None] = lambda: None
    prefixed = any(layout.prefixed for _, layout in members)
    preprocess = Preprocessor(vocabulary, dataclasses.replace(members[0][1], prefixed=prefixed), lengths)
    self.examples, self._fields = examples, fields
    # Without targets, as for prediction, the decoder has only the end token.
    self._ids = [preprocess.ids({'targets': []} | example) for example in examples]
    within = not all(len(inputs) for inputs, _ in self._ids) or len({layout.in_front for _, layout in members}) > 1
    inside = lambda layout: dataclasses.replace(layout, within=True) if within else layout
    self._members = [(number, inside(layout)) for number, layout in members]
    self._batch_size, self._side = batch_size, side if len(members) == 1 else members[0][1].question_side
    self.truncated = dict(preprocess.truncated)
    found = {name: math.ceil(max(len(ids[i]) for ids in self._ids) / _MULTIPLE) * _MULTIPLE
             for i, name in enumerate(FEATURES)}
    # Inputs longer than any found would be padding only; targets keep their room, since generations may be longer.
    self.texts = found | dict(lengths)
    self.texts['inputs'] = min(self.texts['inputs'], found['inputs'])
    self.lengths = self._longest('row_lengths', self.texts)
    self.input_lengths = [len(inputs) for inputs, _ in self._ids]
    usual = usual_length(self.input_lengths)
    self._usual = min(self.texts['inputs'], _MULTIPLE * math.ceil((usual or self.texts['inputs']) / _MULTIPLE))
    if self._usual < self.texts['inputs'] and len(self._ids) > batch_size:
      count = sum(length > self._usual for length in self.input_lengths)
      logging.log_first_n(
        logging.WARNING, '%d of %d inputs are longer than %d tokens, up to %d: batches with them are longer than the '
        'others. max_input_length= cuts them.', 1, count, len(self._ids), self._usual, self.texts['inputs'])

  def __len__(self) -> int:
    return math.ceil(len(self._ids) / self._batch_size)

  def __iter__(self) -> Iterator[tuple[Batch, Sequence[Example]]]:
    return self._batches(lambda layout, i, **prompt: layout.example(*self._ids[i], **prompt), 'row_lengths', self._side)

  def weighted(self) -> Iterator[tuple[Batch, Sequence[Example]]]:
    """Yields the batches with the weights of training, for the loss."""
    lay_out = lambda layout, i, **prompt: weighted(layout, *self._ids[i], self.examples[i], self._fields, **prompt)
    return self._batches(lay_out, 'row_lengths', self._side)

  def questions(self) -> Iterator[tuple[Batch, Sequence[Example]]]:
    """Yields the batches without targets, padded as the layout requires for generation."""
    lay_out = lambda layout, i, **prompt: layout.question(self._ids[i][0], **prompt)
    return self._batches(lay_out, 'question_lengths', self._members[0][1].question_side)

  def _batches(self, lay_out: Callable[..., layouts.Segment], lengths_of: str,
               side: str) -> Iterator[tuple[Batch, Sequence[Example]]]:
    laid_out = [[[lay_out(layout, i, prompt_id=number)] for number, layout in self._members]
                for i in range(len(self._ids))]  # all, so that what does not fit is said before the work
    count = len(self._members)
    for first in progress.counted(range(0, len(laid_out), self._batch_size)):
      self.heed()
      span = slice(first, first + self._batch_size)
      fits = max(self.input_lengths[span]) <= self._usual
      lengths = self._longest(lengths_of, self.texts | {'inputs': self._usual} if fits else self.texts)
      rows = [row for example in laid_out[span] for row in example]
      rows += [[]] * (self._batch_size * count - len(rows))
      yield layouts.assemble(rows, lengths, side=side, first_id=first, members=count), self.examples[span]

  def _longest(self, lengths_of: str, texts: Mapping[str, int]) -> dict[str, int]:
    """Returns the array lengths that the rows of all layouts fit into."""
    found = [getattr(layout, lengths_of)(texts) for _, layout in self._members]
    return {stack: max(each[stack] for each in found) for stack in found[0]}


def eval_batches(examples: Sequence[Example], vocabulary: Vocabulary,
                 layout: layouts.Layout | Sequence[tuple[int, layouts.Layout]], *, batch_size: int,
                 lengths: Mapping[str, int] | None = None, num_examples: int | None = None,
                 side: str = 'right', fields: Sequence[str] = ()) -> EvalBatches:
  """Returns the batches to evaluate or predict `examples`.

  Args:
    examples: with 'inputs', and with 'targets' unless used for prediction only.
    vocabulary: tokenises examples that are texts.
    layout: the positions of tokens and prompt; inputs are part of the rows, even if training caches them. Of an
      ensemble, the number of each member's prompt, and its layout: an example has a row for each.
    batch_size: examples per batch.
    lengths: maximum tokens of 'inputs' and 'targets', including the end token; an absent one is the longest found,
      rounded up to a multiple of 8. If all inputs are shorter than given, the shorter length is used; the length of
      targets stays as given, since generations may be that long.
    num_examples: the maximum number of examples, from the first; None means all.
    side: the padding side.
    fields: further keys of an example that the loss of `weighted` batches reads.
  """
  if num_examples is None and hasattr(examples, 'draw'):
    raise ValueError('The split to evaluate is endless. Choose another split, or set num_examples.')
  if len(examples) == 0:
    raise ValueError('There are no examples to evaluate. Give at least one.')
  count = len(examples) if num_examples is None else min(num_examples, len(examples))
  chosen = [examples[i] for i in range(count)]
  members = [(0, layout)] if isinstance(layout, layouts.Layout) else layout
  members = [(number, dataclasses.replace(each, cached=False)) for number, each in members]  # texts are read once
  return EvalBatches(chosen, vocabulary, members, lengths=lengths or {}, batch_size=batch_size, side=side,
                     fields=fields)


def stream(task: Task | Mixture, split: str, seed: int, prompts: Sequence[str] = ()) -> grain.MapDataset:
  """Returns the endless stream of a split's examples, by index: reshuffled every epoch, mixed by rates.

  If the tasks have prompts of their own, each example has the number of its task's under `_PROMPT`.
  """
  if not 0 <= seed < 2**32:
    raise ValueError(f'The data seed is out of range: seed={seed}. Use a seed from 0 to 2**32 - 1.')
  datasets, rates = [], []
  for part, rate in task.parts(split):
    examples, own_seed = part.split(split), (seed + zlib.crc32(part.name.encode())) % 2**32
    endless = examples.draw(own_seed) if hasattr(examples, 'draw') else Shuffled(examples, own_seed)
    source = grain.MapDataset.source(endless)
    datasets.append(source.map(functools.partial(_with_prompt, number=prompts.index(part.name))) if prompts else source)
    rates.append(rate)
  return datasets[0] if len(datasets) == 1 else grain.MapDataset.mix(datasets, weights=rates)


def _with_prompt(example: Example, number: int) -> Example:
  return {**example, _PROMPT: number}
