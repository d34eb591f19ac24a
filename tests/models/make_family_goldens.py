"""Makes `tests/models/families`: tiny random members of the families, with the outputs of transformers and PEFT.

  python tests/models/make_family_goldens.py               # the stored members, with torch, transformers and peft
  python tests/models/make_family_goldens.py FOLDER        # every member with every adapter
  python tests/models/make_family_goldens.py FOLDER NAME …

With FAMILY_GOLDENS=FOLDER, `test_families.py` reads that folder. Made with torch 2.13.0, transformers 5.23.0 and peft
0.21.2 on the CPU. Weights are stored as bfloat16 and read as float32. Every member's folder holds the model,
`golden.npz`, and the adapters that PEFT wrote, each with its outputs.
"""

import json
import pathlib
import shutil
import sys

import numpy as np
import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
torch.set_grad_enabled(False)
ROWS = (12, 5, 7)  # lengths of the inputs
ANSWER, BEAMS, P = 6, 4, 3
ENDS = [1, 5, 12, 23, 31]  # end tokens of further generations
WORDS = {'vocab_size': 40, 'pad_token_id': 0, 'eos_token_id': 1, 'bos_token_id': 2}
LLAMA = {**WORDS, 'hidden_size': 12, 'intermediate_size': 14, 'num_hidden_layers': 2, 'num_attention_heads': 3,
         'num_key_value_heads': 3, 'head_dim': 4, 'max_position_embeddings': 64, 'tie_word_embeddings': False}
QWEN3 = {**LLAMA, 'num_attention_heads': 4, 'num_key_value_heads': 2, 'head_dim': 6}
GEMMA = {**QWEN3, 'query_pre_attn_scalar': 10, 'sliding_window': 4, 'tie_word_embeddings': True}
GEMMA4 = {**QWEN3, 'intermediate_size': 10, 'global_head_dim': 8, 'sliding_window': 4, 'rms_norm_eps': 0.01,
          'vocab_size_per_layer_input': 40, 'tie_word_embeddings': True}
GPT2 = {**WORDS, 'n_embd': 12, 'n_layer': 2, 'n_head': 3, 'n_positions': 32, 'resid_pdrop': 0.0, 'embd_pdrop': 0.0,
        'attn_pdrop': 0.0}
T5 = {'vocab_size': 40, 'd_model': 12, 'd_kv': 4, 'num_heads': 3, 'd_ff': 14, 'num_layers': 2,
      'num_decoder_layers': 1, 'dropout_rate': 0.0, 'pad_token_id': 0, 'eos_token_id': 1, 'decoder_start_token_id': 0,
      'relative_attention_num_buckets': 8, 'relative_attention_max_distance': 10}
# The stacks of T5Gemma: no size of one is a size of the other.
ENCODER = {**GEMMA, 'num_hidden_layers': 3, 'attn_logit_softcapping': 2.0, 'sliding_window': 3}
DECODER = {**GEMMA, 'hidden_size': 18, 'intermediate_size': 10, 'num_attention_heads': 3, 'num_key_value_heads': 1,
           'head_dim': 8, 'query_pre_attn_scalar': 7, 'sliding_window': 4, 'attn_logit_softcapping': 3.0,
           'final_logit_softcapping': 5.0}
IMAGES = {'eoi_token_index': 7, 'mm_tokens_per_image': 1, 'vision_config': {
  'model_type': 'siglip_vision_model', 'hidden_size': 2, 'intermediate_size': 2, 'num_hidden_layers': 1,
  'num_attention_heads': 1, 'image_size': 2, 'patch_size': 2}}
LINEAR = {'rope_type': 'linear', 'rope_theta': 300.0, 'factor': 2.5}
LLAMA3 = {'rope_type': 'llama3', 'rope_theta': 100.0, 'factor': 8.0, 'original_max_position_embeddings': 16,
          'low_freq_factor': 1.0, 'high_freq_factor': 4.0}
