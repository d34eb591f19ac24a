"""Finds gin files, and makes those that were written for T5X readable here.

A file for T5X begins with imports of `t5x`, `seqio`, `flaxformer` and `__main__`. Those that have a counterpart in
`t5x_names` are rewritten to it, line by line, so that line numbers stay right; imports that nothing in the file
uses are dropped. The package's own files and typos of the published README are resolved here too.
"""

import graphlib
import io
import os
import re
from collections.abc import Mapping, Sequence

from prompt_tuning.files import storage
from prompt_tuning.names import nearest
from prompt_tuning.programs.gin_imports import Imports

PREFIX = 'gin:'  # before a path that was found here: gin's own readers do not take it
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_CONFIGS = os.path.join(_PACKAGE, 'configs')
# Module that a file for T5X imports -> the module of t5x_names that replaces it.
_COUNTERPARTS = {
  '__main__': 'main', 'seqio': 'seqio', 'prompt_tuning.prompts': 'prompts',
  'prompt_tuning.train.prompts': 'train_prompts', 'prompt_tuning.data.files': 'files',
  **{f't5x.{name}': name for name in ('adafactor', 'decoding', 'models', 'partitioning', 'trainer', 'utils')},
}
_FOREIGN = re.compile(r'(t5x|flaxformer|seqio|airio|t5|clu|prompt_tuning\.train|prompt_tuning\.masks)(\..*)?')
_SLIPS = {'from_samples_of_embeddings': 'from_sample_of_embeddings',
          'RestoreChekcpointConfig': 'RestoreCheckpointConfig'}
_IMPORT = re.compile(r'(?:from\s+([\w.]+)\s+)?import\s+([\w.]+)(?:\s+as\s+(\w+))?\s*(?:#.*)?$')
_INCLUDE = re.compile(r'include\s+([\'"])(.*?)\1\s*(?:#.*)?$')
_MACRO = re.compile(r'%([A-Za-z_]\w*)')
# What to write for macros that a run needs.
EXAMPLES = {
  'CHECKPOINT_PATH': "--gin.CHECKPOINT_PATH=\"'/models/t5-v1_1-small'\"",
  'CLASS_LABELS': "--gin.CLASS_LABELS=\"['positive', 'negative']\"",
  'EMBEDDING_FILE': "--gin.EMBEDDING_FILE=\"'embedding.npy'\"",
  'EVAL_OUTPUT_DIR': "--gin.EVAL_OUTPUT_DIR=\"'runs/eval'\"",
  'INFER_OUTPUT_DIR': "--gin.INFER_OUTPUT_DIR=\"'runs/answers'\"",
  'INITIAL_CHECKPOINT_PATH': "--gin.INITIAL_CHECKPOINT_PATH=\"'/models/t5-v1_1-small'\"",
  'MIXTURE_OR_TASK_NAME': "--gin.MIXTURE_OR_TASK_NAME=\"'examples.jsonl'\"",
  'MODEL': '--gin_file=prompt_tuning/configs/models/from_checkpoint_prompt.gin',
  'MODEL_DIR': "--gin.MODEL_DIR=\"'runs/first'\"",
  'NUM_EMBEDDINGS': '--gin.NUM_EMBEDDINGS=50257',
  'NUM_LAYERS': '--gin.NUM_LAYERS=12',
  'POSITION_COUNT': '--gin.POSITION_COUNT=1024',
  'PROMPT': '--gin_file=prompt_tuning/configs/models/from_checkpoint_prompt.gin',
  'PROMPT_FILE': "--gin.PROMPT_FILE=\"'runs/first'\"",
  'PROMPT_LENGTH': '--gin.PROMPT_LENGTH=100',
  'TASK_FEATURE_LENGTHS': "--gin.TASK_FEATURE_LENGTHS=\"{'inputs': 512, 'targets': 8}\"",
  'TRAIN_STEPS': '--gin.TRAIN_STEPS=1_150_000 (those of the checkpoint and those of the run)',
  'VOCABULARY': '--gin_file=prompt_tuning/configs/models/from_checkpoint_prompt.gin',
  **dict.fromkeys(
    ('NUM_HEADS', 'NUM_ENCODER_LAYERS', 'NUM_DECODER_LAYERS', 'HEAD_DIM', 'EMBED_DIM', 'MLP_DIM'),
    '--gin_file=prompt_tuning/configs/models/sizes/base.gin'),
}


