"""The model against outputs of T5X and Flaxformer, from the checkpoints that they wrote."""

import dataclasses
import functools
import json

import golden_models
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning import trees
from prompt_tuning.decoding.samplers import BeamSearch, Greedy, Sampling
from prompt_tuning.losses import cross_entropy, log_likelihood
from prompt_tuning.models.compiled import apply_model
from prompt_tuning.models.generation import generate
from prompt_tuning.models.positions import relative_buckets
from prompt_tuning.rows.conditioning import Conditioning

CASES = {  # name -> (model, prefix of the golden names)
  'own plain': ('own', 'plain_'),
  'own prompt': ('own', 'prompt_'),
  'a': ('tiny', ''),
  'b': ('tiny', ''),
  'd plain': ('small', 'plain_'),
  'd prompt': ('small', 'prompt_'),
}


def golden_of(case):
  """Returns T5X's outputs for a case's batch."""
  folders = {'a': 'a_plain_tiny', 'b': 'b_prompt_tiny'}
  return np.load(golden_models.shared_folder() / 't5x' / folders[case] / 'golden.npz' if case in folders else
                 golden_models.t5x_files(CASES[case][0]).golden)


def test_all_parameters_of_the_checkpoint_are_in_the_model():
  found = trees.unstack(trees.flatten(golden_models.t5x_model('own').params))
  wanted = np.load(golden_models.t5x_files('own').params)
  assert found.keys() == wanted.keys()
  for name, array in wanted.items():
    np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(('name', 'folder'), [('tiny', 'a_plain_tiny'), ('small', 'd_small')])
def test_parameters_have_t5xs_names_and_shapes(shared, name, folder):
  found = trees.unstack(trees.flatten(golden_models.t5x_model(name).params))
  wanted = json.loads((shared / 't5x' / folder / 'param_shapes.json').read_text())
  assert {name: [*array.shape] for name, array in found.items()} == wanted


@functools.cache
def outputs(case):
  """Returns our outputs for the case's batch, and T5X's outputs."""
  name, prefix = CASES[case]
  model, golden = golden_models.t5x_model(name), golden_of(case)
  prompt = None if case == 'a' or 'plain' in case else golden['prompt']
  batch = golden_models.make_batch(golden['encoder_input_tokens'], golden['decoder_target_tokens'],
                                   0 if prompt is None else len(prompt))

  @jax.jit
  def run(params, batch, prompt):
    conditioning = golden_models.conditioning_of(prompt)
    apply = functools.partial(model.module.apply, {'params': params})
    memory = apply(batch, conditioning, method='encode')
    logits = apply(batch, memory, conditioning, method='decode')
    scored = (logits, batch['decoder']['targets'], batch['decoder']['loss_weights'])
    _, sums = cross_entropy(*scored, z_loss=1e-4)
    return {'encoder_outputs': memory, 'logits': logits, 'score_batch': log_likelihood(*scored), **sums}

  wanted = {field: golden[prefix + field] for field in ('encoder_outputs', 'logits', 'score_batch', 'loss')}
  return batch, jax.device_get(run(model.params, batch, prompt)), wanted


@pytest.mark.parametrize('case', CASES)
def test_the_decoder_reads_and_is_judged_by_what_t5xs_is(case):
  batch, _, _ = outputs(case)
  golden, decoder = golden_of(case), batch['decoder']
  np.testing.assert_array_equal(decoder['loss_weights'], golden['decoder_loss_weights'])
  np.testing.assert_array_equal(decoder['targets'], golden['decoder_target_tokens'])
  real = decoder['segments'] > 0
  np.testing.assert_array_equal(decoder['tokens'][real], golden['decoder_input_tokens'][real])


@pytest.mark.parametrize('case', CASES)
def test_logits_equal_t5xs(case):
  batch, found, wanted = outputs(case)
  real = batch['decoder']['segments'] > 0
  np.testing.assert_allclose(found['logits'][real], wanted['logits'][real], atol=2e-4)


@pytest.mark.parametrize('kind', ['plain', 'tied'])
def test_logits_of_bfloat16_activations_are_float32_as_in_t5x(kind):
  golden, model = np.load(golden_models.OWN / 't5x/bfloat16.npz'), golden_models.t5x_model('own')
  batch, _, _ = outputs('own plain')
  tied, params = kind == 'tied', dict(model.params)
  if tied:
    params['decoder'] = {name: value for name, value in params['decoder'].items() if name != 'logits_dense'}
  real = batch['decoder']['segments'] > 0

  def logits(dtype):
    config = dataclasses.replace(model.module.config, dtype=dtype, tied=tied, scaled=tied)
    found = apply_model(model.module.clone(config=config), params, batch, Conditioning())
    assert found.dtype == jnp.float32
    return np.asarray(found)[real]

  wanted = {dtype: golden[f'{dtype}_{kind}_logits'][real] for dtype in ('float32', 'bfloat16')}
  np.testing.assert_allclose(logits(jnp.float32), wanted['float32'], atol=2e-4)
  rounding = np.std(wanted['bfloat16'] - wanted['float32'])  # T5X rounds elsewhere too: attention's logits
  found = logits(jnp.bfloat16)
  assert np.std(found - wanted['bfloat16']) < 1.5 * rounding
  assert np.std(found - wanted['float32']) < 1.2 * rounding
  for each in (found, wanted['bfloat16']):  # not rounded to bfloat16 at the end
    assert np.mean(each == each.astype(jnp.bfloat16).astype(np.float32)) < 0.01


