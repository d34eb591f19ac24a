"""The `config.json` of every family: wrong types and values are errors with path and field, null is a default."""

import json
import pathlib

import pytest

from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families import t5
from prompt_tuning.models.families.registry import family_of_folder
from prompt_tuning.models.t5_config import T5Config

FOLDERS = {path.parent.name: json.loads(path.read_text()) for folder in ('families', 'encoders') for path in
           sorted((pathlib.Path(__file__).parent / folder).glob('*/config.json'))}
HEADS = ['lm_head.weight', 'classifier.weight', 'classifier.out_proj.weight']
WRONG = (None, 'x', '', -1, 0, 3.5, 10**400, float('nan'), float('inf'), 1e308, True, [], [[1]], {}, {'a': 'b'}, 10**9)


def read(config):
  return family_of_folder(config, 'here').read_config(config, HEADS, 'here')


@pytest.mark.parametrize('name', FOLDERS)
def test_every_field_that_is_wrong_is_named_with_the_path_or_not_read(name):
  fields = [(field, None) for field in FOLDERS[name]] + [
    (field, inner) for field, value in FOLDERS[name].items() if isinstance(value, dict) for inner in value]
  for field, inner in fields:
    for value in WRONG:
      config = FOLDERS[name] | {field: value if inner is None else FOLDERS[name][field] | {inner: value}}
      try:
        read(config)
      except ValueError as error:
        assert str(error).startswith(('here/config.json ', 'here holds no lm_head')), error
        assert str(error).isprintable() and len(str(error)) < 650


@pytest.mark.parametrize(('name', 'changes', 'message'), [
  ('t5_v11', {'d_ff': None}, "here/config.json lacks 'd_ff', which a model of type 't5' needs"),
  ('t5_v11', {'num_heads': 0}, 'here/config.json sets num_heads to 0: expected int >= 1. Fix it'),
  ('t5_v11', {'d_model': '96'}, "sets d_model to '96': expected int, got str"),
  ('t5_v11', {'feed_forward_proj': []}, 'sets feed_forward_proj to []: expected str, got array'),
  ('t5_v11', {'relative_attention_num_buckets': 3}, 'expected at least 4 buckets'),
  ('t5_v11', {'relative_attention_max_distance': 4}, 'a distance above half of them'),
  ('t5_v11', {'eos_token_id': 'x'}, "sets eos_token_id to 'x': expected int | array | null, got str"),
  ('t5_v11', {'model_type': []}, 'sets model_type to []: expected str | null, got array'),
  ('gpt2_bare', {'n_layer': 10**7}, 'sets n_layer to 10000000: expected int <= 1000'),
  ('gpt2_bare', {'n_head': 7}, 'but n_head to 7, which does not divide it'),
  ('llama_biases', {'rope_parameters': {'rope_theta': None}}, "lacks 'rope_theta'"),
  ('llama_biases', {'num_key_value_heads': 3}, 'but num_key_value_heads to 3, which does not divide it'),
  ('llama_biases', {'head_dim': 5}, 'has heads of width 5, but rotary positions need an even width'),
  ('llama_biases', {'text_config': []}, 'sets text_config to []: expected object | null, got array'),
  ('llama_mqa_llama3', {'rope_parameters': {'rope_type': 'llama3', 'rope_theta': 1.0}}, "lacks 'factor'"),
  ('gemma3_linear', {'layer_types': ['full_attention']}, 'sets layer_types for 1 layers, but num_hidden_layers to 2'),
  ('gemma3_linear', {'sliding_window': None}, 'but sets sliding_window to None'),
  ('gemma2_odd', {'query_pre_attn_scalar': None}, "lacks 'query_pre_attn_scalar'"),
  ('qwen2_window', {'max_window_layers': None}, 'sets max_window_layers to None: expected int'),
])
def test_the_message_says_what_was_found_and_expected(name, changes, message):
  with pytest.raises(ValueError) as found:
    read(FOLDERS[name] | changes)
  assert message in str(found.value)


@pytest.mark.parametrize(('name', 'field', 'of_config', 'wanted'), [
  ('t5_v11', 'num_decoder_layers', 'decoder_layers', FOLDERS['t5_v11']['num_layers']),
  ('gpt2_bare', 'n_inner', 'mlp_dim', 4 * FOLDERS['gpt2_bare']['n_embd']),
  ('llama_biases', 'num_key_value_heads', 'kv_heads', FOLDERS['llama_biases']['num_attention_heads']),
  ('qwen2_window', 'head_dim', 'head_dim', 16 // 4),
  ('gemma2_odd', 'attn_logit_softcapping', 'attention_cap', 0.0),
])
def test_null_is_the_default_that_transformers_reads(name, field, of_config, wanted):
  assert getattr(read(FOLDERS[name] | {field: None}), of_config) == wanted


@pytest.mark.parametrize('changes', [{'width': 0}, {'heads': -1}, {'head_dim': 2.0}, {'mlp_dim': '8'}, {'layers': True},
                                     {'dropout_rate': 1.0}, {'dropout_rate': float('nan')}, {'kv_heads': 3}])
def test_a_shape_that_no_model_has_is_an_error_that_names_the_setting(changes):
  sizes = {'width': 8, 'heads': 2, 'head_dim': 4, 'mlp_dim': 8}
  ((name, value),) = changes.items()
  with pytest.raises(ValueError, match=f'{name}={value!r} cannot be used'):
    DecoderConfig(**{'layers': 1, 'vocab_size': 9, **sizes, **changes})
  if name not in ('layers', 'kv_heads'):
    with pytest.raises(ValueError, match=f'{name}={value!r} cannot be used'):
      T5Config(**{'encoder_layers': 1, 'decoder_layers': 1, 'vocab_size': 9, **sizes, **changes})


@pytest.mark.parametrize(('change', 'message'), [
  ({'encoder/layers_99999999/mlp/wo/kernel': (4, 8)}, 'run lacks encoder/layers_1, but has 2 layers of the encoder'),
  ({'encoder/relpos_bias/rel_embedding': (0, 32)}, r'run is not a T5: expected matrices, found encoder/relpos_bias'),
  ({'token_embedder/embedding': ()}, r'found token_embedder/embedding: \(\)'),
  ({'encoder/layers_0/mlp/wo/kernel': None}, r'found encoder/layers_0/mlp/wo/kernel: \(\)')])
def test_a_t5x_checkpoint_of_other_shapes_is_an_error_with_its_path(change, message):
  shapes = {'token_embedder/embedding': (9, 8), 'encoder/relpos_bias/rel_embedding': (2, 32),
            'encoder/layers_0/attention/query/kernel': (8, 6), 'decoder/layers_0/self_attention/query/kernel': (8, 6),
            'encoder/layers_0/mlp/wo/kernel': (4, 8)} | change
  with pytest.raises(ValueError, match=message):
    t5.infer({name: (shape, None) for name, shape in shapes.items() if shape is not None}, 'run')
