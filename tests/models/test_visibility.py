"""Positions hidden from a prompt have no effect on it through any layer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning.evaluation.saved import SavedPrompt
from prompt_tuning.models.compiled import apply_model
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning, StackConditioning, Visibility

P = 3
SLOTS, TEXT = slice(1, 1 + P), [0, 4, 5]  # the prompt comes after the first token


@functools.partial(jax.jit, static_argnames='module')
def encode(module, params, batch, conditioning):
  return module.apply({'params': params}, batch, conditioning, method='encode')


def outputs(model, visibility, prompt, tokens=(7, 8, 1)):
  batch = layouts.assemble([[layouts.Layout(P, layouts.after_bos).example(tokens, [1])]], {'encoder': 7, 'decoder': 1})
  conditioning = Conditioning(encoder=StackConditioning(jnp.asarray(prompt)[None], visibility))
  return np.asarray(encode(model.module, model.params, batch, conditioning))[0]


@pytest.fixture
def prompt():
  return np.random.default_rng(0).normal(size=(P, 12)).astype(np.float32)


def changed(prompt, row):
  prompt = prompt.copy()
  prompt[row] += 1
  return prompt


def test_by_default_the_prompt_sees_the_input(tiny, prompt):
  first, second = (outputs(tiny, Visibility(), prompt, tokens) for tokens in ((7, 8, 1), (7, 9, 1)))
  assert (np.abs(first - second)[SLOTS].max(axis=1) > 1e-3).all()


@pytest.mark.parametrize('among', [True, False])
def test_a_hidden_input_does_not_reach_the_prompt(tiny, prompt, among):
  visibility = Visibility(input=False, prompt=among)
  first, second = (outputs(tiny, visibility, prompt, tokens) for tokens in ((7, 8, 1), (7, 9, 1)))
  np.testing.assert_array_equal(first[SLOTS], second[SLOTS])
  assert (np.abs(first - second)[TEXT].max(axis=1) > 1e-3).all()


def test_vectors_that_see_nothing_else_do_not_reach_one_another(tiny, prompt):
  visibility = Visibility(input=False, prompt=False)
  first, second = (outputs(tiny, visibility, vectors) for vectors in (prompt, changed(prompt, 1)))
  np.testing.assert_array_equal(first[SLOTS][[0, 2]], second[SLOTS][[0, 2]])
  assert np.abs(first - second)[SLOTS][1].max() > 1e-3


def test_vectors_see_one_another_where_only_the_input_is_hidden(tiny, prompt):
  first, second = (outputs(tiny, Visibility(input=False), vectors) for vectors in (prompt, changed(prompt, 1)))
  assert (np.abs(first - second)[SLOTS].max(axis=1) > 1e-3).all()


@pytest.mark.parametrize('visibility', [
  Visibility(input=i, prompt=p) for i in (True, False) for p in (True, False)])
def test_the_input_always_sees_the_prompt(tiny, prompt, visibility):
  first, second = (outputs(tiny, visibility, vectors) for vectors in (prompt, changed(prompt, 1)))
  assert (np.abs(first - second)[TEXT].max(axis=1) > 1e-3).all()


PACKED = [([5, 6, 7, 1], [8, 1]), ([9, 1], [3, 4, 1]), ([11, 12, 1], [5, 1])]


@pytest.mark.parametrize('among', [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_prompt_that_sees_nothing_of_the_input_is_run_once_for_all_rows(tiny, among):
  vectors = jnp.asarray(np.random.default_rng(0).normal(0, 1, (1, 4, 12)), jnp.float32)
  visibility = Visibility(input=False, prompt=among)
  in_rows, shared = layouts.Layout(4), layouts.Layout(4, isolated=True)
  assert shared.in_front and not in_rows.in_front

  def run(layout, vectors, packed, side='right'):
    examples = [layout.example(*each) for each in PACKED]
    rows = [examples[:2], examples[2:]] if packed else [[each] for each in examples]
    batch = layouts.assemble(rows, {'encoder': 16 if layout is in_rows else 8, 'decoder': 6}, side=side)
    given = Conditioning(encoder=StackConditioning(prompt=vectors, visibility=visibility))
    return apply_model(tiny.module, tiny.params, batch, given)[batch['decoder']['loss_weights'] > 0]

  for side in ('right', 'left'):
    np.testing.assert_allclose(run(shared, vectors, False, side), run(in_rows, vectors, False, side), atol=1e-5)

  def loss(vectors, layout):
    logits = run(layout, vectors, True)
    return jnp.sum(logits**2), logits

  gradient = jax.jit(jax.grad(loss, has_aux=True), static_argnames='layout')
  (found, logits), (wanted, other) = gradient(vectors, shared), gradient(vectors, in_rows)
  np.testing.assert_allclose(logits, other, atol=1e-5)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)


def test_rows_may_use_different_such_prompts_and_none(tiny):
  random = np.random.default_rng(1)
  prompts = [SavedPrompt(random.normal(0, 1, (length, 12)).astype(np.float32), visibility=Visibility(input=False))
             for length in (4, 2)]
  texts, targets, chosen = ['5 6 7', '9', '11 12'], ['8', '3 4', '5'], [*prompts, None]
  together, answers = tiny.logits(texts, targets, prompt=chosen), tiny.predict(texts, prompt=chosen, max_length=5)
  for b, prompt in enumerate(chosen):
    alone = tiny.logits(texts[b:b + 1], targets[b:b + 1], prompt=prompt)
    np.testing.assert_allclose(together[b, :alone.shape[1]], alone[0], atol=1e-5)
    assert tiny.predict(texts[b:b + 1], prompt=prompt, max_length=5) == answers[b:b + 1]
    if prompt is not None:
      ids = tiny.predict([[int(i) for i in texts[b].split()] + [1]], prompt=prompt, max_length=5)[0]
      if len(ids) and all(ids):
        forced = tiny.logits([[int(i) for i in texts[b].split()] + [1]], [ids.tolist()], prompt=prompt)
        assert np.argmax(forced[0], axis=-1).tolist() == ids.tolist()
