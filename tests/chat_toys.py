"""A folder of a chat model: a tokenizer of bytes and a few merges with special tokens, a template, a random Llama."""

import json
import pathlib

import tokenizers

from prompt_tuning.data.chat_format import ChatFormat
from prompt_tuning.data.vocabulary_folders import load_vocabulary

SPECIAL = ['<pad>', '<s>', '</s>', '<|im_start|>', '<|im_end|>']
CHATML = """{% for message in messages %}{{ '<|im_start|>' + message.role + '
' + message.content | trim + '<|im_end|>' + '
' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""
SYSTEM = {'role': 'system', 'content': 'Be terse.'}
USER = {'role': 'user', 'content': 'Is it good?'}
ANSWER = {'role': 'assistant', 'content': 'Yes, very.'}
MORE = {'role': 'user', 'content': 'Sure?'}
LAST = {'role': 'assistant', 'content': 'Yes.'}


def write_folder(folder: pathlib.Path, template: str | None = CHATML, **config) -> str:
  """Writes the tokenizer and the template of a chat model; returns the folder."""
  alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
  merges = [('Y', 'e'), ('Ye', 's'), ('Ċ', 'Ċ'), ('Ġ', 'i')]
  words = [*SPECIAL, *alphabet, *(a + b for a, b in merges)]
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({word: i for i, word in enumerate(words)}, merges))
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  tokenizer.add_special_tokens(SPECIAL)
  folder.mkdir(exist_ok=True)
  tokenizer.save(str(folder / 'tokenizer.json'))
  given = {'bos_token': '<s>', 'eos_token': '<|im_end|>', 'pad_token': '<pad>', **config}
  (folder / 'tokenizer_config.json').write_text(json.dumps(given))
  if template is not None:
    (folder / 'chat_template.jinja').write_text(template)
  return str(folder)


def chat_format(folder: pathlib.Path, template: str | None = CHATML, **config) -> ChatFormat:
  """Returns the format of such a folder."""
  return ChatFormat.of(load_vocabulary(write_folder(folder, template, **config)))


def words(chat: ChatFormat, ids) -> str:
  """Returns the text of ids, special tokens included."""
  return chat.vocabulary._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)


def write_model(folder: pathlib.Path, template: str | None = CHATML) -> str:
  """Writes a random Llama with such a folder's tokenizer and template; returns the folder."""
  from prompt_tuning.models.decoder_only import DecoderConfig
  from prompt_tuning.models.loading import random_model, save_model
  from prompt_tuning.models.positions import Rotary

  vocabulary = load_vocabulary(write_folder(folder.parent / f'{folder.name}-words', template))
  config = DecoderConfig(
    vocab_size=vocabulary.size, layers=2, width=12, heads=4, kv_heads=2, head_dim=6, mlp_dim=14, family='llama',
    mlp_activations=('silu', 'linear'), query_scale=6**-0.5, rotary=(Rotary(),) * 2, windows=(0, 0))
  save_model(random_model(config, vocabulary=vocabulary), str(folder))
  return str(folder)
