"""Ranks trained prompts as starts for another task, and trains from the best.

  prompt-tuning transfer --library runs --model /models/t5-base-lm-adapt --data films.jsonl
  prompt-tuning transfer --library runs --model /models/t5-base-lm-adapt --data films.jsonl --output runs/films
  prompt-tuning transfer --library runs --model /models/t5-base-lm-adapt --data films.jsonl --target runs/short

The table has the loss of the data's training rows with each prompt below the library's folder, the smallest first, and
that of the frozen model alone; nothing is trained for it. With --target, a prompt that was trained shortly on the same
data, it also has the cosine of the mean vectors to it (Vu et al. 2022). --by token_accuracy ranks prompts first that
are right in most tokens, even if they are sure of wrong ones too. What does not fit the model is named and left out.

With --output, a run trains from the best of those that its method trains. Further flags are those of `train`.
"""

import argparse
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from prompt_tuning.names import require_number, translated
from prompt_tuning.programs import arguments, command, current_folder
from prompt_tuning.runs import flags as plain
from prompt_tuning.scripts import _script


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit status."""
  flags = arguments.Parser(prog='prompt-tuning transfer', description=__doc__,
                           formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_argument('--library', required=True, metavar='FOLDER', help='the folder that holds runs, prompt files or '
                                                                        'PEFT folders')
  flags.add_argument('--target', metavar='PROMPT', help='a prompt that was trained shortly on the data, to compare '
                                                        'with')
  flags.add_argument('--by', default='loss', choices=('loss', 'token_accuracy', 'similarity'),
                     help='what decides (loss); similarity needs --target')
  flags.add_argument('--examples', type=int, default=200, metavar='COUNT', help='training rows that are read (200)')
  flags.add_argument('--mean', type=int, default=1, metavar='COUNT', help='start from the mean of so many of the best '
                                                                          'that have equal shapes (1)')
  argv = list(sys.argv[1:] if argv is None else argv)
  current_folder.put_last()
  own, rest = split([option for action in flags._actions for option in action.option_strings], argv)
  return _script.run(flags, own, lambda options: _transfer(options, rest))


def split(known: Collection[str], argv: Sequence[str]) -> tuple[list[str], list[str]]:
  """Returns the arguments of the flags `known`, and the others, which are those of `train`."""
  own, rest, left = [], [], list(argv)
  while left:
    arg = left.pop(0)
    if arg.partition('=')[0] in known:
      own.append(arg)
      if '=' not in arg and left and not left[0].startswith('--'):
        own.append(left.pop(0))
    else:
      rest.append(arg)
  return own, rest


def _transfer(options: argparse.Namespace, rest: list[str]) -> int:
  require_number('--examples', options.examples, least=1)
  require_number('--mean', options.mean, least=1)
  named = any(arg.partition('=')[0] == '--output' for arg in rest)
  if options.by == 'similarity' and options.target is None:
    raise ValueError('--by=similarity needs a prompt to compare with. Give --target PROMPT.')
  if options.mean > 1 and not named:
    raise ValueError(f'--mean={options.mean} is for a start, but --output is not given. Give --output FOLDER.')
  if not os.path.isdir(options.library):
    raise NotADirectoryError(f'--library={options.library} is not a folder. Give the folder that holds runs, prompt '
                             'files or PEFT folders.')
  try:
    run = command.parse_flags('train', [*rest, *([] if named else ['--output', 'unused'])]).run
    if run is None:
      raise ValueError('gin files cannot be used here. Give plain flags of train.')
    ranked, paths = _rank(options, run, ignored=run.output if named else None)
  except (ValueError, OSError, ImportError) as error:
    raise type(error)(plain.in_words('train', translated(str(error), {'target': '--target', 'by': '--by'}))) from error
  if not named:
    return 0
  usable = [source for source in ranked if _settings(source.trained, run.method.name) is not None]
  if not usable:
    raise ValueError(f'No source was trained by the method {run.method.name}, so a run cannot start from one. Choose '
                     'their method by --method.')
  best = _alike(usable)[:options.mean]
  if len(best) < options.mean:
    raise ValueError(f'--mean={options.mean} cannot be used: only {len(best)} of {len(usable)} sources have tensors of '
                     f'the shape of the best, {best[0].name}. Give --mean={len(best)}, or a library with more of them.')
  start = paths[best[0].name] if options.mean == 1 else _write_mean(best, f'{run.output.rstrip("/")}.start.safetensors')
  given = {arg.partition('=')[0].replace('-', '_') for arg in rest}
  more = [part for name, value in _settings(best[0].trained, run.method.name).items() if f'__{name}' not in given
          for part in (f'--{name}', str(value))]
  more = ['--start_from', start, *more]
  print(f'Starting from {" and ".join(source.name for source in best)}: prompt-tuning train … {" ".join(more)}')
  return command.run('train', [*rest, *more])


def _rank(options: argparse.Namespace, run: Any, ignored: str | None) -> tuple[list[Any], dict[str, str]]:
  """Prints the table; returns the sources, the best first, and their paths."""
  from prompt_tuning.devices import compilation
  from prompt_tuning.evaluation import saved, sources
  from prompt_tuning.evaluation.prompt_paths import find
  from prompt_tuning.names import printable
  from prompt_tuning.runs import objects, training

  compilation.use_cache()
  own = {os.path.realpath(path) for path in (ignored, ignored and f'{ignored.rstrip("/")}.start.safetensors',
                                             options.target) if path}
  paths = {name: path for name, path in find(options.library) if os.path.realpath(path) not in own}
  task, model = objects.task(run), training.read_model(run)
  target = None if options.target is None else saved.load_for(model, options.target)
  found = {}
  for name, path in paths.items():
    try:
      found[name] = saved.load_for(model, path)
    except (ValueError, OSError) as error:
      training.say(f'Left out: {printable(path)}: {printable(str(error))}')
  ranked = sources.rank(model, task, found, target=target, by=options.by, lengths=training.lengths(run, model, task)[0],
                        split=run.split, examples=options.examples, batch_size=run.batch_size)
  print(f'{"":4}{"loss":>8}  {"token accuracy":>14}  {"similarity":>10}')
  for number, source in enumerate(ranked, start=1):
    alike = '' if source.similarity is None else f'{source.similarity:.2f}'
    print(f'{number:>3} {source.loss:>8.4f}  {100 * source.token_accuracy:>12.1f} %  {alike:>10}  '
          f'{printable(source.name) or "(the frozen model alone)"}')
  if not ranked[0].name:
    print('No source is better than the frozen model alone: another start may be better.')
  return [source for source in ranked if source.name], paths


def _settings(trained: Any, method: str) -> Mapping[str, Any] | None:
  """Returns the flags with which a method trains tensors like these; None if another method trained them."""
  from prompt_tuning.rows.layouts import IN_TURNS
  from prompt_tuning.tuning.prompt import PromptTuning
  from prompt_tuning.tuning.registry import get_method

  parts = [part for part, _ in trained.parts()]
  if len(parts) != 1 or not isinstance(parts[0], get_method(method)):
    return None
  (part,) = parts
  if not isinstance(part, PromptTuning):
    return {'length': part.length} if hasattr(part, 'length') else {}
  role = next((role for role, placement in IN_TURNS.items() if placement is part.placement), None)
  seen = {f'see_{name}': 'false' for name in ('input', 'prompt') if not getattr(part.visibility, name)}
  place = {'prompt_at': role} if role else {} if part.placement.__name__ == 'before' else {
    'placement': part.placement.__name__}
  return {'length': part.prompt.length, **place, **seen}


def _alike(ranked: Sequence[Any]) -> list[Any]:
  """Returns the sources whose tensors have the names and shapes of the first one's."""
  shapes = lambda source: {name: array.shape for name, array in source.trained.tensors.items()}
  return [source for source in ranked if shapes(source) == shapes(ranked[0])]


def _write_mean(best: Sequence[Any], path: str) -> str:
  """Writes the mean of sources beside the run's folder; returns its path."""
  from prompt_tuning.checkpoints.state import write_state
  from prompt_tuning.evaluation.sources import mean_of

  mean = mean_of(best)
  write_state(path, mean.tensors, mean.about)
  return path


if __name__ == '__main__':
  sys.exit(main())
