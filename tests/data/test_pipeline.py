import itertools

import numpy as np
import pytest

from prompt_tuning import trees
from prompt_tuning.data import pipeline, registry, tasks, vocabularies
from prompt_tuning.rows import layouts

VOCABULARY = vocabularies.PassThroughVocabulary(1000)
LENGTHS = {'inputs': 7, 'targets': 5}


every_kind = pytest.mark.parametrize(
  'kind', [{}, {'packed': True}, {'buckets': (3, 4)}], ids=['one a row', 'packed', 'buckets'])


def numbered(count, name='numbers'):
  """A task whose example i has inputs and targets that begin with 10 + i, of different lengths."""
  examples = [{'inputs': ' '.join([str(10 + i)] * (1 + i % 4)), 'targets': ' '.join([str(10 + i)] * (1 + i % 2))}
              for i in range(count)]
  return tasks.Task(name, {'train': examples, 'validation': examples})


def train_batches(task, **settings):
  settings = {'lengths': LENGTHS, 'batch_size': 3} | settings
  return pipeline.TrainBatches(task, VOCABULARY, layouts.Layout(prompt_length=2), **settings)


def marks(batch):
  """The marks of a batch's examples, row by row: the token before each end token of the targets."""
  targets = batch['decoder']['targets']
  return [[int(row[i - 1]) for i in np.flatnonzero(row == 1)] for row in targets]


def take_marks(batches, count):
  return [mark for batch in itertools.islice(batches, count) for row in marks(batch) for mark in row]


def assert_equal(first, second):
  assert trees.flatten(first).keys() == trees.flatten(second).keys()
  for name, value in trees.flatten(first).items():
    np.testing.assert_array_equal(value, trees.flatten(second)[name], err_msg=name)
    assert value.dtype == trees.flatten(second)[name].dtype


def test_a_batch_is_what_one_writes_by_hand():
  examples = [{'inputs': '5 6', 'targets': '7'}, {'inputs': np.array([8]), 'targets': [9, 1]}]
  batches = pipeline.eval_batches(
    examples, VOCABULARY, layouts.Layout(prompt_length=2), batch_size=3, lengths={'inputs': 4, 'targets': 3})
  (batch, found), = batches
  assert found == examples
  np.testing.assert_array_equal(
    batch['encoder']['tokens'], [[0, 0, 5, 6, 1, 0], [0, 0, 8, 1, 0, 0], [0, 0, 0, 0, 0, 0]])
  np.testing.assert_array_equal(
    batch['encoder']['prompt_slots'], [[0, 1, -1, -1, -1, -1], [0, 1, -1, -1, -1, -1], [-1] * 6])
  np.testing.assert_array_equal(
    batch['encoder']['segments'], [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]])
  np.testing.assert_array_equal(batch['decoder']['tokens'], [[0, 7, 0], [0, 9, 0], [0, 0, 0]])
  np.testing.assert_array_equal(batch['decoder']['targets'], [[7, 1, 0], [9, 1, 0], [0, 0, 0]])
  np.testing.assert_array_equal(batch['decoder']['loss_weights'], [[1, 1, 0], [1, 1, 0], [0, 0, 0]])
  np.testing.assert_array_equal(batch['decoder']['memory_segments'], [[1, 1, 0], [1, 1, 0], [0, 0, 0]])
  np.testing.assert_array_equal(batch['prompt_ids'], [[0], [0], [0]])


def test_texts_too_long_lose_their_last_tokens_never_the_end_token_and_are_counted():
  examples = [{'inputs': '5 6 7', 'targets': '8 9'}, {'inputs': '5 6 7 8', 'targets': '9'}]
  batches = pipeline.eval_batches(
    examples, VOCABULARY, layouts.Layout(), batch_size=2, lengths={'inputs': 4, 'targets': 2})
  (batch, _), = batches
  np.testing.assert_array_equal(batch['encoder']['tokens'], [[5, 6, 7, 1], [5, 6, 7, 1]])
  np.testing.assert_array_equal(batch['decoder']['targets'], [[8, 1], [9, 1]])
  assert batches.truncated == {'inputs': 1, 'targets': 1, 'examples': 2}


