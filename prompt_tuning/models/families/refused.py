"""Model types without a family: what they need that no family has, and the nearest family."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

EXPERTS, RECURRENT = 'a mixture of experts', 'recurrent, convolutional or linear-attention layers'
LATENT = 'keys and values compressed to a latent vector'
STREAMS = 'several residual streams (AltUp), and activations of which few are kept'
ENCODER = "a bidirectional encoder with other layers than BERT's"
OTHER_DECODER = "an encoder-decoder with other layers than T5's"
MEDIA = 'inputs other than text'
PLAIN_NORMS = 'LayerNorm without a bias, or without parameters'
FUSED = 'another order of its fused projections'
LAYER_NORMS = "LayerNorm in layers like Llama's"
NEIGHBOURS = "neighbouring dimensions rotated together in layers like Llama's"
ACTIVATION, SINUSOIDS = 'another activation function', 'sinusoidal positions'
_MEDIA = ('vision', 'audio', 'speech', 'video', 'image')  # anywhere in a type
# What a model needs -> the beginnings of its type, or a whole type with a $.
_BY_TYPE = {
  EXPERTS: ('afmoe dbrx deepseek dots1 ernie4_5_moe flex_olmo glm4_moe granitemoe hunyuan_v1_moe jetmoe jamba '
            'kimi llama4 longcat minimax nllb_moe olmoe phimoe qwen2_moe qwen3_next qwen3_5_moe '
            'qwen3_omni_moe qwen3_vl_moe switch_transformers'),
  RECURRENT: ('bamba falcon_h1 falcon_mamba granitemoehybrid jamba kimi_linear lfm2 mamba minimax nemotron_h '
              'olmo_hybrid recurrent_gemma rwkv xlstm zamba'),
  LATENT: 'deepseek_v2 deepseek_v3 deepseek_v4 kimi longcat minicpm3 youtu',
  STREAMS: 'gemma3n',
  ENCODER: ('albert bert-generation big_bird convbert data2vec-text deberta electra ernie$ ernie_m esm '
            'eurobert flaubert funnel ibert layoutlm longformer luke mega megatron-bert mobilebert mpnet '
            'mra nezha nomic_bert nystromformer qdqbert rembert roberta-prelayernorm roc_bert roformer squeezebert '
            't5_gemma_module t5gemma2_encoder t5gemma2_text xlm xmod yoso'),
  OTHER_DECODER: ('bart bigbird_pegasus blenderbot codet5p encoder-decoder fsmt led longt5 m2m_100 marian mbart mvp '
                  'nllb pegasus plbart prophetnet seamless switch_transformers t5gemma2_decoder udop xlm-prophetnet'),
  MEDIA: ('align aria audio aya_vision beit blip chameleon clip clvp deit detr dinov emu3 fuyu gemma3n git glm4v '
          'got_ocr2 hubert idefics imagegpt instructblip internvl kosmos llama4$ llava mimi mllama moonshine '
          'musicgen owlv ovis paligemma perceiver pixtral qwen2_5_omni qwen2_5_vl qwen2_audio qwen2_vl qwen3_omni '
          'qwen3_vl resnet sam seamless segformer siglip smolvlm speech swin trocr vilt vit video voxtral wav2vec2 '
          'whisper'),
  PLAIN_NORMS: 'cohere dbrx modernbert-decoder mpt$ nemotron$ olmo$',
  FUSED: 'codegen falcon$ gpt_bigcode gpt_neox_japanese persimmon',
  LAYER_NORMS: 'stablelm starcoder2',
  NEIGHBOURS: 'ernie4_5$ glm$ glm4$ helium',
  ACTIVATION: 'apertus arcee$ bitnet nemotron$',
  SINUSOIDS: 'ctrl xglm',
}
# What a model needs -> fields of `config.json`, any of which says so.
_BY_FIELD = {
  EXPERTS: ('num_experts', 'num_local_experts', 'n_routed_experts', 'moe_num_experts', 'moe_intermediate_size',
            'num_experts_per_tok'),
  RECURRENT: ('mamba_d_state', 'mamba_d_conv', 'ssm_state_size', 'state_size', 'conv_L_cache',
              'attn_layer_period', 'lru_width', 'rwkv'),
  LATENT: ('kv_lora_rank', 'q_lora_rank'),
  STREAMS: ('altup_num_inputs', 'laurel_rank'),
  ENCODER: ('type_vocab_size',),
  OTHER_DECODER: ('is_encoder_decoder', 'encoder_ffn_dim'),
  MEDIA: ('vision_config', 'audio_config', 'image_size', 'num_mel_bins', 'num_channels'),
}
# Beginning of a type -> its nearest family, if their names do not show it.
_NEAREST = {
  'pixtral': 'mistral', 'voxtral': 'mistral', 'falcon': 'gpt_neox', 'mpt': 'bloom',
  'codegen': 'gptj', 'persimmon': 'gpt_neox', 'biogpt': 'opt', 'xglm': 'opt', 'paligemma': 'gemma2',
  'recurrent_gemma': 'gemma2', 't5_gemma': 't5gemma', 'olmo': 'olmo2', 'flex_olmo': 'olmo2',
  'longt5': 't5', 'phi': 'phi3', 'codeqwen': 'qwen2', 'openai-gpt': 'gpt2', 'gpt_bigcode': 'gpt2',
  'imagegpt': 'gpt2', 'smolvlm': 'llama', 'qwen3_next': 'qwen3_5'}


def needs(model_type: str, config: Mapping[str, Any]) -> list[str]:
  """Returns what a model needs that no family has; empty if neither its type nor its fields tell."""
  begins = lambda names: any(f'{model_type}$'.startswith(name) for name in names.split())
  parts = config, config.get('text_config')
  fields = {name for part in parts if isinstance(part, dict) for name, value in part.items() if value}
  return [need for need in dict.fromkeys((*_BY_TYPE, *_BY_FIELD))
          if begins(_BY_TYPE.get(need, '')) or not fields.isdisjoint(_BY_FIELD.get(need, ()))
          or (need == MEDIA and any(word in model_type for word in _MEDIA))]


def nearest_family(model_type: str, config: Mapping[str, Any], families: Collection[str]) -> str:
  """Returns the name of the family that resembles a model most, by its type, then by its kind."""
  known = [(name, family) for name, family in _NEAREST.items() if family in families]
  begun = [(name, family) for name, family in (*known, *((name, name) for name in families))
           if model_type.startswith(name)]
  if begun:
    return max(begun, key=lambda each: len(each[0]))[1]
  if config.get('is_encoder_decoder') or OTHER_DECODER in needs(model_type, config):
    return 't5'
  if ENCODER in needs(model_type, config):
    return 'bert'
  return 'gpt2' if 'n_embd' in config else 'llama'


def refusal(model_type: str, config: Mapping[str, Any], families: Collection[str]) -> str:
  """Returns what is missing for a model type without a family, and the nearest family, as a sentence."""
  found = needs(model_type, config)
  missing = listed(found) if found else 'its own table of names, and perhaps other layers'
  return f'The nearest family is {nearest_family(model_type, config, families)}; missing is {missing}.'


def listed(words: Iterable[str]) -> str:
  """Returns words as a list in a sentence."""
  *first, last = words
  return f'{", ".join(first)} and {last}' if first else last
