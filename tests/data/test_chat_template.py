"""Chat templates: where they are read, what they may use, and that they end."""

import json

import pytest
from chat_toys import CHATML, SYSTEM, USER, write_folder

from prompt_tuning.data import chat_rendering
from prompt_tuning.data.chat_template import ChatTemplate

TURNS = [SYSTEM, USER]


def rendered(source, turns=TURNS, **how):
  return ChatTemplate(source, 'a.jinja', {'bos_token': '<s>'}).render(turns, **how).text


def test_the_file_of_the_template_wins_over_the_tokenizers_config(tmp_path):
  folder = write_folder(tmp_path, 'of the file', chat_template='of the config')
  found = ChatTemplate.read(folder)
  assert (found.source, found.path) == ('of the file', f'{folder}/chat_template.jinja')
  assert found.tokens == {'bos_token': '<s>', 'eos_token': '<|im_end|>', 'pad_token': '<pad>'}
  (tmp_path / 'chat_template.jinja').unlink()
  assert ChatTemplate.read(folder).source == 'of the config'


def test_several_templates_have_a_default(tmp_path):
  several = [{'name': 'tool_use', 'template': 'tools'}, {'name': 'default', 'template': 'plain'}]
  assert ChatTemplate.read(write_folder(tmp_path, None, chat_template=several)).source == 'plain'
  for wrong, message in ((several[:1], 'but none is called default'), ([5], 'expected objects with name and template'),
                         ({'a': 'b'}, 'expected a text')):
    with pytest.raises(ValueError, match=message):
      ChatTemplate.read(write_folder(tmp_path, None, chat_template=wrong))


def test_a_folder_without_a_template_says_which_formats_there_are(tmp_path):
  with pytest.raises(ValueError, match=r'has no chat template.*chat_template.jinja.*tokenizer_config.json.*inputs and '
                                       'targets, or prompt and completion'):
    ChatTemplate.read(write_folder(tmp_path, None))
  (tmp_path / 'chat_template.jinja').write_bytes(b'\xff')
  with pytest.raises(ValueError, match='not UTF-8'):
    ChatTemplate.read(str(tmp_path))


@pytest.mark.parametrize(('source', 'text'), [
  ('{{ bos_token }}{{ missing }}{% for m in messages %}\n  {% if not loop.first %}, {% endif %}\n{{ m["role"] }}'
   '{% endfor %}', '<s>systemuser'.replace('mu', 'm, u')),
  ('{% set ns = namespace(found=false) %}{% for m in messages %}{% if m.role == "user" %}{% set ns.found = true %}'
   '{% break %}{% endif %}{% endfor %}{{ ns.found }}', 'True'),
  ('{% if messages[0].role == "system" %}{% set system, rest = messages[0].content, messages[1:] %}{% endif %}'
   '{{ system | trim }}|{{ rest | length }}', 'Be terse.|1'),
  ('{% macro head(m) %}[{{ m.role | upper }}]{% endmacro %}{% for m in messages %}{{ head(m) }}{% endfor %}',
   '[SYSTEM][USER]'),
  ('{{ messages[1] | tojson }} {{ "<é>" | tojson }}', '{"role": "user", "content": "Is it good?"} "<é>"'),
  ('{% if tools is none and tools is defined and documents is none %}no tools{% endif %}', 'no tools'),
  ('{{ messages[1].content.split(" ")[0] ~ 1 ~ "x" }}{{ "a" + "b" * 2 }}', 'Is1xabb'),
  ('{% generation %}{{ messages[1].content }}{% endgeneration %}\n.', 'Is it good?.'),
  ('{%- for m in messages | selectattr("role", "equalto", "user") -%} {{ m.content }} {%- endfor %}', 'Is it good?')])
def test_a_template_may_use_what_published_ones_use(source, text):
  assert rendered(source) == text


def test_the_prompt_of_a_generation_is_a_choice():
  assert rendered(CHATML, add_generation_prompt=True) == rendered(CHATML) + '<|im_start|>assistant\n'


def test_reasoning_has_all_its_names():
  source = '{% for m in messages %}{{ m.reasoning_content }}{{ m.thinking }}{% endfor %}'
  assert rendered(source, [{**USER, 'reasoning': 'hm'}]) == 'hmhm'


def test_the_date_can_be_fixed(monkeypatch):
  monkeypatch.setenv('SOURCE_DATE_EPOCH', str(24 * 60 * 60))
  assert rendered('{{ strftime_now("%d %b %Y") }}') == '02 Jan 1970'


def test_the_spans_that_a_template_marks_are_those_of_the_text():
  source = '{% for m in messages %}<{% generation %}{{ m.role }}{% endgeneration %}>{% endfor %}'
  assert ChatTemplate(source, 'a').render(TURNS) == ('<system><user>', [(1, 7), (9, 13)])


@pytest.mark.parametrize(('source', 'message'), [
  ('{{ raise_exception("Roles must alternate.") }}', 'it refuses the conversation: Roles must alternate. Give turns'),
  ('{{ messages[7].content }}', 'it refuses the conversation: list object has no element 7'),
  ('{{ messages.append(1) }}', 'is unsafe'), ('{% set ns = namespace(_a=1) %}', 'private name'),
  ('{{ 1 / 0 }}', 'ZeroDivisionError'), ('{{ messages + 1 }}', 'TypeError'), ('{{ strftime_now(3) }}', 'TypeError'),
  ('{% for %}', r'no template of jinja2 \(line 1'), ('{{ missing.more }}', "'missing' is undefined"),
  ('{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}', 'RecursionError'),
  ('{% for i in range(100001) %}{% endfor %}', 'OverflowError'),
  ('{{ "a" * 10 ** 12 }}', 'more than 16,777,216 characters'), ('{{ (9 ** 99999) ** 99999 }}', 'more than'),
  ('{% for i in range(9999) %}{{ "a" * 9999 }}{% endfor %}', 'more than 16,777,216'),
  ('{% set ns = namespace(x="aa") %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}', 'more than'),
  ('{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}',
   'more than|not end'),
  ('{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}', 'do not end within 0.2 seconds'),
  ('{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}', 'do not end within')])
def test_a_template_that_fails_or_does_not_end_is_an_error(monkeypatch, source, message):
  monkeypatch.setattr(chat_rendering, 'SECONDS', 0.2)
  with pytest.raises(ValueError, match=message) as raised:
    rendered(source)
  assert str(raised.value).startswith('The chat template of a.jinja cannot write the conversation: ')
  assert '..' not in str(raised.value)


def test_a_damaged_config_is_named(tmp_path):
  write_folder(tmp_path, None)
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps([1]))
  with pytest.raises(ValueError, match=r'tokenizer_config.json holds a list'):
    ChatTemplate.read(str(tmp_path))
