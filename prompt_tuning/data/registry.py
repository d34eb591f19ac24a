"""Tasks and mixtures by name: those added to `tasks` or to SeqIO, integer tasks, and files."""

import functools
import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

from prompt_tuning.data import files, integers, table_files, table_to_text, task_kinds, tasks
from prompt_tuning.data.tasks import Mixture, Task, is_table
from prompt_tuning.names import Registry, nearest, require_known

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
# Pattern of SeqIO task names -> the module of the package that adds them.
_SEQIO_MODULES = {
  r'glue_.*_from_': 'glue_transfer', r'super_glue_|dpr_v': 'super_glue', r'glue_': 'glue',
  r'squad|mrqa': 'qa', r'xsum_|cnn_dailymail_': 'summarization', r'c4_': 'c4'}


def get(name: str, vocabulary: Any = None, lengths: Mapping[str, int] | None = None, *,
        options: Mapping[str, Any] | None = None) -> Task | Mixture:
  """Returns the task or mixture of this name: one added to `tasks` or to SeqIO, an integer task, or a file.

  A file that ends in .teacher holds the examples and scores of a distilled document (`teacher_files`). The columns of a
  JSONL, TSV or CSV file must be called `inputs` and `targets`, or be those of conversations; `files.FileTask` reads
  others.

  Args:
    name: the name that users type.
    vocabulary: the model's; it tokenises SeqIO tasks and conversations.
    lengths: maximum tokens of 'inputs' and 'targets', for SeqIO tasks that make examples of these lengths.
    options: arguments of a kind of task in `KINDS`; `name` is that kind.

  Raises:
    ValueError: there is no such task; the message names the nearest.
    ImportError: it needs SeqIO, which is not installed.
  """
  if name in tasks.registered:
    if options:
      raise ValueError(f'The task {name} takes no options, but {", ".join(options)} are given. Leave them out.')
    return tasks.registered[name]
  if options or name in KINDS:
    return _made(name, tuple(sorted((options or {}).items())))
  if is_table(name):
    return files.FileTask(name, vocabulary=vocabulary)
  if name.endswith('.teacher'):
    from prompt_tuning.data import teacher_files  # loads array_record

    return teacher_files.task(name)
  if name == integers.MIXTURE:
    return integers.mixture()
  if any(part in integers.NAMES for part in name.split('+')):
    return integers.task(name)
  known = [*tasks.registered, *integers.NAMES, integers.MIXTURE]
  if 'seqio' in sys.modules:  # a module may have added tasks to it
    from prompt_tuning.data import seqio_reading  # loads TensorFlow

    if name in seqio_reading.names():
      return seqio_reading.load(name, vocabulary, lengths)
    known += seqio_reading.names()
  if os.path.exists(name):
    raise ValueError(table_files.no_table(name))
  hint = nearest(name, known)
  module = module_of(name)
  if module is not None and module not in sys.modules:
    raise ValueError(f'There is no task {name!r}; it looks like a SeqIO task of {module}. {_seqio_advice(module)}')
  raise ValueError(f'There is no task {name!r}.{hint} Give the name of a task (`prompt-tuning tasks` lists them), '
                   'after importing the module that registers it (imports=MODULE), the path of a .jsonl, '
                   '.tsv, .csv or .parquet file, or hf://datasets/OWNER/NAME.')


@functools.lru_cache(maxsize=8)  # a run asks for its task several times
def _made(kind: str, options: tuple[tuple[str, Any], ...]) -> Task | Mixture:
  make = KINDS.find(kind)
  known = inspect.signature(make).parameters
  require_known(dict(options), known, f'The kind of tasks {kind}', 'option')
  missing = [name for name, each in known.items() if each.default is each.empty and name not in dict(options)]
  if missing:
    raise ValueError(f'A task of the kind {kind} needs {", ".join(missing)}.')
  return make(**dict(options))


def import_module(name: str) -> None:
  """Imports a module that adds tasks.

  Raises:
    ImportError: the import fails; the message says why.
  """
  try:
    importlib.import_module(name)
  except ModuleNotFoundError as error:
    if error.name == 'seqio':
      raise ImportError(f"The task module {name} needs SeqIO: `pip install '.[seqio]'`.") from error
    if error.name is None or not f'{name}.'.startswith(f'{error.name}.'):
      raise ImportError(f'The task module {name} cannot be imported: {error}. Install the missing module.') from error
    raise ImportError(f'The task module {name} does not exist. Start the program in the folder that contains it, or '
                      'install it.') from error
  except (Exception, SystemExit) as error:  # a user's module may raise anything; add the module's name
    raise ImportError(f'The task module {name} cannot be imported: {type(error).__name__}: {error}. '
                      'Fix the module.') from error


def modules() -> list[str]:
  """Returns the modules of the package that add SeqIO tasks."""
  return [f'{_PACKAGE}.{module}' for module in sorted(_SEQIO_MODULES.values())]


def module_of(name: str) -> str | None:
  """Returns the module of the package that adds SeqIO tasks with names like this one, or None."""
  found = next((module for pattern, module in _SEQIO_MODULES.items() if re.search(pattern, name)), None)
  return None if found is None else f'{_PACKAGE}.{found}'


def _seqio_advice(module: str) -> str:
  if importlib.util.find_spec('seqio') is None:
    return ("SeqIO tasks need `pip install '.[seqio]'`. Without it, write the examples to a .jsonl file with the "
            'columns inputs and targets, and give its path.')
  return f'Give imports={module!r}.'