S, F = 'sliding_attention', 'full_attention'
YARN = {'rope_type': 'yarn', 'rope_theta': 30.0, 'factor': 4.0, 'original_max_position_embeddings': 8,
        'beta_fast': 2.0, 'beta_slow': 0.3}
LONG = {'rope_type': 'longrope', 'rope_theta': 60.0, 'short_factor': [1.1, 1.3, 0.7], 'long_factor': [1.5, 2.0, 4.0]}
PHI3 = {**WORDS, 'hidden_size': 24, 'intermediate_size': 10, 'num_hidden_layers': 2, 'num_attention_heads': 3,
        'num_key_value_heads': 1, 'max_position_embeddings': 64, 'tie_word_embeddings': False}
NEOX = {**WORDS, 'hidden_size': 18, 'intermediate_size': 14, 'num_hidden_layers': 2, 'num_attention_heads': 3,
        'rotary_pct': 0.67, 'max_position_embeddings': 64}
OPT = {**WORDS, 'hidden_size': 12, 'ffn_dim': 20, 'num_hidden_layers': 2, 'num_attention_heads': 3,
       'max_position_embeddings': 32}

# Name: family, its config, and how the folder is rewritten to look like one of an older version.
MEMBERS = {
  'gpt2_untied': ('GPT2', {**GPT2, 'n_layer': 1, 'n_inner': 20, 'activation_function': 'gelu',
                           'tie_word_embeddings': False}, 'shards'),
  'gpt2_bare': ('GPT2', {**GPT2, 'n_embd': 10, 'n_head': 5, 'activation_function': 'relu'}, 'bare'),
  'gpt2_headed': ('GPT2', {**GPT2, 'n_embd': 14, 'n_head': 7, 'n_layer': 3, 'n_inner': 9}, None),
  'llama_mha': ('Llama', {**LLAMA, 'rope_theta': 50.0}, None),
  'llama_gqa_linear': ('Llama', {**QWEN3, 'rope_parameters': LINEAR}, 'old_rope'),
  'llama_mqa_llama3': ('Llama', {**QWEN3, 'num_key_value_heads': 1, 'rope_parameters': LLAMA3,
                                 'tie_word_embeddings': True, 'hidden_act': 'gelu'}, None),
  'llama_head_dim': ('Llama', {**LLAMA, 'head_dim': 10, 'rms_norm_eps': 1e-2}, None),
  'llama_biases': ('Llama', {**QWEN3, 'attention_bias': True}, None),
  'mistral_window': ('Mistral', {**QWEN3, 'sliding_window': 3}, None),
  'mistral_no_window': ('Mistral', {**LLAMA, 'sliding_window': None, 'head_dim': None}, None),
  'mistral_layer_types': ('Mistral', {**QWEN3, 'sliding_window': 3, 'layer_types': [F, S]}, None),
  'qwen2': ('Qwen2', {name: value for name, value in QWEN3.items() if name != 'head_dim'} | {'hidden_size': 16}, None),
  'qwen2_window': ('Qwen2', {name: value for name, value in QWEN3.items() if name != 'head_dim'} | {
    'hidden_size': 16, 'use_sliding_window': True, 'sliding_window': 4, 'max_window_layers': 1}, None),
  'qwen3_tied': ('Qwen3', {**QWEN3, 'tie_word_embeddings': True, 'rope_theta': 700.0}, None),
  'qwen3_windows': ('Qwen3', {**QWEN3, 'num_hidden_layers': 3, 'use_sliding_window': True, 'sliding_window': 4,
                              'max_window_layers': 1}, None),
  'qwen3_window_off': ('Qwen3', {**QWEN3, 'use_sliding_window': False, 'sliding_window': 4, 'max_window_layers': 0},
                       'no_layer_types'),
  'qwen3_biases': ('Qwen3', {**QWEN3, 'attention_bias': True}, None),
  'gemma2_odd': ('Gemma2', {**GEMMA, 'num_hidden_layers': 3, 'sliding_window': 5, 'attn_logit_softcapping': 2.0,
                            'final_logit_softcapping': 3.0}, 'no_layer_types'),
  'gemma2_no_caps': ('Gemma2', {**GEMMA, 'attn_logit_softcapping': None, 'final_logit_softcapping': None}, None),
  'gemma3_pattern': ('Gemma3Text', {**GEMMA, 'num_hidden_layers': 7, 'sliding_window': 3}, None),
  'gemma3_linear': ('Gemma3Text', {
    **GEMMA, 'layer_types': [F, S], 'num_hidden_layers': 2,
    'rope_parameters': {S: {'rope_type': 'default', 'rope_theta': 20.0}, F: LINEAR}}, 'old_gemma3'),
  'gemma3_sparse': ('Gemma3Text', {**GEMMA, 'rope_parameters': None}, 'sparse'),
  't5_v10': ('T5', {**T5, 'num_layers': 1, 'num_decoder_layers': 3, 'tie_word_embeddings': True}, None),
  't5_v11': ('T5', {**T5, 'd_kv': 5, 'feed_forward_proj': 'gated-gelu', 'tie_word_embeddings': False}, 'untied'),
  't5_silu': ('T5', {**T5, 'feed_forward_proj': 'gated-silu', 'tie_word_embeddings': False},
              'untied'),
  't5_gelu': ('T5', {**T5, 'feed_forward_proj': 'gelu', 'tie_word_embeddings': True, 'num_decoder_layers': 2}, None),
  'mt5': ('MT5', {**T5, 'd_kv': 5, 'feed_forward_proj': 'gated-gelu'}, 'untied'),
  'mt5_new': ('MT5', {**T5, 'feed_forward_proj': 'gated-gelu'}, 'untied_unsaid'),
  'gemma_1': ('Gemma', {**QWEN3, 'hidden_size': 10, 'num_key_value_heads': 1, 'hidden_act': 'gelu',
                        'tie_word_embeddings': True}, None),
  'smollm3': ('SmolLM3', {**QWEN3, 'hidden_size': 16, 'num_hidden_layers': 4, 'no_rope_layer_interval': 3,
                          'use_sliding_window': True, 'sliding_window': 4, 'tie_word_embeddings': True}, None),
  'smollm3_plain': ('SmolLM3', {**QWEN3, 'num_hidden_layers': 3, 'no_rope_layers': [0, 1, 1], 'mlp_bias': True,
                                'attention_bias': True}, 'no_layer_types'),
  'llama_yarn': ('Llama', {**LLAMA, 'head_dim': 10, 'mlp_bias': True, 'rope_parameters': YARN}, None),
  'llama_yarn_mscale': ('Llama', {**LLAMA, 'head_dim': 10, 'rope_parameters': {
    **YARN, 'mscale': 0.7, 'mscale_all_dim': 0.4, 'truncate': False}}, 'old_yarn'),
  'llama_dynamic': ('Llama', {**LLAMA, 'head_dim': 6, 'max_position_embeddings': 8, 'rope_parameters': {
    'rope_type': 'dynamic', 'rope_theta': 90.0, 'factor': 3.0}}, None),
  'qwen2_yarn': ('Qwen2', {**{name: value for name, value in QWEN3.items() if name != 'head_dim'}, 'hidden_size': 24,
                           'tie_word_embeddings': True, 'rope_parameters': YARN}, None),
  'phi3_mini': ('Phi3', {**PHI3, 'rope_theta': 70.0, 'sliding_window': 5}, None),
  'phi4_mini': ('Phi3', {**PHI3, 'num_hidden_layers': 3, 'tie_word_embeddings': True, 'max_position_embeddings': 256,
                         'original_max_position_embeddings': 32, 'partial_rotary_factor': 0.75,
                         'rope_parameters': LONG}, None),
  'phi3_long': ('Phi3', {**PHI3, 'max_position_embeddings': 64, 'original_max_position_embeddings': 8,
                         'partial_rotary_factor': 0.75, 'rope_parameters': LONG}, None),
  'granite': ('Granite', {**QWEN3, 'hidden_size': 18, 'num_attention_heads': 6, 'num_key_value_heads': 3, 'head_dim': 4,
                          'embedding_multiplier': 3.0, 'attention_multiplier': 0.3, 'residual_multiplier': 0.6,
                          'logits_scaling': 1.7, 'mlp_bias': True, 'tie_word_embeddings': True}, None),
  'olmo2': ('Olmo2', {**QWEN3, 'hidden_size': 14, 'intermediate_size': 11}, None),
  'olmo3': ('Olmo3', {**QWEN3, 'num_hidden_layers': 5, 'sliding_window': 4, 'attention_bias': True, 'rope_parameters': {
    S: {'rope_type': 'default', 'rope_theta': 40.0}, F: YARN}}, None),
  'ministral3': ('Ministral3', {**QWEN3, 'hidden_size': 14, 'head_dim': 8, 'sliding_window': 6, 'rope_parameters': {
    **YARN, 'original_max_position_embeddings': 4, 'llama_4_scaling_beta': 0.4}}, None),
  'gpt_neox': ('GPTNeoX', {**NEOX}, None),
  'gpt_neox_serial': ('GPTNeoX', {**NEOX, 'num_hidden_layers': 3, 'use_parallel_residual': False,
                                  'attention_bias': False, 'rotary_pct': 1.0, 'rotary_emb_base': 60.0}, None),
  'phi2': ('Phi', {**WORDS, 'hidden_size': 24, 'intermediate_size': 10, 'num_hidden_layers': 3,
                   'num_attention_heads': 4, 'num_key_value_heads': 2, 'partial_rotary_factor': 0.67}, None),
  'gptj': ('GPTJ', {**WORDS, 'n_embd': 20, 'n_head': 2, 'n_layer': 2, 'n_inner': 18, 'n_positions': 32,
                    'rotary_dim': 6}, None),
  'opt': ('OPT', {**OPT}, None),
  'opt_after': ('OPT', {**OPT, 'num_hidden_layers': 3, 'do_layer_norm_before': False, 'activation_function': 'gelu',
                        'word_embed_proj_dim': 10}, None),
  'opt_bare': ('OPT', {**OPT, 'enable_bias': False, '_remove_final_layer_norm': True}, None),
  'bloom': ('Bloom', {**WORDS, 'hidden_size': 18, 'n_head': 3, 'n_layer': 2}, None),
  'gpt_neo': ('GPTNeo', {**WORDS, 'hidden_size': 15, 'num_heads': 3, 'num_layers': 3, 'window_size': 4,
                         'max_position_embeddings': 32, 'intermediate_size': 16,
                         'attention_types': [[['local', 'global'], 1], [['local'], 1]]}, None),
  'umt5': ('UMT5', {**T5, 'num_decoder_layers': 3, 'feed_forward_proj': 'gated-gelu'}, None),
  'mixtral': ('Mixtral', {**QWEN3, 'intermediate_size': 10, 'num_hidden_layers': 3, 'num_local_experts': 5,
                          'num_experts_per_tok': 2, 'sliding_window': 4, 'rope_theta': 80.0}, None),
  'qwen3_moe': ('Qwen3Moe', {**QWEN3, 'moe_intermediate_size': 10, 'num_experts': 7, 'num_experts_per_tok': 3,
                             'attention_bias': True, 'norm_topk_prob': False}, None),
  'gpt_oss': ('GptOss', {**QWEN3, 'hidden_size': 16, 'intermediate_size': 10, 'num_hidden_layers': 3,
                         'num_local_experts': 3, 'num_experts_per_tok': 2, 'sliding_window': 4, 'swiglu_limit': 1.2,
                         'swiglu_alpha': 1.3, 'rope_parameters': {**YARN, 'truncate': False}}, None),
  't5gemma': ('T5Gemma', {'encoder': {**ENCODER, 'attention_bias': True}, 'decoder': DECODER, 'vocab_size': 40}, None),
  't5gemma_untied': ('T5Gemma', {
    'encoder': {**ENCODER, 'num_hidden_layers': 2, 'layer_types': [F, S], 'rope_theta': 70.0},
    'decoder': {**DECODER, 'num_hidden_layers': 4, 'attn_logit_softcapping': None, 'final_logit_softcapping': None,
                'attention_bias': True}, 'vocab_size': 40, 'tie_word_embeddings': False}, None),
  't5gemma2': ('T5Gemma2', {
    'encoder': {**IMAGES, 'text_config': {**GEMMA, 'num_hidden_layers': 3, 'layer_types': [S, F, S],
                                          'rope_parameters': {S: {'rope_type': 'default', 'rope_theta': 30.0},
                                                              F: LINEAR}}},
    'decoder': {**GEMMA, 'intermediate_size': 10, 'num_attention_heads': 6, 'num_key_value_heads': 3, 'head_dim': 4,
                'query_pre_attn_scalar': 7, 'sliding_window': 3, 'final_logit_softcapping': 4.0,
                'layer_types': [S, F]}}, None),
  'qwen3_5': ('Qwen3_5Text', {
    **WORDS, 'hidden_size': 12, 'intermediate_size': 10, 'num_hidden_layers': 8, 'num_attention_heads': 4,
    'num_key_value_heads': 2, 'head_dim': 8, 'attention_bias': True, 'rms_norm_eps': 0.03,
    'max_position_embeddings': 64, 'tie_word_embeddings': False, 'linear_num_key_heads': 2,
    'linear_num_value_heads': 4, 'linear_key_head_dim': 5, 'linear_value_head_dim': 6, 'rope_parameters': {
      'rope_type': 'default', 'rope_theta': 30.0, 'partial_rotary_factor': 0.5, 'mrope_interleaved': True,
      'mrope_section': [1, 1, 0]}}, None),
  'gemma4': ('Gemma4Text', {
    **GEMMA4, 'hidden_size': 10, 'num_hidden_layers': 6, 'layer_types': [S, F] * 3, 'num_kv_shared_layers': 2,
    'use_double_wide_mlp': True, 'hidden_size_per_layer_input': 4}, None),
  'gemma4_odd': ('Gemma4Text', {
    **GEMMA4, 'hidden_size': 10, 'num_hidden_layers': 7, 'layer_types': [S, F, S, S, F, S, F],
    'num_kv_shared_layers': 2, 'global_head_dim': 4, 'hidden_size_per_layer_input': 3,
    'rope_parameters': {S: LLAMA3, F: YARN}}, None),
  'gemma4_equal': ('Gemma4Text', {
    **GEMMA4, 'hidden_size': 8, 'intermediate_size': 14, 'num_hidden_layers': 4, 'layer_types': [S, F] * 2,
    'head_dim': 4, 'global_head_dim': 6, 'attention_k_eq_v': True, 'num_global_key_value_heads': 1, 'sliding_window': 3,
    'attention_bias': True, 'final_logit_softcapping': 3.0, 'tie_word_embeddings': False,
    'hidden_size_per_layer_input': 0, 'use_bidirectional_attention': 'vision', 'rope_parameters': {
      S: {'rope_type': 'default', 'rope_theta': 30.0},
      F: {'rope_type': 'proportional', 'rope_theta': 60.0, 'partial_rotary_factor': 0.7, 'factor': 2.0}}}, None),
}
KINDS = ('prompt', 'prefix', 'projected', 'mlp', 'lstm', 'lora', 'ia3')
# The stored members, each for something that no other has, and their adapters.
KEPT = {
  'gpt2_untied': (), 'gpt2_bare': (), 'llama_mqa_llama3': (), 'llama_biases': (), 'mistral_layer_types': ('prefix',),
  'qwen2_window': (), 'gemma2_odd': (), 'gemma3_linear': ('prompt',), 'gemma3_sparse': (), 't5_gelu': (),
  't5_silu': ('prefix',), 'mt5_new': (), 't5_v10': (), 't5_v11': ('prompt',), 'gemma_1': (), 'smollm3': (),
  'llama_yarn': (), 'llama_yarn_mscale': (), 'llama_dynamic': (), 'phi3_mini': (), 'phi4_mini': ('prefix', 'lora'),
  'phi3_long': (), 'granite': ('prompt',), 'olmo2': (), 'olmo3': (), 'ministral3': (),
  'gpt_neox': ('prompt', 'prefix', 'lora', 'ia3'), 'gpt_neox_serial': (), 'phi2': (), 'gptj': (),
  'opt': ('prompt', 'prefix'), 'opt_after': (), 'bloom': ('prompt', 'prefix'), 'gpt_neo': (), 'umt5': (),
  'mixtral': (), 'qwen3_moe': (), 'gpt_oss': (), 't5gemma': ('prompt',), 't5gemma2': ('prompt',), 'qwen3_5': (),
  'gemma4': (), 'gemma4_equal': ()}


