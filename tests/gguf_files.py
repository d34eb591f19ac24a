"""Writes tiny models twice, with the same weights: as a GGUF file in the layout of llama.cpp, and as a folder.

  python tests/gguf_files.py FOLDER   # FOLDER/NAME/model.gguf and FOLDER/NAME/folder of every member
"""

import math
import pathlib
import sys

import gguf
import numpy as np

from prompt_tuning.checkpoints.huggingface import write_huggingface
from prompt_tuning.models.loading import load_model

IDS = [3, 9, 27, 5, 11, 40, 2, 8, 6, 31]
V, D, F = 48, 64, 96  # sizes that blocks of 32 numbers divide
LLAMA3 = {'rope_type': 'llama3', 'rope_theta': 500.0, 'factor': 8.0, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0,
          'original_max_position_embeddings': 64}
YARN = {'rope_type': 'yarn', 'rope_theta': 300.0, 'factor': 4.0, 'original_max_position_embeddings': 8,
        'beta_fast': 4.0, 'beta_slow': 0.5}
LINEAR = {'rope_type': 'linear', 'rope_theta': 700.0, 'factor': 2.5}
PLAIN = {'rope_type': 'default', 'rope_theta': 200.0}
# Name -> architecture, type of the large arrays, config.json.
MEMBERS = {
  'llama': ('llama', 'Q8_0', {'num_key_value_heads': 2, 'rope_parameters': LLAMA3}),
  'smollm': ('llama', 'Q4_0', {'num_key_value_heads': 1, 'rope_parameters': PLAIN, 'tie_word_embeddings': True}),
  'mistral': ('llama', 'F16', {'model_type': 'mistral', 'num_key_value_heads': 2, 'head_dim': 24, 'sliding_window': 3,
                               'rope_parameters': LINEAR}),
  'qwen2': ('qwen2', 'F32', {'num_key_value_heads': 2, 'rope_parameters': PLAIN, 'tie_word_embeddings': True}),
  'qwen3': ('qwen3', 'Q4_1', {'num_key_value_heads': 2, 'head_dim': 24, 'rope_parameters': YARN}),
  'gemma2': ('gemma2', 'Q5_0', {'num_key_value_heads': 2, 'head_dim': 8, 'sliding_window': 4, 'rope_parameters': PLAIN,
                                'attn_logit_softcapping': 2.0, 'final_logit_softcapping': 3.0,
                                'query_pre_attn_scalar': 8, 'tie_word_embeddings': True}),
  'gemma3': ('gemma3', 'BF16', {'model_type': 'gemma3_text', 'num_key_value_heads': 2, 'head_dim': 8,
                                'num_hidden_layers': 7, 'sliding_window': 3, 'query_pre_attn_scalar': 8,
                                'rope_parameters': {'full_attention': LINEAR, 'sliding_attention': {
                                  'rope_type': 'default', 'rope_theta': 10000.0}}, 'tie_word_embeddings': True})}
NAMES = {'q_proj': 'attn_q', 'k_proj': 'attn_k', 'v_proj': 'attn_v', 'o_proj': 'attn_output', 'q_norm': 'attn_q_norm',
         'k_norm': 'attn_k_norm', 'gate_proj': 'ffn_gate', 'up_proj': 'ffn_up', 'down_proj': 'ffn_down',
         'input_layernorm': 'attn_norm', 'post_attention_layernorm': 'ffn_norm'}
GEMMA_NAMES = NAMES | {'post_attention_layernorm': 'post_attention_norm', 'pre_feedforward_layernorm': 'ffn_norm',
                       'post_feedforward_layernorm': 'post_ffw_norm'}


def assert_logits_are_those_of(theirs, folder, ids=IDS):
  """Compares the logits of `folder/model.gguf` with those of a model of transformers."""
  import torch

  with torch.no_grad():
    wanted = theirs(torch.tensor([ids])).logits[0, :-1].numpy()
  found = load_model(str(folder / 'model.gguf')).logits([ids[:1]], [ids[1:]])[0]
  np.testing.assert_allclose(found, wanted, atol=2e-4 * np.abs(wanted).max())


def write_member(name, folder, *, tokenizer=lambda writer: None, keys=lambda writer: None, **changes):
  """Writes `folder/model.gguf` and `folder/folder`; the functions add metadata, `changes` are of `config.json`."""
  arch, kind, config = MEMBERS[name]
  config = {'model_type': arch, 'vocab_size': V, 'hidden_size': D, 'intermediate_size': F, 'num_hidden_layers': 2,
            'num_attention_heads': 4, 'head_dim': D // 4, 'rms_norm_eps': 1e-5, 'max_position_embeddings': 256,
            'tie_word_embeddings': False, **config, **changes}
  arrays = {each: _rounded(array, kind) for each, array in _arrays(arch, config).items()}
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  write_huggingface(str(folder / 'folder'), config, arrays)
  writer = gguf.GGUFWriter(str(folder / 'model.gguf'), arch)
  _write_keys(writer, arch, config)
  tokenizer(writer)
  keys(writer)
  for each, array in arrays.items():
    theirs = _their_name(each, arch)
    if arch == 'llama' and theirs.split('.')[2:3] in (['attn_q'], ['attn_k']):
      heads = config['num_attention_heads' if 'attn_q' in theirs else 'num_key_value_heads']
      array = array.reshape(heads, 2, -1, D).swapaxes(1, 2).reshape(array.shape)
    if arch.startswith('gemma') and theirs.endswith('norm.weight'):
      array = array + np.float32(1)
    stored = gguf.GGMLQuantizationType[kind] if array.ndim == 2 else gguf.GGMLQuantizationType.F32
    writer.add_tensor(theirs, gguf.quantize(array, stored), raw_dtype=stored)
  if config['rope_parameters'] is LLAMA3:
    writer.add_tensor('rope_freqs.weight', _llama3_factors(config['head_dim']))
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return folder


