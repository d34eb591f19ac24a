"""Vocabularies of model folders. The ids are those of transformers 5.23 on the same files."""

import json
import pickle
import shutil

import pytest
import sentencepiece
import tokenizers

from prompt_tuning.data import token_files, vocabularies
from prompt_tuning.data.vocabulary_folders import load_vocabulary


def write(folder, **files):
  """Writes JSON files, given by name without ending, and returns the folder."""
  for name, content in files.items():
    (folder / f'{name}.json').write_text(json.dumps(content))
  return folder


def special(text, **flags):
  return {'content': text, 'lstrip': False, 'rstrip': False, 'normalized': False, 'single_word': False, 'special': True
          } | flags


@pytest.fixture
def t5(shared, tmp_path):
  """A folder with T5's published pieces."""
  shutil.copy(shared / 't5x_native/sentencepiece.model', tmp_path / 'spiece.model')
  return tmp_path


@pytest.fixture
def llama(tmp_path):
  """A folder whose pieces are <unk>, <s>, </s> and characters, two tokens after them, and a function ids -> pieces."""
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(['red green blue <|im_start|> <|im_end|>'] * 9), vocab_size=25, model_type='char',
    hard_vocab_limit=False, model_prefix=str(tmp_path / 'tokenizer'), normalization_rule_name='identity',
    remove_extra_whitespaces=False, minloglevel=2)
  pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / 'tokenizer.model'))
  size = pieces.GetPieceSize()
  listed = {2: special('</s>'), size: special('<|im_end|>'), size + 1: special('<|im_start|>', rstrip=True)}
  write(tmp_path, added_tokens={'<|im_end|>': size, '<|im_start|>': size + 1}, config={'model_type': 'llama'},
        tokenizer_config={'add_bos_token': True, 'bos_token': '<s>', 'eos_token': '<|im_end|>',
                          'added_tokens_decoder': listed})
  names = [*map(pieces.IdToPiece, range(size)), '<|im_end|>', '<|im_start|>']
  return tmp_path, lambda ids: ' '.join(names[i] for i in ids)


@pytest.fixture
def words(tmp_path):
  """A folder with a tokenizer.json of a few words."""
  names = ['<pad>', '</s>', '<s>', '?', 'red', 'green', 'blue', '<|endoftext|>']
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.WordLevel({name: i for i, name in enumerate(names)}, unk_token='?'))
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  tokenizer.save(str(tmp_path / 'tokenizer.json'))
  return tmp_path


def test_t5s_control_pieces_and_sentinels_are_matched_within_a_text(t5):
  vocabulary = load_vocabulary(t5)
  assert vocabulary.encode('Hello</s> world') == [8774, 1, 296]
  assert vocabulary.encode('Hello<extra_id_1>world <pad>') == [8774, 32098, 296, 0]
  assert vocabulary.encode('  Hello <extra_id_0>') == [8774, 32099]
  assert vocabulary.decode([8774, 32098, 296]) == 'Hello <extra_id_1> world'
  assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.bos_id, vocabulary.start) == (0, 1, None, ())


def test_seqios_file_is_read_as_seqio_reads_it(t5):
  (t5 / 'spiece.model').rename(t5 / 'sentencepiece.model')
  assert 1 not in load_vocabulary(t5).encode('Hello</s>')
  assert load_vocabulary(t5).encode('Hello <extra_id_0>') == [8774, 32099]


@pytest.mark.parametrize(('config', 'count'), [(None, 100), ({}, 100), ({'extra_ids': 96}, 96), ({'extra_ids': 0}, 0)])
def test_a_folder_states_how_many_sentinels_it_has(t5, config, count):
  if config is not None:
    write(t5, tokenizer_config=config)
  vocabulary = load_vocabulary(t5)
  assert vocabulary.size == 32000 + count
  assert (vocabulary.encode('<extra_id_0>') == [32000 + count - 1]) == (count > 0)
  assert load_vocabulary(t5 / 'spiece.model', extra_ids=3).size == 32003


