"""What `prompt-tuning convert` needs to know of a base model, read from its config.json."""

import dataclasses
import os


@dataclasses.dataclass(frozen=True)
class Base:
  """The known properties of a base model; None means unknown.

  Attributes:
    encoder_decoder: whether it is an encoder-decoder.
    width: D.
    layers: L of the decoder.
    kv_heads: H, the number of KV heads.
    head_dim: K.
    embedding_scale: the factor by which it scales embeddings.
  """

  encoder_decoder: bool | None = None
  width: int | None = None
  layers: int | None = None
  kv_heads: int | None = None
  head_dim: int | None = None
  embedding_scale: float | None = None


def read_base(folder: str) -> Base:
  """Returns the properties in the `config.json` of a Hugging Face folder, or of a model of the hub.

  Raises:
    OSError: there is no `config.json`.
    ValueError: it lacks a property.
  """
  from prompt_tuning.files import hub
  from prompt_tuning.files.json_files import read_object, shown

  path = os.path.join(hub.local(folder, ('config.json',)), 'config.json')
  config = read_object(path, 'the Hugging Face folder of a base model')
  inner = config.get('text_config')
  config = inner if isinstance(inner, dict) else config

  def first(*names: str, default: int | None = None) -> int:
    value = next((config[name] for name in names if config.get(name) is not None), default)
    if type(value) is not int or value < 1:
      raise ValueError(f'{path} needs one of {", ".join(names)}, a whole number above 0, but has {shown(value)}. '
                       'Give the folder of a language model.')
    return value

  width = first('d_model', 'hidden_size', 'n_embd')
  heads = first('decoder_attention_heads', 'num_attention_heads', 'num_heads', 'n_head')
  return Base(encoder_decoder=bool(config.get('is_encoder_decoder', False)), width=width,
              layers=first('num_decoder_layers', 'decoder_layers', 'num_hidden_layers', 'num_layers', 'n_layer'),
              kv_heads=first('num_key_value_heads', default=heads),
              head_dim=first('d_kv', 'head_dim', default=width // heads or None),
              embedding_scale=width**0.5 if str(config.get('model_type')).startswith('gemma') else 1.0)
