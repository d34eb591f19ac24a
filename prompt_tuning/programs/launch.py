"""From flags to a run: reads gin files and overrides, checks them, and executes the run that they describe.

The only file that imports gin. What can be configured is registered once, from `t5x_names`, under the names that users
type; so overrides on the command line always resolve, and our own gin files need no imports. `gin_files` finds the
files and rewrites those that were written for T5X.
"""

import argparse
import contextlib
import difflib
import functools
import inspect
import os
import re
import tokenize
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import gin

from prompt_tuning.devices import compilation, multihost
from prompt_tuning.names import nearest
from prompt_tuning.programs import gin_checks, gin_files, gin_flags, gin_imports, gin_messages
from prompt_tuning.runs.base import Run
from prompt_tuning.runs.train_run import TrainRun
from prompt_tuning.t5x_names import (
  adafactor,
  aliases,
  architectures,
  decoding,
  eval_script,
  files,
  infer_script,
  integers,
  labels,
  linen_initializers,
  losses,
  models,
  partitioning,
  prefix,
  prompts,
  retrained,
  seqio,
  table_to_text,
  train_prompts,
  train_script,
  trainer,
  utils,
)

# What comes before a dot in gin files -> the module that has the names after it.
MODULES: dict[str, ModuleType] = {
  'adafactor': adafactor, 'architectures': architectures, 'decoding': decoding, 'eval_script': eval_script,
  'files': files, 'infer_script': infer_script, 'integers': integers, 'labels': labels,
  'flax.linen.initializers': linen_initializers, 'losses': losses, 'models': models, 'partitioning': partitioning,
  'prefix': prefix, 'prompt_tuning.prompts': prompts, 'retrained': retrained, 'seqio': seqio,
  'table_to_text': table_to_text, 'train_prompts': train_prompts, 'train_script': train_script, 'trainer': trainer,
  'utils': utils,
}
ROOTS = {'train': 'train_script.train', 'eval': 'eval_script.evaluate', 'infer': 'infer_script.infer'}
_RUN_FILES = {'train': 'prompt_finetune', 'eval': 'prompt_eval', 'infer': 'prompt_infer'}
_ERRORS = (ValueError, TypeError, KeyError, AttributeError, NameError, ArithmeticError, OSError, ImportError,
           RuntimeError, MemoryError)  # what a value can cause; MemoryError if it is nested too deeply
_LIBRARIES: list[gin_files.Library] = []  # the last one is being read; gin's file reader must find it
# A macro that need not be set if the other one is.
_INSTEAD = {'TRAIN_STEPS': 'TRAIN_STEPS_RELATIVE'}


def run(program: str, flags: argparse.Namespace) -> None:
  """Builds the run that the flags describe, and executes it.

  Raises:
    ValueError, OSError, ImportError: the message says what to change.
  """
  multihost.start(flags.coordinator_address, flags.process_count, flags.process_index,
                  wanted=bool(flags.multiprocess_gpu))
  described, config_text = describe(program, flags)
  compilation.use_cache()
  with explained():
    execute(described, config_text)


def describe(program: str, flags: argparse.Namespace) -> tuple[Run, str]:
  """Returns the run that plain flags or gin files describe, and gin's resolved configuration as text."""
  if flags.tfds_data_dir:
    os.environ['TFDS_DATA_DIR'] = flags.tfds_data_dir
  return build(program, flags) if flags.run is None else (flags.run, '')


def execute(described: Run, config_text: str = '') -> Any:
  """Executes a run; `config_text`, the configuration of a run that gin describes, is written into its folder."""
  module = described.executing()
  if isinstance(described, TrainRun):
    return module.build(described).run(config_text=config_text, command='' if config_text else 'prompt-tuning')
  return module.run(described, config_text=config_text)


@contextlib.contextmanager
def explained() -> Iterator[None]:
  """A context that explains the errors of what gin makes only when it is needed, as `build` does."""
  try:
    yield
  except _ERRORS as error:
    if gin_messages.IN_GIN in str(error):
      raise gin_messages.explained(error, names()) from error
    raise


def build(program: str, flags: argparse.Namespace) -> tuple[Run, str]:
  """Returns the run that gin files and overrides describe, and the resolved configuration as text."""
  _register()
  gin.clear_config()
  library = gin_files.Library(flags.gin_search_paths, gin_imports.Imports(
    gin_flags.named_modules(flags.gin_bindings), everything=flags.gin_allow_imports))
  _LIBRARIES.append(library)
  for path in flags.gin_file:
    _parse_file(path, library)
  for binding in flags.gin_bindings:
    _parse_binding(gin_files.mend(binding))
  _check_root(program)
  _check_macros(flags.gin_bindings, library)
  try:
    described = gin.get_configurable(ROOTS[program])()
    gin_checks.check_types(gin.config, MODULES)
    gin_checks.check_used(gin.config, MODULES, list(map(gin_files.mend, flags.gin_bindings)), flags.gin_file)
    text = gin.config_str()
  except _ERRORS as error:
    gin_checks.check_types(gin.config, MODULES)  # the conversion may have failed on a value of another type
    raise gin_messages.explained(error, names()) from error
  library.imports.require_all(described.imports)
  return described, text


def names() -> dict[str, list[str]]:
  """Returns what can be configured: the name as users type it -> its parameters."""
  found = {}
  for module, values in MODULES.items():
    typed = module.removeprefix('flax.').removeprefix('prompt_tuning.')
    for name, value in _configurables(values):
      found[f'{typed}.{name}'] = list(inspect.signature(value).parameters)
  return found


