"""Merges a trained prompt into its frozen checkpoint, and writes a T5X checkpoint that T5X's eval can read.

  python3 -m prompt_tuning.scripts.recreate_checkpoint --model_dir=runs/sst2 --output_dir=whole
  python3 -m prompt_tuning.scripts.recreate_checkpoint --prompt=sst2.npy --model=CHECKPOINT --output_dir=whole

writes `whole/checkpoint_STEP` in T5X's native layout: the frozen arrays as stored, and the prompt as
`encoder/prompt/prompt/prompt`. Parameters that a run has retrained replace the frozen ones. Flags may also be written
in gin syntax: --gin.MODEL_DIR="'runs/sst2'", --gin.recreate_checkpoint.step=1100500.
"""

import ast
import collections
import dataclasses
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prompt_tuning.scripts import _script

_GIN_FLAG = re.compile(r'--?gin(?:\.|_bindings=)(?:[\w./]*[./])?(\w+)')


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the script from the command line; returns the exit status."""
  parser = _script.parser('recreate_checkpoint', __doc__)
  add = parser.add_argument
  add('--model_dir', type=_plain, metavar='FOLDER', help="the run's folder, of this package or of T5X")
  add('--prompt', '--prompt_file', type=_plain, metavar='FILE', help="a prompt file, instead of the run's")
  add('--model', '--initial_checkpoint_path', type=_plain, metavar='PATH',
      help='the frozen checkpoint; default: INITIAL_CHECKPOINT_PATH of MODEL_DIR/config.gin')
  add('--step', type=int, help='use the tensors saved at this step; default: the best, else the last. '
                               'With --prompt: the step of the new checkpoint')
  add('--output_dir', type=_plain, required=True, metavar='FOLDER', help='the folder to write checkpoint_STEP to')
  argv = sys.argv[1:] if argv is None else argv
  return _script.run(parser, [_GIN_FLAG.sub(lambda match: f'--{match.group(1).lower()}', text) for text in argv],
                     _recreate)


def find_trained(folder: str, step: int | None) -> Any:
  """Returns the `Trained` tensors of a run at a step; for None the best, else the last.

  Raises:
    FileNotFoundError: the run's folder does not hold them.
  """
  from prompt_tuning import prompts
  from prompt_tuning.checkpoints import prompt_files, state
  from prompt_tuning.evaluation import saved
  from prompt_tuning.files import storage
  from prompt_tuning.training import run_files

  for name in (saved.BEST, saved.LAST):
    if storage.exists(path := storage.join(folder, name)):
      trained = saved.load_trained(path)
      if step in (None, trained.about.get('step')):
        return trained
  if storage.exists(path := storage.join(folder, f'checkpoint_{step}', run_files.STATE)):
    arrays, metadata = state.read_state(path)
    tensors = {name.removeprefix('trained/'): arrays[name] for name in arrays if name.startswith('trained/')}
    return saved.Trained(tensors, {**metadata['run'], 'step': step})
  path = storage.join(folder, 'numpy_checkpoints', f'checkpoint_{step}', prompts.PATH.replace('/', '.'))
  if storage.exists(path):
    return saved.Trained({prompts.PATH: prompt_files.read_prompt(path)}, {'step': step})
  found = ', '.join(map(str, run_files.saved_steps(folder))) or 'no state'
  wanted = f'{saved.BEST} or {saved.LAST}' if step is None else f'anything of step {step}'
  raise FileNotFoundError(f'{folder} does not hold {wanted}; found {found}. Set --step to a step saved by the run '
                          '(numpy_checkpoints/checkpoint_STEP or checkpoint_STEP), or give --prompt.')


def frozen_path(folder: str | None, about: Mapping[str, Any]) -> str:
  """Returns the frozen checkpoint named in a run's `config.gin`, or in `about` if it is a shipped model.

  Raises:
    ValueError: neither names one.
  """
  from prompt_tuning.files import storage
  from prompt_tuning.models import loading

  config = storage.join(folder, 'config.gin') if folder else ''
  if config and storage.exists(config):
    text = storage.read_bytes(config).decode()
    match = re.search(r'^INITIAL_CHECKPOINT_PATH = (?:\\\n)?(.*(?:\n[ \t].*)*)', text, re.MULTILINE)
    if match and (path := _plain(match.group(1).strip())):
      return path
  name = about.get('model', '')
  if name and loading.find_model(name) != name:
    return name
  raise ValueError(f'{folder or "The prompt file"} does not say which frozen checkpoint it belongs to. '
                   'Give it with --model.')


@dataclasses.dataclass(frozen=True)
class _Stored(Mapping[str, Any]):
  """The arrays of a checkpoint, read on demand: a large model need not fit into memory."""

  reader: Any

  def __getitem__(self, name: str) -> Any:
    return self.reader.read(name)

  def __iter__(self) -> Iterator[str]:
    return iter(self.reader.names())

  def __len__(self) -> int:
    return len(self.reader.names())


def splice(model: str, tensors: Mapping[str, Any]) -> tuple[Mapping[str, Any], int]:
  """Returns T5X name -> array of a frozen checkpoint merged with the trained tensors, and the checkpoint's step.

  Raises:
    ValueError: the tensors do not fit the model.
  """
  from prompt_tuning import prompts
  from prompt_tuning.checkpoints.huggingface import HuggingFaceFolder
  from prompt_tuning.checkpoints.loading import save
  from prompt_tuning.models import loading

  reader = loading.open_checkpoint(loading.find_model(model))
  if isinstance(reader, HuggingFaceFolder):
    frozen, step = save(loading.load_model(model).params), 0  # under T5X's names
    shapes = {name: array.shape for name, array in frozen.items()}
  else:
    frozen, step = _Stored(reader), reader.step
    shapes = {name: tuple(shape) for name, (shape, _) in reader.names().items()}
  for name, array in tensors.items():
    wanted = shapes.get(name)
    if name == prompts.PATH:
      wanted = (len(array), *shapes.get('token_embedder/embedding', ())[1:])
    if tuple(array.shape) != wanted:
      raise ValueError(f'{name} was trained with shape {tuple(array.shape)}, but {reader.path} needs '
                       f'{wanted or "no such array"}. Give the checkpoint that the run started from with --model.')
  return collections.ChainMap(dict(tensors), frozen), step


def _recreate(options: Any) -> None:
  from prompt_tuning.checkpoints.t5x import write_t5x
  from prompt_tuning.evaluation import saved
  from prompt_tuning.rows import conditioning, layouts

  if options.prompt:
    trained = saved.load_trained(options.prompt)
  elif options.model_dir:
    trained = find_trained(options.model_dir, options.step)
  else:
    raise ValueError('Neither --model_dir nor --prompt is given. Give the folder of a run, or a prompt file.')
  prompt = trained.prompt()
  if prompt and (prompt.placement, prompt.visibility) != (layouts.before, conditioning.Visibility()):
    print(f'recreate_checkpoint: the prompt was trained with the placement {prompt.placement.__name__} and '
          f'{prompt.visibility}, but T5X puts it before the input, fully visible: predictions will differ.',
          file=sys.stderr)
  named, step = splice(options.model or frozen_path(options.model_dir, trained.about), trained.tensors)
  step = next(each for each in (options.step, trained.about.get('step'), step) if each is not None)
  print(f'Wrote {write_t5x(options.output_dir, step, named)}: {len(named)} arrays, of which trained: '
        f'{", ".join(trained.tensors)}')


def _plain(text: str) -> str:
  """Returns a text without gin's quotes; an empty text for gin's None."""
  try:
    value = ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text
  return value if isinstance(value, str) else '' if value is None else text


if __name__ == '__main__':
  sys.exit(main())
