"""What is hidden from a prompt is really hidden, through all layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning import layouts
from prompt_tuning.conditioning import Conditioning, StackConditioning, Visibility

P = 3
SLOTS, TEXT = slice(1, 1 + P), [0, 4, 5]  # the prompt stands behind the first token


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
