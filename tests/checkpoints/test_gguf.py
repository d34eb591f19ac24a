"""GGUF files against folders with the same weights; `gguf_files.py` writes both."""

import dataclasses
import json
import sys

import gguf
import jax
import numpy as np
import pytest
from gguf_files import IDS, LLAMA3, MEMBERS, PLAIN, assert_logits_are_those_of, write_member

from prompt_tuning.data import byte_level_bpe
from prompt_tuning.data.vocabulary_folders import load_vocabulary
from prompt_tuning.evaluation import saved
from prompt_tuning.models import loading
from prompt_tuning.programs import command

TEXTS = ['', ' ', 'a  b', ' 12  345\n 6', "It's  naïve", '日本語 <end>text<end>', '\t\n\n x', 'f(x):\n    return 10']


@pytest.mark.parametrize('name', MEMBERS)
def test_a_file_is_the_model_of_the_folder_with_its_weights(name, tmp_path):
  folder = write_member(name, tmp_path)
  found, wanted = (loading.load_model(str(folder / each)) for each in ('model.gguf', 'folder'))
  ours, theirs = (dataclasses.asdict(each.module.config) for each in (found, wanted))
  if name == 'llama':  # whose divisors the folder computes
    del ours['rotary'], theirs['rotary']
  assert ours == theirs
  jax.tree.map(np.testing.assert_array_equal, found.params, wanted.params)
  assert found.weights_digest == wanted.weights_digest
  rows = [[3, 9, 27, 5, 11, 40, 2, 8, 6, 31]], [[7, 1, 30]]
  np.testing.assert_allclose(found.logits(*rows), wanted.logits(*rows), atol=2e-5)


def test_a_part_of_an_array_is_read_as_a_part_of_it(tmp_path):
  reader = loading.open_checkpoint(str(write_member('llama', tmp_path) / 'model.gguf'))
  for name, (shape, _) in reader.names().items():
    part = tuple(slice(1, size // 2 + 1) for size in shape)
    np.testing.assert_array_equal(reader.read(name, part), reader.read(name)[part])


@pytest.mark.slow
@pytest.mark.parametrize('name, changes', [
  ('smollm', {}), ('llama', {'rope_parameters': PLAIN}), ('qwen2', {}),
  # transformers reads neither these widths of heads nor caps, nor the scale of queries: these are its defaults.
  ('qwen3', {'rope_parameters': PLAIN, 'head_dim': 128}),
  ('gemma2', {'head_dim': 256, 'query_pre_attn_scalar': 256, 'attn_logit_softcapping': 50.0,
              'final_logit_softcapping': 30.0})])
def test_logits_are_those_of_transformers(name, changes, tmp_path):
  torch, transformers = pytest.importorskip('torch'), pytest.importorskip('transformers')
  folder = write_member(name, tmp_path, **changes)
  theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file='model.gguf', dtype=torch.float32).eval()
  assert_logits_are_those_of(theirs, folder)


@pytest.mark.slow
@pytest.mark.parametrize('name', MEMBERS)
def test_logits_are_those_of_transformers_with_the_folder(name, tmp_path):
  """Of the folder that the file was made from: transformers reads neither `rope_freqs` nor `rope.scaling` of a file."""
  torch, transformers = pytest.importorskip('torch'), pytest.importorskip('transformers')
  folder = write_member(name, tmp_path)
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    folder / 'folder', dtype=torch.float32, attn_implementation='eager').eval()
  assert_logits_are_those_of(theirs, folder, IDS * 4)


@pytest.mark.slow
def test_the_divisors_of_llama_3_give_the_frequencies_of_transformers(tmp_path):
  pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

  folder = write_member('llama', tmp_path)
  config = transformers.AutoConfig.from_pretrained(folder / 'folder')
  wanted, amplitude = ROPE_INIT_FUNCTIONS['llama3'](config, 'cpu')
  plain = LLAMA3['rope_theta']**(-np.arange(0, 1, 2 / config.head_dim))
  assert {*np.round(plain / wanted.numpy(), 3)} >= {1.0, 8.0}  # some are as they were, some divided by the factor
  for rotary in loading.load_model(str(folder / 'model.gguf')).module.config.rotary:
    np.testing.assert_allclose(rotary.frequencies(config.head_dim, 0), wanted.numpy(), rtol=1e-6)
    assert rotary.amplitude == amplitude == 1


def test_the_folder_of_one_file_is_the_model_and_one_of_several_is_an_error(tmp_path):
  folder = write_member('qwen2', tmp_path)
  model = loading.load_model(str(folder))
  assert model.path.endswith('model.gguf')
  (folder / 'other.gguf').write_bytes(b'')
  with pytest.raises(ValueError, match=r'several GGUF files: model.gguf, other.gguf. Give the path of one'):
    loading.load_model(str(folder))


