import itertools

import numpy as np
import pytest

from prompt_tuning.data import integers, registry

# An independent, simple implementation of every task.
PLAIN = {
  'SortAscending': lambda x: sorted(x),
  'SortDescending': lambda x: sorted(x)[::-1],
  'Add1': lambda x: [v + 1 for v in x],
  'InverseBinary': lambda x: [1 if v == 0 else 0 for v in x],
  'Modulo': lambda x: [v - v // x[0] * x[0] for v in x],
  'LessThan': lambda x: [v if v < x[0] else 0 for v in x],
  'MoreThanEqual': lambda x: [v if v >= x[0] else 0 for v in x],
  'Divisible': lambda x: [v if v in range(0, 99, x[0]) else 0 for v in x],
  'NotDivisible': lambda x: [0 if v in range(0, 99, x[0]) else v for v in x],
  'DoubleHistogram': lambda x: [x.count(v) for v in x],
  'FilterAtLeastNTimes': lambda x: [v if x.count(v) >= x[0] else 0 for v in x],
  'SortAscending+Add1': lambda x: [v + 1 for v in sorted(x)],
  'Add1+LessThan': lambda x: [v + 1 if v < x[0] else 0 for v in x],
  'LessThan+Add1': lambda x: [v + 1 if v < x[0] else 1 for v in x],
  'LessThan+SortAscending': lambda x: sorted(v if v < x[0] else 0 for v in x),
  'Divisible+Add1': lambda x: [v + 1 if v % x[0] == 0 else 1 for v in x],
}


def read(text):
  return [int(word) for word in text.split()]


@pytest.mark.parametrize('name', PLAIN)
def test_targets_are_what_the_table_says(name):
  task = registry.get(name)
  for example in itertools.islice(task.split('train'), 60):
    assert read(example['targets']) == PLAIN[name](read(example['inputs']))


def test_every_name_of_the_table_exists():
  assert set(integers.NAMES) == {name for name in PLAIN if '+' not in name}


@pytest.mark.parametrize(('name', 'entries', 'operands'), [
  ('SortAscending', {1, 2, 3, 4, 5, 6, 7, 8}, {1, 2, 3, 4, 5, 6, 7, 8}),
  ('Modulo', {1, 2, 3, 4, 5, 6, 7, 8}, {2, 3, 4}),
  ('InverseBinary', {0, 1}, {0, 1}),
  ('Divisible+Add1', {1, 2, 3, 4, 5, 6, 7, 8}, {1, 2, 3, 4, 5, 6, 7, 8}),
])
def test_inputs_have_the_length_and_the_entries_asked_for(name, entries, operands):
  x = integers.Draws(name, length=5, largest=8).block(0)
  assert x.shape[1] == 5
  assert set(x[:, 0].tolist()) == operands
  assert set(x[:, 1:].ravel().tolist()) == entries


def test_an_example_depends_on_seed_and_index_alone():
  first, second = integers.Draws('Add1', seed=3), integers.Draws('Add1', seed=3)
  far = 7 * 4096 + 11
  assert [second[far], second[2]] == [first[2], first[far]][::-1]
  assert first[2] != first[far]
  assert first.draw(4)[2] != first[2]


def test_tasks_of_one_seed_draw_different_lists():
  assert not np.array_equal(integers.Draws('Add1').block(0), integers.Draws('LessThan').block(0))


def test_a_quarter_of_all_lists_never_occurs_in_training():
  everything = np.array(list(itertools.product(range(1, 6), repeat=5)))
  assert 0.22 < integers.is_held_out(everything).mean() < 0.28
  train = integers.task('Add1', length=5, largest=5)
  seen = {train.splits['train'][i]['inputs'] for i in range(8000)}
  held_out = {e['inputs'] for e in train.splits['validation']}
  assert not seen & held_out
  assert len(seen | held_out) > 0.95 * len(everything)


def test_the_side_of_a_list_does_not_depend_on_the_process():
  def plainly(entries):  # SplitMix64 with Python integers
    state = 0
    for entry in entries:
      state = (state + entry + 0x9E3779B97F4A7C15) % 2**64
      state = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) % 2**64
      state = ((state ^ state >> 27) * 0x94D049BB133111EB) % 2**64
      state ^= state >> 31
    return state % 4 == 0

  x = integers.Draws('Add1', held_out=False).block(1)[:50]
  y = integers.Draws('Add1', held_out=True).block(1)[:50]
  assert [plainly(e) for e in np.concatenate([x, y]).tolist()] == [False] * 50 + [True] * 50


def test_half_of_the_varied_lists_are_thrown_away():
  x = integers.Draws('SortAscending', length=4, largest=5).block(0).tolist()
  share = np.mean([len(set(entries)) > 2 for entries in x])
  # Of all lists of 4 entries up to 5, (120 + 360) / 625 are varied; half of those are discarded.
  varied = 480 / 625 / 2
  assert abs(share - varied / (varied + 145 / 625)) < 0.05


def test_validation_is_3200_lists_whatever_the_seed():
  validation = registry.get('LessThan').split('validation')
  assert len(list(validation)) == 3200
  assert validation[5] == registry.get('LessThan').split('validation')[5]


def test_the_overlap_is_the_share_of_lists_with_the_same_answer():
  overlap = lambda first, second: integers.overlap(first, second, length=5, largest=6)
  assert overlap('LessThan', 'LessThan') == 100 and overlap('SortAscending', 'Add1') == 0
  x = integers.Draws('LessThan', 5, 6).validation().block(0)[:3200]
  answers = integers.apply('LessThan', x)
  assert overlap('Modulo', 'LessThan') == 100 * (answers == integers.apply('Modulo', x)).all(1).mean() > 40
  # On lists of 0 and 1, the task equals "which entries are 0"; in other lists no entry is 0.
  assert overlap('InverseBinary', 'LessThan') == 100 * (answers == 0).all(1).mean() > 20
  assert overlap('InverseBinary', 'InverseBinary') == 100 and overlap('InverseBinary', 'SortAscending') == 0


def test_the_mixture_is_the_seven_pretraining_tasks_in_equal_shares():
  mixture = registry.get('IntegerMixture')
  assert [task.name for task in mixture.tasks] == [
    'SortAscending', 'SortDescending', 'Add1', 'Modulo', 'LessThan', 'Divisible', 'InverseBinary']
  assert len(set(mixture.rates)) == 1


def test_a_misspelt_part_is_an_error_with_the_right_name():
  with pytest.raises(ValueError, match=r"'Add2', which does not exist. Did you mean Add1"):
    registry.get('SortAscending+Add2')


def test_a_composition_that_divides_by_zero_is_an_error():
  with pytest.raises(ValueError, match='starts with 0 and cannot be divided'):
    registry.get('LessThan+Modulo')


def test_lists_too_short_to_be_split_are_an_error():
  with pytest.raises(ValueError, match='too few lists of length 2'):
    list(integers.task('InverseBinary', length=2).split('validation'))
