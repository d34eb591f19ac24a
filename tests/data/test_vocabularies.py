import json
import pickle

import pytest
import sentencepiece
import tokenizers

from prompt_tuning.data import vocabularies, vocabulary_folders


@pytest.fixture
def t5(shared):
  return vocabularies.SentencePieceVocabulary(shared / 't5x_native/sentencepiece.model')


@pytest.fixture
def words(tmp_path):
  """A folder whose tokenizer has a few words and adds an end token."""
  names = ['<pad>', '</s>', '<s>', '?', 'red', 'green', 'blue']
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.WordLevel({name: i for i, name in enumerate(names)}, unk_token='?'))
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
    single='$A </s>', special_tokens=[('</s>', 1)])
  tokenizer.save(str(tmp_path / 'tokenizer.json'))
  return tmp_path


def test_t5_ids_are_the_published_ones(t5):
  # 'Hello' and 'world' in the published T5 vocabulary of 32000 pieces and 100 sentinels.
  assert t5.encode('Hello world') == [8774, 296]
  assert (t5.size, t5.pad_id, t5.eos_id, t5.bos_id) == (32100, 0, 1, None)


def test_sentinels_stand_at_the_end_of_the_vocabulary_the_first_one_last(t5):
  assert t5.encode('Hello <extra_id_0>') == [8774, 32099]
  assert t5.encode('<extra_id_99> Hello') == [32000, 8774]
  assert t5.decode([8774, 32099]) == 'Hello <extra_id_0>'


def test_sentinels_that_a_file_has_are_not_appended_again(t5, tmp_path):
  # Serialised by hand: a file with one more sentinel, as field 1 (pieces) of the model.
  sentinel = '▁<extra_id_0>'.encode()
  piece = b'\x0a' + bytes([len(sentinel)]) + sentinel + b'\x18\x04'
  path = tmp_path / 'with_sentinel.model'
  path.write_bytes(t5._content + b'\x0a' + bytes([len(piece)]) + piece)
  assert vocabularies.SentencePieceVocabulary(path, extra_ids=1).size == 32001


def test_decoding_stops_at_the_end_token_and_reads_unknown_rows_of_the_model(t5):
  assert t5.decode([8774, 1, 296]) == 'Hello'
  assert t5.decode([8774, 32127]) == t5.decode([8774, 2])


@pytest.mark.parametrize('text', ['Hello world', 'a b c 12', 'sst2 sentence: it was good.'])
def test_sentencepiece_texts_round_trip(t5, text):
  assert t5.decode(t5.encode(text)) == text


def test_a_pickled_vocabulary_is_equal_and_works(t5, words):
  for vocabulary, text in ((t5, 'Hello'), (vocabulary_folders.load_vocabulary(words), 'red'),
                           (vocabularies.PassThroughVocabulary(7), '5')):
    copy = pickle.loads(pickle.dumps(vocabulary))
    assert copy == vocabulary and hash(copy) == hash(vocabulary)
    assert copy.encode(text) == vocabulary.encode(text)


def test_vocabularies_differ_by_content_and_by_settings(shared, t5):
  path = shared / 't5x_native/sentencepiece.model'
  assert vocabularies.SentencePieceVocabulary(path, extra_ids=7) != t5
  assert vocabularies.PassThroughVocabulary(7) != vocabularies.PassThroughVocabulary(8)


def test_a_file_that_is_no_sentencepiece_model_is_named(tmp_path):
  path = tmp_path / 'broken.model'
  path.write_bytes(b'not a model')
  with pytest.raises(ValueError, match=r'broken\.model is not a SentencePiece model'):
    vocabularies.SentencePieceVocabulary(path)


def test_the_tokenizer_adds_no_end_token_and_hides_padding(words):
  vocabulary = vocabulary_folders.load_vocabulary(words)
  assert vocabulary.encode('blue red') == [6, 4]
  assert vocabulary.decode([0, 6, 4, 0, 1, 5]) == 'blue red'
  assert (vocabulary.size, vocabulary.pad_id, vocabulary.eos_id, vocabulary.bos_id) == (7, 0, 1, None)


def test_the_model_folder_may_name_the_special_tokens(words):
  (words / 'tokenizer_config.json').write_text(json.dumps({'eos_token': {'content': 'green'}, 'bos_token': '<s>'}))
  vocabulary = vocabulary_folders.load_vocabulary(words)
  assert (vocabulary.eos_id, vocabulary.pad_id, vocabulary.bos_id) == (5, 5, 2)


@pytest.mark.parametrize(('template', 'start'), [
  ('<s> $A', (2,)), ('<s> $A </s>', (2,)), ('$A </s>', ()), ('green <s> $A', (5, 2)), (None, ())])
