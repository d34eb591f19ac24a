"""Nested dicts, their flat names, and names of one layer."""

import signal

import numpy as np
import pytest

from prompt_tuning import trees
from prompt_tuning.names import nearest

STACKED = {'encoder/layers/mlp/wo/kernel': np.arange(6).reshape(3, 2), 'encoder/norm/scale': np.array([7.0])}


def test_flat_names_and_nested_dicts_are_inverse():
  tree = {'b': {'c': 1, 'a': {'z': 2}}, 'a': 3}
  assert trees.flatten(tree) == {'a': 3, 'b/a/z': 2, 'b/c': 1}
  assert trees.unflatten(trees.flatten(tree)) == tree


def test_stacked_arrays_and_arrays_of_each_layer_are_inverse():
  named = trees.unstack(STACKED)
  assert list(named) == [f'encoder/layers_{i}/mlp/wo/kernel' for i in range(3)] + ['encoder/norm/scale']
  assert named['encoder/layers_2/mlp/wo/kernel'].tolist() == [4, 5]
  again = trees.stack(dict(reversed(named.items())))
  assert {name: array.tolist() for name, array in again.items()} == {
    name: array.tolist() for name, array in STACKED.items()}


def test_ten_layers_and_more_are_stacked_by_number_not_by_spelling():
  named = {f'layers_{i}/scale': np.array([i]) for i in range(12)}
  assert trees.stack(named)['layers/scale'][:, 0].tolist() == list(range(12))


def test_a_missing_layer_is_named():
  with pytest.raises(ValueError, match=r'layers/scale lacks layers \[1\]. Give every layer from 0 to 2'):
    trees.stack({'layers_0/scale': np.zeros(1), 'layers_2/scale': np.zeros(1)})


def test_a_layers_name_and_the_stacked_path_are_inverse():
  assert trees.layer_name('encoder/layers/mlp/wo', 11) == 'encoder/layers_11/mlp/wo'
  assert trees.split_layer_name('encoder/layers_11/mlp/wo') == ('encoder/layers/mlp/wo', 11)
  assert trees.split_layer_name('encoder/norm/scale') == ('encoder/norm/scale', None)
  assert not trees.is_stacked('encoder/my_layers/scale')


def test_layers_of_a_group_are_numbered_by_their_place():
  paths = {'decoder/layers/0_of_3/delta/scale': (2, 5), 'decoder/layers/2_of_3/mlp/scale': (2, 4),
           'decoder/layers/0_of_3/mlp/scale': (2, 4), 'decoder/norm/scale': (4,)}
  named = trees.unstack({path: np.zeros(shape) for path, shape in paths.items()})
  assert sorted(named) == ['decoder/layers_0/delta/scale', 'decoder/layers_0/mlp/scale', 'decoder/layers_2/mlp/scale',
                           'decoder/layers_3/delta/scale', 'decoder/layers_3/mlp/scale', 'decoder/layers_5/mlp/scale',
                           'decoder/norm/scale']
  assert trees.split_layer_name('decoder/layers_5/mlp/scale', paths) == ('decoder/layers/2_of_3/mlp/scale', 1)
  assert trees.split_layer_name('a/layers_5/scale', {'a/layers/scale', *paths}) == ('a/layers/scale', 5)
  assert trees.names_of_layers('decoder/layers/mlp/scale', paths) == [
    f'decoder/layers_{number}/mlp/scale' for number in (0, 2, 3, 5)]


def test_the_last_layers_of_a_stack_may_be_apart_in_groups_of_another_size():
  paths = {'decoder/layers/0_of_2/key': (2, 5), 'decoder/layers/1_of_2/key': (2, 7), 'decoder/layers/0_of_2/wo': (2, 3),
           'decoder/layers/1_of_2/wo': (2, 3), 'decoder/shared_layers/4_of_3/wo': (1, 3),
           'decoder/shared_layers/5_of_3/wo': (1, 3), 'decoder/shared_layers/6_of_3/wo': (1, 3)}
  named = trees.unstack({path: np.zeros(shape) for path, shape in paths.items()})
  assert sorted(named) == sorted([f'decoder/layers_{i}/key' for i in range(4)] + [
    f'decoder/layers_{i}/wo' for i in range(7)])
  assert trees.names_of_layers('decoder/layers/wo', paths) == [f'decoder/layers_{i}/wo' for i in range(7)]
  for name, place in (('3/wo', ('layers/1_of_2/wo', 1)), ('5/wo', ('shared_layers/5_of_3/wo', 0)),
                      ('5/key', ('shared_layers/5_of_3/key', 0))):  # which the model lacks
    assert trees.split_layer_name(f'decoder/layers_{name}', paths) == (f'decoder/{place[0]}', place[1])


def test_patterns_must_match_a_whole_name():
  assert trees.matches('encoder/norm/scale', ['x', '.*/scale'])
  assert not trees.matches('encoder/norm/scale', ['norm', 'encoder'])


@pytest.mark.parametrize('pattern', ['(a', 'a{99999999999}', '(' * 5000])
def test_what_is_no_regular_expression_is_an_error(pattern):
  with pytest.raises(ValueError, match='is not a regular expression'):
    trees.matches('a', [pattern])
  with pytest.raises(ValueError, match='is not a regular expression'):
    trees.patterns(pattern)


@pytest.mark.parametrize('given', [5, None, ['a', 5], [['a']]])
def test_what_is_no_text_is_no_pattern(given):
  with pytest.raises(ValueError, match='is not a text'):
    trees.patterns(given)


def test_a_pattern_that_backtracks_for_ever_is_an_error(monkeypatch):
  monkeypatch.setattr(trees, '_SECONDS', 0.05)
  before = signal.getsignal(signal.SIGVTALRM)
  with pytest.raises(ValueError, match=r"patterns '\(a\+\)\+b' takes too long to compare with 'aaa.*repetitions of"):
    trees.matches('a' * 60, ['(a+)+b'])
  assert signal.getsignal(signal.SIGVTALRM) == before and signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


def test_numbers_are_counted_and_mapped_by_name():
  tree = {'a': np.zeros((3, 2)), 'b': {'c': np.zeros(4)}}
  assert trees.count(tree) == 10
  assert trees.map_named(lambda name, leaf: (name, leaf.size), tree) == {'a': ('a', 6), 'b': {'c': ('b/c', 4)}}


def test_the_nearest_name_ends_a_message_where_there_is_one():
  assert nearest('acuracy', ['accuracy', 'bleu']) == ' Did you mean accuracy?'
  assert nearest('zzzz', ['accuracy']) == ''
