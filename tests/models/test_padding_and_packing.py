"""Padding on either side, no padding, or other examples in the row: the logits of an example do not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning.decoding.samplers import BeamSearch
from prompt_tuning.losses import Loss
from prompt_tuning.models.compiled import apply_model, hidden_states
from prompt_tuning.models.generation import generate
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning, StackConditioning, Visibility

P = 2
EXAMPLES = (([7, 8, 9, 4, 1], [5, 6, 1]), ([10, 3, 1], [11, 1]), ([12, 13, 14, 15, 1], [16, 17, 1]))
LENGTHS = {'encoder': 9, 'decoder': 4}
PROMPTS = np.random.default_rng(5).normal(size=(2, P, 12)).astype(np.float32)  # for alternating examples
CONDITIONING = Conditioning(encoder=StackConditioning(prompt=jnp.asarray(PROMPTS)))

every_placement = pytest.mark.parametrize('placement', layouts.PLACEMENTS.values(), ids=layouts.PLACEMENTS)
some_placements = pytest.mark.parametrize('placement', [  # in front, and among the tokens
  pytest.param(placement, id=name, marks=[pytest.mark.slow] * (name in ('after_bos', 'after_eos')))
  for name, placement in layouts.PLACEMENTS.items()])


def lay_out(placement):
  layout = layouts.Layout(P, placement)
  return [layout.example(inputs, targets, prompt_id=i % 2) for i, (inputs, targets) in enumerate(EXAMPLES)]


def logits_by_example(model, rows, lengths, side='right', conditioning=CONDITIONING):
  """Returns the logits [S, V] of every example of the rows, in order."""
  batch = layouts.assemble(rows, lengths, side=side)
  logits = np.asarray(apply_model(model.module, model.params, batch, conditioning))
  segments = batch['decoder']['segments']
  return [logits[b][segments[b] == g] for b, row in enumerate(rows) for g in range(1, len(row) + 1)]


def logits_of_rows_alone(model, placement):
  """Returns the logits of every example in a separate batch, without padding."""
  found = []
  for example in lay_out(placement):
    lengths = {stack: len(example[stack]['tokens']) for stack in ('encoder', 'decoder')}
    found += logits_by_example(model, [[example]], lengths)
  return found


def assert_all_close(found, wanted):
  assert len(found) == len(wanted) == len(EXAMPLES)
  for each, other in zip(found, wanted, strict=True):
    assert each.shape == other.shape
    np.testing.assert_allclose(each, other, atol=2e-5)


@every_placement
@pytest.mark.parametrize('side', ['right', 'left'])
def test_padded_rows_give_the_logits_of_unpadded_ones(tiny, placement, side):
  rows = [[example] for example in lay_out(placement)]
  assert_all_close(logits_by_example(tiny, rows, LENGTHS, side), logits_of_rows_alone(tiny, placement))


@every_placement
@pytest.mark.parametrize('side', ['right', 'left'])
def test_packed_rows_with_their_own_prompts_give_the_logits_of_unpacked_ones(tiny, placement, side):
  first, second, third = lay_out(placement)
  found = logits_by_example(tiny, [[], [first, second], [third]], {'encoder': 14, 'decoder': 6}, side)
  assert_all_close(found, logits_of_rows_alone(tiny, placement))


def test_packed_and_left_padded_rows_agree_where_the_prompt_sees_less(tiny):
  conditioning = Conditioning(encoder=StackConditioning(jnp.asarray(PROMPTS), Visibility(input=False)))
  first, second, third = lay_out(layouts.before_eos)
  shape = {'encoder': 14, 'decoder': 6}
  packed = logits_by_example(tiny, [[], [first, second], [third]], shape, 'right', conditioning)
  padded = logits_by_example(tiny, [[first], [second], [third]], shape, 'left', conditioning)
  assert_all_close(packed, padded)


@some_placements
def test_packed_padded_and_shorter_rows_give_one_loss_and_gradient(tiny, placement):
  @jax.jit
  def of(prompts, batch):
    conditioning = Conditioning(encoder=StackConditioning(prompt=prompts))
    x, project = hidden_states(tiny.module, tiny.params, batch, conditioning)
    return Loss()(x, batch, project)[0]

  first, second, third = lay_out(placement)
  padded = [[first], [second], [third]]
  (wanted, slope), *others = (jax.value_and_grad(of)(PROMPTS, layouts.assemble(rows, lengths)) for rows, lengths in (
    (padded, LENGTHS), (padded, {'encoder': 7, 'decoder': 3}), ([[first, second], [third]],
                                                                {'encoder': 14, 'decoder': 6})))
  assert len(others) == 2 and np.abs(slope).max(axis=(1, 2)).min() > 0  # both prompts have an effect
  for loss, gradient in others:
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    np.testing.assert_allclose(gradient, slope, atol=1e-5 * np.abs(slope).max())


def answer(model, rows, length, side='right'):
  """Returns the tokens and scores of two beams for each row, decoded in a batch of this length."""
  batch = layouts.assemble(rows, {'encoder': length, 'decoder': 3}, side=side)
  tokens, scores = generate(model.module, model.params, batch, CONDITIONING, jax.random.key(0),
                            sampler=BeamSearch(2), max_length=6)
  return np.asarray(tokens), np.asarray(scores)


@some_placements
def test_generation_does_not_depend_on_padding(tiny, placement):
  examples = lay_out(placement)
  alone = [answer(tiny, [[example]], len(example['encoder']['tokens'])) for example in examples]
  for side in ('right', 'left'):
    tokens, scores = answer(tiny, [[example] for example in examples], 9, side)
    np.testing.assert_array_equal(tokens, np.concatenate([each for each, _ in alone]))
    np.testing.assert_allclose(scores, np.concatenate([each for _, each in alone]), atol=2e-5)


def test_rows_that_only_fill_the_batch_stay_empty_and_finite(tiny):
  first, second, _ = lay_out(layouts.before)
  tokens, _ = answer(tiny, [[first], [], [second]], 9)
  assert tokens.any(axis=(1, 2)).tolist() == [True, False, True]
  batch = layouts.assemble([[first], [], [second]], LENGTHS)
  assert np.isfinite(np.asarray(apply_model(tiny.module, tiny.params, batch, CONDITIONING))).all()