def test_an_input_starts_as_the_tokenizers_own_template_says(words, template, start):
  tokenizer = tokenizers.Tokenizer.from_file(str(words / 'tokenizer.json'))
  tokenizer.post_processor = tokenizers.processors.ByteLevel() if template is None else (  # GPT-2's adds nothing
    tokenizers.processors.TemplateProcessing(single=template, special_tokens=[('<s>', 2), ('</s>', 1), ('green', 5)]))
  tokenizer.save(str(words / 'tokenizer.json'))
  # If there is a tokenizer.json, transformers ignores add_bos_token.
  (words / 'tokenizer_config.json').write_text(json.dumps({'bos_token': '<s>', 'add_bos_token': template is None}))
  vocabulary = vocabulary_folders.load_vocabulary(words)
  assert vocabulary.start == pickle.loads(pickle.dumps(vocabulary)).start == start
  assert vocabulary.encode('blue red') == [6, 4]
  assert vocabulary.decode([*start, 6, 4, 1]) == 'blue red'


@pytest.mark.parametrize('ids', [5, [5, 3]])
def test_the_models_config_tells_the_end_token_that_the_tokenizers_does_not(words, ids):
  (words / 'tokenizer_config.json').write_text('{"model_max_length": 1024}')  # all that GPT-2's config contains
  (words / 'config.json').write_text(json.dumps({'eos_token_id': ids}))
  assert vocabulary_folders.load_vocabulary(words).eos_id == 5
  (words / 'config.json').write_text('{"eos_token_id": 77}')
  with pytest.raises(ValueError, match='has no token for eos=77'):
    vocabulary_folders.load_vocabulary(words)


def test_an_answer_ends_with_any_of_the_tokens_that_the_model_folder_names(words):
  (words / 'tokenizer_config.json').write_text('{"eos_token": "green"}')
  for file, ids, ends in (('config.json', 3, (5, 3)), ('generation_config.json', [4, 5], (5, 4))):  # the latter wins
    (words / file).write_text(json.dumps({'eos_token_id': ids}))
    vocabulary = pickle.loads(pickle.dumps(vocabulary_folders.load_vocabulary(words)))
    assert (vocabulary.eos_id, vocabulary.end_ids) == (5, ends)
    assert [vocabulary.decode([6, end, 6]) for end in ends] == ['blue', 'blue']


def test_tokens_that_a_tokenizer_adds_behind_its_own_do_not_count(words):
  tokenizer = tokenizers.Tokenizer.from_file(str(words / 'tokenizer.json'))
  tokenizer.add_special_tokens(['<image>'])
  tokenizer.save(str(words / 'tokenizer.json'))
  vocabulary = vocabulary_folders.load_vocabulary(words)
  assert (vocabulary.size, vocabulary.encode('red <image>')) == (7, [4, 7])


@pytest.mark.parametrize(('said', 'start'), [
  ({}, (1,)), ({'add_bos_token': True}, (1,)), ({'add_bos_token': False}, ())])
def test_llamas_sentencepiece_model_starts_with_a_begin_token_and_has_no_sentinels(tmp_path, said, start):
  sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(['red green blue'] * 9), vocab_size=14,
                                           model_prefix=str(tmp_path / 'tokenizer'), minloglevel=2)
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps(said))
  vocabulary = vocabulary_folders.load_vocabulary(tmp_path)
  assert (vocabulary.start, vocabulary.bos_id, vocabulary.eos_id, vocabulary.size) == (start, 1, 2, 14)
  assert vocabulary.decode([*vocabulary.start, *vocabulary.encode('red blue'), 2]) == 'red blue'
  (tmp_path / 'tokenizer.model').rename(tmp_path / 'spiece.model')  # T5's
  assert vocabulary_folders.load_vocabulary(tmp_path).start == (start if said else ())


def test_a_special_token_that_the_file_lacks_is_an_error(words):
  with pytest.raises(ValueError, match=r"has no token for eos='<end>'"):
    vocabularies.TokenizersVocabulary(words / 'tokenizer.json', eos='<end>')


def test_a_broken_tokenizer_file_is_named(tmp_path):
  (tmp_path / 'tokenizer.json').write_text('{')
  with pytest.raises(ValueError, match=r'tokenizer\.json is not a tokenizer file'):
    vocabulary_folders.load_vocabulary(tmp_path)


def test_a_folder_without_vocabulary_lists_what_was_looked_for(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'tokenizer\.json.*spiece\.model.*sentencepiece\.model'):
    vocabulary_folders.load_vocabulary(tmp_path)


def test_a_folder_with_a_sentencepiece_model_is_found(shared, t5):
  assert vocabulary_folders.load_vocabulary(shared / 't5x_native') == t5


def test_pass_through_texts_are_their_ids():
  vocabulary = vocabularies.PassThroughVocabulary(9)
  assert vocabulary.encode('4 8 2') == [4, 8, 2]
  assert vocabulary.decode([4, 0, 8, 1, 2]) == '4 8'


@pytest.mark.parametrize(('text', 'message'), [('4 red', 'is not a list of token ids'), ('4 9', r'\[9\].*0\.\.8')])
def test_pass_through_refuses_other_texts(text, message):
  with pytest.raises(ValueError, match=message):
    vocabularies.PassThroughVocabulary(9).encode(text)
