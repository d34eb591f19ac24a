"""Conversations: the assistant's spans, whatever the template does, and what is cut and where a prompt may stand."""

import pytest
from chat_toys import ANSWER, CHATML, LAST, MORE, SYSTEM, USER, chat_format, words

from prompt_tuning.data.conversation import Conversation
from prompt_tuning.data.messages import read_messages

TURNS = [SYSTEM, USER, ANSWER, MORE, LAST]
# As Qwen 3: the last turn keeps its thinking, or gets an empty one; earlier turns lose it.
THINKS = """{%- for message in messages -%}{%- set content = message.content -%}{%- if message.role == 'assistant' -%}
{%- set thought = content.split('</think>')[0].split('<think>')[-1] if '</think>' in content else '' -%}
{%- set content = content.split('</think>')[-1].lstrip() -%}
{{ '<|im_start|>assistant\n' + ('<think>' + thought + '</think>\n\n' if loop.last else '') + content }}
{%- else -%}{{ '<|im_start|>' + message.role + '\n' + content }}{%- endif -%}{{ '<|im_end|>\n' }}{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"""
# As Llama 2 and Gemma: the system's text is a part of the user's turn.
JOINED = """{{ bos_token }}{% if messages[0].role == 'system' %}{% set head = messages[0].content + '\n' %}
{% set rest = messages[1:] %}{% else %}{% set head, rest = '', messages %}{% endif %}{% for m in rest %}
{% if m.role == 'user' %}{{ '[INST] ' + (head if loop.first else '') + m.content + ' [/INST]' }}
{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"""
MARKED = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}
{% generation %}{{ m.content | upper }}{% endgeneration %}
{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


def example(chat, turns=TURNS, **how):
  return chat.example(read_messages(turns, 'a:1'), where='a:1', **how)


def trained(chat, turns=TURNS, **how):
  """Returns the texts that are trained: those within the input, joined by |, and the target."""
  found = example(chat, turns, **how)
  weights = found['inputs'].weights
  earlier, before = [], 0.0
  for i, weight in zip(found['inputs'], [] if weights is None else weights, strict=weights is not None):
    if weight:
      earlier.append(words(chat, [i]) if before else '|' + words(chat, [i]))
    before = weight
  end = found.get('targets_end')
  return ''.join(earlier), words(chat, [*found['targets'], *([] if end is None else [end])])


@pytest.mark.parametrize(('template', 'turns', 'earlier', 'last'), [
  (CHATML, TURNS, '|Yes, very.<|im_end|>', 'Yes.<|im_end|>'),
  (CHATML, [USER, {**ANSWER, 'content': ' Yes. \n'}, MORE, LAST], '|Yes.<|im_end|>', 'Yes.<|im_end|>'),
  (CHATML, [USER, ANSWER, {**USER, 'content': 'Yes, very.<|im_end|>'}, ANSWER, MORE, LAST],
   '|Yes, very.<|im_end|>|Yes, very.<|im_end|>', 'Yes.<|im_end|>'),
  (THINKS, [USER, {**ANSWER, 'content': '<think>hm</think>\nYes.'}, MORE, {**LAST, 'content': '<think>so</think>No.'}],
   '|Yes.<|im_end|>', '<think>so</think>\n\nNo.<|im_end|>'),
  (THINKS, [USER, LAST], '', '<think></think>\n\nYes.<|im_end|>'),
  (JOINED, TURNS, '| Yes, very. <|im_end|>', ' Yes. <|im_end|>'),
  (MARKED, TURNS, '|YES, VERY.<|im_end|>', 'YES.<|im_end|>')])
def test_what_is_trained_is_what_the_assistant_writes_and_its_end_token(tmp_path, template, turns, earlier, last):
  chat = chat_format(tmp_path, template)
  assert trained(chat, turns) == (earlier, last)
  assert trained(chat, turns, train_on='last') == ('', last)


@pytest.mark.parametrize('template', [CHATML, THINKS, JOINED, MARKED])
def test_an_examples_tokens_are_those_of_the_text_that_the_template_writes(tmp_path, template):
  chat = chat_format(tmp_path, template)
  found = example(chat)
  text = chat.template.render(TURNS).text
  ids = [*found['inputs'], *found['targets'], found['targets_end']]
  assert chat.vocabulary.encode(text)[:len(ids)] == ids
  assert found['inputs_pretokenized'] == chat.template.render(TURNS[:-1], add_generation_prompt=True).text
  assert text.startswith(found['inputs_pretokenized'] + found['targets_pretokenized'])


def test_a_token_across_the_border_is_asked_for_as_a_generation_is(tmp_path):
  chat = chat_format(tmp_path, CHATML.replace(' | trim', ''))
  found = example(chat, [USER, {**LAST, 'content': '\n\nYes.'}])  # two line breaks are one token
  assert words(chat, [*found['inputs']]).endswith('<|im_start|>assistant\n')
  assert words(chat, found['targets']) == '\n\nYes.' and found['targets_end'] == 4


def test_a_vocabulary_that_does_not_tell_places_gives_the_same(tmp_path):
  chat = chat_format(tmp_path)
  expected = trained(chat), example(chat)['inputs'].start('user')

  class Plain:
    encode, decode, end_ids = chat.vocabulary.encode, chat.vocabulary.decode, chat.vocabulary.end_ids
    _tokenizer = chat.vocabulary._tokenizer

  plain = type(chat)(chat.template, Plain())
  assert (trained(plain), example(plain)['inputs'].start('user')) == expected
  untrimmed = type(chat)(chat_format(tmp_path, CHATML.replace(' | trim', '')).template, Plain())
  broken = Conversation(untrimmed, [{**USER, 'content': '\n\nx'}], 'a:1')
  with pytest.raises(ValueError, match='a:1: a token spans the border of a turn after'):
    broken.start('user')


def test_a_turn_whose_end_does_not_end_a_generation_is_learnt_with_it(tmp_path, caplog):
  chat = chat_format(tmp_path, eos_token='</s>')
  assert trained(chat) == ('|Yes, very.<|im_end|>', 'Yes.<|im_end|>')  # the vocabulary's end token follows
  assert 'targets_end' not in example(chat)
  bare = chat_format(tmp_path, "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
                     "{% if add_generation_prompt %}assistant: {% endif %}")
  assert trained(bare) == ('|Yes, very.', 'Yes.')


def test_only_the_turns_of_a_completion_are_trained(tmp_path):
  assert trained(chat_format(tmp_path), first=4) == ('', 'Yes.<|im_end|>')


@pytest.mark.parametrize(('template', 'message'), [
  (CHATML.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\n<think>'"),
   "begins the assistant's turn with 'Yes.*but the prompt of a generation with '<think>'"),
  ("{{ messages[0].content }}", r'writes the text of turn 4 0 times'),
  (CHATML.replace('message.content', '(message.content * 2)'), 'writes the text of turn 4 2 times'),
  (CHATML + '{% if not add_generation_prompt %}{{ messages[-1].content | first }}{% endif %}',
   'is not in what the chat template'),
  (CHATML.replace("message.content | trim", "('' if message.content == 'Yes.' else message.content)"),
   'is not in what the chat template')])
def test_a_last_turn_that_cannot_be_told_is_an_error(tmp_path, template, message):
  with pytest.raises(ValueError, match=f'a:1: .*{message}'):
    example(chat_format(tmp_path, template))


def test_an_earlier_turn_that_cannot_be_told_is_an_error_unless_only_the_last_is_trained(tmp_path):
  chat = chat_format(tmp_path, CHATML.replace(
    'message.content | trim', "('' if message.content == 'Yes, very.' else message.content)"))
  with pytest.raises(ValueError, match=r'turn 2 cannot be told .* Give train_on=last'):
    example(chat)
  assert trained(chat, train_on='last') == ('', 'Yes.<|im_end|>')


@pytest.mark.parametrize(('template', 'system', 'user'), [
  (CHATML, '<|im_start|>system\n', '<|im_start|>user\n'), (JOINED, '<s>[INST] ', 'Be terse.\n')])
def test_a_prompt_may_stand_before_the_text_of_the_first_turn_of_a_role(tmp_path, template, system, user):
  chat = chat_format(tmp_path, template)
  asked = example(chat)['inputs']
  before = lambda role: words(chat, asked.ids[:asked.start(role)])
  assert before('system') == system and before('user').endswith(user)
  assert words(chat, asked.ids[asked.start('user'):]).startswith('Is it good?')
  with pytest.raises(ValueError, match='prompt_at=system cannot be used: a:1 has no turn of the system'):
    example(chat, TURNS[1:])['inputs'].start('system')


def test_whole_turns_are_cut_from_the_left_and_the_systems_stays(tmp_path):
  chat = chat_format(tmp_path)
  long = [SYSTEM, USER, ANSWER, MORE, LAST, USER, ANSWER, MORE, LAST]
  asked = example(chat, long)['inputs']
  for kept in (3, 5):
    wanted = Conversation(chat, read_messages([SYSTEM, *long[kept:-1]], 'a:1'), 'a:1')
    shorter = asked.shortened(lambda each, most=len(wanted): len(each) <= most)
    assert shorter.text == wanted.text and list(shorter) == list(wanted)
    assert shorter.weights.sum() == sum(len(chat.vocabulary.encode(turn['content'])) + 1 for turn in long[kept:-1]
                                        if turn['role'] == 'assistant')
    assert asked.start('user') == shorter.start('user')


def test_of_a_last_turn_that_is_too_long_the_users_text_is_cut(tmp_path):
  chat = chat_format(tmp_path)
  for cut, text in (('right', 'Is it'), ('left', 'good?')):
    asked = example(chat, [SYSTEM, USER, ANSWER, USER, LAST], cut=cut)['inputs']
    least = len(Conversation(chat, [SYSTEM, {**USER, 'content': text}], 'a:1'))
    shorter = asked.shortened(lambda each, least=least: len(each) <= least)
    assert shorter.text == chat.template.render([SYSTEM, {**USER, 'content': text}], add_generation_prompt=True).text
  with pytest.raises(ValueError, match=r'a:1: .* still has \d+ tokens. Increase max_input_length='):
    asked.shortened(lambda each: len(each) <= 9)


@pytest.mark.parametrize(('turns', 'message'), [
  ([], 'expected a list of messages'), ('hi', 'expected a list of messages'), ([5], 'expected a list of messages'),
  ([USER, 5], 'turn 1 is 5, expected an object'), ([{'from': 'human', 'value': 'x'}], 'rename them'),
  ([{'role': 'user'}], 'turn 0 has the content None'), ([{**USER, 'content': [{'type': 'image'}]}], 'parts such as'),
  ([{**USER, 'content': [None]}], 'has the content None'), ([SYSTEM], 'no turn of the user'),
  ([{**USER, 'role': 'usr'}], 'unknown role .usr.* Did you mean user'),
  ([ANSWER, USER], 'turn 0 is of the assistant and is the first'), ([USER, MORE], 'turn 1 is of the user and follows'),
  ([USER, ANSWER, LAST], 'turn 2 is of the assistant and follows another'), ([USER, SYSTEM], 'Put it at the start'),
  ([USER, {**ANSWER, 'content': ' \n'}], 'turn 1: the assistant.s content is empty'),
  ([USER, {**ANSWER, 'tool_calls': [{}]}], 'tool_calls, which is not supported'),
  ([{**USER, 'content': '\ud83d'}], 'turn 0: A text has half of a character'),
  ([{**USER, 'name': {1, 2}}], 'not a plain value'), ([USER, {'role': 'tool', 'content': 'x'}], 'does not follow')])
def test_messages_that_cannot_be_used_are_errors(turns, message):
  with pytest.raises(ValueError, match=f'^a:1: .*{message}' if turns not in ([], 'hi', [5]) else message):
    read_messages(turns, 'a:1')


def test_text_parts_are_joined_and_further_fields_reach_the_template():
  parts = [{'type': 'text', 'text': 'a'}, {'text': 'b'}]
  assert read_messages([{'role': 'user', 'content': parts, 'name': 'x'}], '') == [
    {'role': 'user', 'content': 'a\nb', 'name': 'x'}]