def _arrays(arch, config):
  random, heads = np.random.default_rng(len(arch)), config['head_dim'] * config['num_attention_heads']
  kv = config['head_dim'] * config['num_key_value_heads']
  matrix = lambda *shape: random.normal(0, 0.2, shape).astype(np.float32)
  norm = lambda size: (random.integers(32, 96, size) / np.float32(64)).astype(np.float32)
  found = {'model.embed_tokens.weight': matrix(V, D), 'model.norm.weight': norm(D)}
  found |= {} if config['tie_word_embeddings'] else {'lm_head.weight': matrix(V, D)}
  for i in range(config['num_hidden_layers']):
    start, attention = f'model.layers.{i}.', f'model.layers.{i}.self_attn.'
    for name, rows, columns in (('q', heads, D), ('k', kv, D), ('v', kv, D), ('o', D, heads)):
      found[f'{attention}{name}_proj.weight'] = matrix(rows, columns)
      if arch == 'qwen2' and name != 'o':
        found[f'{attention}{name}_proj.bias'] = matrix(rows)
    if arch in ('qwen3', 'gemma3'):
      found |= {f'{attention}{name}_norm.weight': norm(config['head_dim']) for name in 'qk'}
    found |= {f'{start}mlp.{name}_proj.weight': matrix(*shape)
              for name, shape in (('gate', (F, D)), ('up', (F, D)), ('down', (D, F)))}
    norms = ['input', 'post_attention', *(['pre_feedforward', 'post_feedforward'] if 'gemma' in arch else [])]
    found |= {f'{start}{name}_layernorm.weight': norm(D) for name in norms}
  return found


def _rounded(array, kind):
  """Returns a matrix as the file will hold it. Blocks are parts of rows, whose order does not matter."""
  stored = gguf.GGMLQuantizationType[kind]
  return gguf.dequantize(gguf.quantize(array, stored), stored) if array.ndim == 2 else array


def random_blocks(kind, shape, seed):
  """Returns the bytes of a matrix in blocks of 256 numbers, which the package reads, but does not write."""
  stored = gguf.GGMLQuantizationType[kind]
  length, size = gguf.GGML_QUANT_SIZES[stored]
  random = np.random.default_rng(seed)
  found = random.integers(0, 256, (shape[0] * shape[1] // length, size), np.uint8)
  factors, at = {'Q4_K': ((2e-4, 1.5e-3), slice(0, 4)), 'Q5_K': ((1e-4, 1.5e-3), slice(0, 4)),
                 'Q6_K': ((7e-5,), slice(208, 210))}[kind]  # of values and of minima
  found[:, at] = np.array(factors, np.float16).view(np.uint8)
  return found.reshape(shape[0], -1)


def _their_name(name, arch):
  parts, names = name.split('.'), GEMMA_NAMES if 'gemma' in arch else NAMES
  if parts[0] == 'lm_head' or parts[1] != 'layers':
    return {'lm_head': 'output', 'embed_tokens': 'token_embd', 'norm': 'output_norm'}[parts[-2]] + '.weight'
  return f'blk.{parts[2]}.{names[parts[-2]]}.{parts[-1]}'


def _write_keys(writer, arch, config):
  writer.add_vocab_size(V)
  writer.add_block_count(config['num_hidden_layers'])
  writer.add_context_length(config['max_position_embeddings'])
  writer.add_embedding_length(D)
  writer.add_feed_forward_length(F)
  writer.add_head_count(config['num_attention_heads'])
  writer.add_head_count_kv(config['num_key_value_heads'])
  writer.add_layer_norm_rms_eps(config['rms_norm_eps'])
  writer.add_key_length(config['head_dim'])
  writer.add_value_length(config['head_dim'])
  if 'sliding_window' in config:
    writer.add_sliding_window(config['sliding_window'])
  if 'attn_logit_softcapping' in config:
    writer.add_attn_logit_softcapping(config['attn_logit_softcapping'])
    writer.add_final_logit_softcapping(config['final_logit_softcapping'])
  rope = config['rope_parameters']
  rope = rope.get('full_attention', rope)
  writer.add_rope_freq_base(rope['rope_theta'])
  if rope['rope_type'] in ('linear', 'yarn'):
    writer.add_rope_scaling_type(gguf.RopeScalingType(rope['rope_type']))
    writer.add_rope_scaling_factor(rope['factor'])
  if rope['rope_type'] == 'yarn':
    writer.add_rope_scaling_orig_ctx_len(rope['original_max_position_embeddings'])
    writer.add_rope_scaling_yarn_beta_fast(rope['beta_fast'])
    writer.add_rope_scaling_yarn_beta_slow(rope['beta_slow'])


def _llama3_factors(head_dim):
  """Returns the divisors of the frequencies, by wavelength: short ones stay, long ones are divided by the factor."""
  found = []
  for i in range(0, head_dim, 2):
    waves = LLAMA3['original_max_position_embeddings'] / (2 * math.pi * LLAMA3['rope_theta'] ** (i / head_dim))
    mix = (waves - LLAMA3['low_freq_factor']) / (LLAMA3['high_freq_factor'] - LLAMA3['low_freq_factor'])
    mix = min(1.0, max(0.0, mix))
    found.append(1 / (mix + (1 - mix) / LLAMA3['factor']))
  return np.asarray(found, np.float32)


if __name__ == '__main__':
  for member in MEMBERS:
    write_member(member, pathlib.Path(sys.argv[1]) / member)