def byte_level(writer, pre='gpt-2', **flags):
  """Writes the tokenizer of the tests, whose token <end> is matched in a text."""
  content = json.loads(byte_level_bpe.train_tokenizer(TEXTS * 3, 280)['tokenizer.json'])['model']
  tokens = sorted(content['vocab'], key=content['vocab'].get)
  writer.add_tokenizer_model('gpt2')
  writer.add_tokenizer_pre(pre)
  writer.add_token_list([*tokens, '<end>', '<fill>'])
  writer.add_token_types([3, 3, *[1] * (len(tokens) - 2), 3, 5])
  writer.add_token_merges([' '.join(pair) for pair in content['merges']])
  writer.add_eos_token_id(len(tokens))
  writer.add_bos_token_id(1)
  writer.add_chat_template("{% for m in messages %}{{ m['content'] }}<end>{% endfor %}")
  return content


def metadata_file(path, write):
  """Writes a file with a tokenizer, and no arrays."""
  writer = gguf.GGUFWriter(str(path), 'llama')
  kept = write(writer)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.close()
  return kept


@pytest.mark.parametrize('pre, kind', [('gpt-2', 'GPT2Tokenizer'), ('qwen2', 'Qwen2Tokenizer')])
def test_a_byte_level_tokenizer_is_that_of_a_folder(pre, kind, tmp_path):
  content = metadata_file(tmp_path / 'x.gguf', lambda writer: byte_level(writer, pre))
  vocab = content['vocab'] | {'<end>': len(content['vocab'])}
  (tmp_path / 'vocab.json').write_text(json.dumps(vocab))
  (tmp_path / 'merges.txt').write_text('\n'.join(' '.join(pair) for pair in content['merges']))
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps(
    {'tokenizer_class': kind, 'eos_token': '<end>', 'pad_token': '<end>', 'unk_token': '<end>'}))
  found, wanted = load_vocabulary(str(tmp_path / 'x.gguf')), load_vocabulary(str(tmp_path))
  for text in [*TEXTS, 'cafe\u0301 re\u0301']:
    assert found.encode(text) == wanted.encode(text)
    assert found.decode(found.encode(text.replace('<end>', ''))) == wanted.decode(
      wanted.encode(text.replace('<end>', '')))
  assert (found.eos_id, found.size, found.start) == (len(content['vocab']), len(vocab), ())


@pytest.mark.parametrize('pre, words', [
  ('smollm', [' ', '1', '2', '  ', '3', '4', '5', '\n ', '6']),
  ('llama-bpe', [' ', '12', ' ', ' ', '345', '\n', ' ', '6']),
  ('tekken', [' ', '1', '2', ' ', ' ', '3', '4', '5', '\n', ' ', '6'])])
def test_digits_are_divided_as_the_rule_says(pre, words, tmp_path):
  metadata_file(tmp_path / 'x.gguf', lambda writer: byte_level(writer, pre))
  vocabulary = load_vocabulary(str(tmp_path / 'x.gguf'))
  splitter = vocabulary._tokenizer.pre_tokenizer
  assert [piece.replace('Ġ', ' ').replace('Ċ', '\n') for piece, _ in splitter.pre_tokenize_str(' 12  345\n 6')] == words
  assert vocabulary.start == (() if pre == 'smollm' else (1,))


def test_a_sentencepiece_tokenizer_is_that_of_its_model_file(tmp_path):
  import sentencepiece

  (tmp_path / 'texts').write_text('\n'.join(TEXTS * 9))
  sentencepiece.SentencePieceTrainer.train(
    input=str(tmp_path / 'texts'), model_prefix=str(tmp_path / 'tokenizer'), model_type='bpe', byte_fallback=True,
    vocab_size=320, minloglevel=2, normalization_rule_name='identity', remove_extra_whitespaces=False,
    user_defined_symbols=['<end>', '▁▁'], hard_vocab_limit=False)
  model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / 'tokenizer.model'))
  ids = range(model.get_piece_size())
  kinds = [2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else
           4 if model.id_to_piece(i) in ('<end>', '▁▁') else 1 for i in ids]

  def write(writer):
    writer.add_tokenizer_model('llama')
    writer.add_tokenizer_pre('default')
    writer.add_token_list([model.id_to_piece(i).replace('▁', ' ') if kinds[i] == 4 else model.id_to_piece(i)
                           for i in ids])
    writer.add_token_scores([model.get_score(i) for i in ids])
    writer.add_token_types(kinds)

  metadata_file(tmp_path / 'x.gguf', write)
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps(
    {'tokenizer_class': 'PreTrainedTokenizerFast', 'bos_token': '<s>', 'eos_token': '</s>', 'unk_token': '<unk>',
     'added_tokens_decoder': {str(model.piece_to_id('<end>')): {'content': '<end>'}}}))
  found, wanted = load_vocabulary(str(tmp_path / 'x.gguf')), load_vocabulary(str(tmp_path))
  for text in TEXTS:
    assert found.encode(text) == wanted.encode(text)
    assert found.decode(found.encode(text)) == wanted.decode(wanted.encode(text))
  assert (found.start, found.eos_id, found.size) == (wanted.start, wanted.eos_id, wanted.size) == ((1,), 2, len(ids))


