"""Folders as older versions of transformers and other tools have written them."""

import json
import pathlib

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from prompt_tuning.checkpoints.huggingface import HuggingFaceFolder
from prompt_tuning.models import loading

FAMILIES = pathlib.Path(__file__).parent / 'families'


def rewritten(name, folder, change, config=lambda stored: stored):
  """Writes a member's folder with other arrays or another config."""
  arrays = {name: array for file in (FAMILIES / name).glob('*.safetensors') for name, array in load_file(file).items()}
  save_file(change(arrays), folder / 'model.safetensors', metadata={'format': 'pt'})
  (folder / 'config.json').write_text(json.dumps(config(json.loads((FAMILIES / name / 'config.json').read_text()))))
  return str(folder)


def require_same(folder, name):
  found, wanted = loading.load_model(folder), loading.load_model(str(FAMILIES / name))
  assert found.module.config == wanted.module.config
  jax.tree.map(np.testing.assert_array_equal, found.params, wanted.params)
  assert found.weights_digest == wanted.weights_digest


@pytest.mark.parametrize('kind', [np.float32, np.float16, ml_dtypes.bfloat16])
def test_arrays_of_any_type_are_read(kind, tmp_path):
  folder = rewritten('t5_silu', tmp_path, lambda arrays: {name: each.astype(kind) for name, each in arrays.items()})
  found, wanted = loading.load_model(folder), loading.load_model(str(FAMILIES / 't5_silu'))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-7), found.params, wanted.params)


@pytest.mark.parametrize('name, embedding, output', [
  ('gemma2_odd', 'model.embed_tokens.weight', 'lm_head.weight'), ('gpt2_bare', 'wte.weight', 'lm_head.weight'),
  ('t5_v10', 'shared.weight', 'lm_head.weight'), ('t5_v10', 'shared.weight', 'decoder.embed_tokens.weight')])
def test_a_copy_of_the_embedding_is_the_embedding(name, embedding, output, tmp_path):
  require_same(rewritten(name, tmp_path, lambda arrays: arrays | {output: arrays[embedding].copy()}), name)


def test_an_output_layer_of_its_own_stays_as_transformers_keeps_it(tmp_path):
  def change(arrays):
    return arrays | {'lm_head.weight': arrays['model.embed_tokens.weight'][::-1].copy()}

  assert not loading.load_model(rewritten('gemma2_odd', tmp_path, change)).module.config.tied


@pytest.mark.parametrize('name, buffer', [
  ('llama_mqa_llama3', 'model.layers.0.self_attn.rotary_emb.inv_freq'), ('gpt2_bare', 'h.0.attn.bias'),
  ('gemma3_linear', 'model.rotary_emb_local.inv_freq'), ('gptj', 'transformer.h.0.attn.masked_bias')])
def test_buffers_that_are_computed_are_not_read(name, buffer, tmp_path):
  require_same(rewritten(name, tmp_path, lambda arrays: arrays | {buffer: np.ones(3, np.float32)}), name)


def test_another_array_is_an_error(tmp_path):
  folder = rewritten('llama_mqa_llama3', tmp_path, lambda arrays: arrays | {
    'model.layers.0.self_attn.rotary_emb.scale': np.ones(3, np.float32)})
  with pytest.raises(ValueError, match=r'Arrays that the model lacks: model.layers.0.self_attn.rotary_emb.scale'):
    loading.load_model(folder)


@pytest.mark.parametrize('prefix', ['model.language_model.', 'language_model.model.'])
def test_of_a_wrapper_the_language_model_is_read(prefix, tmp_path):
  def change(arrays):
    return {prefix + name.removeprefix('model.'): array for name, array in arrays.items()} | {
      'model.vision_tower.patch.weight': np.ones(2, np.float32), 'multi_modal_projector.norm': np.ones(2, np.float32)}

  require_same(rewritten('gemma3_linear', tmp_path, change, lambda stored: {
    'model_type': 'gemma3', 'text_config': stored, 'vision_config': {'hidden_size': 4}}), 'gemma3_linear')


def test_names_of_tensorflow_are_those_of_today(tmp_path):
  save_file({'a.LayerNorm.gamma': np.ones(2), 'a.LayerNorm.beta': np.zeros(3), 'gamma': np.ones(1)},
            tmp_path / 'model.safetensors')
  (tmp_path / 'config.json').write_text('{}')
  found = HuggingFaceFolder(str(tmp_path))
  assert {name: shape for name, (shape, _) in found.names().items()} == {
    'a.LayerNorm.weight': (2,), 'a.LayerNorm.bias': (3,), 'gamma': (1,)}
  assert found.read('a.LayerNorm.bias').tolist() == [0, 0, 0] and found.read('a.LayerNorm.weight', (slice(1),)) == [1]


