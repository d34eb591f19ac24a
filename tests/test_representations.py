"""Representations of texts, compared with the model's logits and with the outputs that losses read."""

import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning import trees
from prompt_tuning.evaluation.representations import representations, top_tokens
from prompt_tuning.evaluation.saved import SavedPrompt
from prompt_tuning.rows.conditioning import Conditioning, StackConditioning
from prompt_tuning.rows.layouts import after_eos

INPUTS = ('7 8 9', '3', '10 11 4 5')
EXAMPLES = [{'inputs': text} for text in INPUTS]
PROMPT = np.random.default_rng(0).normal(size=(2, 12)).astype(np.float32)


@pytest.fixture(params=['tiny', 'causal'])
def model(request):
  return request.getfixturevalue(request.param)


def found(model, examples=EXAMPLES, **settings):
  trained = SavedPrompt(PROMPT, after_eos).as_trained()
  given = Conditioning(**{model.prompted: StackConditioning(prompt=jnp.asarray(PROMPT)[None])})
  return representations(model, given, model.layout(trained.layout()), examples, batch_size=2, **settings)


def test_logits_are_those_of_the_first_token_behind_input_and_prompt(model):
  wanted = model.logits(list(INPUTS), [[4]] * 3, SavedPrompt(PROMPT, after_eos))[:, 0]
  np.testing.assert_allclose(found(model), wanted, atol=1e-5)
  labelled = [example | {'targets': '5 6'} for example in EXAMPLES]
  np.testing.assert_allclose(found(model, labelled), wanted, atol=1e-5)


def test_hidden_states_are_what_the_output_layer_reads(model):
  hidden = found(model, of='hidden')
  assert hidden.shape == (3, 12)
  kernel = trees.flatten(model.params)['decoder/logits_dense/kernel']
  np.testing.assert_allclose(hidden @ np.asarray(kernel), found(model), atol=1e-5)


def test_the_top_tokens_are_spelled_likeliest_first(tiny):
  logits = np.full((2, 29), -1.0)
  logits[0, [5, 9, 3]], logits[1, [28, 4]] = [3.0, 7.0, 5.0], [2.0, 1.0]
  assert [row[:2] for row in top_tokens(tiny, logits, 3)] == [['9', '3'], ['28', '4']]
  assert top_tokens(tiny, logits, 3)[0] == ['9', '3', '5']


def test_what_cannot_be_represented_is_a_clear_error(tiny):
  with pytest.raises(ValueError, match=r"Representations got of='words'. Use .logits. or .hidden."):
    found(tiny, of='words')
  with pytest.raises(ValueError, match=r'logits of shape \(3, 12\) and count=.*, expected \[N, 29\]'):
    top_tokens(tiny, np.zeros((3, 12)))
