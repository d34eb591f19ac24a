"""What mkdocs calls to build the site: pages that are not Markdown files below docs/, and links that lead out of docs/.

A page links as on a forge, by paths in the project. A link to what is a page of the site leads there. Others lead to
`extra.source` of mkdocs.yml, which the variable DOCS_SOURCE gives; without it they are plain text.
"""

import json
import pathlib
import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

ROOT = pathlib.Path(__file__).parents[2]
# Path in the project -> page of the site. Whatever is below docs/ keeps its place there.
PAGES = {
  'README.md': 'index.md', 'CONTRIBUTING.md': 'project/contributing.md', 'CHANGELOG.md': 'project/changes.md',
  'benchmarks/README.md': 'project/benchmark_programs.md',
  'prompt_tuning/pretrained_prompts/t5_integers/README.md': 'project/shipped_prompts.md',
  **{f'notebooks/{path.name}': f'notebooks/{path.stem}.md' for path in sorted(ROOT.glob('notebooks/*.ipynb'))}}
# Pages of the API: what they have in common, and the public names of the package.
API = {
  'models': ('Models', 'A frozen model is loaded once; whatever conditions it is given with each call.', (
    'load_model', 'LanguageModel', 'save_model', 'random_model', 'T5Config', 'with_head', 'with_verbaliser',
    'Ensemble')),
  'methods': ('Prompts and methods', 'What is trained, and its files.', (
    'SavedPrompt', 'load_prompt', 'load_trained', 'Method', 'Prompt', 'PromptTuning', 'Prefix', 'Retrained',
    'Headed')),
  'training': ('Training', 'Tensors for a frozen model from examples, or from a document.', (
    'tune', 'tune_many', 'Adafactor', 'AdamW', 'distill', 'Study')),
  'data': ('Data', 'Examples, splits and metrics.', ('Task', 'FileTask', 'Mixture')),
  'evaluation': ('Evaluation and predictions', 'How well a prompt does, and what it is.', (
    'evaluate', 'classify', 'Greedy', 'Sampling', 'BeamSearch', 'nearest_words', 'similarities', 'rank_sources',
    'recycle')),
  'runs': ('Runs in plain values', 'What the commands `train`, `eval` and `infer` do, as values of Python. '
           '[One table](../configuration.md#settings-of-a-run) has all settings; `run()` executes a run.', (
    'TrainRun', 'EvalRun', 'InferRun', 'Choice')),
  'registering': ('Your own parts', 'What these register is found by its name, in commands and in Python.', (
    'register_method', 'register_family', 'Family', 'register_loss', 'register_optimizer', 'register_tracker'))}
_WIDE = '---\nhide: [navigation]\n---\n\n'  # the start page is alone in its part
_LINK = re.compile(r'\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)')


def on_files(files: Any, config: Any) -> Any:
  """Adds the pages that are not Markdown files below docs/."""
  from mkdocs.structure.files import File

  for path, page in PAGES.items():
    text = (ROOT / path).read_text()
    text = notebook(json.loads(text)) if path.endswith('.ipynb') else text
    files.append(File.generated(config, page, content=_WIDE + text if page == 'index.md' else text))
  for name in API:
    files.append(File.generated(config, f'api/{name}.md', content=api(name)))
  return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
  """Returns a page whose links lead to pages of the site, or to the project's files elsewhere."""
  return linked(markdown, page.file.src_uri, config.extra['source'])


def linked(markdown: str, page: str, source: str) -> str:
  """Returns a page with the links of the site.

  Args:
    markdown: the page.
    page: its path in the site.
    source: the address below which the project's files are; '' makes links to them plain text.
  """
  origin = next((path for path, own in PAGES.items() if own == page), f'docs/{page}')

  def link(found: re.Match[str]) -> str:
    path, mark, anchor = found[2].partition('#')
    there = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
    if not path or ':' in path or not (ROOT / there).exists():
      return found[0]  # mkdocs reports what is missing
    own = PAGES.get(there) or (there.removeprefix('docs/') if there.startswith('docs/') else None)
    if own is not None:
      text = _title(there) if found[1] == path else found[1]  # a file's name says little on a site
      return f'[{text}]({posixpath.relpath(own, posixpath.dirname(page) or ".")}{mark}{anchor})'
    return f'[{found[1]}]({source.rstrip("/")}/{there}{mark}{anchor})' if source else found[1]

  return _LINK.sub(link, markdown)


def _title(path: str) -> str:
  found = re.search(r'^# (.+)$', (ROOT / path).read_text(), re.MULTILINE)
  return found[1] if found else path


def api(name: str) -> str:
  """Returns a page of the API, which mkdocstrings fills from docstrings."""
  import prompt_tuning

  title, about, names = API[name]
  parts = [f'# {title}', about]
  for each in names:
    shown = str(name not in ('runs', 'registering') or each == 'register_family').lower()
    options = {'heading': f'pt.{each}', 'toc_label': each, 'show_signature': shown, 'separate_signature': shown,
               'show_attribute_values': shown}
    parts.append('\n      '.join([f'::: prompt_tuning.{prompt_tuning._HOME[each]}.{each}\n    options:',
                                 *(f'{option}: {value}' for option, value in options.items())]))
  return '\n\n'.join([*parts, ''])


def notebook(book: Mapping[str, Any]) -> str:
  """Returns a notebook with the results of its cells as Markdown."""
  parts: list[str] = []
  for cell in book['cells']:
    text = ''.join(cell['source'])
    if cell['cell_type'] == 'markdown':
      parts.append(text)
      continue
    parts += [_fenced(text, 'python'), *(part for output in cell['outputs'] for part in _output(output))]
  return '\n\n'.join([*parts, ''])


def _output(output: Mapping[str, Any]) -> Iterator[str]:
  """Yields the Markdown of a cell's result: a picture, or text."""
  data = output.get('data', {})
  if 'image/png' in data:
    image = ''.join(data['image/png']).replace('\n', '')
    yield f'<img class="drawn" alt="The picture that the cell draws" src="data:image/png;base64,{image}">'
    return
  text = ''.join(output.get('text', data.get('text/plain', '')))
  if text.strip():
    yield f'<div class="printed" markdown>\n\n{_fenced(text.rstrip(), "text")}\n\n</div>'


def _fenced(text: str, language: str) -> str:
  fence = '`' * max([3, *(len(found) + 1 for found in re.findall('`{3,}', text))])
  return f'{fence}{language}\n{text}\n{fence}'
