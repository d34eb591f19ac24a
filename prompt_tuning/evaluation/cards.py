"""Model cards: the `README.md` of a run, of an export and of a repository, made of the metadata of trained tensors.

A card is a function of the tensors' file and of the installed versions: a resumed run has the card of an uninterrupted
one.
"""

import importlib.metadata
import json
import math
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

import prompt_tuning
from prompt_tuning.checkpoints import peft
from prompt_tuning.files import hub, storage, terminal
from prompt_tuning.models.finding import is_shipped
from prompt_tuning.names import printable
from prompt_tuning.tuning.prompt import PATH, PROMPTS

README = 'README.md'
MARK = '<!-- Written by prompt-tuning. Remove this line to keep your changes when the run is resumed. -->'
_LICENSE = '# license: choose one, for example apache-2.0'
_LIBRARIES = ('jax', 'flax', 'optax', 'numpy')
_INPUT = 'the text of an input'


def card(tensors: Mapping[str, Any], about: Mapping[str, Any], *, title: str, source: str, base: str | None = None,
         library: str = 'prompt-tuning', adapter: str | None = None, earlier: str = '') -> str:
  """Returns the text of a card.

  Args:
    tensors: name -> array, of which only the shape is read.
    about: the metadata of their file.
    title: the heading.
    source: what the lines of code load: the id of a repository, or the name of the folder, as seen from the one above.
    base: the base model's name; None takes the one in the metadata.
    library: what loads it: 'prompt-tuning', 'peft', or, for a whole model, 'transformers' or 't5x'.
    adapter: a folder or repository with the same for PEFT, if there is one.
    earlier: the card that this one replaces, whose license is kept.
  """
  base = base or about.get('base_model') or about.get('model')
  base = base if isinstance(base, str) and base else 'MODEL'
  sections = [*_front(tensors, about, base, library, earlier), MARK, '', f'# {_plain(title)}', '',
              *_facts(tensors, about, base), '', *_scores(about),
              *_use(tensors, about, source, base, library, source if library == 'peft' else adapter)]
  return '\n'.join(sections).rstrip() + '\n'


def is_own(text: str) -> bool:
  """Returns True for a card that may be replaced: one that was written by this module, and no longer by its users."""
  return not text.strip() or MARK in text


def write(folder: str, make: Callable[[str], str]) -> bool:
  """Writes the card of a folder, unless its users have made it theirs; returns True if it was written.

  Args:
    folder: where it is.
    make: returns the text of the card, given that of the card that it replaces.
  """
  earlier = read(folder)
  if not is_own(earlier):
    return False
  storage.write_bytes(storage.join(folder, README), make(earlier).encode())
  return True


def read(folder: str) -> str:
  """Returns the card of a folder; '' if it has none."""
  path = storage.join(folder, README)
  return storage.read_bytes(path).decode(errors='replace') if storage.exists(path) else ''


def licenses(text: str) -> list[str]:
  """Returns the lines of a card's front matter that name its license."""
  return re.findall(r'^license(?:_name|_link)?: *\S.*$', text.partition('\n---')[0], re.MULTILINE)


def write_or_say(folder: str, make: Callable[[str], str]) -> None:
  """Does the same, and says that a file of its users is kept."""
  if not write(folder, make):
    terminal.say(f'{storage.join(folder, README)} was not written by prompt-tuning, or was changed: it is kept, and no '
                 'model card is written. Move it away for one.')


