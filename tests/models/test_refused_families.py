"""Types without a family, and fields of a `config.json` without effect here: each is refused by name."""

import json
import pathlib

import pytest

from prompt_tuning.models.families import refused
from prompt_tuning.models.families.registry import FAMILIES, family_of_folder

GOLDEN = {path.parent.name: json.loads(path.read_text()) for path in
          sorted((pathlib.Path(__file__).parent / 'families').glob('*/config.json'))}
# Fifty types of transformers' registry, by what is missing for them.
TYPES = {
  refused.EXPERTS: {'qwen2_moe': 'qwen2', 'qwen3_vl_moe': 'qwen3', 'phimoe': 'phi3', 'glm4_moe': 'llama',
                    'qwen3_5_moe': 'qwen3_5', 'qwen3_next': 'qwen3_5', 'olmoe': 'olmo2', 'granitemoe': 'granite',
                    'dots1': 'llama', 'deepseek_v3': 'llama',
                    'dbrx': 'llama', 'jetmoe': 'llama', 'minimax': 'llama', 'switch_transformers': 't5'},
  refused.RECURRENT: {'mamba': 'llama', 'mamba2': 'llama', 'rwkv': 'llama', 'jamba': 'llama', 'bamba': 'llama',
                      'recurrent_gemma': 'gemma2', 'falcon_mamba': 'gpt_neox', 'granitemoehybrid': 'granite',
                      'olmo_hybrid': 'olmo2', 'lfm2': 'llama', 'zamba2': 'llama'},
  refused.LATENT: {'deepseek_v2': 'llama', 'minicpm3': 'llama'},
  refused.STREAMS: {'gemma3n': 'gemma3', 'gemma3n_text': 'gemma3'},
  refused.ENCODER: {'albert': 'bert', 'mpnet': 'bert', 'bert-generation': 'bert',
                    'electra': 'bert', 'deberta-v2': 'bert', 't5_gemma_module': 't5gemma'},
  refused.OTHER_DECODER: {'bart': 't5', 'mbart': 't5', 'pegasus': 't5', 'longt5': 't5', 'm2m_100': 't5',
                          't5gemma2_decoder': 't5gemma2'},
  refused.MEDIA: {'llava': 'llama', 'qwen2_vl': 'qwen2', 'paligemma': 'gemma2', 'whisper': 'llama', 'idefics3': 'llama',
                  'clip': 'llama'},
  refused.PLAIN_NORMS: {'cohere': 'llama', 'mpt': 'bloom', 'olmo': 'olmo2', 'nemotron': 'llama'},
  refused.FUSED: {'falcon': 'gpt_neox', 'codegen': 'gptj', 'gpt_bigcode': 'gpt2', 'persimmon': 'gpt_neox'},
  refused.LAYER_NORMS: {'stablelm': 'llama', 'starcoder2': 'llama'}, refused.ACTIVATION: {'apertus': 'llama'},
  refused.NEIGHBOURS: {'glm4': 'llama', 'ernie4_5': 'llama'}, refused.SINUSOIDS: {'xglm': 'opt'},
}


def test_fifty_types_are_refused_with_the_nearest_family_and_what_is_missing():
  assert sum(map(len, TYPES.values())) >= 50
  for missing, types in TYPES.items():
    for model_type, nearest in types.items():
      with pytest.raises(ValueError) as found:
        family_of_folder({'model_type': model_type, 'hidden_size': 8}, 'here')
      message = str(found.value)
      assert message.startswith(f"here/config.json describes a model of type '{model_type}'; supported types are t5,")
      assert f'The nearest family is {nearest}; missing is ' in message and missing in message, message
      assert nearest in FAMILIES


def test_fields_tell_what_a_type_without_a_name_here_needs():
  for field, missing in (('num_local_experts', refused.EXPERTS), ('ssm_state_size', refused.RECURRENT),
                         ('kv_lora_rank', refused.LATENT), ('vision_config', refused.MEDIA)):
    for config in ({field: 4}, {'text_config': {field: 4}}):
      with pytest.raises(ValueError, match=f'nearest family is llama; missing is {missing}'):
        family_of_folder({'model_type': 'newest', **config}, 'here')
  with pytest.raises(ValueError, match='missing is its own table of names, and perhaps other layers'):
    family_of_folder({'model_type': 'newest'}, 'here')


