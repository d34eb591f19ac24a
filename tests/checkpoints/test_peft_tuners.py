"""Adapters that change modules of the base model: those that PEFT wrote are written back, and mistakes are named."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from prompt_tuning.checkpoints.peft import read_adapter, write_adapter
from prompt_tuning.checkpoints.peft_modules import modules_of
from prompt_tuning.models.decoder_config import DecoderConfig
from prompt_tuning.models.families import gpt2, llama
from prompt_tuning.models.loading import module_of, open_checkpoint, parameter_shapes, read_config

ADAPTERS = ('gpt2_ia3', 'gpt2_lora', 'gpt2_ln_tuning', 'llama_ia3', 'llama_lora', 'llama_ln_tuning', 't5_v10_ia3',
            't5_v11_ia3', 't5_v11_lora', 't5_v11_ln_tuning')
SIZES = {'vocab_size': 17, 'layers': 2, 'width': 12, 'heads': 3, 'head_dim': 4, 'mlp_dim': 14}
LLAMA = DecoderConfig(kv_heads=1, mlp_activations=('silu', 'linear'), **SIZES)
GPT2 = DecoderConfig(mlp_activations=('gelu',), norm='layer', bias=True, position_count=9, tied=True, family='gpt2',
                     **SIZES)
A, B = ('base_model.model.model.layers.1.self_attn.v_proj.lora_' + part for part in ('A.weight', 'B.weight'))
LORA = {A: np.ones((2, 12), np.float32), B: np.ones((4, 2), np.float32)}


def modules(config, family=llama.FAMILY):
  return modules_of(family.rules(), parameter_shapes(module_of(config)))


@pytest.fixture(scope='module')
def of_llama():
  return modules(LLAMA)


@pytest.fixture(scope='module')
def of_gpt2():
  return modules(GPT2, gpt2.FAMILY)


@pytest.fixture
def written(tmp_path):
  """Writes an adapter with a config and arrays."""
  def write(arrays, **config):
    (tmp_path / 'adapter_config.json').write_text(json.dumps(config))
    save_file(arrays, tmp_path / 'adapter_model.safetensors')
    return read_adapter(tmp_path)

  return write


@pytest.mark.parametrize('name', ADAPTERS)
def test_what_peft_wrote_is_written_back(shared, tmp_path, name):
  from prompt_tuning.models.families.registry import get_family

  config = read_config(open_checkpoint(str(shared / 'hf' / name.rpartition('_')[0].removesuffix('_ln'))))
  own = modules(config, get_family(config.family))
  source = read_adapter(shared / 'hf' / f'peft_{name}' / 'adapter')
  write_adapter(str(tmp_path / 'a'), source.trained(modules=own), task_type=source.config['task_type'], modules=own)
  found = read_adapter(tmp_path / 'a')
  assert found.kind == source.kind and found.arrays.keys() == source.arrays.keys()
  scale = source.config.get('lora_alpha', 1) / source.config.get('r', 1)
  for key, array in source.arrays.items():
    np.testing.assert_allclose(found.arrays[key], array * (scale if 'lora_B' in key else 1), rtol=1e-6, err_msg=key)
  for field in ('feedforward_modules', 'fan_in_fan_out', 'r'):
    assert found.config.get(field) == source.config.get(field), field


def test_a_rank_and_a_scale_may_differ_by_module(written, of_llama):
  adapter = written(LORA, peft_type='LORA', r=3, lora_alpha=7, rank_pattern={'v_proj': 2},
                    alpha_pattern={r'layers\.1\..*': 5, 'v_proj': 9})
  found = adapter.trained(modules=of_llama)
  name = 'decoder/layers_1/self_attention/value/kernel'
  np.testing.assert_array_equal(found[f'{name}/down'], np.ones((12, 2)))
  np.testing.assert_array_equal(found[f'{name}/up'], np.full((2, 4), 2.5))
  rslora = written(LORA, peft_type='LORA', r=2, lora_alpha=3, use_rslora=True).trained(modules=of_llama)
  np.testing.assert_allclose(rslora[f'{name}/up'], np.full((2, 4), 3 / 2**0.5), rtol=1e-6)


def test_updates_of_gpt2s_query_and_value_are_one_of_the_module_that_holds_them(of_gpt2, tmp_path):
  random = np.random.default_rng(0)
  kernel = 'decoder/layers_1/self_attention/{}/kernel/{}'
  tensors = {kernel.format(name, part): random.normal(size=shape).astype(np.float32)
             for name, rank in (('query', 2), ('value', 3))
             for part, shape in (('down', (12, rank)), ('up', (rank, 12)))}
  config = write_adapter(str(tmp_path / 'a'), tensors, task_type='CAUSAL_LM', modules=of_gpt2)
  assert (config['r'], config['lora_alpha'], config['fan_in_fan_out']) == (5, 5, True)
  assert config['target_modules'] == ['1.attn.c_attn']
  arrays = load_file(tmp_path / 'a/adapter_model.safetensors')
  product = np.matmul(*(arrays[f'base_model.model.transformer.h.1.attn.c_attn.lora_{part}.weight'] for part in 'BA')).T
  wanted = [tensors[kernel.format(name, 'down')] @ tensors[kernel.format(name, 'up')] for name in ('query', 'value')]
  np.testing.assert_allclose(product, np.concatenate([wanted[0], np.zeros((12, 12)), wanted[1]], axis=1), atol=1e-5)


@pytest.mark.parametrize(('arrays', 'config', 'message'), [
  ({}, {'use_dora': True}, 'sets use_dora to True, which is not supported: outputs would differ. Train it without'),
  ({}, {'bias': 'all'}, "sets bias to 'all', which is not supported"),
  ({}, {'layer_replication': [[0, 1]]}, 'sets layer_replication'),
  ({}, {'init_lora_weights': 'olora'}, r'plain LoRA \(path_initial_model_for_weight_conversion\)'),
  ({}, {'modules_to_save': ['score']}, 'sets modules_to_save, whole modules beside the adapter'),
  ({}, {'r': 'two'}, "sets r to 'two': expected int"),
  ({}, {'alpha_pattern': {'v_proj': float('nan')}}, 'sets alpha_pattern'),
  ({}, {'rank_pattern': {'(': 2}}, 'not a regular expression'),
  ({}, {'r': 3}, r'v_proj lora_A.weight \[2, 12\], .*; expected lora_A.weight \[3, 12\], lora_B.weight \[4, 3\]'),
  ({}, {'task_type': 'SEQ_2_SEQ_LM'}, 'SEQ_2_SEQ_LM, but the base model has no encoder'),
  ({A: None}, {}, r'v_proj lora_B.weight \[4, 2\]; expected lora_A'),
  ({A.replace('v_proj', 'w_proj'): LORA[A]}, {}, r'has no module model.layers.1.self_attn.w_proj that .* Did you mean'),
  ({'base_model.model.score.weight': LORA[A]}, {}, r'holds base_model.model.score.weight, which cannot be read'),
  ({A: None, B: None}, {}, 'holds no array')])
def test_a_lora_that_cannot_be_read_is_an_error(written, of_llama, arrays, config, message):
  kept = {name: array for name, array in (LORA | arrays).items() if array is not None}
  adapter = written(kept, **{'peft_type': 'LORA', 'r': 2, **config})
  with pytest.raises(ValueError, match=message):
    adapter.trained(modules=of_llama, encoder_decoder=False)


def test_fields_of_later_versions_are_a_warning(written, of_llama, caplog):
  written(LORA, peft_type='LORA', r=2, use_magic=True, magic=None).trained(modules=of_llama)
  assert "has 1 unknown fields, which are not used: 'use_magic'" in caplog.text


@pytest.mark.parametrize(('kind', 'name', 'shape', 'message'), [
  ('IA3', 'model.layers.0.self_attn.k_proj.ia3_l', (5, 1), r'k_proj.ia3_l \[5, 1\]; expected \[4, 1\] or \[1, 12\]'),
  ('IA3', 'lm_head.ia3_l', (17, 1), 'scales lm_head, but only layers of a stack can be scaled'),
  ('IA3', 'model.norm.ia3_l', (12, 1), 'has no module model.norm that an adapter of type IA3 can change'),
  ('LN_TUNING', 'model.norm.ln_tuning_layers.bias', (12,), r'bias \[12\]; expected .*norm.ln_tuning_layers.weight'),
  ('LN_TUNING', 'model.norm.ln_tuning_layers.weight', (7,), r'weight \[7\]; expected .*weight \[12\]')])
def test_arrays_that_do_not_fit_are_an_error(written, of_llama, kind, name, shape, message):
  adapter = written({f'base_model.model.{name}': np.ones(shape, np.float32)}, peft_type=kind)
  with pytest.raises(ValueError, match=message):
    adapter.trained(modules=of_llama)


QUERY = 'decoder/layers_0/self_attention/query/kernel'


@pytest.mark.parametrize(('tensors', 'message'), [
  ({'decoder/scales/self_attention/key/output': (2, 12), 'decoder/scales/self_attention/key/input': (2, 12)},
   'multiply input and output of transformer.h.0.attn.c_attn, but PEFT multiplies one'),
  ({'decoder/scales/self_attention/key/input': (2, 12)}, 'whose input PEFT multiplies once, but the scales differ'),
  ({'decoder/scales/self_attention/key/output': (3, 12)}, 'which does not fit the base model'),
  ({'decoder/scales/cross/key/output': (2, 12)}, 'which does not fit the base model'),
  ({f'{QUERY}/down': (12, 2)}, r'has the factors \[\[12, 2\], \[\]\]; the base model needs'),
  ({f'{QUERY}/down': (12, 2), f'{QUERY}/up': (2, 13)}, r'of a matrix \[12, 12\]'),
  ({'token_embedder/embedding/down': (17, 2), 'token_embedder/embedding/up': (2, 12)}, 'PEFT has no such update'),
  ({'decoder/decoder_norm/scale': (12,)}, "decoder_norm/bias is not retrained, but PEFT replaces a norm whole"),
  ({'decoder/decoder_norm/scale': (12,), 'decoder/decoder_norm/bias': (3,)}, r'bias has shape \[3\], .* has \[12\]'),
  ({'decoder/other_norm/scale': (12,)}, 'decoder/other_norm is not a module of the base model'),
  ({f'{QUERY}': (12, 12)}, 'or scales, low-rank updates or norms alone, and nothing else')])
def test_what_peft_cannot_hold_is_an_error(of_gpt2, tmp_path, tensors, message):
  arrays = {name: np.ones(shape, np.float32) for name, shape in tensors.items()}
  with pytest.raises(ValueError, match=message):
    write_adapter(str(tmp_path / 'a'), arrays, task_type='CAUSAL_LM', modules=of_gpt2)


def test_names_of_modules_are_the_shortest_that_find_no_other(of_llama):
  assert of_llama.targets(['model.norm']) == ['model.norm']  # 'norm' also ends the other norms
  both = [f'model.layers.{layer}.self_attn.v_proj' for layer in (0, 1)]
  assert of_llama.targets(both) == ['v_proj'] and of_llama.targets(both[1:]) == ['1.self_attn.v_proj']