def test_a_token_whose_id_a_sentinel_has_gets_the_next_free_one_and_the_log_says_so(t5, caplog):
  write(t5, added_tokens={'<sep>': 32096})  # right if there were 96 sentinels
  assert load_vocabulary(t5).encode('Hello<sep>') == [8774, 32100]
  assert "'<sep>' has the id 32100, not 32096" in caplog.text
  write(t5, tokenizer_config={'extra_ids': 96})
  assert load_vocabulary(t5).encode('Hello<sep>') == [8774, 32096]


@pytest.mark.parametrize(('text', 'pieces'), [
  ('red', '▁ r e d'), ('<|im_start|> red<|im_end|>', '<|im_start|> r e d <|im_end|>'), ('d</s>', '▁ d </s>'),
  ('d</s> d', '▁ d </s> ▁ d'), ('<s>d', '<s> d'), (' d', '▁ d'), ('d  d', '▁ d ▁ ▁ d')])
def test_llamas_added_and_control_tokens_are_matched_and_only_a_texts_start_gets_a_space(llama, text, pieces):
  folder, names = llama
  assert names(load_vocabulary(folder).encode(text)) == pieces


@pytest.mark.parametrize(('changed', 'pieces'), [
  ({'legacy': True, 'tokenizer_class': 'LlamaTokenizer'}, '▁ d </s> ▁ d'), ({'legacy': True}, '▁ d </s> ▁ d'),
  ({'legacy': False}, '▁ d </s> d'), ({'add_prefix_space': False}, 'd </s> d')])
def test_the_folder_says_which_parts_get_a_space(llama, changed, pieces):
  folder, names = llama
  config = json.loads((folder / 'tokenizer_config.json').read_text())
  write(folder, tokenizer_config=config | changed)
  assert names(load_vocabulary(folder).encode('d</s>d')) == pieces


@pytest.mark.parametrize('absent', ['added_tokens', 'config', 'special_tokens_map', 'generation_config'])
def test_llamas_tokens_are_known_without_one_of_the_files(llama, absent):
  folder, names = llama
  (folder / f'{absent}.json').unlink(missing_ok=True)
  vocabulary = pickle.loads(pickle.dumps(load_vocabulary(folder)))
  assert names([vocabulary.eos_id, vocabulary.pad_id, *vocabulary.start]) == '<|im_end|> <|im_end|> <s>'
  ids = vocabulary.encode('<|im_start|>red blue<|im_end|>')
  assert vocabulary.decode(ids) == '<|im_start|>red blue'
  assert vocabulary.decode([*vocabulary.encode('red'), ids[0], *vocabulary.encode('blue')]) == 'red<|im_start|> blue'
  assert vocabulary == load_vocabulary(folder)


def test_two_texts_for_one_id_are_never_read_silently(llama, caplog):
  folder, names = llama
  size = load_vocabulary(folder).eos_id
  write(folder, added_tokens={'<|old|>': size, '<|im_start|>': size + 1})
  assert names(load_vocabulary(folder).encode('<|im_end|>')) == '<|im_end|>'
  assert f"the token {size} is '<|old|>' in added_tokens.json and '<|im_end|>' in tokenizer_config.json" in caplog.text
  (folder / 'tokenizer_config.json').unlink()
  write(folder, added_tokens={'<|old|>': size, '<|im_start|>': size})
  with pytest.raises(ValueError, match=rf"added_tokens.json gives the id {size} to '<\|old\|>' and '<\|im_start\|>'"):
    load_vocabulary(folder)


def test_a_model_without_an_end_token_needs_one_from_the_folder(tmp_path):
  sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(['red'] * 9), vocab_size=6, model_type='char',
                                           eos_id=-1, model_prefix=str(tmp_path / 'tokenizer'), minloglevel=2)
  with pytest.raises(ValueError, match=r'tokenizer.model has no end token.* eos_token in tokenizer_config.json'):
    load_vocabulary(tmp_path)
  assert load_vocabulary(write(tmp_path, config={'eos_token_id': 5})).eos_id == 5
  assert load_vocabulary(write(tmp_path, tokenizer_config={'eos_token': 'd'})).eos_id in range(2, 6)