def _front(tensors: Mapping[str, Any], about: Mapping[str, Any], base: str, library: str,
           earlier: str) -> Iterator[str]:
  """Yields the front matter: YAML, whose texts are written as JSON."""
  yield '---'
  if repository := hub.split(base)[0]:
    yield f'base_model: {json.dumps(repository.partition("@")[0])}'
  yield f'library_name: {library}'
  writes = 'text2text-generation' if _is_encoder_decoder(tensors, about) else 'text-generation'
  yield f'pipeline_tag: {"text-classification" if about.get("head") else writes}'
  yield f'tags: {json.dumps(list(dict.fromkeys(("prompt-tuning", _slug(about.get("method")), "jax"))))}'
  task = str(about.get('task', ''))
  if (data := re.match(r'hf://datasets/([^/@:]+/[^/@:]+)', task)) is not None:
    yield f'datasets: {json.dumps([data[1]])}'
  if metrics := list(dict.fromkeys(name.rpartition('/')[2] for name in _tuned(about))):
    yield f'metrics: {json.dumps(metrics, ensure_ascii=False)}'
  yield from licenses(earlier) or [_LICENSE]
  yield '---'


def _facts(tensors: Mapping[str, Any], about: Mapping[str, Any], base: str) -> Iterator[str]:
  """Yields a table of what is known of the training."""
  model, settings = about.get('made_for') or {}, about.get('settings') or {}
  length, best = about.get('prompt_length') or _length(tensors), about.get('best') or {}
  rates = [rate for rate in about.get('rates') or () if isinstance(rate, int | float) and math.isfinite(rate)]
  rows = {
    'method': _joined(about.get('method', 'unknown'), length and f'{length} vectors',
                      about.get('placement') not in (None, 'before') and f'placed {about["placement"]}'),
    'parameters': f'{sum(int(np.prod(np.shape(array))) for array in tensors.values()):,}',
    'base model': ', '.join([base, *(f'{name} {value}' for name, value in model.items())]),
    'digest of its weights': about.get('weights'),
    'data': about.get('task') and f'{_base_name(str(about["task"]))}, split {about.get("split", "train")}',
    'input': _setting(settings, 'template'),
    'target': _setting(settings, 'target_template'),
    'labels': _setting(settings, 'labels'),
    'training': about.get('batch_size') and _joined(
      f'step {best.get("step", about.get("step", "unknown"))}', f'{about["batch_size"]} rows a batch',
      f'{about.get("optimizer")}{f", rate {max(rates):.3g}" if rates else ""}', f'loss {about.get("loss", "unknown")}',
      f'seed {about.get("seed")}'),
    'versions': ', '.join([f'prompt-tuning {prompt_tuning.__version__}',
                           *(f'{name} {importlib.metadata.version(name)}' for name in _LIBRARIES)])}
  yield '| | |'
  yield '|---|---|'
  yield from (f'| {name} | {_cell(value)} |' for name, value in rows.items() if value)


def _scores(about: Mapping[str, Any]) -> Iterator[str]:
  """Yields a table of the metrics, those of the frozen model beside them."""
  tuned, before = _tuned(about), _numbers(about.get('before'))
  if not tuned:
    return
  yield '## Scores'
  yield ''
  yield '| metric | frozen model | tuned |' if before else '| metric | tuned |'
  yield '|---|---|---|' if before else '|---|---|'
  for name, value in tuned.items():
    alone = f' {before[name]:.4g} |' if name in before else ' |' * bool(before)
    yield f'| {_cell(name)} |{alone} {value:.4g} |'
  yield ''


