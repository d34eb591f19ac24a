"""Tasks and mixtures by name: those that were added to `tasks` or to SeqIO, integer tasks, and files."""

import functools
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Mapping
from typing import Any

from prompt_tuning.data import files, integers, table_to_text, task_kinds, tasks
from prompt_tuning.data.tasks import FILE_ENDINGS, Mixture, Task
from prompt_tuning.names import Registry, nearest

# Kinds of tasks that are made of options: name -> function.
KINDS: Registry = Registry('kind of tasks', {
  'integers': task_kinds.integer_task,
  'bits': task_kinds.bit_task,
  'digits': task_kinds.digit_task,
  'table_to_text': table_to_text.task,
  'table_to_text_pretraining': table_to_text.pretraining,
  'table_to_text_labels': table_to_text.labelled,
})
_PACKAGE = 'prompt_tuning.data'
# Names of SeqIO tasks -> the module of the package that adds them.
_SEQIO_MODULES = {
  r'glue_.*_from_': 'glue_transfer', r'super_glue_|dpr_v': 'super_glue', r'glue_': 'glue',
  r'squad|mrqa': 'qa', r'xsum_|cnn_dailymail_': 'summarization', r'c4_': 'c4'}


def get(name: str, vocabulary: Any = None, lengths: Mapping[str, int] | None = None, *,
        options: Mapping[str, Any] | None = None) -> Task | Mixture:
  """Returns the task or mixture of this name: one that was added to `tasks` or to SeqIO, an integer task, or a file.

  The columns of a JSONL or TSV file must be called `inputs` and `targets`; `files.FileTask` reads others.

  Args:
    name: what users type.
    vocabulary: the model's, which SeqIO tasks are tokenised with.
    lengths: most tokens of 'inputs' and 'targets', for SeqIO tasks that cut their texts to them.
    options: arguments of a kind of tasks in `KINDS`, whose name is given then.

  Raises:
    ValueError: there is none; the message names the nearest.
    ImportError: it needs SeqIO, which is not installed.
  """
  if name in tasks.registered:
    if options:
      raise ValueError(f'The task {name} takes no options, but {", ".join(options)} are given. Leave them out.')
    return tasks.registered[name]
  if options or name in KINDS:
    return _made(name, tuple(sorted((options or {}).items())))
  if name.endswith(FILE_ENDINGS):
    return files.FileTask(name)
  if name == integers.MIXTURE:
    return integers.mixture()
  if any(part in integers.NAMES for part in name.split('+')):
    return integers.task(name)
  known = [*tasks.registered, *integers.NAMES, integers.MIXTURE]
  if 'seqio' in sys.modules:  # some module has added tasks to it
    from prompt_tuning.data import seqio_reading  # loads TensorFlow

    if name in seqio_reading.names():
      return seqio_reading.load(name, vocabulary, lengths)
    known += seqio_reading.names()
  hint = nearest(name, known)
  module = module_of(name)
  if module is not None and module not in sys.modules:
    raise ValueError(f'There is no task {name!r}; its name looks like one of {module}. {_seqio_advice(module)}')
  raise ValueError(f'There is no task {name!r}.{hint} Give the name of a task (`prompt-tuning tasks` lists them), '
                   'with MIXTURE_OR_TASK_MODULE set to the module that adds it, or the path of a .jsonl or .tsv file.')


@functools.lru_cache(maxsize=8)  # a run asks for its task several times
def _made(kind: str, options: tuple[tuple[str, Any], ...]) -> Task | Mixture:
  make = KINDS.find(kind)
  known = inspect.signature(make).parameters
  for name, _ in options:
    if name not in known:
      raise ValueError(f'Tasks of the kind {kind} have no option {name!r}.{nearest(name, known)} They have '
                       f'{", ".join(known)}.')
  missing = [name for name, each in known.items() if each.default is each.empty and name not in dict(options)]
  if missing:
    raise ValueError(f'A task of the kind {kind} needs {", ".join(missing)}.')
  return make(**dict(options))


def import_module(name: str) -> None:
  """Imports a module that adds tasks.

  Raises:
    ImportError: it cannot be imported; the message says why.
  """
  try:
    importlib.import_module(name)
  except ModuleNotFoundError as error:
    if error.name == 'seqio':
      raise ImportError(f'The module of tasks {name} needs SeqIO: `pip install prompt-tuning[seqio]`.') from error
    if error.name is None or not f'{name}.'.startswith(f'{error.name}.'):
      raise ImportError(f'The module of tasks {name} cannot be imported: {error}. Install what it needs.') from error
    raise ImportError(f'The module of tasks {name}: there is no such module. Start the program in the folder that '
                      'holds it, or install it.') from error
  except Exception as error:  # a module of the user's may raise anything; it is raised again with the module's name
    raise ImportError(f'The module of tasks {name} cannot be imported: {type(error).__name__}: {error}. '
                      'Mend the module.') from error


def modules() -> list[str]:
  """Returns the modules of the package that add SeqIO tasks."""
  return [f'{_PACKAGE}.{module}' for module in sorted(_SEQIO_MODULES.values())]


def module_of(name: str) -> str | None:
  """Returns the module of the package that adds a SeqIO task of such a name."""
  found = next((module for pattern, module in _SEQIO_MODULES.items() if re.search(pattern, name)), None)
  return None if found is None else f'{_PACKAGE}.{found}'


def _seqio_advice(module: str) -> str:
  if importlib.util.find_spec('seqio') is None:
    return ('SeqIO tasks need `pip install prompt-tuning[seqio]`. Without it, write the examples to a .jsonl file '
            'with the columns inputs and targets and give its path.')
  return f"Set --gin.MIXTURE_OR_TASK_MODULE=\"'{module}'\"."