def randomise(model, seed):
  """Gives every parameter values with an effect: no bias is zero, no norm's scale is one."""
  generator = torch.Generator().manual_seed(seed)
  seen = set()
  buffers = [(name, buffer) for name, buffer in model.named_buffers() if name.endswith('layer_scalar')]  # of Gemma 4
  for name, parameter in sorted([*model.named_parameters(), *buffers]):
    if id(parameter) in seen:
      continue
    seen.add(id(parameter))
    value = torch.randn(parameter.shape, generator=generator)
    if parameter.dim() == 1:
      kind = model.config.model_type
      centred = ('gemma' in kind and 'gemma4' not in kind) or (
        kind.startswith('qwen3_5') and 'linear_attn.norm' not in name)
      value = 0.3 * value + (0.0 if centred or name.endswith('bias') else 1.0)
    elif any(part in name for part in ('wte', 'wpe', 'shared', 'embed', 'lm_head')):
      value = (0.03 if model.config.model_type.startswith('t5gemma') else 0.6) * value  # else a token repeats itself
    elif 'relative_attention_bias' not in name:
      conv = any(part in name for part in ('c_attn', 'c_proj', 'c_fc'))
      value = 1.3 * value / parameter.shape[0 if conv else 1]**0.5
    parameter.copy_(value)


