"""Every stored parameter of a model is used: its gradient is not zero, except for parameters exempt by name."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning import trees
from prompt_tuning.losses import cross_entropy
from prompt_tuning.models.attention_shape import AttentionShape
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.delta_shape import DeltaShape
from prompt_tuning.models.loading import random_model
from prompt_tuning.models.positions import Rotary
from prompt_tuning.models.rotary_scaling import Proportional
from prompt_tuning.models.stack_config import StackConfig
from prompt_tuning.models.stacks_config import StacksConfig
from prompt_tuning.models.t5 import T5Config
from prompt_tuning.rows import layouts

SIZES = {'width': 12, 'heads': 4, 'head_dim': 6, 'mlp_dim': 14, 'vocab_size': 17}
GEMMA = {'norm_offset': 1.0, 'post_norms': True, 'embedding_scale': 12**0.5, 'mlp_activations': ('gelu', 'linear')}
MODELS = {
  'gpt2': DecoderConfig(layers=2, mlp_activations=('gelu',), norm='layer', bias=True, query_scale=6**-0.5,
                        position_count=14, tied=True, family='gpt2', **SIZES),
  'llama': DecoderConfig(layers=3, kv_heads=2, mlp_activations=('silu', 'linear'), query_scale=6**-0.5,
                         rotary=(Rotary(),) * 3, **SIZES),
  'qwen3': DecoderConfig(layers=2, kv_heads=2, mlp_activations=('silu', 'linear'), query_scale=6**-0.5,
                         rotary=(Rotary(),) * 2, query_norms=True, tied=True, family='qwen3', **SIZES),
  'gemma2': DecoderConfig(layers=2, kv_heads=2, query_scale=0.3, rotary=(Rotary(),) * 2, windows=(3, 0), tied=True,
                          attention_cap=5.0, output_cap=3.0, family='gemma2', **GEMMA, **SIZES),
  'gemma3': DecoderConfig(layers=2, kv_heads=1, query_scale=0.3, rotary=(Rotary(), Rotary(1e6, 8.0)), windows=(3, 0),
                          query_norms=True, family='gemma3', **GEMMA, **SIZES),
  'qwen3_5': DecoderConfig(layers=4, kv_heads=2, mlp_activations=('silu', 'linear'), query_scale=6**-0.5,
                           rotary=(None, Rotary()) * 2, query_norms=True, output_gate=True, norm_offset=1.0,
                           delta_layers=(True, False) * 2, delta=DeltaShape(2, 4, 5, 3, 3), family='qwen3_5', **SIZES),
  'gemma4': DecoderConfig(layers=6, kv_heads=2, mlp_activations=('silu', 'linear'), windows=(3, 0) * 3,
                          rotary=(Rotary(), Proportional(rotated=0.7)) * 3, query_norms=True, value_norms=True,
                          wide=AttentionShape(8, 4), wide_layers=(False, True) * 3,
                          shared_layers=2, shared_mlp_dim=18, layer_embedding=3, layer_vocab_size=17, tied=True,
                          output_scales=True, post_norms=True, embedding_scale=12**0.5, family='gemma4', **SIZES),
  't5 1.1': T5Config(encoder_layers=2, decoder_layers=3, relative_buckets=6, relative_max_distance=9, **SIZES),
  't5 1.0': T5Config(encoder_layers=2, decoder_layers=2, relative_buckets=6, relative_max_distance=9, tied=True,
                     scaled=True, mlp_activations=('relu',), **SIZES)}
GEMMA = {name: value for name, value in GEMMA.items() if name != 'embedding_scale'} | {'query_scale': 0.3}
ENCODER = StackConfig(**{name: value for name, value in SIZES.items() if name != 'vocab_size'}, **GEMMA, layers=2,
                      kv_heads=2, rotary=(Rotary(),) * 2, windows=(3, 0), windows_ahead=(2, 0), attention_cap=5.0)
MODELS['t5gemma'] = StacksConfig(17, ENCODER, dataclasses.replace(
  ENCODER, layers=3, width=10, kv_heads=1, rotary=(Rotary(),) * 3, windows=(0, 3, 0), windows_ahead=(),
  projection_biases=('value',)), input_scale=12**0.5, decoder_scale=10**0.5, output_cap=4.0)
MODELS['t5gemma2'] = StacksConfig(17, ENCODER, dataclasses.replace(
  ENCODER, merged=True, query_norms=True, kv_heads=4, windows_ahead=()), embedding_scale=12**0.5,
  decoder_scale=12**0.5, separate_embeddings=False, image_end=7, tied=True, family='t5gemma2')
# A softmax is invariant to a constant added to the products of a query with all keys.
EXEMPT = ('.*attention/key/bias',)
TEXTS = (([7, 8, 9, 4, 3, 2, 11, 6, 1], [5, 6, 10, 12, 1]), ([10, 3, 1], [11, 14, 1]))
UNUSED = [0, 13, 15, 16]  # tokens that do not occur
ONLY_TARGETS = [5, 12, 14]  # tokens that do not occur in inputs


@pytest.mark.parametrize('name', [
  pytest.param(name, marks=[pytest.mark.slow] * (name in (
    'qwen3', 'gemma2', 'qwen3_5', 'gemma4', 't5 1.1', 't5gemma', 't5gemma2'))) for name in MODELS])
def test_every_number_of_a_model_has_a_gradient(name):
  model = random_model(MODELS[name], seed=4)
  random = np.random.default_rng(1)
  params = jax.tree.map(lambda leaf: leaf + 0.3 * random.normal(size=leaf.shape).astype(np.float32), model.params)
  layout = model.layout()
  batch = layouts.assemble([[layout.example(*each)] for each in TEXTS], layout.row_lengths({'inputs': 9, 'targets': 5}))

  def loss(params):
    decoder = batch['decoder']
    return cross_entropy(model.module.apply({'params': params}, batch), decoder['targets'], decoder['loss_weights'])[0]

  for path, gradient in trees.unstack(trees.flatten(jax.jit(jax.grad(loss))(params))).items():
    if trees.matches(path, EXEMPT):
      assert jnp.abs(gradient).max() < 1e-5, path
      continue
    used = np.array(gradient)
    if path == 'token_embedder/embedding' and not MODELS[name].tied:
      unused = UNUSED[1:] if name.startswith('t5 ') else UNUSED  # T5's decoder starts with 0
      used = np.delete(used, unused + ONLY_TARGETS * (name == 't5gemma'), axis=0)
    if path == 'layer_embeddings/token_embedder/embedding':
      rows = batch['decoder']  # shared layers read no keys and values of other positions
      used = used[np.unique(rows['tokens'][rows['loss_weights'] > 0])]
    if path == 'decoder_token_embedder/embedding':
      used = used[[0, *sorted({token for _, target in TEXTS for token in target[:-1]})]]
    if path == 'position_embedder/embedding':
      used = used[:len(TEXTS[0][0]) + len(TEXTS[0][1]) - 1]
    if 'rel_embedding' in path:  # these texts do not have all distances, and a decoder has none to later positions
      used = used[:, np.abs(used).max(axis=0) > 0]
      assert used.shape[1] >= 3, path
    if name == 't5 1.0' and '/mlp/' in path:  # some hidden units are switched off by ReLU in these texts
      units = used if '/wi/' in path else used.T
      used = units[:, np.abs(units).max(axis=0) > 0]
      assert used.shape[1] >= 7, path
    assert (used != 0).all(), path
