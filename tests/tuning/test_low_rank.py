"""Low-rank updates: their effect, their selection by name, and their files."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning import trees
from prompt_tuning.evaluation.saved import Trained
from prompt_tuning.models.compiled import apply_model
from prompt_tuning.models.parameters import merge
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning, LowRankUpdate
from prompt_tuning.tuning.low_rank import LowRank

NAME = 'decoder/layers_1/self_attention/query/kernel'
BATCH = layouts.assemble([[layouts.Layout().example([3, 4, 5, 1], [6, 7, 1])]], {'encoder': 4, 'decoder': 3})


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


def loaded_as(model, dtype):
  return dataclasses.replace(model, params=jax.tree.map(lambda x: x.astype(dtype), model.params))


def test_updates_of_bfloat16_weights_are_not_rounded_away(tiny):
  half = loaded_as(tiny, jnp.bfloat16)
  method = LowRank(2, ('.*/(query|wo|logits_dense)/kernel', 'token_embedder/embedding', 'encoder/relpos_bias/.*'))
  trained = jax.tree.map(lambda x: 1e-3 * random(x.shape, x.size) if x.shape[0] == 2 else x,
                         method.initialise(jax.random.key(0), half))
  updates = method.condition(trained, half)
  exact = merge(loaded_as(half, jnp.float32).params, updates.parameters)
  wanted = apply_model(tiny.module, exact, BATCH, Conditioning())
  plain, found = (apply_model(half.module, half.params, BATCH, each) for each in (Conditioning(), updates))
  assert np.abs(found - plain).max() > 1e-4
  np.testing.assert_allclose(found - plain, wanted - plain, atol=2e-2 * np.abs(wanted - plain).max())


def test_generation_and_mixed_ranks_use_the_updates_of_every_attention(tiny):
  names = [name for name in trees.unstack(trees.flatten(tiny.params)) if name.endswith('attention/key/kernel')]
  updates = {name: LowRankUpdate(random((12, rank), rank), random((rank, 15), -rank % 9))
             for rank, name in enumerate(names[:-1], 1)}
  merged = dataclasses.replace(tiny, params=merge(tiny.params, updates))
  tensors = {f'{name}/{part}': getattr(update, part) for name, update in updates.items() for part in ('down', 'up')}
  rows = [[3, 4, 5, 1], [7, 1]]
  found, wanted = tiny.predict(rows, Trained(tensors), max_length=9), merged.predict(rows, max_length=9)
  assert [ids.tolist() for ids in found] == [ids.tolist() for ids in wanted] != [
    ids.tolist() for ids in tiny.predict(rows, max_length=9)]
  np.testing.assert_allclose(tiny.score(rows, rows, Trained(tensors)), merged.score(rows, rows), rtol=1e-4)


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
