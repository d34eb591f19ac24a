"""The flags of gin files and overrides, and messages in gin's words."""

import argparse
import re
from collections.abc import Sequence
from typing import Any

from prompt_tuning.names import nearest, translated

# Setting of a run -> what sets it in gin files.
WORDS = {
  'model': 'INITIAL_CHECKPOINT_PATH', 'data': 'MIXTURE_OR_TASK_NAME', 'imports': 'MIXTURE_OR_TASK_MODULE',
  'output': 'MODEL_DIR', 'model_dir': 'MODEL_DIR', 'prompt': 'PROMPT_FILE', 'length': 'PROMPT_LENGTH',
  'batch_size': 'BATCH_SIZE', 'total_steps': 'TRAIN_STEPS', 'train_steps': 'TRAIN_STEPS',
  'steps': 'TRAIN_STEPS_RELATIVE', 'lengths': 'TASK_FEATURE_LENGTHS', 'max_input_length': 'TASK_FEATURE_LENGTHS',
  'max_target_length': 'TASK_FEATURE_LENGTHS', 'evaluation_period': 'EVAL_PERIOD', 'trainable': 'PROMPT_REGEX',
  'method': 'PROMPT', 'seed': 'RANDOM_SEED', 'rematerialise': 'LAYER_REMAT', 'dropout_rate': 'DROPOUT_RATE',
  'activation_dtype': 'ACTIVATION_DTYPE', 'dtype': 'utils.RestoreCheckpointConfig.dtype',
  'template': 'files.FileTask.inputs', 'target_template': 'files.FileTask.targets', 'labels': 'files.FileTask.labels',
  'validation': 'files.FileTask.validation', 'test': 'files.FileTask.test', 'metrics': 'files.FileTask.metrics',
  'loss_weight': 'files.FileTask.loss_weight', 'cut': 'files.FileTask.cut',
  'microbatches': 'trainer.Trainer.num_microbatches', 'packed': 'train/utils.DatasetConfig.pack',
  'buckets': 'utils.DatasetConfig.buckets', 'mesh': 'partitioning.PjitPartitioner.mesh_shape',
  'vocabulary': 'seqio.SentencePieceVocabulary.sentencepiece_model_file',
  'saving_period': 'utils.SaveCheckpointConfig.period', 'keep': 'utils.SaveCheckpointConfig.keep',
  'evaluation_examples': 'EVALUATOR_NUM_EXAMPLES', 'written_examples': 'JSON_WRITE_N_RESULTS',
  'loss_steps': 'EVAL_STEPS',
  **{name: f'train_script.train.{name}' for name in (
    'objective', 'patience', 'log_period', 'stop_accuracy', 'stop_examples', 'cache_limit', 'start_from', 'extend')},
  'learning_rate': 'utils.create_learning_rate_scheduler.base_learning_rate', 'optimizer': 'OPTIMIZER',
  'base_learning_rate': 'utils.create_learning_rate_scheduler.base_learning_rate',
  'warmup_steps': 'utils.create_learning_rate_scheduler.warmup_steps', 'z_loss': 'Z_LOSS',
  'label_smoothing': 'LABEL_SMOOTHING', 'new_layers': 'models.EncoderDecoderModel.ends',
  'loss': 'models.EncoderDecoderModel.loss_fn', 'loss_divisor': 'LOSS_NORMALIZING_FACTOR',
  'label_words': 'eval_script.evaluate.label_words',
  'lines': 'infer_script.infer.lines', 'mode': 'infer_script.infer.mode',
  'any_model': 'models.EncoderDecoderModel.any_model', 'wayward_text': 'train_prompts.Prompt.wayward_text',
  'wayward_gamma': 'train_prompts.Prompt.wayward_gamma', 'patterns': 'retrained.Retrained.patterns',
}
_OUTPUTS = {'eval': 'EVAL_OUTPUT_DIR', 'infer': 'INFER_OUTPUT_DIR'}