# The fields of published folders that decide the shape.
FLAN_T5 = {'feed_forward_proj': 'gated-gelu', 'dense_act_fn': 'gelu_new', 'is_gated_act': True, 'd_model': 512,
           'd_kv': 64, 'd_ff': 1024, 'num_heads': 6, 'num_layers': 8, 'tie_word_embeddings': False, 'n_positions': 512}
UL2 = {'feed_forward_proj': 'gated-silu', 'dense_act_fn': 'silu', 'is_gated_act': True, 'd_model': 4096, 'd_kv': 256,
       'd_ff': 16384, 'num_heads': 16, 'num_layers': 32, 'tie_word_embeddings': False}
CODET5P = {'feed_forward_proj': 'relu', 'dense_act_fn': 'relu', 'is_gated_act': False, 'd_model': 768, 'd_kv': 64,
           'd_ff': 3072, 'num_heads': 12, 'num_layers': 12, 'n_positions': 512}

UMT5 = {'model_type': 'umt5', 'feed_forward_proj': 'gated-gelu', 'dense_act_fn': 'gelu_new', 'is_gated_act': True,
        'd_model': 512, 'd_kv': 64, 'd_ff': 1024, 'num_heads': 6, 'num_layers': 8, 'num_decoder_layers': 8,
        'scalable_attention': True, 'relative_attention_max_distance': 128, 'tie_word_embeddings': False}
BYT5 = {'feed_forward_proj': 'gated-gelu', 'd_model': 1472, 'd_kv': 64, 'd_ff': 3584, 'num_heads': 6, 'num_layers': 12,
        'num_decoder_layers': 4, 'vocab_size': 384, 'tokenizer_class': 'ByT5Tokenizer', 'tie_word_embeddings': False}


@pytest.mark.parametrize('stored, activations, tied, scaled', [
  (FLAN_T5, ('gelu', 'linear'), False, False), (UL2, ('silu', 'linear'), False, False),
  (CODET5P, ('relu',), True, True), (UMT5, ('gelu', 'linear'), False, False), (BYT5, ('gelu', 'linear'), False, False)])
def test_flan_t5_ul2_codet5p_umt5_and_byt5_are_t5(stored, activations, tied, scaled):
  config = {'model_type': 't5', 'vocab_size': 32128, 'decoder_start_token_id': 0, 'layer_norm_epsilon': 1e-6, **stored}
  found = loading.family_of_folder(config, 'here').read_config(config, () if tied else ('lm_head.weight',), 'here')
  assert (found.mlp_activations, found.tied, found.scaled) == (activations, tied, scaled)
  assert (found.width, found.heads, found.head_dim) == (stored['d_model'], stored['num_heads'], stored['d_kv'])
  assert found.decoder_layers == stored.get('num_decoder_layers', stored['num_layers'])
  assert found.layer_biases == (stored is UMT5)


def test_t5gemma_of_a_version_without_rope_parameters_starts_with_its_begin_token():
  part = {'attn_logit_softcapping': 50.0, 'final_logit_softcapping': 30.0, 'head_dim': 64, 'hidden_size': 768,
          'intermediate_size': 2048, 'layer_types': ['sliding_attention', 'full_attention'] * 6, 'rope_theta': 10000.0,
          'model_type': 't5_gemma_module', 'num_attention_heads': 12, 'num_hidden_layers': 12, 'vocab_size': 256000,
          'num_key_value_heads': 12, 'query_pre_attn_scalar': 64, 'sliding_window': 4096, 'torch_dtype': 'bfloat16'}
  config = {'model_type': 't5gemma', 'encoder': part, 'decoder': {**part, 'cross_attention_hidden_size': 768}}
  found = loading.family_of_folder(config, 'here').read_config(config, (), 'here')
  assert (found.start_id, found.tied, found.vocab_size, found.encoder.rotary[0].base) == (2, True, 256000, 1e4)
  assert (found.encoder.windows[:2], found.decoder.windows[:2]) == ((4097, 0), (4096, 0))


def test_a_byt5_folder_reads_bytes_without_a_file_of_a_tokenizer(tmp_path):
  folder = rewritten('t5_v11', tmp_path, lambda arrays: {
    name: np.resize(array, (384, array.shape[1])) if name in ('shared.weight', 'lm_head.weight') else array
    for name, array in arrays.items()}, lambda stored: stored | {'vocab_size': 384, 'tokenizer_class': 'ByT5Tokenizer'})
  model = loading.load_model(folder)
  assert (model.vocabulary.encode('é'), model.vocabulary.size, model.eos_id) == ([198, 172], 384, 1)


@pytest.mark.parametrize('kind', ['codet5p', 'codet5p_bimodal', 'longt5', 't5gemma2_decoder'])
def test_other_encoder_decoders_are_refused_by_name(kind):
  with pytest.raises(ValueError, match=f"type '{kind}'.* missing is an encoder-decoder with other layers than T5's"):
    loading.family_of_folder({'model_type': kind}, 'here')
