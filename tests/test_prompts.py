"""Initialisers of a prompt, and the prompt tuning method."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from prompt_tuning import prompts
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Visibility

P, D, V = 5, 4, 40
KEY = jax.random.key(3)


class Letters:
  """A vocabulary of letters: a is 1, b is 2, and so on."""

  def encode(self, text):
    return [ord(letter) - ord('a') + 1 for letter in text if letter != ' ']


@pytest.fixture
def embeddings():
  return np.random.default_rng(1).normal(size=(V, D)).astype(np.float32)


def values(initializer, shape=(P, D), key=KEY):
  """Returns the initialiser's values as the parameter of a Prompt."""
  module = prompts.Prompt(shape[0], initializer)
  return np.asarray(module.init(key, shape[1])['params']['prompt'])


def row_numbers(vectors, embeddings):
  """Returns the embedding row that each vector equals."""
  equal = (vectors[:, None] == embeddings[None]).all(-1)
  assert (equal.sum(1) == 1).all(), 'every vector is exactly one row'
  return equal.argmax(1)


def test_the_default_is_uniform_in_zero_to_one_half():
  found = values(prompts.Prompt(P).prompt_init, (200, D))
  assert found.min() >= 0 and 0.45 < found.max() < 0.5
  assert abs(found.mean() - 0.25) < 0.02
  assert (found != values(prompts.Prompt(P).prompt_init, (200, D), jax.random.key(4))).any()


def test_sampled_rows_are_rows_of_the_first_few_words_and_none_twice(embeddings):
  found = row_numbers(values(prompts.from_sample_of_embeddings(embeddings, 9), (9, D)), embeddings)
  assert sorted(found) == list(range(9))
  assert found.tolist() != list(range(9))


def test_sampled_rows_repeat_only_where_there_are_too_few(embeddings):
  found = row_numbers(values(prompts.from_sample_of_embeddings(embeddings, 3), (8, D)), embeddings)
  assert set(found) <= {0, 1, 2}


def test_sampled_rows_may_come_from_the_whole_vocabulary(embeddings):
  found = row_numbers(values(prompts.from_sample_of_embeddings(embeddings, None), (V, D)), embeddings)
  assert sorted(found) == list(range(V))


@pytest.mark.parametrize('size', [0, -1, V + 1])
def test_a_population_that_the_vocabulary_does_not_have_is_an_error(embeddings, size):
  with pytest.raises(ValueError, match=f'population_size={size} is out of range: .* has 40 rows. Use 1 to 40'):
    prompts.from_sample_of_embeddings(embeddings, size)


def test_class_labels_start_as_the_mean_of_their_tokens_and_the_rest_by_another_initialiser(embeddings):
  found = values(prompts.from_embedded_list(embeddings, Letters(), ['abc', 'd'], nn.initializers.constant(7.0)))
  np.testing.assert_allclose(found[0], embeddings[1:4].mean(0), rtol=1e-6)
  np.testing.assert_allclose(found[1], embeddings[4])
  assert (found[2:] == 7).all()


def test_more_labels_than_vectors_are_an_error(embeddings):
  with pytest.raises(ValueError, match=r'6 texts cannot initialise a prompt of 5 vectors. Give length=6 or more'):
    values(prompts.from_embedded_list(embeddings, Letters(), list('abcdef')))


def test_a_label_without_a_token_is_an_error(embeddings):
  with pytest.raises(ValueError, match=r"The text ' ' has no tokens"):
    values(prompts.from_embedded_list(embeddings, Letters(), ['a', ' ']))


def test_no_label_at_all_is_an_error(embeddings):
  with pytest.raises(ValueError, match=r'There are no texts to initialise'):
    values(prompts.from_embedded_list(embeddings, Letters(), []))


