"""Length buckets: batches of examples of similar length, in arrays as long as they need."""

import itertools

import pytest
from test_pipeline import LENGTHS, numbered, take_marks, train_batches

from prompt_tuning.data import buckets, pipeline


def in_buckets(count, **settings):
  return train_batches(numbered(count), buckets=(3, 4), **settings)


def test_batches_of_buckets_are_as_long_as_their_longest_row_needs():
  # The inputs of a block of 24 have 2, 3, 4 and 5 tokens, six each: four batches in the first bucket, two in the
  # second, two in that of all lengths; in each two prompt vectors come on top.
  lengths = []
  for batch in itertools.islice(in_buckets(24, block=24), 8):
    longest = batch['encoder']['segments'].sum(1).max() - 2
    lengths.append(batch['encoder']['tokens'].shape[1])
    assert lengths[-1] == 2 + (3 if longest <= 3 else 4 if longest <= 4 else LENGTHS['inputs'])
    assert batch['decoder']['tokens'].shape == (3, 5)
  assert sorted(lengths) == [5] * 4 + [6] * 2 + [9] * 2
  assert lengths != sorted(lengths)


def test_a_batch_where_two_buckets_meet_is_as_long_as_the_longer():
  # Of 12 inputs six fit into the first bucket, three into the second: of batches of four the second and third have
  # rows of two buckets.
  batches = in_buckets(12, block=12, batch_size=4)
  assert sorted(batch['encoder']['tokens'].shape[1] for batch in itertools.islice(batches, 3)) == [5, 6, 9]


def test_buckets_lose_and_double_no_example_and_order_batches_anew_in_each_block():
  batches = in_buckets(24, block=24)
  epochs = [take_marks(batches, 8) for _ in range(3)]
  assert [sorted(epoch) for epoch in epochs] == [list(range(10, 34))] * 3
  lengths = [[batch['encoder']['tokens'].shape[1] for batch in itertools.islice(batches, 8)] for _ in range(3)]
  assert len({tuple(each) for each in lengths}) > 1


def test_blocks_are_whole_batches_where_these_have_buckets():
  batches = in_buckets(20, batch_size=40)
  next(batches)
  assert batches.truncated['examples'] == 32 * 40  # enough batches that few are at a border between buckets


def test_the_greatest_length_is_always_a_bucket():
  assert buckets.bucket_lengths((4, 6), 9, packed=False) == (4, 6, 9)
  assert buckets.bucket_lengths([4, 9], 9, packed=False) == (4, 9)


@pytest.mark.parametrize(('lengths', 'packed', 'message'), [
  ((4, 3), False, r'buckets=\(4, 3\) is not valid. Give input lengths in ascending order, at most .* inputs, 7'),
  ((3, 3), False, r'ascending order'),
  ((0, 3), False, r'ascending order'),
  ((), False, r'ascending order'),
  (64, False, r'buckets=64 is not valid\. Give'),
  ((3, 8), False, r'at most the longest inputs, 7 tokens'),
  ((3, 4), True, r'pack and buckets=\(3, 4\) cannot be used together.*leave one of them out'),
])
def test_buckets_that_cannot_be_are_an_error(lengths, packed, message):
  with pytest.raises(ValueError, match=message):
    train_batches(numbered(3), buckets=lengths, packed=packed)


def test_a_few_long_inputs_lengthen_their_own_batches_alone(tiny):
  rows = [{'inputs': ' '.join(['7'] * (60 if i == 5 else 3)), 'targets': '5'} for i in range(12)]
  batches = pipeline.eval_batches(rows, tiny.vocabulary, tiny.layout(), batch_size=4)
  assert [batch['encoder']['tokens'].shape[1] for batch, _ in batches] == [8, 64, 8]
  assert [batch['encoder']['tokens'].shape[1] for batch, _ in batches.questions()] == [8, 64, 8]
  short = [row for row in rows if len(row['inputs']) < 9]
  alike = pipeline.eval_batches(short, tiny.vocabulary, tiny.layout(), batch_size=4)
  assert {batch['encoder']['tokens'].shape[1] for batch, _ in alike} == {8}


@pytest.mark.parametrize(('lengths', 'usual'), [([3] * 19 + [60], 3), ([3, 4, 5], None), ([10] * 9 + [20], None)])
def test_the_usual_length_is_that_of_all_but_far_longer_inputs(lengths, usual):
  assert buckets.usual_length(lengths) == usual