def save_member(name, folder, seed):
  """Writes the model's folder and returns it as transformers reads it, in float32."""
  family, values, rewrite = MEMBERS[name]
  values = json.loads(json.dumps(values))
  kind = {'GPT2': 'GPT2LMHeadModel'}.get(family, f'{family.removesuffix("Text")}For' + (
    'ConditionalGeneration' if 'T5' in family else 'CausalLM'))
  config = getattr(transformers, f'{family}Config')(**values)
  model = getattr(transformers, kind)(config)
  if rewrite in ('untied', 'untied_unsaid'):  # transformers 5 ties every T5 that it creates, and its config says so
    model.lm_head.weight = torch.nn.Parameter(torch.zeros(model.lm_head.weight.shape))
  randomise(model, seed)
  model.eval().to(torch.bfloat16).save_pretrained(folder, **({'max_shard_size': '2KB'} if rewrite == 'shards' else {}))
  (folder / 'generation_config.json').unlink(missing_ok=True)
  if rewrite == 'bare':
    arrays = load_file(folder / 'model.safetensors')
    arrays = {each.removeprefix('transformer.'): array for each, array in arrays.items()}
    for i in range(values['n_layer']):  # buffers that older versions saved
      arrays |= {f'h.{i}.attn.bias': torch.ones(1, 1, 32, 32, dtype=torch.uint8).tril(),
                 f'h.{i}.attn.masked_bias': torch.tensor(-1e4)}
    save_file(arrays, folder / 'model.safetensors', {'format': 'pt'})
  rewrite_config(folder / 'config.json', rewrite)
  read = read_model(folder)
  for (each, found), wanted in zip(read.named_parameters(), model.parameters(), strict=True):
    assert torch.equal(found, wanted.float()), f'{name}: {each} is not as it was written'
  return read