@functools.cache
def _register() -> None:
  for module, values in MODULES.items():
    for name, value in _configurables(values):
      if value.__module__ == aliases.__name__:  # a function that `choosing` returned
        value.__module__, value.__name__, value.__qualname__ = values.__name__, name, name
      *owners, last = name.split('.')
      gin.external_configurable(value, last, '.'.join([module, *owners]))
  # Before gin's own readers, which complain about what they do not find.
  gin.config._FILE_READERS.insert(
    0, (lambda path: _LIBRARIES[-1].open(path), lambda path: path.startswith(gin_files.PREFIX)))
  gin.config.ParseContext = _Context


class _Context(gin.config.ParseContext):
  """Checks and logs what files import."""

  def process_import(self, statement: Any) -> None:
    module, file, line = statement.module, statement.location.filename, statement.location.line_num
    new = self._import_manager is None and file is not None  # gin imports again to write a configuration
    if new:
      _LIBRARIES[-1].imports.require(module, file, line)
    try:
      super().process_import(statement)
    except Exception as error:  # a user's module may raise anything
      if isinstance(error, ImportError) or module.startswith('__gin__'):
        raise
      raise ImportError(f'{module} cannot be imported: {type(error).__name__}: {error}. Fix the module.') from error
    if new:
      gin_imports.log(module, file, line)

  def _resolve_selector(self, selector: str) -> Any:
    names, values = super()._resolve_selector(selector)
    source = self._symbol_source[names[0]]
    if source is not None and source.location.filename is not None:
      _LIBRARIES[-1].imports.require_values(values, source.location.filename)
    return names, values


def _configurables(module: ModuleType) -> Iterator[tuple[str, Any]]:
  """Yields name and object of what `__all__` of a module lists, and of the static methods of its classes."""
  for name in module.__all__:
    value = getattr(module, name)
    yield name, value
    if inspect.isclass(value):
      yield from ((f'{name}.{method}', getattr(value, method)) for method, member in vars(value).items()
                  if isinstance(member, staticmethod))


# --- Reading ---------------------------------------------------------------------------------------------------------


def _parse_file(path: str, library: gin_files.Library) -> None:
  try:
    gin.parse_config_file(gin_files.PREFIX + library.find(path))
  except (SyntaxError, tokenize.TokenError) as error:
    raise gin_messages.unreadable(error, path) from error
  except _ERRORS as error:
    raise gin_messages.explained(error, names(), path, nearer=True) from error


def _parse_binding(binding: str) -> None:
  name, _, value = binding.partition('=')
  try:
    gin.parse_config(binding)
  except (SyntaxError, tokenize.TokenError) as error:
    raise ValueError(f'--gin.{name}={value} cannot be read: the value is not gin syntax. A text needs its own quotes, '
                     f'as in --gin.{name}="\'{value.strip(chr(34) + chr(39))}\'".') from error
  except _ERRORS as error:
    raise gin_messages.explained(error, names(), f'--gin.{name}') from error


# --- Checking --------------------------------------------------------------------------------------------------------


def _check_root(program: str) -> None:
  """Checks that the files describe a run of this program."""
  described = {name for name, root in ROOTS.items() if gin.get_bindings(root, resolve_references=False)}
  if program in described:
    return
  found = f' They describe a run of {" and ".join(sorted(described))}.' if described else ''
  raise ValueError(f'None of the gin files says how to {program}.{found} Add --gin_file=prompt_tuning/configs/runs/'
                   f'{_RUN_FILES[program]}.gin')


def _check_macros(bindings: Sequence[str], library: gin_files.Library) -> None:
  """Finds macros that are needed and not set, and macros on the command line that nothing uses."""
  config = gin.config._CONFIG
  macro = gin.get_configurable('gin.macro')
  library.require_no_circle({scope: {ref.scopes[-1] for ref in gin.config.iterate_references(values, to=macro)}
                             for (scope, name), values in config.items() if name == 'gin.macro'})
  needed = {ref.scopes[-1]: None for ref in gin.config.iterate_references(config, to=macro)}
  values = {scope: values['value'] for (scope, name), values in config.items() if name == 'gin.macro'}
  unset = {name for name, value in values.items() if repr(value) == '%gin.REQUIRED'}
  missing = [name for name in needed if (name not in values or name in unset)
             and values.get(_INSTEAD.get(name, '')) is None]
  for name in needed:
    if name not in values and name not in missing:
      gin.parse_config(f'{name} = None')
  if missing:
    raise ValueError('\n'.join(_missing(missing, set(values) - unset - library.macros(), library)))
  used = set(needed) | {name for binding in bindings for name in gin_files.macros(binding)} | library.macros()
  scopes = {scope for ref in gin.config.iterate_references(config) for scope in ref.scopes}
  for binding in bindings:
    name = binding.partition('=')[0].strip()
    for scope in name.split('/')[:-1]:
      if scope not in scopes:
        raise ValueError(f'--gin.{name} sets nothing: no gin file of this run uses the scope {scope}/.'
                         f'{nearest(scope, sorted(scopes - set(needed)))}')
    if re.fullmatch(r'\w+', name) and name not in used:
      raise ValueError(f'--gin.{name} sets nothing: no gin file of this run uses {name}.'
                       f'{nearest(name, sorted(used))} docs/configuration.md lists the names.')


def _missing(missing: Sequence[str], unused: set[str], library: gin_files.Library) -> Iterator[str]:
  yield f'{", ".join(missing)} {"is" if len(missing) == 1 else "are"} not set:'
  for name in missing:
    slips = difflib.get_close_matches(name, sorted(unused), n=1, cutoff=0.8)
    example = gin_files.EXAMPLES.get(name, f'--gin.{name}=VALUE')
    yield (f'  {name}, which {library.user_of(name)} needs, for example {example}'
           + (f' ({slips[0]} is set, but nothing uses it: a typo?)' if slips else ''))
