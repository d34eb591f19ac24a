"""Low-rank updates: their effect, their selection by name, and their files."""

import dataclasses

import jax
import numpy as np
import pytest

from prompt_tuning import trees
from prompt_tuning.evaluation.saved import Trained
from prompt_tuning.models.parameters import merge
from prompt_tuning.rows.conditioning import Conditioning, LowRankUpdate
from prompt_tuning.tuning.low_rank import LowRank

NAME = 'decoder/layers_1/self_attention/query/kernel'


def random(shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_the_product_is_added_to_the_one_layer_it_names(tiny):
  stacked, layer = trees.split_layer_name(NAME)
  frozen = trees.flatten(tiny.params)[stacked]
  update = LowRankUpdate(random((frozen.shape[1], 2)), random((2, frozen.shape[2]), 1))
  merged = trees.flatten(merge(tiny.params, {NAME: update}))
  expected = np.array(frozen)
  expected[layer] += update.down @ update.up
  np.testing.assert_allclose(merged[stacked], expected, atol=1e-6)
  del merged[stacked]
  assert all(np.array_equal(value, trees.flatten(tiny.params)[name]) for name, value in merged.items())


def test_the_model_is_unchanged_at_first_and_the_size_is_that_of_the_rank(tiny):
  method = LowRank(3, '.*/self_attention/query/kernel')
  trained = method.initialise(jax.random.key(0), tiny)
  merged = merge(tiny.params, method.condition(trained, tiny).parameters)
  jax.tree.map(np.testing.assert_array_equal, merged, tiny.params)
  layers, width, inner = trees.flatten(tiny.params)['decoder/layers/self_attention/query/kernel'].shape
  assert trees.count(trained) == layers * 3 * (width + inner)


def test_updates_and_copies_are_told_apart_when_a_file_is_used(tiny):
  norm = 'encoder/encoder_norm/scale'
  tensors = {f'{NAME}/down': random((12, 1)), f'{NAME}/up': random((1, 20)), norm: random((12,))}
  found = Trained(tensors).conditioning(tiny).parameters
  assert sorted(found) == [NAME, norm]
  assert isinstance(found[NAME], LowRankUpdate)


@pytest.mark.parametrize(('arguments', 'message'), [
  ({'rank': 0}, 'rank=0. Use at least 1'),
  ({'patterns': '.*('}, 'not a regular expression')])
def test_settings_that_make_no_sense(arguments, message):
  with pytest.raises(ValueError, match=message):
    LowRank(**arguments)


def test_what_is_no_matrix_or_does_not_fit(tiny):
  with pytest.raises(ValueError, match=r'encoder_norm/scale has shape \(12,\).*Narrow the patterns'):
    LowRank(1, 'encoder/encoder_norm/scale').initialise(jax.random.key(0), tiny)
  with pytest.raises(ValueError, match='matches no parameter'):
    LowRank(1, '.*/qwery/kernel').initialise(jax.random.key(0), tiny)
  with pytest.raises(ValueError, match=r'query/kernel has shape \(3, 20\), but the model expects'):
    merge(tiny.params, {NAME: LowRankUpdate(random((3, 1)), random((1, 20)))})
  assert dataclasses.replace(Conditioning(), parameters={}).parameters == {}