def read_model(folder):
  """Returns a model as users load it: a Mistral with layer types becomes another class."""
  both = json.loads((folder / 'config.json').read_text()).get('is_encoder_decoder')
  kind = transformers.AutoModelForSeq2SeqLM if both else transformers.AutoModelForCausalLM
  return kind.from_pretrained(folder, dtype=torch.float32, attn_implementation='eager',
                              experts_implementation='eager').eval()


def rewrite_config(path, how):
  """Rewrites a config in the format of an older version; transformers reads both as the same."""
  config = json.loads(path.read_text())
  rope = config.get('rope_parameters')
  if how == 'old_rope':
    config |= {'rope_theta': rope['rope_theta'], 'rope_scaling': {'type': rope['rope_type'], 'factor': rope['factor']}}
    del config['rope_parameters']
  elif how == 'old_yarn':
    config |= {'rope_theta': rope.pop('rope_theta'), 'rope_scaling': {'type': rope.pop('rope_type'), **rope}}
    del config['rope_parameters']
  elif how == 'no_layer_types':
    del config['layer_types']
  elif how == 'old_gemma3':
    config |= {'rope_theta': rope[F]['rope_theta'], 'rope_local_base_freq': rope[S]['rope_theta'],
               'rope_scaling': {'rope_type': 'linear', 'factor': rope[F]['factor']}}
    del config['rope_parameters']
  elif how == 'sparse':
    for name in ('rope_parameters', 'layer_types', 'hidden_activation', 'rms_norm_eps', 'tie_word_embeddings'):
      config.pop(name, None)
  elif how == 'untied':
    config['tie_word_embeddings'] = False
    config.pop('scale_decoder_outputs', None)
  path.write_text(json.dumps(config, indent=1, sort_keys=True))


