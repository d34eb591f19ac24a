"""Tokens have texts and bytes that together are the text, whatever the vocabulary."""

import chat_toys
import pytest

from prompt_tuning.data.token_texts import TokenTexts
from prompt_tuning.data.vocabularies import ByteVocabulary, PassThroughVocabulary, SentencePieceVocabulary
from prompt_tuning.data.vocabulary_folders import load_vocabulary
from prompt_tuning.models.loading import find_model
from prompt_tuning.serving.http.scores import Completions
from prompt_tuning.serving.http.scores import chat as chat_scores
from prompt_tuning.serving.requests import Token


@pytest.fixture(scope='module', params=['byte-level', 'words', 'sentencepiece', 'bytes', 'ids'])
def vocabulary(request, tmp_path_factory):
  if request.param == 'byte-level':
    return load_vocabulary(chat_toys.write_folder(tmp_path_factory.mktemp('words') / 'chat'))
  if request.param == 'words':
    return load_vocabulary(find_model('t5_integers'))
  if request.param == 'sentencepiece':
    return SentencePieceVocabulary(str(request.getfixturevalue('shared') / 't5x_native/sentencepiece.model'))
  return ByteVocabulary() if request.param == 'bytes' else PassThroughVocabulary(30)


def test_texts_of_tokens_make_the_text(vocabulary):
  text = '3 4 5' if vocabulary.size < 100 else 'Yes, the end.' if vocabulary.size > 30_000 else 'é 你 \n\n🎉 <0x41>'
  ids, texts = vocabulary.encode(text), TokenTexts(vocabulary)
  assert texts.join(ids) == text
  assert b''.join(texts.bytes_of(i, place == 0) for place, i in enumerate(ids)) == text.encode()
  assert texts.join([*ids, vocabulary.eos_id]) == text + vocabulary.piece(vocabulary.eos_id)


def test_a_part_of_a_character_is_shown_as_bytes():
  texts = TokenTexts(ByteVocabulary())
  first, second = ByteVocabulary().encode('é')
  assert (texts.text_of(first), texts.text_of(second)) == ('bytes:\\xc3', 'bytes:\\xa9')
  [entry] = chat_scores(texts, [Token(first, -0.5, ((first, -0.5), (second, -1.0)))], True)['content']
  assert entry['bytes'] == [0xC3] and entry['top_logprobs'][1]['token'] == 'bytes:\\xa9'


def test_offsets_count_characters_and_control_tokens_take_none():
  words = ByteVocabulary()
  scores = Completions(TokenTexts(words)).of([Token(i, -0.5) for i in [*words.encode('né1'), 1]])
  assert scores['text_offset'] == [0, 1, 2, 2, 3] and scores['tokens'][-1] == '</s>'


def test_the_likelier_of_equal_texts_counts_and_nothing_is_infinite():
  words = PassThroughVocabulary(30)
  token = Token(4, float('-inf'), ((4, -0.25), (5, -1.0)))
  scores = Completions(TokenTexts(words)).of([token])
  assert scores['top_logprobs'] == [{'4': -0.25, '5': -1.0}] and scores['token_logprobs'] == [-9999.0]