@pytest.mark.slow
def test_every_other_type_of_transformers_is_refused_by_name():
  mapping = pytest.importorskip('transformers').models.auto.configuration_auto.CONFIG_MAPPING
  known = {model_type for family in FAMILIES.values() for model_type in family.model_types}
  for model_type in sorted({*mapping} - known):
    with pytest.raises(ValueError, match=r'The nearest family is \w+; missing is '):
      family_of_folder({'model_type': model_type}, 'here')


# Fields that change nothing that is computed here: of training, of generation, of other heads, or of files.
HARMLESS = set('''
  _name_or_path architectures attention_dropout attn_pdrop bos_token_id classifier_dropout
  classifier_dropout_rate decoder_start_token_id
  dropout dropout_rate dtype embd_pdrop embed_dropout eos_token_id hidden_dropout init_std initializer_factor
  initializer_range is_decoder is_encoder_decoder layerdrop model_type n_positions pad_token_id pretraining_tp
  reorder_and_upcast_attn resid_dropout resid_pdrop slow_but_exact summary_activation summary_first_dropout
  summary_proj_to_labels summary_type summary_use_proj tie_word_embeddings transformers_version use_cache
  max_position_embeddings original_max_position_embeddings max_window_layers num_layers output_router_logits
  router_aux_loss_coef router_jitter_noise'''.split())
# Fields that a value of another field makes harmless, in some members.
UNUSED = set('''
  _remove_final_layer_norm _sliding_window_pattern hidden_act hidden_activation layer_types no_rope_layer_interval
  partial_rotary_factor rope_local_base_freq rope_theta rotary_emb_base rotary_pct sliding_window
  use_double_wide_mlp use_sliding_window vocab_size_per_layer_input window_size'''.split())


# Fields without effect of an encoder: of logits, of images, and those that transformers writes for every part.
OF_ENCODER = set('''
  final_logit_softcapping boi_token_index image_token_index mm_tokens_per_image chunk_size_feed_forward
  output_attentions output_hidden_states return_dict problem_type'''.split())


def other(value):
  """Returns another value of the same type; of null, one that most fields may have."""
  if isinstance(value, bool) or value is None:
    return not value
  if isinstance(value, list):
    return value[:-1] if value else [1]
  return 2 * value or type(value)(1) if isinstance(value, int | float) else f'{value}_x'


def flat(config):
  """Returns the fields of a config and of the parts that it has for its stacks, by their path."""
  found = {(key,): value for key, value in config.items() if not isinstance(value, dict)}
  for name in {'encoder', 'decoder', 'text_config'} & {*config}:
    found |= {(name, *path): value for path, value in flat(config[name]).items()}
  return found


def changed(config, path, value):
  """Returns a config with another value at a path."""
  first, *rest = path
  return config | {first: changed(config[first], rest, value) if rest else value}


def read(config):
  return family_of_folder(config, 'here').read_config(config, ['lm_head.weight'], 'here')


@pytest.mark.parametrize('name', GOLDEN)
def test_every_field_has_an_effect_or_is_refused_or_changes_nothing(name):
  plain, fields, ignored = read(GOLDEN[name]), flat(GOLDEN[name]), []
  unread = {('intermediate_size',)} if 'moe_intermediate_size' in GOLDEN[name] else set()
  if 'encoder' in GOLDEN[name]:  # whose parts have the fields that are read
    unread = {('vocab_size',), ('eoi_token_index',), ('image_token_index',),
              *(path for path in fields if path[0] == 'encoder' and path[-1] in OF_ENCODER)}
  for path in fields.keys() - unread:
    try:
      if path[-1] not in HARMLESS | UNUSED and read(changed(GOLDEN[name], path, other(fields[path]))) == plain:
        ignored.append(path)
    except ValueError as error:
      assert str(error).startswith('here')
  assert not ignored
