"""Layer prompts with mode 'add': the input of each layer, in the rows and before them, packed and padded."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_every_method import DECODER_ONLY

from prompt_tuning import trees
from prompt_tuning.evaluation.saved import Trained
from prompt_tuning.models.compiled import apply_model
from prompt_tuning.models.slots import added_vectors
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning, StackConditioning, Visibility
from prompt_tuning.tuning.layer_prompts import LayerPrompts

P, D = 3, 12
EXAMPLES = (([7, 8, 9, 4, 1], [5, 6, 1]), ([10, 3, 1], [11, 1]), ([12, 13, 14, 15, 1], [16, 17, 1]))


def vectors(layers, count=2):
  return jnp.asarray(np.random.default_rng(5).normal(size=(layers, count, P, D)), jnp.float32)


def given(values, **settings):
  return StackConditioning(prompt=values[0], added=values[1:], **settings)


def without_outputs(model):
  """Returns the model with layers that pass on their input."""
  silent = lambda name, array: array * 0 if name.rpartition('/')[0].endswith(('/out', '/wo')) else array
  flat = {name: silent(name, array) for name, array in trees.flatten(model.params).items()}
  return dataclasses.replace(model, params=trees.unflatten(flat))


def test_every_layer_adds_its_own_to_what_a_causal_model_hands_on():
  model, values = without_outputs(DECODER_ONLY), vectors(2)
  run = jax.jit(functools.partial(model.module.apply, {'params': model.params}), static_argnames='method')
  sums = jnp.cumsum(values, axis=0)
  for found, wanted in zip(run(given(values), method='run_prompt'), run(sums, method='run_layer_prompts'),
                           strict=True):
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_stack_of_one_layer_has_a_prompt_and_adds_nothing():
  assert added_vectors(given(vectors(1)), layers=1).shape == (0, 2 * P, D)


def test_the_encoder_gives_the_norm_of_the_sum_where_layers_hand_on_what_they_get(tiny):
  model, values = without_outputs(tiny), vectors(tiny.module.config.encoder_layers, 1)
  layout = layouts.Layout(P, layouts.after_bos)
  batch = layouts.assemble([[layout.example(*each)] for each in EXAMPLES], {'encoder': 8, 'decoder': 3})
  encode = jax.jit(functools.partial(model.module.apply, {'params': model.params}, method='encode'))
  output = encode(batch, Conditioning(encoder=given(values)))
  total = np.asarray(values.sum(axis=0)[0])
  scale = np.asarray(model.params['encoder']['encoder_norm']['scale'])
  wanted = total / np.sqrt((total**2).mean(-1, keepdims=True) + 1e-6) * scale
  for row, slots in zip(np.asarray(output), batch['encoder']['prompt_slots'], strict=True):
    np.testing.assert_allclose(row[slots >= 0], wanted, atol=1e-5)


@pytest.mark.parametrize('placement', [layouts.after_bos, layouts.after_eos])
@pytest.mark.parametrize('kind', ['encoder', 'decoder'])
def test_packed_and_padded_rows_with_their_own_vectors_equal_rows_alone(tiny, kind, placement):
  model = tiny if kind == 'encoder' else DECODER_ONLY
  layout = model.layout(layouts.Layout(P, placement))
  layers = model.prefix_shapes()[kind][0]
  conditioning = Conditioning(**{kind: given(vectors(layers))})
  examples = [layout.example(*each, prompt_id=i % 2) for i, each in enumerate(EXAMPLES)]

  def logits(rows, lengths, **side):
    batch = layouts.assemble(rows, {stack: lengths[stack] for stack in layout.stacks}, **side)
    found = apply_model(model.module, model.params, batch, conditioning)
    return np.asarray(found)[batch['decoder']['loss_weights'] > 0]

  narrow = kind == 'encoder'
  alone = np.concatenate([logits([[each]], {stack: len(arrays['tokens']) for stack, arrays in each.items()
                                           if stack != 'prompt'}) for each in examples])
  first, second, third = examples
  packed = {'encoder': 16, 'decoder': 6 if narrow else 20}
  for side in ('left', 'right'):
    np.testing.assert_allclose(logits([[first, second], [third]], packed, side=side), alone, atol=2e-5)


def test_vectors_in_front_of_a_causal_model_equal_those_in_its_rows():
  shared = DECODER_ONLY.layout(layouts.Layout(P))
  in_rows = dataclasses.replace(shared, placement=lambda count, length: layouts.before(count, length))
  assert shared.in_front and not in_rows.in_front

  def loss(values, layout, length):
    batch = layouts.assemble([[layout.example(*each)] for each in EXAMPLES], {'decoder': length})
    found = apply_model(DECODER_ONLY.module, DECODER_ONLY.params, batch, Conditioning(decoder=given(values)))
    found = found[batch['decoder']['loss_weights'] > 0]
    return jnp.sum(found**2), found

  gradient = jax.jit(jax.grad(loss, has_aux=True), static_argnums=(1, 2))
  (found, logits), (wanted, other) = (gradient(vectors(2, 1), *each) for each in ((shared, 8), (in_rows, 11)))
  np.testing.assert_allclose(logits, other, atol=1e-5)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_vectors_that_see_nothing_of_the_input_are_run_once_for_all_rows(tiny):
  values = vectors(tiny.module.config.encoder_layers, 1)
  conditioning = Conditioning(encoder=given(values, visibility=Visibility(input=False)))

  def logits(layout):
    batch = layouts.assemble([[layout.example(*each)] for each in EXAMPLES], {'encoder': 8, 'decoder': 3})
    return np.asarray(apply_model(tiny.module, tiny.params, batch, conditioning))[batch['decoder']['loss_weights'] > 0]

  front = layouts.Layout(P, isolated=True)
  in_rows = dataclasses.replace(front, placement=lambda count, length: layouts.before(count, length))
  np.testing.assert_allclose(logits(front), logits(in_rows), atol=2e-5)


@pytest.mark.parametrize(('call', 'message'), [
  (lambda tiny: LayerPrompts(mode='ad'), r"Layer prompts got mode='ad'. Use one of replace, add"),
  (lambda tiny: LayerPrompts(2).initialise(jax.random.key(0), tiny), "has an encoder. Use mode='add', a prefix"),
  (lambda tiny: Trained({'encoder/layer_prompts/vectors': np.zeros((2, 3, 12))}).conditioning(DECODER_ONLY),
   r"shape \(2, 3, 12\) .* mode='add', but this model takes prompts in the decoder, which has 2 layers of width 12"),
  (lambda tiny: Trained({'encoder/layer_prompts/vectors': np.zeros((5, 3, 12))}).conditioning(tiny),
   r'has shape \(5, 3, 12\) .* prompts in the encoder, which has \d layers of width 12. Choose the model'),
  (lambda tiny: apply_to(tiny, encoder=StackConditioning(added=jnp.zeros((1, 1, 3, 12)))),
   r'`added` has shape \(1, 1, 3, 12\), and there is no prompt. Give a prompt'),
  (lambda tiny: apply_to(tiny, encoder=StackConditioning(prompt=jnp.zeros((1, 2, 12)), added=jnp.zeros((1, 1, 3, 12)))),
   r'and the prompt has shape \(1, 2, 12\)'),
  (lambda tiny: apply_to(tiny, decoder=StackConditioning(added=jnp.zeros((1, 1, 3, 12)))),
   'got conditioning.decoder.added, which it cannot use'),
])
def test_what_does_not_fit_is_a_clear_error(tiny, call, message):
  with pytest.raises(ValueError, match=message):
    call(tiny)


def apply_to(model, **conditioning):
  layout = layouts.Layout(P)
  batch = layouts.assemble([[layout.example(*EXAMPLES[0])]], {'encoder': 8, 'decoder': 3})
  return model.module.apply({'params': model.params}, batch, Conditioning(**conditioning))