def test_training_counts_what_it_cuts():
  batches = train_batches(numbered(4), lengths={'inputs': 3, 'targets': 5}, block=4, batch_size=4)
  next(batches)
  assert batches.truncated == {'inputs': 2, 'targets': 0, 'examples': 4}


@pytest.mark.parametrize('packed', [False, True])
def test_every_epoch_shows_every_example_once_and_in_a_new_order(packed):
  # A block of 12 is an epoch, which makes 12 rows without packing.
  batches = train_batches(numbered(12), packed=packed, block=12, batch_size=1)
  epochs = []
  for epoch in range(3):
    epochs.append([])
    while batches.state()['block'] == epoch:
      epochs[-1] += take_marks(batches, 1)
  assert [sorted(epoch) for epoch in epochs] == [list(range(10, 22))] * 3
  assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_the_seed_decides_the_order():
  task = numbered(20)
  first = take_marks(train_batches(task, seed=1), 6)
  assert take_marks(train_batches(task, seed=1), 6) == first
  assert take_marks(train_batches(task, seed=2), 6) != first


def test_endless_tasks_draw_other_lists_for_another_seed():
  task = registry.get('Add1')
  lengths = {'inputs': 8, 'targets': 8}
  first, same, other = (next(train_batches(task, seed=s, lengths=lengths)) for s in (3, 3, 4))
  assert_equal(first, same)
  assert not np.array_equal(first['encoder']['tokens'], other['encoder']['tokens'])


@every_kind
@pytest.mark.parametrize('stop', [0, 1, 4, 9])
def test_a_restored_iterator_goes_on_exactly(kind, stop):
  def make():
    return train_batches(numbered(17), block=7, seed=5, **kind)

  whole = make()
  expected = list(itertools.islice(whole, 14))
  first = make()
  list(itertools.islice(first, stop))
  second = make()
  next(second)
  second.restore(first.state())
  for batch in expected[stop:]:
    assert_equal(next(second), batch)
  assert second.state() == whole.state()


def test_a_state_is_three_counters_and_another_one_is_refused():
  batches = train_batches(numbered(5), block=4)
  list(itertools.islice(batches, 3))
  assert batches.state() == {'block': 2, 'row': 1, 'rows': 9}
  with pytest.raises(ValueError, match=r"keys \['step'\], expected \['block', 'row', 'rows'\]"):
    batches.restore({'step': 3})


def test_rows_are_numbered_through_the_whole_stream():
  batches = train_batches(numbered(5), block=4)
  ids = [batch['example_ids'].tolist() for batch in itertools.islice(batches, 3)]
  assert ids == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_packed_batches_have_one_shape_and_hold_several_examples_a_row():
  batches = train_batches(numbered(30), packed=True, lengths={'inputs': 14, 'targets': 9})
  taken = list(itertools.islice(batches, 8))
  shapes = [{name: value.shape for name, value in trees.flatten(batch).items()} for batch in taken]
  assert shapes[1:] == shapes[:-1]
  # At least three positions per example (prompt and end token): five fit into 16.
  assert shapes[0]['prompt_ids'] == (3, 5)
  assert max(len(row) for batch in taken for row in marks(batch)) > 1
  for batch in taken:
    assert (batch['encoder']['segments'].max(1) == batch['decoder']['segments'].max(1)).all()


def test_packed_rows_have_room_for_the_targets_of_all_that_their_inputs_leave_room_for():
  task = tasks.Task('short', {'train': [{'inputs': '5 6', 'targets': '7'}]})
  batch = next(train_batches(task, packed=True, lengths={'inputs': 28, 'targets': 3}))
  # Six inputs of 2 + 3 fit into 2 + 28, with six targets of 2; rounded up to a multiple of 8.
  assert [len(row) for row in marks(batch)] == [6, 6, 6]
  assert batch['decoder']['tokens'].shape == (3, 16)


