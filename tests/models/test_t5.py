"""The T5 module: its parameters, the inputs that it refuses, half precision and rematerialisation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning import trees
from prompt_tuning.decoding.samplers import Greedy
from prompt_tuning.models.generation import generate
from prompt_tuning.models.loading import parameter_shapes
from prompt_tuning.models.parameters import merge
from prompt_tuning.models.t5 import T5, T5Config
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning, StackConditioning

BATCH = layouts.assemble([[layouts.Layout(2).example([7, 8, 1], [5, 6, 1])]], {'encoder': 6, 'decoder': 3})
PROMPT = np.random.default_rng(0).normal(size=(1, 2, 12)).astype(np.float32)
GIVEN = Conditioning(encoder=StackConditioning(PROMPT))


def shapes(**changes):
  config = T5Config(**{'vocab_size': 29, 'width': 12, 'heads': 3, 'head_dim': 5, 'mlp_dim': 14, 'encoder_layers': 2,
                       'decoder_layers': 4, 'relative_buckets': 6} | changes)
  return {path: leaf.shape for path, leaf in parameter_shapes(T5(config)).items()}


def test_parameters_have_the_checkpoints_names_with_layers_stacked():
  attention = lambda name, layers: {
    f'{name}/{part}/kernel': (layers, 15, 12) if part == 'out' else (layers, 12, 15)
    for part in ('query', 'key', 'value', 'out')}
  mlp = lambda name, layers: {
    f'{name}/{part}/kernel': (layers, 14, 12) if part == 'wo' else (layers, 12, 14) for part in ('wi_0', 'wi_1', 'wo')}
  assert shapes() == {
    'token_embedder/embedding': (29, 12),
    **attention('encoder/layers/attention', 2), **mlp('encoder/layers/mlp', 2),
    'encoder/layers/pre_attention_layer_norm/scale': (2, 12), 'encoder/layers/pre_mlp_layer_norm/scale': (2, 12),
    'encoder/encoder_norm/scale': (12,), 'encoder/relpos_bias/rel_embedding': (3, 6),
    **attention('decoder/layers/self_attention', 4), **attention('decoder/layers/encoder_decoder_attention', 4),
    **mlp('decoder/layers/mlp', 4),
    'decoder/layers/pre_self_attention_layer_norm/scale': (4, 12),
    'decoder/layers/pre_cross_attention_layer_norm/scale': (4, 12), 'decoder/layers/pre_mlp_layer_norm/scale': (4, 12),
    'decoder/decoder_norm/scale': (12,), 'decoder/relpos_bias/rel_embedding': (3, 6),
    'decoder/logits_dense/kernel': (12, 29)}


def test_t5_1_0_ties_its_output_layer_and_has_one_input_layer_in_the_mlp():
  found = shapes(tied=True, mlp_activations=('relu',))
  assert 'decoder/logits_dense/kernel' not in found
  assert found['encoder/layers/mlp/wi/kernel'] == (2, 12, 14)
  assert not [name for name in found if 'wi_' in name]


def test_an_unknown_rematerialisation_is_an_error():
  with pytest.raises(ValueError, match=r"rematerialise='some' cannot be used: expected one of none, full"):
    shapes(rematerialise='some')


def test_a_prompt_for_the_decoder_is_refused_and_not_ignored(tiny):
  given = Conditioning(decoder=StackConditioning(PROMPT))
  with pytest.raises(ValueError, match=r'T5 got conditioning.decoder.prompt, which .* conditioning.encoder'):
    tiny.module.apply({'params': tiny.params}, BATCH, given)
  with pytest.raises(ValueError, match=r'T5 got conditioning.decoder.prompt'):
    generate(tiny.module, tiny.params, BATCH, given, jax.random.key(0), sampler=Greedy(), max_length=2)


def test_rematerialisation_changes_no_gradient(tiny):
  def gradient(rematerialise):
    module = tiny.module.clone(config=dataclasses.replace(tiny.module.config, rematerialise=rematerialise))

    def loss(prompt):
      given = Conditioning(encoder=StackConditioning(prompt))
      return jnp.sum(jax.nn.log_softmax(module.apply({'params': tiny.params}, BATCH, given))[..., 5])

    return jax.jit(jax.grad(loss))(PROMPT)

  kept, made_again = gradient('none'), gradient('full')
  assert np.abs(kept).min() > 0
  np.testing.assert_allclose(kept, made_again, atol=1e-5)


def test_half_precision_activations_and_parameters_give_float32_logits_nearby(tiny):
  module = tiny.module.clone(config=dataclasses.replace(tiny.module.config, dtype=jnp.bfloat16))
  params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tiny.params)
  found = jax.jit(module.apply)({'params': params}, BATCH, GIVEN)
  wanted = jax.jit(tiny.module.apply)({'params': tiny.params}, BATCH, GIVEN)
  assert found.dtype == jnp.float32
  assert np.abs(found - wanted).max() < 0.2 < np.abs(wanted).max()


RETRAINED = {'decoder/layers_1/mlp/wo/kernel': np.full((14, 12), 7.0, np.float32),
             'encoder/encoder_norm/scale': np.full(12, 8.0, np.float32)}


def test_retrained_copies_take_the_places_of_their_layers_only(tiny):
  before, after = (trees.unstack(trees.flatten(params)) for params in (tiny.params, merge(tiny.params, RETRAINED)))
  changed = [name for name in before if np.any(np.asarray(before[name]) != np.asarray(after[name]))]
  assert sorted(changed) == sorted(RETRAINED)
  assert all((np.asarray(after[name]) == RETRAINED[name]).all() for name in RETRAINED)


def test_retraining_everything_gives_the_copies_back(tiny):
  named = trees.unstack(trees.flatten(tiny.params))
  doubled = merge(tiny.params, {name: 2 * value for name, value in named.items()})
  jax.tree.map(np.testing.assert_array_equal, doubled, jax.tree.map(lambda leaf: 2 * leaf, tiny.params))
  assert merge(tiny.params, {}) is tiny.params


@pytest.mark.parametrize(('name', 'shape', 'message'), [
  ('decoder/layers_1/mlp/wi/kernel', (12, 14), r'The model has no parameter decoder/layers_1/mlp/wi/kernel. Did you'),
  ('decoder/layers_3/mlp/wo/kernel', (14, 12), r'The model has no parameter decoder/layers_3/mlp/wo/kernel. It has'),
  ('decoder/layers_1/mlp/wo/kernel', (14, 13), r'decoder/layers_1/mlp/wo/kernel has shape \(14, 13\), .* \(14, 12\)'),
  ('encoder/encoder_norm/scale', (13,), r'encoder/encoder_norm/scale has shape \(13,\), but the model expects \(12,\)'),
])
def test_retrained_copies_that_do_not_fit_are_named(tiny, name, shape, message):
  with pytest.raises(ValueError, match=message):
    merge(tiny.params, {name: np.zeros(shape, np.float32)})
