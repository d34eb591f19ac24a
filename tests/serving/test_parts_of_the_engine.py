"""Growing texts, the queue and the sizes of banks, by themselves."""

import types

import pytest
import tokenizers

from prompt_tuning.serving import groups
from prompt_tuning.serving.texts import GrowingText
from prompt_tuning.serving.waiting import Waiting


class Bytes:
  """A vocabulary whose tokens are bytes."""

  def decode(self, ids):
    return bytes(ids).decode(errors='replace')


def grown(text, stop=()):
  """Returns the pieces of a text, given byte by byte, with what comes out at its end."""
  growing, pieces = GrowingText(Bytes(), stop), []
  for token in text.encode():
    pieces.append(growing.add(token))
    if growing.stopped:
      return pieces
  return [*pieces, growing.end()]


@pytest.mark.parametrize('text', ['plain', 'naïve 🙂🙂 Straße', '日本語', 'a\ufffdb', ''])
def test_pieces_are_whole_characters_and_make_up_the_text(text):
  pieces = grown(text)
  assert ''.join(pieces) == text
  assert not any('\ufffd' in piece for piece in pieces[:-1]) or '\ufffd' in text


def test_bytes_that_are_no_character_come_out_at_the_end_or_before_what_follows():
  growing = GrowingText(Bytes(), ())
  assert [growing.add(token) for token in (0xF0, 0x9F)] == ['', '']
  assert growing.end() == '\ufffd'
  assert [growing.add(token) for token in (0xFF, ord('a'))][-1].endswith('a')


@pytest.mark.parametrize(('text', 'stop', 'expected'), [
  ('one, two', (', t',), 'one'), ('one, two', ('x', 'two'), 'one, '), ('aab', ('ab',), 'a'), ('aaab', ('aab',), 'a'),
  ('ab', ('abc',), 'ab'), ('🙂🙃', ('🙃',), '🙂'), ('abcd', ('d', 'bc'), 'a'), ('stop', ('stop',), '')])
def test_nothing_of_a_stop_text_comes_out(text, stop, expected):
  pieces = grown(text, stop)
  assert ''.join(pieces) == expected
  assert not any(expected + piece in stop for piece in pieces)


def test_pieces_of_a_tokenizer_that_marks_blanks_are_its_text():
  tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({'▁a': 0, '▁b': 1, 'c': 2}, unk_token='c'))
  tokenizer.decoder = tokenizers.decoders.Metaspace()
  growing = GrowingText(tokenizer, ())
  assert [growing.add(token) for token in (0, 1, 2)] == ['a', ' b', 'c']


def test_without_a_vocabulary_there_is_no_text():
  growing = GrowingText(None, ())
  assert growing.add(3) == '' == growing.end()


def test_prompts_take_turns_and_each_is_served_in_its_order():
  queue = Waiting(6)
  for item in ('a1', 'a2', 'a3', 'b1', 'c1', 'c2'):
    assert queue.put(item[0], item)
  assert not queue.put('d', 'd1')
  assert queue.take(lambda item: False) is None
  assert queue.remove(lambda item: item == 'a2') == ['a2']
  assert [queue.take(lambda item: True) for _ in range(6)] == ['a1', 'b1', 'c1', 'a3', 'c2', None]


def test_the_last_of_many_answers_give_a_bank_no_more_places(monkeypatch):
  bank = lambda model, rows, places: types.SimpleNamespace(rows=rows, places=places)
  monkeypatch.setattr(groups, 'Bank', bank)
  monkeypatch.setattr(groups.packed, 'cache_shapes', lambda module: {'self': (1, 1, 1)})
  model = types.SimpleNamespace(module=types.SimpleNamespace(config=types.SimpleNamespace(mesh=None)))
  group, places = groups.Group(model, slots=64), {'self': 100}
  answers = [types.SimpleNamespace(now=places, soon=places) for _ in range(64)]
  for number, answer in enumerate(answers):
    group.add(answer, expected=63 - number)
  assert (group.bank.rows, group.bank.places) == (64, {'self': 128})
  for answer in answers[:60]:
    group.remove(answer)
  group._grow('now', group.running, group.bank.rows)  # would resize the bank, which this one cannot
  assert groups.places_of(places, 8) == {'self': 256}