@pytest.mark.parametrize('case', CASES)
def test_encoder_outputs_equal_t5xs(case):
  batch, found, wanted = outputs(case)
  real = batch['encoder']['segments'] > 0  # T5X sets padding to 0
  np.testing.assert_allclose(found['encoder_outputs'][real], wanted['encoder_outputs'][real], atol=2e-4)


@pytest.mark.parametrize('case', CASES)
def test_losses_and_scores_equal_t5xs(case):
  _, found, wanted = outputs(case)
  np.testing.assert_allclose(found['score_batch'], wanted['score_batch'], atol=2e-4)
  np.testing.assert_allclose(found['loss'], wanted['loss'], rtol=1e-5)


@pytest.mark.parametrize('case', ['own plain', 'own prompt', 'a', 'b'])
def test_the_figures_of_the_loss_equal_t5xs(case):
  _, found, _ = outputs(case)
  if case.startswith('own'):
    golden, prefix = golden_of(case), CASES[case][1]
    wanted = {name: golden[prefix + name] for name in ('z_loss', 'cross_ent_loss', 'accuracy')}
    assert wanted['accuracy'] > 0
  else:
    folder = golden_models.shared_folder() / 't5x' / {'a': 'a_plain_tiny', 'b': 'b_prompt_tiny'}[case]
    wanted = json.loads((folder / 'loss_metrics.json').read_text())
    np.testing.assert_allclose(found['loss'] / found['weights'], wanted['loss_per_nonpadding_target_token'], rtol=1e-5)
  np.testing.assert_allclose(found['z_loss'], wanted['z_loss'], rtol=1e-5)
  np.testing.assert_allclose(found['loss'] - found['z_loss'], wanted['cross_ent_loss'], rtol=1e-5)
  np.testing.assert_allclose(found['correct'] / found['weights'], wanted['accuracy'], atol=1e-6)


@pytest.mark.parametrize('case', ['own prompt', 'b'])
def test_the_prompts_gradient_equals_t5xs(case):
  model, golden = golden_models.t5x_model(CASES[case][0]), golden_of(case)
  batch = golden_models.make_batch(golden['encoder_input_tokens'], golden['decoder_target_tokens'],
                                   len(golden['prompt']))

  @jax.jit
  @jax.grad
  def gradient(prompt, params, batch):
    logits = model.module.apply({'params': params}, batch, golden_models.conditioning_of(prompt))
    return cross_entropy(logits, batch['decoder']['targets'], batch['decoder']['loss_weights'], z_loss=1e-4)[0]

  found = gradient(golden['prompt'], model.params, batch)
  scale = np.abs(golden['prompt_grad']).max()
  np.testing.assert_allclose(found / scale, golden['prompt_grad'] / scale, atol=1e-5)


@pytest.mark.parametrize(('source', 'name', 'sampler'), [
  ('own', 'greedy_temp0', Greedy()),
  ('own', 'beam1_a06', BeamSearch()),
  ('own', 'beam4_a06', BeamSearch(4)),
  *(pytest.param('small', *each, marks=pytest.mark.slow) for each in (
    ('greedy_temp0', Greedy()), ('beam1_a06', BeamSearch()), ('beam4_a06', BeamSearch(4)))),
  ('small', 'beam4_a00', BeamSearch(4, alpha=0.0)),
  ('small', 'greedy_topk1', Sampling(topk=1)),
])
def test_decodes_equal_t5xs_with_prompted_and_plain_rows_in_one_batch(source, name, sampler):
  model = golden_models.t5x_model(source)
  golden = np.load(golden_models.t5x_files(source).golden)
  inputs = golden['encoder_input_tokens']
  count = len(inputs)
  batch, conditioning = golden_models.make_generation_batch(
    [*inputs, *inputs], [None] * count + [golden['prompt']] * count, model)
  tokens, scores = generate(model.module, model.params, batch, conditioning, jax.random.key(0), sampler=sampler,
                            max_length=golden['plain_greedy_temp0_tokens'].shape[-1])
  for kind, found_tokens, found_scores in (
      ('plain', tokens[:count], scores[:count]), ('prompt', tokens[count:], scores[count:])):
    np.testing.assert_array_equal(found_tokens, golden[f'{kind}_{name}_tokens'])
    np.testing.assert_allclose(found_scores, golden[f'{kind}_{name}_scores'], atol=1e-4)


@pytest.mark.parametrize(('source', 'buckets', 'max_distance'), [
  *(('own', *each) for each in ((32, 128), (4, 8), (8, 11))), *(('f', *each) for each in ((32, 128), (4, 8), (8, 16)))])
@pytest.mark.parametrize('kind', ['bidirectional', 'causal'])
def test_relative_position_buckets_equal_flaxformers(source, buckets, max_distance, kind):
  folder = golden_models.OWN / 't5x' if source == 'own' else golden_models.shared_folder() / 't5x/f_misc'
  golden = np.load(folder / 'relative_position_buckets.npz')
  found = relative_buckets(golden['relative_position'].astype(np.int32), buckets=buckets, max_distance=max_distance,
                           bidirectional=kind == 'bidirectional')
  np.testing.assert_array_equal(found, golden[f'buckets_{buckets}_{max_distance}_{kind}'])