def test_packing_changes_no_token_of_an_example():
  task = numbered(9)
  alone = {}
  for batch in itertools.islice(train_batches(task, block=9), 3):
    for row, (mark,) in enumerate(marks(batch)):
      inputs, targets = batch['encoder']['tokens'][row], batch['decoder']['targets'][row]
      alone[mark] = (inputs[inputs > 0].tolist(), targets[targets > 0].tolist())
  packed = {}
  for batch in itertools.islice(train_batches(task, block=9, packed=True), 2):
    for row, row_marks in enumerate(marks(batch)):
      for segment, mark in enumerate(row_marks, start=1):
        found = [batch[stack][name][row][(batch[stack]['segments'][row] == segment) & (batch[stack][name][row] > 0)]
                 for stack, name in (('encoder', 'tokens'), ('decoder', 'targets'))]
        packed[mark] = tuple(ids.tolist() for ids in found)
  assert packed.items() <= alone.items() and len(packed) > 4


def joined(parts):
  """The batch that all hosts make together."""
  parts = [trees.flatten(part) for part in parts]
  return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@every_kind
@pytest.mark.parametrize('seed', [0, 1])
def test_hosts_make_together_what_one_makes_also_where_their_number_changes(kind, seed):
  mixture = tasks.Mixture('both', (numbered(11, 'some'), numbered(6, 'others')), (3, 1))
  make = lambda **rows: train_batches(mixture, batch_size=4, block=10, seed=seed, **kind, **rows)
  alone = make()
  state = alone.state()
  for count in (1, 2, 4, 2, 1):
    hosts = [make(rows=slice(i * 4 // count, (i + 1) * 4 // count)) for i in range(count)]
    for host in hosts:
      host.restore(state)
    for _ in range(3):
      together, whole = joined([next(host) for host in hosts]), trees.flatten(next(alone))
      assert together.keys() == whole.keys()
      for name, value in whole.items():
        np.testing.assert_array_equal(together[name], value, err_msg=name)
    assert {tuple(host.state().values()) for host in hosts} == {tuple(alone.state().values())}
    state = hosts[-1].state()


def test_a_host_tokenises_only_its_rows_unless_those_depend_on_all_lengths():
  read = {}
  for name, kind in (('one a row', {}), ('packed', {'packed': True}), ('buckets', {'buckets': (3,)})):
    batches = train_batches(numbered(8), batch_size=4, block=8, **kind)
    batches.only(slice(1, 2))
    next(batches)
    read[name] = batches.truncated['examples']
  assert read == {'one a row': 1, 'packed': 8, 'buckets': 8}


@pytest.mark.parametrize('rows', [slice(2, 4), slice(3, 3), slice(-1, None), slice(0, 3, 2)])
def test_rows_that_a_batch_lacks_are_an_error(rows):
  with pytest.raises(ValueError, match=r'rows=slice\(.*rows 0 to 2.*Give a slice of at least one of them'):
    train_batches(numbered(5), rows=rows)


def test_a_mixture_alternates_by_its_rates():
  many, few = numbered(40, 'many'), tasks.Task('few', {'train': [{'inputs': '900', 'targets': '900'}]})
  mixture = tasks.Mixture('both', (many, few), (3, 1))
  taken = take_marks(train_batches(mixture, batch_size=4), 10)
  assert taken.count(900) == 10
  assert len(set(taken)) == 31  # the other task's examples occur once per epoch


def test_left_padded_rows_hold_the_same_tokens():
  right, left = (next(train_batches(numbered(8), side=side)) for side in ('right', 'left'))
  for row in range(3):
    np.testing.assert_array_equal(right['encoder']['tokens'][row][right['encoder']['segments'][row] > 0],
                                  left['encoder']['tokens'][row][left['encoder']['segments'][row] > 0])
  assert (left['encoder']['segments'][:, -1] == 1).all()


def test_evaluation_reads_every_example_in_order_and_fills_the_last_batch():
  task = numbered(8)
  batches = pipeline.eval_batches(task.split('validation'), VOCABULARY, layouts.Layout(), batch_size=3)
  pairs = list(batches)
  assert len(batches) == len(pairs) == 3
  assert [marks(batch) for batch, _ in pairs] == [[[10], [11], [12]], [[13], [14], [15]], [[16], [17], []]]
  assert [example for _, examples in pairs for example in examples] == task.split('validation')
  assert pairs[2][0]['decoder']['loss_weights'][2].sum() == 0


def test_lengths_that_are_not_given_are_the_longest_rounded_up():
  examples = [{'inputs': '5 ' * 8, 'targets': '5'}, {'inputs': '5', 'targets': '5 5'}]
  batches = pipeline.eval_batches(examples, VOCABULARY, layouts.Layout(prompt_length=3), batch_size=2)
  assert batches.lengths == {'encoder': 16 + 3, 'decoder': 8}
  given = pipeline.eval_batches(
    examples, VOCABULARY, layouts.Layout(prompt_length=3), batch_size=2, lengths={'inputs': 5})
  assert given.lengths == {'encoder': 5 + 3, 'decoder': 8}


def test_inputs_get_no_more_room_than_the_longest_needs_but_answers_do():
  examples = [{'inputs': '5 ' * 8, 'targets': '5'}, {'inputs': '5', 'targets': '5 5'}]
  batches = pipeline.eval_batches(examples, VOCABULARY, layouts.Layout(prompt_length=3), batch_size=2,
                                  lengths={'inputs': 512, 'targets': 20})
  assert batches.lengths == {'encoder': 16 + 3, 'decoder': 20}
  assert next(iter(batches))[0]['encoder']['tokens'].shape == (2, 19)


def test_evaluation_may_be_limited():
  batches = pipeline.eval_batches(
    registry.get('Add1').split('train'), VOCABULARY, layouts.Layout(), batch_size=4, num_examples=6)
  assert [len(examples) for _, examples in batches] == [4, 2]


def test_inputs_without_targets_can_be_predicted():
  (batch, _), = pipeline.eval_batches([{'inputs': '5'}], VOCABULARY, layouts.Layout(), batch_size=1)
  np.testing.assert_array_equal(batch['decoder']['targets'], [[1, 0, 0, 0, 0, 0, 0, 0]])


@pytest.mark.parametrize(('example', 'message'), [
  ({'inputs': '5'}, "no 'targets'; found 'inputs'"),
  ({'inputs': 5.5, 'targets': '5'}, 'neither a text nor token ids'),
  ({'inputs': [None], 'targets': '5'}, 'neither a text nor token ids'),
])
def test_an_example_that_cannot_be_read_is_an_error(example, message):
  with pytest.raises(ValueError, match=message):
    next(train_batches(tasks.Task('bad', {'train': [example]})))


@pytest.mark.parametrize(('settings', 'message'), [
  ({'lengths': {'inputs': 4}}, r"lack \['targets'\]"),
  ({'lengths': {'inputs': 4, 'targets': 0}}, r"\{'targets': 0\} are not valid"),
  ({'lengths': {'inputs': 4, 'targets': 4, 'target': 4}}, r"\{'target': 4\} are not valid"),
  ({'seed': -1}, r'seed=-1'),
])
def test_settings_that_cannot_work_are_refused_at_once(settings, message):
  with pytest.raises(ValueError, match=message):
    train_batches(numbered(3), **settings)


def test_evaluating_nothing_or_an_endless_split_is_an_error():
  with pytest.raises(ValueError, match='no examples to evaluate'):
    pipeline.eval_batches([], VOCABULARY, layouts.Layout(), batch_size=1)
  with pytest.raises(ValueError, match='endless'):
    pipeline.eval_batches(registry.get('Add1').split('train'), VOCABULARY, layouts.Layout(), batch_size=1)