def _use(tensors: Mapping[str, Any], about: Mapping[str, Any], source: str, base: str, library: str,
         adapter: str | None) -> Iterator[str]:
  """Yields the lines that load the tensors: here, in PEFT and in vLLM, where these can."""
  own, model = shlex.quote(source), shlex.quote(base)
  encoder_decoder = _is_encoder_decoder(tensors, about)
  auto = 'AutoModelForSeq2SeqLM' if encoder_decoder else 'AutoModelForCausalLM'
  yield '## Use'
  yield ''
  if '/' not in source:
    yield 'In the folder that holds this one:'
    yield ''
  if library in ('transformers', 't5x'):  # a whole model
    if library == 'transformers':
      yield from _python(f'from transformers import {auto}', '', f'model = {auto}.from_pretrained({source!r})')
    yield from _python('import prompt_tuning as pt', '', f'model = pt.load_model({source!r})',
                       f"model.predict(['{_INPUT}'])")
    return
  yield 'With prompt-tuning:'
  yield ''
  if library == 'peft':
    yield f'    prompt-tuning infer --model {model} --prompt {own} --data questions.jsonl --output predictions.jsonl'
    yield ''
  else:
    yield from _python('import prompt_tuning as pt', '', f'model = pt.load_model({base!r})',
                       f"model.predict(['{_INPUT}'], prompt=pt.load_trained({source!r}))")
  if is_shipped(base):  # no other program reads it by this name
    return
  if adapter is not None or peft_form(tensors, about):
    yield 'With PEFT:'
    yield ''
    if adapter is None:
      adapter = 'adapter'
      yield f'    prompt-tuning convert {own} {adapter} --model={model}'
      yield ''
    yield from _python('from peft import PeftModel', f'from transformers import {auto}', '',
                       f'model = PeftModel.from_pretrained({auto}.from_pretrained({base!r}), {adapter!r})')
  if set(tensors) == {PROMPTS['decoder']}:
    yield 'With vLLM, a row of prompt and input as `prompt_embeds`:'
    yield ''
    yield f"    prompt-tuning convert --to vllm {own} row.pt --model={model} --text '{_INPUT}'"
    yield ''


def peft_form(tensors: Mapping[str, Any], about: Mapping[str, Any]) -> bool:
  """Returns True if PEFT can use the tensors: a prompt before the input, a decoder's prefix, or changed modules."""
  names = set(tensors)
  plain = about.get('placement', 'before') == 'before' and all((about.get('visibility') or {}).values())
  if len(names) == 1 and names <= set(PROMPTS.values()):
    return plain
  if names == {peft.PREFIX_KEYS, peft.PREFIX_VALUES}:
    return peft.has_prefixes((about.get('made_for') or {}).get('family'))
  return peft.needs_modules(tensors)


def _python(*lines: str) -> Iterator[str]:
  yield '```python'
  yield from lines
  yield '```'
  yield ''


def _tuned(about: Mapping[str, Any]) -> dict[str, float]:
  return _numbers((about.get('best') or {}).get('metrics'))


def _numbers(metrics: Any) -> dict[str, float]:
  return {name: value for name, value in (metrics or {}).items() if isinstance(value, int | float)}


def _is_encoder_decoder(tensors: Mapping[str, Any], about: Mapping[str, Any]) -> bool:
  layers = (about.get('made_for') or {}).get('layers')
  if isinstance(layers, list):
    return len(layers) > 1
  return about.get('task_type') == peft.SEQ_2_SEQ or PATH in tensors


def _length(tensors: Mapping[str, Any]) -> int | None:
  """Returns the number of vectors, or of keys, if the tensors have one."""
  shapes = {name: np.shape(array) for name, array in tensors.items()}
  found = {shape[0] if name in PROMPTS.values() else shape[1] for name, shape in shapes.items()
           if name in PROMPTS.values() or name.endswith(('/prefix/keys', '/prefix/values'))}
  return found.pop() if len(found) == 1 else None


def _setting(settings: Mapping[str, Any], name: str) -> str | None:
  value = settings.get(name)
  default = {'template': '{inputs}', 'target_template': '{targets}'}
  return None if value in (None, 'none', default.get(name)) else f'`{json.dumps(value, ensure_ascii=False)}`'


def _base_name(path: str) -> str:
  """Returns the last part of a path, which says nothing of the machine; an address whole."""
  return path if '://' in path else path.rpartition('/')[2]


def _slug(method: Any) -> str:
  return re.sub(r'(?<=[a-z])(?=[A-Z])', '-', str(method or 'unknown')).lower()


def _joined(*parts: Any) -> str:
  return ', '.join(str(part) for part in parts if part)


def _plain(text: str) -> str:
  return ' '.join(printable(text).split())


def _cell(value: Any) -> str:
  return _plain(str(value)).replace('|', '\\|')

