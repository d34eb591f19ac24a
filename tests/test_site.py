"""The documentation as a site: what docs/site/hooks.py adds to it. `make docs` builds it."""

import importlib.util
import json
import pathlib

import pytest

import prompt_tuning

ROOT = pathlib.Path(__file__).parents[1]
_found = importlib.util.spec_from_file_location('site_hooks', ROOT / 'docs/site/hooks.py')
hooks = importlib.util.module_from_spec(_found)
_found.loader.exec_module(hooks)


def test_each_public_name_is_on_one_page_of_the_api():
  assert sorted(name for _, _, names in hooks.API.values() for name in names) == prompt_tuning.__all__


@pytest.mark.parametrize(('page', 'markdown', 'expected'), [
  ('index.md', '[data](docs/data.md#tables), ![a](docs/demo.png)', '[data](data.md#tables), ![a](demo.png)'),
  ('index.md', '[all of it](CONTRIBUTING.md)', '[all of it](project/contributing.md)'),
  ('hub.md', '([data.md](data.md))', '([Data](data.md))'),
  ('inference.md', '[i](../prompt_tuning/pretrained_prompts/t5_integers/README.md)', '[i](project/shipped_prompts.md)'),
  ('project/contributing.md', '[one](docs/data.md), [two](README.md)', '[one](../data.md), [two](../index.md)'),
  ('index.md', '[quick](notebooks/1_quick_start.ipynb)', '[quick](notebooks/1_quick_start.md)'),
  ('data.md', '[x[0]](../Makefile), [b](https://b.c/d), [c](#d)',
   '[x[0]](https://h/main/Makefile), [b](https://b.c/d), [c](#d)'),
  ('data.md', 'f[0](x), [gone](gone.md)', 'f[0](x), [gone](gone.md)')])
def test_links_between_files_are_links_between_pages(page, markdown, expected):
  assert hooks.linked(markdown, page, 'https://h/main/') == expected


def test_without_an_address_of_the_files_a_link_to_one_is_its_text():
  assert hooks.linked('the [Makefile](../Makefile)', 'data.md', '') == 'the Makefile'


def test_a_notebook_becomes_text_code_and_results():
  cells = [{'cell_type': 'markdown', 'source': ['# A\n', 'b']},
           {'cell_type': 'code', 'source': ['1 + 1'], 'outputs': [
             {'output_type': 'execute_result', 'data': {'text/plain': ['2']}},
             {'output_type': 'display_data', 'data': {'image/png': 'ab\ncd\n', 'text/plain': ['<Figure>']}}]}]
  text = hooks.notebook({'cells': cells})
  assert text.startswith('# A\nb\n\n```python\n1 + 1\n```\n\n<div class="printed" markdown>\n\n```text\n2\n```')
  assert 'src="data:image/png;base64,abcd"' in text and '<Figure>' not in text


def test_every_notebook_becomes_a_page():
  for path in sorted((ROOT / 'notebooks').glob('*.ipynb')):
    assert hooks.notebook(json.loads(path.read_text())).startswith('# ')
    assert f'notebooks/{path.name}' in hooks.PAGES