def test_without_tokenizer_config_the_other_files_name_llamas_tokens(llama):
  folder, names = llama
  (folder / 'tokenizer_config.json').unlink()
  write(folder, special_tokens_map={'eos_token': special('<|im_end|>'), 'pad_token': '</s>'})
  vocabulary = load_vocabulary(folder)
  assert names([vocabulary.eos_id, vocabulary.pad_id, *vocabulary.start]) == '<|im_end|> </s> <s>'
  assert names(vocabulary.encode('d<|im_start|>')) == '▁ d <|im_start|>'
  (folder / 'added_tokens.json').unlink()
  (folder / 'special_tokens_map.json').unlink()
  assert load_vocabulary(folder).eos_id == 2


@pytest.mark.parametrize(('files', 'eos', 'pad', 'bos'), [
  ({'config': {'model_type': 'gpt2'}}, 7, 7, 7),
  ({'config': {'model_type': 'gpt2'}, 'tokenizer_config': {'model_max_length': 9}}, 7, 7, 7),
  ({'config': {'model_type': 't5'}, 'tokenizer_config': {'model_max_length': 9}}, 1, 0, None),
  ({'config': {'model_type': 'llama', 'eos_token_id': [5, 6]}}, 1, 1, 2),
  ({'config': {'model_type': 'mistral', 'eos_token_id': [5, 6]}}, 5, 0, None),
  ({'config': {'tokenizer_class': 'GPT2TokenizerFast'}}, 7, 7, 7),
  ({'special_tokens_map': {'eos_token': 'green', 'pad_token': {'content': 'blue'}}}, 5, 6, None),
  ({'special_tokens_map': {'eos_token': 'green'}, 'tokenizer_config': {'eos_token': 'red'}}, 5, 5, None),
  ({'special_tokens_map': {'eos_token': 'green'},
    'tokenizer_config': {'eos_token': 'red', 'added_tokens_decoder': {}}}, 4, 4, None),
  ({'generation_config': {'eos_token_id': 6}, 'config': {'eos_token_id': 5}, 'tokenizer_config': {'a': 1}}, 6, 6, None),
])
def test_the_files_next_to_a_tokenizer_json_name_its_tokens(words, files, eos, pad, bos):
  vocabulary = load_vocabulary(write(words, **files))
  assert (vocabulary.eos_id, vocabulary.pad_id, vocabulary.bos_id) == (eos, pad, bos)


def test_tokens_that_a_tokenizer_json_lacks_are_added_as_the_other_files_say(words, caplog):
  write(words, added_tokens={'<|user|>': 9, '<|end|>': 8}, special_tokens_map={'eos_token': '<|end|>'})
  vocabulary = load_vocabulary(words)
  assert vocabulary.encode('<|user|>red green<|end|>') == [9, 4, 5, 8]
  assert (vocabulary.eos_id, vocabulary.size, caplog.text) == (8, 8, '')
  write(words, tokenizer_config={'image_token': '<image>', 'additional_special_tokens': ['<x>']})
  assert load_vocabulary(words).encode('<x><image>') == [11, 10]
  assert "no file gives the token '<x>' an id. It gets 11" in caplog.text
  write(words, added_tokens={'<|user|>': 12})
  with pytest.raises(ValueError, match=r"no token '<\|user\|>'.* give it the id 12, but the next free id is 8"):
    load_vocabulary(words)


def test_a_tokenizer_json_wins_over_the_other_files(words, caplog):
  write(words, added_tokens={'red': 7})
  assert load_vocabulary(words).encode('red') == [4]
  assert "'red' has the id 4, not 7" in caplog.text


def bpe(folder, special_tokens=()):
  """Writes vocab.json and merges.txt of a few letters."""
  letters = [*special_tokens, 'h', 'i', 'e', 'Ġ', 'Ì', 'ģ', 'Ã', '©', 'hi', 'Ġhi']
  write(folder, vocab={letter: i for i, letter in enumerate(letters)})
  (folder / 'merges.txt').write_text('#version: 0.2\nh i\nĠ hi\n')
  return folder