def padded(rows, side='right'):
  longest = max(map(len, rows))
  pads = [[0] * (longest - len(row)) for row in rows]
  ids = [row + pad if side == 'right' else pad + row for row, pad in zip(rows, pads, strict=True)]
  mask = [[1] * len(row) for row in rows]
  mask = [row + pad if side == 'right' else pad + row for row, pad in zip(mask, pads, strict=True)]
  return torch.tensor(ids), torch.tensor(mask)


def outputs(model, rows, targets, adapted=False):
  """Returns logits and generations of a model; PEFT's are made row by row, since it misplaces padded rows."""
  encoder_decoder, found = model.config.is_encoder_decoder, {}
  start = model.config.decoder.bos_token_id if hasattr(model.config, 'decoder') else 0
  for b, (row, target) in enumerate(zip(rows, targets, strict=True)):
    ids, given = torch.tensor([row]), {}
    if encoder_decoder:
      given = {'decoder_input_ids': torch.tensor([[start, *target[:-1]]])}
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **given).logits[0]
    found[f'logits_{b}'] = logits[-(len(target) if encoder_decoder else len(row)):].numpy()
  options = {'max_new_tokens': ANSWER, 'do_sample': False}
  if encoder_decoder and not adapted and not hasattr(model.config, 'decoder'):  # T5's cache has the encoder's layers
    options['use_cache'] = False
  beams = {'num_beams': BEAMS, 'num_return_sequences': BEAMS, 'early_stopping': False, 'length_penalty': 1.0}
  ends = {'eos_token_id': ENDS}
  for kind, more in (('greedy', {}), ('beams', beams), ('greedy_ends', ends), ('beams_ends', beams | ends)):
    if adapted and kind != 'greedy':
      continue
    batches = [[row] for row in rows] if adapted else [rows]
    answers = []
    for batch in batches:
      ids, mask = padded(batch, 'left' if not encoder_decoder else 'right')
      new = model.generate(input_ids=ids, attention_mask=mask, **options, **more)
      new = new[:, 1:] if encoder_decoder else new[:, ids.shape[1]:]
      answers += [torch.nn.functional.pad(each, (0, ANSWER - new.shape[1])).tolist() for each in new]
    found[kind] = np.array(answers, np.int8).reshape(len(rows), -1, ANSWER)
  return found