class Library:
  """The gin files of one run: where they are found, and what was read.

  Args:
    search_paths: folders in which files are looked for first.
    imports: what the files may import.
  """

  def __init__(self, search_paths: Sequence[str] = (), imports: Imports | None = None):
    self.imports = imports or Imports()
    self._folders = [*search_paths, '.', os.path.dirname(_PACKAGE), _CONFIGS]
    self._texts: dict[str, str] = {}  # path as users know it -> what was read

  def find(self, path: str) -> str:
    """Returns where the file is.

    Raises:
      FileNotFoundError: it is nowhere.
    """
    path = path.removeprefix(PREFIX)
    runs = re.fullmatch(r'(?:.*/)?t5x/configs/runs/(finetune|eval|infer|pretrain)\.gin', path)
    if runs:
      return os.path.join(_CONFIGS, 'runs', f'{runs.group(1)}.gin')
    whole = os.path.isabs(path) or storage.is_remote(path)
    places = [path] if whole else [storage.join(folder, path) for folder in self._folders]
    found = next((place for place in places if storage.exists(place) and not os.path.isdir(place)), None)
    if found is None:
      own = [f'prompt_tuning/configs/{os.path.relpath(os.path.join(folder, name), _CONFIGS)}'
             for folder, _, names in os.walk(_CONFIGS) for name in names if name.endswith('.gin')]
      raise FileNotFoundError(f'{path}: there is no such gin file in {", ".join(self._folders)}.'
                              f'{nearest(path, own)} Check --gin_file and --gin_search_paths.')
    return found if storage.is_remote(found) else os.path.normpath(found)

  def open(self, path: str) -> io.StringIO:
    """Returns the file at a path that `find` returned, as gin will read it.

    Raises:
      ValueError: it is not UTF-8, or a line of it cannot be used.
    """
    path = path.removeprefix(PREFIX)
    if storage.is_remote(path):
      self.imports.foreign.add(path)
    content = storage.read_bytes(path)
    try:
      text = content.decode()
    except UnicodeDecodeError as error:
      raise ValueError(f'{path}:{content.count(10, 0, error.start) + 1}: not UTF-8 ({error.reason}). '
                       'Save the file as UTF-8.') from error
    self._texts[path] = re.sub(r'(?m)^[ \t]*#.*$', '', text)
    file = io.StringIO(self._rewrite(path, text))
    file.name = path
    return file

  def macros(self) -> set[str]:
    """Returns the macros that the files use."""
    return {name for text in self._texts.values() for name in macros(text)}

  def user_of(self, macro: str) -> str:
    """Returns the file that uses a macro."""
    user = next((path for path, text in self._texts.items() if macro in macros(text)), 'an override')
    return os.path.relpath(user, os.path.dirname(_PACKAGE)) if user.startswith(_PACKAGE) else user

  def require_no_circle(self, meant: Mapping[str, set[str]]) -> None:
    """Raises ValueError if macros refer to one another in a circle; `meant` has those that the value of each names."""
    try:
      graphlib.TopologicalSorter(meant).prepare()
    except graphlib.CycleError as error:
      circle = error.args[1][::-1]  # a name comes after what it means
      raise ValueError(f'{self.user_of(circle[0])}: the macros {" → ".join(circle)} refer to one another. Give '
                       'one of them a value.') from error

  def _rewrite(self, path: str, text: str) -> str:
    lines = mend(text).split('\n')
    for number, line in enumerate(lines):
      include, imported = _INCLUDE.match(line), _IMPORT.match(line)
      try:
        if include:
          included = self.find(include.group(2))
          if path in self.imports.foreign and not included.startswith(_PACKAGE):
            self.imports.foreign.add(included)
          lines[number] = f'include {PREFIX + included!r}'
        elif imported:
          lines[number] = _rewrite_import(line, imported, text)
      except (ValueError, OSError) as error:
        raise type(error)(f'{path}:{number + 1}: {error}') from error
    return '\n'.join(lines)


def mend(text: str) -> str:
  """Returns the text with the README's typos fixed."""
  for slip, name in _SLIPS.items():
    text = re.sub(rf'\b{slip}\b', name, text)
  return text


def macros(text: str) -> set[str]:
  """Returns the names of the macros that a text uses."""
  return set(_MACRO.findall(text))


def _rewrite_import(line: str, match: re.Match[str], text: str) -> str:
  package, last, alias = match.groups()
  module = f'{package}.{last}' if package else last
  bound = alias or (last if package else last.split('.')[0])
  if module in _COUNTERPARTS:
    if not package and not alias and '.' in module:  # `import t5x.utils` binds t5x
      return 'import prompt_tuning.t5x_names as t5x' if module.startswith('t5x.') else line
    return f'from prompt_tuning.t5x_names import {_COUNTERPARTS[module]} as {bound}'
  if not _FOREIGN.fullmatch(module):
    return line
  statements = re.sub(r'(?m)^[ \t]*(#|from |import |include ).*$', '', text)
  uses = re.findall(rf'(?<![\w.]){re.escape(bound)}((?:\.\w+)+)', statements)
  if uses:
    raise ValueError(f'{module} is not part of this package, which runs without T5X; found {bound}{uses[0]}. '
                     'Remove these lines, or use the counterpart that docs/configuration.md lists.')
  return ''