def is_gin(arg: str) -> bool:
  """Returns True for a flag of gin files."""
  return re.match(r'--?gin(_file|_bindings|_search_paths|_allow_imports|\.)', arg) is not None


def is_true(text: str) -> bool:
  """Returns True for a word that switches a flag on."""
  return text.lower() in ('1', 'true', 't', 'yes', 'y')


def add(parser: Any) -> None:
  """Adds the flags."""
  parser.add_argument('--gin_file', action='append', default=[], metavar='PATH',
                      help='a gin file; repeat it, later files win')
  parser.add_argument('--gin_search_paths', default='', metavar='A,B', help='folders that are searched first')
  parser.add_argument('--gin_allow_imports', nargs='?', const=True, default=False, type=is_true, help=(
    'gin files from elsewhere (gs://) may import any module: such a file is code, so read it first'))
  parser.add_argument('--gin.NAME', dest='_', metavar='VALUE', help=(
    'override one value, in gin syntax: a text needs its own quotes, as in --gin.MODEL_DIR="\'runs/a\'"'))
  parser.add_argument('--gin_bindings', action='append', default=[], metavar='NAME=VALUE',
                      help='the same in another form')


def join_overrides(argv: Sequence[str]) -> list[str]:
  """Returns the arguments with `--gin_bindings=NAME=VALUE` for `--gin.NAME=VALUE` and `--gin.NAME VALUE`."""
  joined, rest = [], list(argv)
  while rest:
    arg = rest.pop(0)
    match = re.fullmatch(r'--?gin\.([^=\s]+)(?:=(.*))?', arg, re.DOTALL)
    if match and match.group(2) is None and rest and not rest[0].startswith('--'):
      joined.append(f'--gin_bindings={match.group(1)}={rest.pop(0)}')
    elif match and match.group(2) is not None:
      joined.append(f'--gin_bindings={match.group(1)}={match.group(2)}')
    else:
      joined.append(arg)
  return joined


def named_modules(bindings: Sequence[str]) -> list[str]:
  """Returns the modules that overrides name, such as those of MIXTURE_OR_TASK_MODULE='my_tasks'."""
  pairs = (binding.partition('=') for binding in bindings)
  return [module for name, _, value in pairs if re.search(r'(MODULE|\.module|\.imports)$', name.strip())
          for module in re.findall(r'[\w.]+', value)]


def advise(arg: str, parser: argparse.ArgumentParser) -> str:
  """Returns what to write instead of an unknown argument in a command with gin files."""
  name, _, value = arg.lstrip('-').partition('=')
  if not arg.startswith('-'):
    return f'The argument {arg!r} belongs to no flag. Write --NAME=VALUE without spaces around the equals sign.'
  if name.startswith('gin.'):
    return f'{arg} has no value. Write --{name}=VALUE'
  if '.' in name:
    return f'--{name} is not a flag. To set a value of the gin files, write --gin.{name}={value or "VALUE"}'
  known = [option.lstrip('-') for action in parser._actions for option in action.option_strings]
  return advise_macro(arg) or (f'There is no flag --{name}.{nearest(name, known)} `{parser.prog} --help` lists them.')


def advise_macro(arg: str) -> str | None:
  """Returns what to write instead of a macro without `gin.` in front; None for other arguments."""
  name, _, value = arg.lstrip('-').partition('=')
  if not re.fullmatch(r'[A-Z][A-Z0-9_]*', name):
    return None
  value = value or 'VALUE'
  literal = value if re.fullmatch(r'[\d._]+|True|False|None|[\[({\'"].*', value) else f'"\'{value}\'"'
  return f'--{name} is not a flag but a value of the gin files. Write --gin.{name}={literal}'


def in_words(program: str, message: str) -> str:
  """Returns a message of the library in the words of gin files: `name=value` becomes `MACRO=value`."""
  words = WORDS | {'output': _OUTPUTS.get(program, 'MODEL_DIR')} | (
    {} if program == 'train' else {'model': 'CHECKPOINT_PATH'})
  return translated(message, words)