def test_gpt2s_vocab_json_and_merges_are_read(tmp_path):
  bpe(tmp_path, ['<|endoftext|>'])
  write(tmp_path, config={'model_type': 'gpt2'}, added_tokens={'<|user|>': 11})
  vocabulary = pickle.loads(pickle.dumps(load_vocabulary(tmp_path)))
  assert vocabulary.encode('hi hi<|user|>eh<|endoftext|>') == [9, 10, 11, 3, 1, 0]
  assert (vocabulary.eos_id, vocabulary.bos_id, vocabulary.pad_id, vocabulary.start) == (0, 0, 0, ())
  assert vocabulary.decode([9, 10, 11, 3]) == 'hi hi<|user|>e'
  write(tmp_path, tokenizer_config={'add_prefix_space': True, 'add_bos_token': True})
  vocabulary = load_vocabulary(tmp_path)
  assert (vocabulary.encode('hi'), vocabulary.start) == ([10], (0,))


def test_qwens_and_codet5s_vocab_json_and_merges_are_read(tmp_path):
  write(bpe(tmp_path), config={'model_type': 'qwen2', 'eos_token_id': 10})
  vocabulary = load_vocabulary(tmp_path)
  assert vocabulary.encode('hi e\u0301<|endoftext|>') == [8, 3, 6, 7, 10], 'Qwen joins é into one character'
  bpe(tmp_path, ['<pad>', '<s>', '</s>', '<unk>', '<mask>'])
  write(tmp_path, config={'model_type': 't5'}, added_tokens={'<extra_id_0>': 15}, tokenizer_config={
    'tokenizer_class': 'RobertaTokenizer', 'mask_token': special('<mask>', lstrip=True) | {'__type': 'AddedToken'}})
  vocabulary = load_vocabulary(tmp_path)
  assert vocabulary.encode('hi <mask><extra_id_0></s>') == [13, 4, 15, 2]
  assert (vocabulary.start, vocabulary.eos_id, vocabulary.pad_id) == ((1,), 2, 0)


@pytest.mark.parametrize('files', [
  {'config': {'tokenizer_class': 'ByT5Tokenizer'}}, {'tokenizer_config': {'tokenizer_class': 'ByT5Tokenizer'}},
  {'tokenizer_config': {'tokenizer_class': 'ByT5Tokenizer', 'added_tokens_decoder': {'0': special('<pad>', lstrip=True),
                                                                                    '260': special('<extra_id_1>')}}}])
def test_byt5s_tokens_are_bytes(tmp_path, files):
  vocabulary = pickle.loads(pickle.dumps(load_vocabulary(write(tmp_path, **files))))
  assert vocabulary.encode('a é </s> b<extra_id_1>') == [100, 35, 198, 172, 1, 101, 260]
  assert vocabulary.decode([100, 0, 198, 172, 260, 198, 1, 101]) == 'aé<extra_id_1>'
  assert (vocabulary.size, vocabulary.eos_id, vocabulary.pad_id, vocabulary.start) == (384, 1, 0, ())


def test_seqios_bytes_match_nothing():
  vocabulary = vocabularies.ByteVocabulary()
  assert vocabulary.encode('</s>') == [63, 50, 118, 65]
  assert (vocabulary.size, vocabulary != vocabularies.ByteVocabulary(5)) == (259, True)


def test_another_tokenizer_is_refused_with_the_line_that_converts_it(tmp_path):
  (tmp_path / 'vocab.txt').write_text('[PAD]\n')
  for files in ({}, {'vocab': {'h': 0}}, {'config': {'model_type': 't5'}}):
    with pytest.raises(FileNotFoundError, match=rf"T.from_pretrained\('{tmp_path}'\).save_pretrained\('{tmp_path}'\)"):
      load_vocabulary(write(tmp_path, **files))


