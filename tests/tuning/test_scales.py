"""Scales (IA3): what is scaled, what is not, rows with scales of their own in packed rows, and mistakes."""

import dataclasses

import jax
import numpy as np
import pytest
from test_every_method import DECODER_ONLY

from prompt_tuning import trees
from prompt_tuning.evaluation.saved import Trained
from prompt_tuning.models.compiled import apply_model
from prompt_tuning.models.parameters import merged
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning, StackConditioning
from prompt_tuning.tuning.prefix import Prefix
from prompt_tuning.tuning.scales import Scales

INPUTS, TARGETS = [[7, 8, 9, 4, 1], [10, 3, 1]], [[5, 6, 1], [11, 1]]


def scales_of(model, places=(), seed=0):
  """Returns random scales, as in a file."""
  random = np.random.default_rng(seed)
  first = trees.flatten(Scales(places).initialise(jax.random.key(0), model))
  assert all((np.asarray(array) == 1).all() for array in first.values())
  return {name: random.normal(1, 0.5, array.shape).astype(np.float32) for name, array in first.items()}


@pytest.mark.parametrize('name', [pytest.param('tiny', marks=pytest.mark.slow), 'causal'])
def test_scales_equal_scaled_weights_beside_a_prefix_that_is_not_scaled(request, name):
  model = request.getfixturevalue(name)
  prefix = {name: np.asarray(array) for name, array in trees.flatten(
    Prefix(2).initialise(jax.random.key(1), model)).items()}
  scales = scales_of(model, '.*')
  whole = dataclasses.replace(model, params=merged(model.params, Trained(scales).conditioning(model)))
  found = model.logits(INPUTS, TARGETS, Trained({**prefix, **scales}))
  plain, wanted = (each.logits(INPUTS, TARGETS, Trained(prefix)) for each in (model, whole))
  np.testing.assert_allclose(found, wanted, atol=2e-5)
  assert np.abs(found - plain).max() > 0.1


def test_merging_multiplies_columns_and_biases_of_outputs_and_rows_of_inputs(causal):
  scales = scales_of(causal)
  before, after = (trees.flatten(params) for params in (
    causal.params, merged(causal.params, Trained(scales).conditioning(causal))))
  layers = 'decoder/layers/'
  key, hidden = (scales[f'decoder/scales/{name}'] for name in ('self_attention/key/output', 'mlp/wo/input'))
  for layer in range(2):
    kernel = before[f'{layers}self_attention/key/kernel'][layer] * key[layer][None, :]
    np.testing.assert_allclose(after[f'{layers}self_attention/key/kernel'][layer], kernel, rtol=1e-6)
    kernel = before[f'{layers}mlp/wo/kernel'][layer] * hidden[layer][:, None]
    np.testing.assert_allclose(after[f'{layers}mlp/wo/kernel'][layer], kernel, rtol=1e-6)
  with pytest.raises(ValueError, match=r'decoder.prompt cannot be merged into the weights, only retrained'):
    merged(causal.params, Conditioning(decoder=StackConditioning(prompt=np.zeros((1, 2, 12)))))


@pytest.mark.parametrize('name', ['T5', pytest.param('decoder-only', marks=pytest.mark.slow)])
def test_examples_of_a_packed_row_have_scales_of_their_own(tiny, name):
  model = tiny if name == 'T5' else DECODER_ONLY
  given = [Trained(scales_of(model, seed=seed)).conditioning(model) for seed in (1, 2)]
  join = lambda *arrays: np.concatenate(arrays, axis=1)
  both = jax.tree.map(join, *given)
  layout = model.layout(layouts.Layout())
  examples = [layout.example(*each, prompt_id=number) for number, each in enumerate(zip(INPUTS, TARGETS, strict=True))]
  packed = layouts.assemble([examples], {stack: 14 for stack in layout.stacks})
  found = np.asarray(apply_model(model.module, model.params, packed, both))[0]
  at = 0
  for example, own in zip(examples, given, strict=True):
    alone = layouts.assemble([[example]], {stack: 9 for stack in layout.stacks})
    alone['prompt_ids'] = np.zeros_like(alone['prompt_ids'])
    length = len(example['decoder']['tokens'])
    wanted = np.asarray(apply_model(model.module, model.params, alone, own))[0, :length]
    np.testing.assert_allclose(found[at:at + length], wanted, atol=2e-5)
    at += length


def test_what_does_not_fit_is_a_clear_error(tiny, causal):
  with pytest.raises(ValueError, match=r"places='.\*/kee/output' matches no input or output .* whole name: enc"):
    Scales('.*/kee/output').initialise(jax.random.key(0), tiny)
  with pytest.raises(ValueError, match=r'decoder/scales/\S+ has shape \[3, 15\], but the model needs some of decoder/'):
    Trained({'decoder/scales/encoder_decoder_attention/key/output': np.ones((3, 15))}).conditioning(causal)
  with pytest.raises(ValueError, match=r'has shape \[3, 15\], but the model needs \[2, 4\] \(layers, width\)'):
    Trained({'decoder/scales/self_attention/key/output': np.ones((3, 15))}).conditioning(causal)