def test_a_written_folder_has_the_tokenizer_and_the_template(tmp_path, monkeypatch):
  monkeypatch.setattr('gguf_files.V', 281)
  folder = write_member('llama', tmp_path, tokenizer=byte_level)
  model = loading.load_model(str(folder / 'model.gguf'))
  loading.save_model(model, str(tmp_path / 'written'))
  again = loading.load_model(str(tmp_path / 'written'))
  assert again.chat_format.template.source == model.chat_format.template.source
  assert again.vocabulary.encode(TEXTS[5]) == model.vocabulary.encode(TEXTS[5])
  np.testing.assert_allclose(again.logits(['a b'], ['c']), model.logits(['a b'], ['c']), atol=2e-5)


def test_commands_take_a_file_and_its_prompt_knows_its_weights(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr('gguf_files.V', 281)
  folder = write_member('smollm', tmp_path, tokenizer=byte_level)
  model, trained = str(folder / 'model.gguf'), str(tmp_path / 'run')
  (tmp_path / 'rows.jsonl').write_text(''.join(
    f'{{"inputs": "a b {i}", "targets": "x"}}\n' for i in range(40)))
  assert command.main(['train', '--model', model, '--data', str(tmp_path / 'rows.jsonl'), '--steps=1', '--batch_size=2',
                       '--length=2', '--output', trained]) == 0
  assert command.main(['infer', '--prompt', trained, '--data', str(tmp_path / 'rows.jsonl'), '--output',
                       str(tmp_path / 'out.jsonl')]) == 0
  assert len((tmp_path / 'out.jsonl').read_text().splitlines()) == 40
  assert saved.load_trained(trained).about['weights'] == loading.load_model(model).weights_digest


@pytest.mark.parametrize('key, value, message', [
  ('llama.rope.dimension_count', 8, r'rope.dimension_count to 8, but heads are 16 wide'),
  ('llama.expert_count', 4, r'sets llama.expert_count to 4; expected 0'),
  ('llama.attn_logit_softcapping', 30, r'sets llama.attn_logit_softcapping to 30; this key is not supported'),
  ('llama.residual_scale', 2, r'sets llama.residual_scale to 2; this key is not supported'),
  ('general.type', 'mmproj', r"general.type to 'mmproj'; expected 'model'"),
  ('split.count', 3, r'one of 3 parts of a model. Join them'),
])
def test_a_key_that_would_change_the_model_is_an_error(key, value, message, tmp_path):
  add = lambda writer: writer.add_string(key, value) if isinstance(value, str) else writer.add_uint32(key, value)
  folder = write_member('smollm', tmp_path, keys=add)
  with pytest.raises(ValueError, match=message):
    loading.load_model(str(folder / 'model.gguf'))


@pytest.mark.parametrize('pre, key, message', [
  ('falcon', None, r"tokenizer.ggml.pre to 'falcon'; .* known for gpt-2, smollm, llama-bpe"),
  ('gpt-2', 'tokenizer.ggml.add_eos_token', r'add_eos_token to True; expected False'),
  ('gpt-2', 'tokenizer.ggml.lowercase', r'lowercase to True; this key is not supported'),
])
def test_a_tokenizer_that_is_not_understood_is_an_error(pre, key, message, tmp_path):
  def write(writer):
    byte_level(writer, pre)
    if key:
      writer.add_bool(key, True)

  metadata_file(tmp_path / 'x.gguf', write)
  with pytest.raises(ValueError, match=message):
    load_vocabulary(str(tmp_path / 'x.gguf'))


def test_an_unknown_architecture_or_type_of_arrays_is_refused_with_those_that_are_read(tmp_path):
  writer = gguf.GGUFWriter(str(tmp_path / 'x.gguf'), 'falcon')
  writer.add_tensor('output.weight', np.zeros((2, 2), np.float64))
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  with pytest.raises(ValueError, match=r'output.weight as F64, which cannot be read. .*F32, F16, Q4_0'):
    loading.load_model(str(tmp_path / 'x.gguf'))
  metadata_file(tmp_path / 'y.gguf', lambda writer: writer.add_architecture())
  with pytest.raises(ValueError, match=r'lacks the array token_embd.weight'):
    loading.load_model(str(tmp_path / 'y.gguf'))


def test_a_damaged_file_and_a_missing_package_are_named(tmp_path, monkeypatch):
  folder = write_member('smollm', tmp_path)
  content = (folder / 'model.gguf').read_bytes()
  for length in (0, 3, 60, len(content) // 2):
    (tmp_path / 'short.gguf').write_bytes(content[:length])
    with pytest.raises(ValueError, match=r'short.gguf is damaged, or not a GGUF file'):
      loading.load_model(str(tmp_path / 'short.gguf'))
  with pytest.raises(FileNotFoundError, match=r'none.gguf: there is no such file'):
    loading.load_model(str(tmp_path / 'none.gguf'))
  monkeypatch.setitem(sys.modules, 'gguf', None)
  (tmp_path / 'short.gguf').write_bytes(content)
  with pytest.raises(ImportError, match=r"pip install '.\[gguf\]'"):
    loading.load_model(str(tmp_path / 'short.gguf'))