@pytest.mark.parametrize(('file', 'content', 'message'), [
  ('tokenizer_config', '{"eos_token": 5}', r'tokenizer_config.json cannot be read .*eos_token'),
  ('tokenizer_config', '{"image_token": {"id": 5}}', r'tokenizer_config.json: image_token is not a token .*content'),
  ('tokenizer_config', '{"added_tokens_decoder": {"x": {"content": "y"}}}', r'added_tokens_decoder'),
  ('tokenizer_config', '{"extra_ids": "96"}', r'tokenizer_config.json cannot be read .*extra_ids'),
  ('tokenizer_config', '{"extra_ids": 1000000000}', r'tokenizer_config.json cannot be read .*extra_ids'),
  ('tokenizer_config', '{"extra_ids": -1}', r'tokenizer_config.json cannot be read .*extra_ids'),
  ('tokenizer_config', '{"split_special_tokens": true}', r'tokenizer_config.json has split_special_tokens: true'),
  ('tokenizer_config', '[' * 100_000, r'tokenizer_config.json cannot be read'),
  ('tokenizer_config', '[]', r'tokenizer_config.json cannot be read .*object.*array'),
  ('special_tokens_map', '{"eos_token": {"id": 5}}', r'special_tokens_map.json cannot be read .*content'),
  ('added_tokens', '{"<x>": "5"}', r'added_tokens.json cannot be read'),
  ('added_tokens', '{', r'added_tokens.json cannot be read'),
  ('generation_config', '{"eos_token_id": "2"}', r'generation_config.json cannot be read .*eos_token_id'),
  ('config', '{"eos_token_id": [[2]]}', r'config.json cannot be read .*eos_token_id'),
])
def test_a_damaged_file_is_named_with_its_field(words, file, content, message):
  (words / f'{file}.json').write_text(content)
  with pytest.raises(ValueError, match=message):
    load_vocabulary(words)


@pytest.mark.parametrize(('vocab', 'merges', 'message'), [
  ('[]', '', 'not an object token -> id'), ('{"h": "0"}', '', 'not an object token -> id'), ('{', '', 'Expecting'),
  ('{"h": 0, "i": 1}', '#version\nh i\n', "line 2 of merges.txt, 'h i'"),
  ('{"h": 0, "i": 1}', 'h\n', "line 1 of merges.txt, 'h'"), ('{"h": 0, "i": 1}', '\udcff', 'decode')])
def test_damaged_vocab_json_and_merges_are_errors(tmp_path, vocab, merges, message):
  write(tmp_path, config={'model_type': 'gpt2'})
  (tmp_path / 'vocab.json').write_text(vocab)
  (tmp_path / 'merges.txt').write_bytes(merges.encode(errors='surrogateescape'))
  with pytest.raises(ValueError, match=rf'vocab.json and merges.txt cannot be made: .*{message}'):
    load_vocabulary(tmp_path)


def test_sentinels_are_refused_for_a_file_that_lists_its_tokens(words):
  with pytest.raises(ValueError, match=r'extra_ids=5 cannot be used with .*tokenizer.json'):
    load_vocabulary(words, extra_ids=5)


def test_end_ids_are_known_without_a_tokenizer(tmp_path):
  assert token_files.end_ids(tmp_path) == ()
  assert token_files.end_ids(write(tmp_path, config={'eos_token_id': 5})) == (5,)
  assert token_files.end_ids(write(tmp_path, generation_config={'eos_token_id': [7, -1, 6]})) == (7, 6)


def test_half_of_a_character_is_an_error_in_every_vocabulary(t5, words):
  for vocabulary in (load_vocabulary(t5 / 'spiece.model'), vocabularies.SentencePieceVocabulary(t5 / 'spiece.model'),
                     load_vocabulary(words / 'tokenizer.json'), vocabularies.ByteVocabulary()):
    with pytest.raises(ValueError, match=r"half of a character \(the surrogate '\\ud83d'\) after 'smile '"):
      vocabulary.encode('smile \ud83d!')


def test_begin_tokens_that_a_text_has_already_are_not_added_again(llama):
  vocabulary = load_vocabulary(llama[0])
  with_start, without = vocabulary.encode('<s>d'), vocabulary.encode('d')
  assert vocabularies.started(with_start, vocabulary) == with_start
  assert vocabularies.started(without, vocabulary) == [1, *without]