def adapters(config):
  task = 'SEQ_2_SEQ_LM' if config.is_encoder_decoder else 'CAUSAL_LM'
  common = {'task_type': task, 'num_virtual_tokens': P}
  if hasattr(config, 'decoder'):  # PEFT does not find these in configs of two stacks
    common |= {'num_layers': config.decoder.num_hidden_layers, 'num_attention_heads': 1,
               'token_dim': getattr(config.encoder, 'text_config', config.encoder).hidden_size}
  return {'lora': peft.LoraConfig(task_type=task, r=2, lora_alpha=3, target_modules='all-linear'),
          'ia3': peft.IA3Config(task_type=task),
          'prompt': peft.PromptTuningConfig(**common), 'prefix': peft.PrefixTuningConfig(**common),
          'projected': peft.PrefixTuningConfig(**common, prefix_projection=True, encoder_hidden_size=7),
          'mlp': peft.PromptEncoderConfig(**common, encoder_hidden_size=7),
          'lstm': peft.PromptEncoderConfig(**common, encoder_reparameterization_type='LSTM', encoder_hidden_size=7)}


def make(name, folder, kinds):
  seed = 1 + list(MEMBERS).index(name)
  shutil.rmtree(folder, ignore_errors=True)
  model = save_member(name, folder, seed)
  numbers = np.random.default_rng(seed)
  rows = [numbers.integers(3, 40, length).tolist() for length in ROWS]
  targets = [numbers.integers(3, 40, length).tolist() for length in (4, 6, 3)]
  golden = outputs(model, rows, targets)
  golden |= {f'input_{b}': np.array(row, np.int8) for b, row in enumerate(rows)}
  if model.config.is_encoder_decoder:
    golden |= {f'target_{b}': np.array(target, np.int8) for b, target in enumerate(targets)}
  np.savez_compressed(folder / 'golden.npz', **golden)
  for kind in kinds:
    model = read_model(folder)
    try:
      torch.manual_seed(seed)
      adapted = peft.get_peft_model(model, adapters(model.config)[kind]).eval()
      for each, parameter in adapted.named_parameters():
        if 'prompt_encoder' in each or 'lora_' in each or 'ia3_' in each:
          parameter.copy_(0.8 * torch.randn(parameter.shape))
      adapted.peft_config['default'].base_model_name_or_path = f'tests/models/families/{folder.name}'
      adapted.save_pretrained(folder / kind)
      (folder / kind / 'README.md').unlink(missing_ok=True)
      # The parameters are read again, as by a user of the file.
      adapted = peft.PeftModel.from_pretrained(read_model(folder), folder / kind).eval()
      np.savez_compressed(folder / kind / 'golden.npz', **outputs(adapted, rows, targets, adapted=True))
    except Exception as error:  # PEFT cannot run some methods on some models
      print(f'{name}: PEFT cannot {kind}: {type(error).__name__}: {str(error)[:150]}')
      shutil.rmtree(folder / kind, ignore_errors=True)


if __name__ == '__main__':
  target, *names = sys.argv[1:] or [pathlib.Path(__file__).parent / 'families']
  wanted = dict.fromkeys(names or MEMBERS, KINDS) if sys.argv[1:] else KEPT
  for name, kinds in wanted.items():
    make(name, pathlib.Path(target) / name, kinds)
    print(name)
