import numpy as np

from prompt_tuning.data import packing
from prompt_tuning.rows import layouts


def example(inputs, targets):
  """An example with `inputs` and `targets` tokens, all equal to its unique mark."""
  return layouts.Layout().example([inputs * 10 + targets] * inputs, [1] * targets)


def test_each_example_goes_into_the_first_row_with_room_in_both_stacks():
  examples = [example(4, 1), example(3, 1), example(2, 4), example(3, 1), example(1, 1)]
  rows = packing.pack(examples, {'encoder': 7, 'decoder': 4}, most=3)
  marks = [[int(e['encoder']['tokens'][0]) for e in row] for row in rows]
  # 24: its targets do not fit after the first two. 31: the first row is full, the second has no room for targets.
  assert marks == [[41, 31], [24], [31, 11]]


def test_a_row_holds_no_more_examples_than_allowed():
  rows = packing.pack([example(1, 1)] * 5, {'encoder': 9, 'decoder': 9}, most=2)
  assert [len(row) for row in rows] == [2, 2, 1]


def test_one_example_a_row_is_no_packing():
  examples = [example(1, 1), example(2, 1)]
  assert packing.pack(examples, {'encoder': 9, 'decoder': 9}, most=1) == [[examples[0]], [examples[1]]]


def test_packing_loses_and_doubles_nothing():
  random = np.random.default_rng(0)
  examples = [example(int(t), int(s)) for t, s in random.integers(1, 9, size=(200, 2))]
  rows = packing.pack(examples, {'encoder': 16, 'decoder': 12}, most=5)
  assert sorted(id(e) for row in rows for e in row) == sorted(map(id, examples))
  for row in rows:
    assert sum(len(e['encoder']['tokens']) for e in row) <= 16
    assert sum(len(e['decoder']['tokens']) for e in row) <= 12


def test_a_decoders_row_gets_room_for_the_targets_of_the_inputs_that_fit_into_an_encoders():
  examples = [example(3, 2), example(3, 1)] * 20
  # Three inputs per row: targets of 5 or 4 tokens, rounded up.
  assert packing.make_room(examples, {'encoder': 9, 'decoder': 2}) == {'encoder': 9, 'decoder': 8}
  assert packing.make_room(examples, {'encoder': 9, 'decoder': 11}) == {'encoder': 9, 'decoder': 11}
  assert packing.make_room(examples, {'encoder': 60, 'decoder': 2}) == {'encoder': 60, 'decoder': 32}


def test_one_row_with_long_targets_does_not_lengthen_all():
  examples = [example(4, 1)] * 38 + [example(4, 30)]
  assert packing.make_room(examples, {'encoder': 8, 'decoder': 2}) == {'encoder': 8, 'decoder': 8}


def test_a_row_that_holds_input_and_target_stays_as_long_as_it_is():
  assert packing.make_room([example(4, 1)], {'decoder': 7}) == {'decoder': 7}
