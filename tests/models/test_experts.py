"""Mixtures of experts, against each expert computed alone, and the 4-bit weights of gpt-oss."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_models import FAMILIES

from prompt_tuning.checkpoints.huggingface import read_arrays, write_arrays
from prompt_tuning.models import loading
from prompt_tuning.models.experts import Experts
from prompt_tuning.models.layers import MLP
from prompt_tuning.models.stack_config import StackConfig
from prompt_tuning.tuning.low_rank import LowRank

CONFIG = StackConfig(layers=1, width=6, heads=1, head_dim=2, mlp_dim=5, experts=4, experts_per_token=2,
                     mlp_activations=('silu', 'linear'))


@pytest.mark.parametrize('whole', [True, False])
def test_a_token_gets_the_weighted_sum_of_the_experts_with_the_largest_logits(whole):
  module = Experts(dataclasses.replace(CONFIG, shares_sum_to_one=whole), name='mlp')
  x = jax.random.normal(jax.random.key(1), (2, 3, 6))
  params = module.init(jax.random.key(0), x, None, site=0)
  found, weights = module.apply(params, x, None, site=0), params['params']
  for row, y in zip(np.asarray(x).reshape(-1, 6), np.asarray(found).reshape(-1, 6), strict=True):
    logits = row @ np.asarray(weights['router']['kernel'])
    chosen = np.argsort(-logits)[:2]
    shares = np.exp(logits) / np.exp(logits[chosen] if whole else logits).sum()
    wanted = 0
    for e in chosen:
      gate, up = (row @ np.asarray(weights[name]['kernel'][e]) for name in ('wi_0', 'wi_1'))
      wanted += shares[e] * (gate / (1 + np.exp(-gate)) * up) @ np.asarray(weights['wo']['kernel'][e])
    np.testing.assert_allclose(y, wanted, atol=1e-5)


def test_arrays_in_four_bits_are_read_as_the_numbers_that_they_stand_for(tmp_path):
  shutil.copytree(FAMILIES / 'gpt_oss', tmp_path, dirs_exist_ok=True)
  config = json.loads((tmp_path / 'config.json').read_text())
  config |= {'hidden_size': 32, 'quantization_config': {'quant_method': 'mxfp4'}}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  values = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]
  numbers = np.random.default_rng(0)
  codes = numbers.integers(0, 16, (3, 20, 1, 32))  # of an array [3, 32, 20]
  scales = numbers.integers(122, 131, (3, 20, 1))
  wide = {}
  for name, array in read_arrays(str(tmp_path / 'model.safetensors')).items():
    shape = [32 if size == 16 else size for size in array.shape]
    if name.endswith('down_proj'):  # whose inputs are no whole block
      shape = [3, 10, 32]
    wide[name] = np.zeros([24 if 'self_attn' in name and size == 24 else size for size in shape], np.float32)
  for i in range(3):
    name = f'model.layers.{i}.mlp.experts.gate_up_proj'
    del wide[name]
    wide |= {f'{name}_blocks': (codes[..., ::2] | codes[..., 1::2] << 4).astype(np.uint8),
             f'{name}_scales': scales.astype(np.uint8)}
  write_arrays(str(tmp_path / 'model.safetensors'), wide)
  found = loading.load_model(str(tmp_path)).params['decoder']['layers']['mlp']
  for e, out, d in ((0, 0, 0), (1, 7, 31), (2, 18, 4), (2, 19, 5)):
    wanted = values[codes[e, out, 0, d]] * 2.0**(scales[e, out, 0] - 127)
    assert found[f'wi_{out % 2}']['kernel'][1, e, d, out // 2] == wanted
  config['quantization_config'] = {'quant_method': 'fp8'}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  with pytest.raises(ValueError, match='quantised arrays cannot be read'):
    loading.load_model(str(tmp_path))


def test_low_rank_updates_of_experts_are_refused():
  model = loading.load_model(str(FAMILIES / 'mixtral'))
  with pytest.raises(ValueError, match=r'mlp/wi_0/kernel has shape \(5, 12, 10\), .* not those of several experts'):
    LowRank(2, '.*mlp/wi_0/kernel').initialise(jax.random.key(0), model)


@pytest.mark.parametrize(('name', 'changes', 'message'), [
  ('mixtral', {'num_experts_per_tok': 6}, 'sets num_experts_per_tok to 6, but num_local_experts to 5'),
  ('qwen3_moe', {'decoder_sparse_step': 2}, 'sets decoder_sparse_step to 2; the supported value is 1'),
  ('qwen3_moe', {'mlp_only_layers': [1]}, r'sets mlp_only_layers to \[1\]; the supported value is \[\]'),
  ('gpt_oss', {'hidden_act': 'gelu'}, "sets hidden_act to 'gelu'; the supported value is 'silu'")])
def test_fields_that_are_not_supported_are_refused_by_name(name, changes, message, tmp_path):
  shutil.copytree(FAMILIES / name, tmp_path, dirs_exist_ok=True)
  config = json.loads((tmp_path / 'config.json').read_text())
  (tmp_path / 'config.json').write_text(json.dumps(config | changes))
  with pytest.raises(ValueError, match=message):
    loading.load_model(str(tmp_path))


def test_gradients_reach_the_input_through_chosen_experts():
  module = Experts(CONFIG, name='mlp')
  x = jax.random.normal(jax.random.key(1), (1, 2, 6))
  params = module.init(jax.random.key(0), x, None, site=0)
  value = jax.jit(lambda x: jnp.sum(module.apply(params, x, None, site=0)**2))
  step = 1e-2 * jax.random.normal(jax.random.key(2), x.shape)
  slope = jnp.vdot(jax.grad(value)(x), step)
  np.testing.assert_allclose(slope, (value(x + step) - value(x - step)) / 2, rtol=2e-2)


@pytest.mark.parametrize('rate', [0.0, 0.5])
def test_experts_that_are_all_the_same_are_an_mlp_also_in_what_they_drop(rate):
  config = dataclasses.replace(CONFIG, dropout_rate=rate)
  x, keys = jax.random.normal(jax.random.key(1), (3, 4, 6)), jax.random.split(jax.random.key(2), 3)
  mlp, experts = MLP(config, name='mlp'), Experts(config, name='mlp')
  one = mlp.init(jax.random.key(0), x, None, site=0)['params']
  several = jax.tree.map(lambda array: jnp.stack([array] * 4), one)
  several['router'] = {'kernel': jax.random.normal(jax.random.key(3), (6, 4))}
  scales = {f'mlp/{name}': jax.random.normal(jax.random.key(4), (rows, 1, width)) for rows, name, width in (
    (1, 'wi_0/output', 5), (3, 'wo/input', 5), (1, 'wi_1/input', 6))}
  for given in ({}, scales):
    found = experts.apply({'params': several}, x, keys, site=2, scales=given)
    of_mlp = {name.removeprefix('mlp/'): scale for name, scale in given.items()}  # it is no part of a layer here
    wanted = mlp.apply({'params': one}, x, keys, site=2, scales=of_mlp)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(np.asarray(wanted)).max() > 0.1
