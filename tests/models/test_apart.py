"""Decoding over weights that are apart gives what the scan gives, and holds one copy of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning import trees
from prompt_tuning.decoding.samplers import BeamSearch, Greedy
from prompt_tuning.evaluation.saved import Trained
from prompt_tuning.models import apart, parameters
from prompt_tuning.models.parameters import merge
from prompt_tuning.models.quantised import quantise
from prompt_tuning.rows.conditioning import LowRankUpdate
from prompt_tuning.tuning.low_rank import LowRank
from prompt_tuning.tuning.prefix import Prefix
from prompt_tuning.tuning.scales import Scales

INPUTS = [[7, 8, 9, 4], [10, 3], [12, 13, 14]]


@pytest.fixture
def unrolled(monkeypatch):
  """Returns a function that returns a model whose layers are apart."""
  def change(model):
    changed = dataclasses.replace(model)
    with monkeypatch.context() as patch:
      patch.setattr(apart, 'LEAST', 0)
      layers = changed.layers  # kept from now on
    assert any(isinstance(array, apart.Apart) for array in trees.flatten(layers).values())
    return changed

  return change


@pytest.mark.parametrize(('name', 'sampler', 'method'), [
  ('tiny', Greedy(), Prefix(2)), ('causal', BeamSearch(num_decodes=3), Prefix(2)),
  ('tiny', Greedy(), Scales())])
def test_answers_with_a_prefix_or_scales_are_those_of_the_scan(request, unrolled, name, sampler, method):
  model = request.getfixturevalue(name)
  trained = {path: jnp.asarray(np.random.default_rng(0).normal(size=array.shape), jnp.float32)
             for path, array in trees.flatten(method.initialise(jax.random.key(0), model)).items()}
  ask = lambda model: [each.tolist() for each in model.predict(
    INPUTS, Trained(trained), sampler=sampler, max_length=6)]
  assert ask(unrolled(model)) == ask(model)


def test_low_rank_updates_and_eight_bits_are_read_layer_by_layer(causal, unrolled):
  layers = lambda path, array: quantise(array) if 'mlp/wo/kernel' in path else array
  model = dataclasses.replace(causal, params=trees.map_named(layers, causal.params))
  method = LowRank(2, ('.*layers_1/.*(query|wo)/kernel',))
  trained = trees.flatten(method.initialise(jax.random.key(0), model))
  trained = {path: np.full(array.shape, 0.3, np.float32) for path, array in trained.items()}
  ask = lambda model: [each.tolist() for each in model.predict(INPUTS, Trained(trained), max_length=6)]
  assert ask(unrolled(model)) == ask(model) != [each.tolist() for each in model.predict(INPUTS, max_length=6)]


def test_retrained_layers_take_the_place_of_the_frozen_ones(causal, unrolled):
  path = 'decoder/layers/mlp/wo/kernel'
  update = {'decoder/layers_1/mlp/wo/kernel': LowRankUpdate(jnp.ones((14, 1)), jnp.ones((1, 12)))}
  wanted, found = (trees.flatten(merge(params, update))[path] for params in (causal.params, unrolled(causal).layers))
  for layer in range(2):
    np.testing.assert_array_equal(found[layer], wanted[layer])


def test_layers_that_are_apart_share_the_memory_of_the_stack(monkeypatch):
  monkeypatch.setattr(apart, 'LEAST', 0)
  stacked = {'decoder': {'layers': {'kernel': jnp.ones((3, 16, 32), jnp.bfloat16)}}, 'other': jnp.ones(2)}
  found = apart.apart(stacked)
  start = stacked['decoder']['layers']['kernel'].unsafe_buffer_pointer()
  layers = found['decoder']['layers']['kernel'].layers
  assert [each.unsafe_buffer_pointer() - start for each in layers] == [0, 1024, 2048]
  assert found['other'] is stacked['other']


def test_small_models_are_scanned(causal):
  assert causal.layers is causal.params


def test_a_scan_over_the_bits_of_bfloat16_gives_the_same_logits(causal, monkeypatch):
  halved = dataclasses.replace(causal, params=jax.tree.map(lambda array: array.astype(jnp.bfloat16), causal.params))
  prompt = jnp.asarray(np.random.default_rng(0).normal(size=(3, causal.width)), jnp.float32)
  seen = []

  def answers():
    jax.clear_caches()
    return halved.logits(INPUTS, [[5, 6], [7, 8], [9, 1]], prompt)

  with monkeypatch.context() as patch:
    patch.setattr(parameters, 'as_bits', lambda params: seen.append(apart.as_bits(params)) or params)
    wanted = answers()
  assert any(array.dtype == jnp.uint16 for array in jax.tree.leaves(seen[0]))
  np.testing.assert_array_equal(answers(), wanted)