def test_a_text_starts_with_its_tokens_and_is_cut_at_the_prompts_length(embeddings):
  found = values(prompts.from_embedded_string(embeddings, Letters(), 'bad', nn.initializers.zeros))
  assert row_numbers(found[:3], embeddings).tolist() == [2, 1, 4]
  assert not found[3:].any()
  found = values(prompts.from_embedded_string(embeddings, Letters(), 'abcdefgh'))
  assert row_numbers(found, embeddings).tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize('make', [
  lambda e: prompts.from_sample_of_embeddings(e, 9),
  lambda e: prompts.from_embedded_list(e, Letters(), ['a']),
  lambda e: prompts.from_embedded_string(e, Letters(), 'a'),
])
def test_an_embedding_of_another_width_is_an_error(embeddings, make):
  with pytest.raises(ValueError, match=r'The embedding has width 4, but the model has width 6.'):
    values(make(embeddings), (P, 6))


def test_a_given_array_is_taken_as_it_is():
  array = np.random.default_rng(2).normal(size=(P, D)).astype(np.float32)
  np.testing.assert_array_equal(values(prompts.from_array(array)), array)


def test_a_given_array_is_copied_so_that_training_cannot_free_it():
  array = jnp.ones((P, D))
  first = prompts.from_array(array)(KEY, (P, D))
  first.delete()  # as with a donated buffer
  assert array.sum() == P * D


@pytest.mark.parametrize(('shape', 'advice'), [
  ((3, D), r'has shape \(3, 4\), but the run needs 5 vectors of width 4. Give length=3'),
  ((P, 9), r'has shape \(5, 9\), but the run needs 5 vectors of width 4. Choose one that was trained for this model'),
])
def test_a_given_array_of_another_shape_is_an_error_that_says_what_to_do(shape, advice):
  with pytest.raises(ValueError, match=advice):
    values(prompts.from_array(np.zeros(shape)))


class Model:
  """A model with only the interface that methods use."""

  width = D
  prompted = 'encoder'
  params = {}  # noqa: RUF012


def test_the_method_makes_one_tensor_under_the_name_that_files_use():
  trained = prompts.PromptTuning(prompts.Prompt(P)).initialise(KEY, Model())
  assert jax.tree.map(jnp.shape, trained) == {'encoder': {'prompt': {'prompt': {'prompt': (P, D)}}}}


def test_a_wayward_prompt_pays_for_its_squared_distance_to_the_embedded_text(embeddings):
  wayward = prompts.Wayward.of_text(embeddings, Letters(), 'bad', 0.5)
  method = prompts.PromptTuning(prompts.Prompt(3), wayward=wayward)
  vectors = np.random.default_rng(3).normal(size=(3, D)).astype(np.float32)
  trained = {'encoder': {'prompt': {'prompt': {'prompt': jnp.asarray(vectors)}}}}
  difference = vectors - embeddings[[2, 1, 4]]
  np.testing.assert_allclose(method.penalty(trained), 0.5 * (difference**2).sum(), rtol=1e-6)
  gradient, = jax.tree.leaves(jax.grad(method.penalty)(trained))
  np.testing.assert_allclose(gradient, difference, rtol=1e-5)
  assert prompts.PromptTuning(prompts.Prompt(3)).penalty(trained) is None


def test_a_wayward_prompt_wants_a_text_of_its_length_and_a_weight(embeddings):
  class Model:
    width, prompted = D, 'encoder'

  wayward = prompts.Wayward.of_text(embeddings, Letters(), 'bad', 0.5)
  with pytest.raises(ValueError, match=r'embedded as \(3, 4\), expected \(5, 4\).* Set length= to its number'):
    prompts.PromptTuning(prompts.Prompt(P), wayward=wayward).initialise(KEY, Model())
  with pytest.raises(ValueError, match=r'gamma=0, .* must be above 0. Use a number above 0'):
    prompts.Wayward.of_text(embeddings, Letters(), 'bad', 0)


def test_the_method_hands_the_prompt_to_the_encoder():
  method = prompts.PromptTuning(prompts.Prompt(P, dtype=jnp.bfloat16), layouts.after_eos, Visibility(input=False))
  trained = method.initialise(KEY, Model())
  given = method.condition(trained, Model()).encoder
  assert given.prompt.shape == (1, P, D) and given.prompt.dtype == jnp.bfloat16
  np.testing.assert_allclose(given.prompt[0], trained['encoder']['prompt']['prompt']['prompt'], atol=2e-3)
  assert given.visibility == Visibility(input=False)
  assert method.layout() == layouts.Layout(P, layouts.after_eos, isolated=True)
