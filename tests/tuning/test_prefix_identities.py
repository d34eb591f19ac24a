"""Algebraic limits of a prefix (Petrov, Torr and Bibi 2023): it rescales attention and adds one direction."""

import jax
import jax.numpy as jnp
import numpy as np

from prompt_tuning.models import loading
from prompt_tuning.models.attention import Block, attend, hide
from prompt_tuning.models.compiled import attention_weights
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning, StackConditioning

MODEL = loading.random_model(DecoderConfig(
  vocab_size=23, layers=2, width=12, heads=3, head_dim=4, mlp_dim=20, mlp_activations=('gelu',), norm='layer',
  bias=True, query_scale=0.5, position_count=16, family='gpt2'), seed=3)
LAYOUT = MODEL.layout()
BATCH = layouts.assemble([[LAYOUT.example([5, 6, 7, 8], [9, 4])]], LAYOUT.row_lengths({'inputs': 4, 'targets': 2}))


def weights(conditioning):
  """Returns the first layer's attention [H, T, S]."""
  found = attention_weights(MODEL.module, MODEL.params, BATCH, conditioning)
  return np.asarray(found['decoder/layers/self_attention'][0, 0])


def test_a_vector_in_front_rescales_the_attention_among_the_content():
  keys = 2 * jax.random.normal(jax.random.key(0), (2, 1, 3, 1, 4))
  # A prefix has no positions, so the content keeps the positions that it has after one token.
  zeros = jnp.full_like(keys, 0.0)
  given = weights(Conditioning(decoder=StackConditioning(prefix=(keys, zeros))))
  other = weights(Conditioning(decoder=StackConditioning(prefix=(zeros, zeros))))
  among = other[:, :, 1:] / other[:, :, 1:].sum(-1, keepdims=True)  # A: attention of the content to itself
  np.testing.assert_allclose(given[:, :, 1:], among * (1 - given[:, :, :1]), atol=1e-5)
  assert np.abs(given[:, :, 0] - other[:, :, 0]).max() > 0.05  # the vector gets attention


def test_the_output_moves_towards_the_value_of_the_vector_in_front():
  query, keys, values = (jax.random.normal(jax.random.key(i), (1, 2, 5, 4)) for i in range(3))
  key, value = (jax.random.normal(jax.random.key(i), (1, 2, 1, 4)) for i in (3, 4))
  causal = hide(jnp.tril(jnp.ones((5, 5), bool)))
  alone, _ = attend(query, [Block(keys, values, (causal,))])
  found, given = attend(query, [Block(key, value), Block(keys, values, (causal,))])
  share = given[..., :1]
  np.testing.assert_allclose(found, share * value + (1 - share) * alone, atol=1e-5)


def test_vectors_at_the_input_of_attention_are_keys_and_values_of_the_frozen_weights():
  vectors = jax.random.normal(jax.random.key(0), (2, 1, 3, 12))
  keys, values = MODEL.module.apply({'params': MODEL.params}, vectors, method='run_layer_prompts')
  layers = jax.tree.map(np.asarray, MODEL.params['decoder']['layers'])
  for i in range(2):
    x = np.asarray(vectors[i, 0])
    scale, bias = (layers['pre_self_attention_layer_norm'][name][i] for name in ('scale', 'bias'))
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * scale + bias
    for name, found in (('key', keys), ('value', values)):
      dense = layers['self_attention'][name]
      expected = (normed @ dense['kernel'][i] + dense['bias'][i]).reshape(3, 3, 4).swapaxes(0, 1)
      np.testing.assert_allclose(found[i, 0], expected, atol=1e-5)
