"""Visibility, compared with masks drawn by hand; and attention over several blocks."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning.models.attention import Block, attend, cross_visible, hide, self_visible
from prompt_tuning.rows.conditioning import Visibility

# One row: a prompt of two and two tokens, then another example of one token, then padding.
LAYOUT = {'segments': np.array([[1, 1, 1, 1, 2, 0]]), 'prompt_slots': np.array([[0, -1, 1, -1, -1, -1]])}


def mask(text):
  return [[column == 'x' for column in line] for line in text.split()]


@pytest.mark.parametrize(('visibility', 'wanted'), [
  (Visibility(), 'xxxx.. xxxx.. xxxx.. xxxx.. ....x. ......'),
  (Visibility(input=False), 'x.x... xxxx.. x.x... xxxx.. ....x. ......'),
  (Visibility(prompt=False), 'xx.x.. xxxx.. .xxx.. xxxx.. ....x. ......'),
  (Visibility(input=False, prompt=False), 'x..... xxxx.. ..x... xxxx.. ....x. ......'),
])
def test_the_visibility_decides_what_the_prompt_sees_and_never_who_sees_it(visibility, wanted):
  assert self_visible(LAYOUT, causal=False, visibility=visibility)[0, 0].tolist() == mask(wanted)


def test_a_causal_stack_sees_what_stands_before_in_the_same_segment():
  found = self_visible(LAYOUT, causal=True, visibility=Visibility())[0, 0]
  assert found.tolist() == mask('x..... xx.... xxx... xxxx.. ....x. ......')


def test_a_decoder_reads_its_own_segment_of_the_encoder_and_no_padding():
  found = cross_visible(np.array([[2, 1, 0]]), LAYOUT['segments'])[0, 0]
  assert found.tolist() == mask('....x. xxxx.. ......')


@pytest.fixture
def heads():
  random = np.random.default_rng(0)
  return lambda *shape: jnp.asarray(random.normal(size=shape), jnp.float32)


def test_blocks_are_joined_before_the_softmax(heads):
  query, front, own = heads(2, 3, 4, 5), (heads(2, 3, 6, 5), heads(2, 3, 6, 5)), (heads(2, 3, 7, 5), heads(2, 3, 7, 5))
  biases = (heads(2, 1, 4, 6), heads(3, 4, 6)), (heads(2, 1, 4, 7),)
  found, _ = attend(query, [Block(*front, biases[0]), Block(*own, biases[1])])
  keys, values = (np.concatenate(parts, axis=2) for parts in zip(front, own, strict=True))
  bias = np.concatenate([biases[0][0] + biases[0][1], np.broadcast_to(biases[1][0], (2, 3, 4, 7))], axis=3)
  logits = np.einsum('bhtk,bhsk->bhts', query, keys) + bias
  weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  np.testing.assert_allclose(found, np.einsum('bhts,bhsk->bhtk', weights, values), atol=1e-5)
  factors = heads(2, 3, 1, 13)
  found, _ = attend(query, [Block(*front, biases[0]), Block(*own, biases[1])], dropout=factors)
  np.testing.assert_allclose(found, np.einsum('bhts,bhsk->bhtk', weights * factors, values), atol=1e-5)


def test_a_block_with_fewer_rows_serves_the_rows_that_stand_behind_one_another(heads):
  query, keys, values = heads(6, 3, 4, 5), heads(2, 3, 7, 5), heads(2, 3, 7, 5)
  repeated = [Block(np.repeat(keys, 3, axis=0), np.repeat(values, 3, axis=0))]
  np.testing.assert_allclose(attend(query, [Block(keys, values)])[0], attend(query, repeated)[0], atol=1e-6)


def test_a_row_that_sees_nothing_stays_finite_and_hidden_keys_get_no_weight(heads):
  query, keys, values = heads(1, 1, 2, 5), heads(1, 1, 3, 5), heads(1, 1, 3, 5)
  visible = jnp.array([[True, False, False], [False, False, False]])
  found, _ = attend(query, [Block(keys, values, (hide(visible),))])
  np.testing.assert_array_equal(found[0, 0, 0], values[0, 0, 0])
  assert jnp.isfinite(found).all()


def test_logits_are_taken_in_float32_for_half_precision_activations(heads):
  query, keys, values = (heads(1, 2, 3, 4).astype(jnp.bfloat16) for _ in range(3))
  traced = jax.make_jaxpr(lambda q: attend(q, [Block(keys, values)]))(query)
  assert attend(query, [Block(keys, values)])[0].dtype == jnp.bfloat16
  assert re.findall(r'(\w+)\[[0-9,]*\] = exp ', str(traced)) == ['f32']


def test_one_query_of_many_rows_gets_what_it_gets_among_few():
  query, keys, values = (jax.random.normal(jax.random.key(i), (20, 2, size, 3)) for i, size in enumerate((1, 5, 5)))
  many, _ = attend(query, [Block(keys, values)])
  few = [attend(query[i:i + 4], [Block(keys[i:i + 4], values[i:i + 4])])[0] for i in range(0, 20, 4)]
  np.testing.assert_allclose(many, np.concatenate(few), atol=1e-6)
