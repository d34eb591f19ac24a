"""Writes rows of a model's embedding, drawn at random without replacement, as a prompt `[P, D]` in NumPy.

  python3 -m prompt_tuning.scripts.subsample_vocab --checkpoint_dir=MODELS/checkpoint_1100000 \\
    --prompt_length=100 --population_size=5000 --seed=0 --output_path=prompt.npy

  python3 -m prompt_tuning.scripts.subsample_vocab --embeddings_path=embedding.npy --output_path=prompt.npy

With --checkpoint_dir, --embeddings_path is the array's name in the checkpoint; without it, a NumPy file `[V, D]`. A run
with RANDOM_SEED=SEED and `prompts/from_sampled_vocab.gin` starts from the same rows.
"""

import sys
from collections.abc import Sequence
from typing import Any

from prompt_tuning.scripts import _script

_POPULATION = 5000


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the script from the command line; returns the exit status."""
  parser = _script.parser('subsample_vocab', __doc__)
  add = parser.add_argument
  add('--checkpoint_dir', metavar='PATH', help='a T5X checkpoint, local or gs://, or a Hugging Face folder')
  add('--embeddings_path', metavar='NAME|FILE',
      help="the embedding's name in the checkpoint (default: token_embedder/embedding), or a NumPy file")
  add('--restore_dtype', default='float32', choices=_script.DTYPES,
      help='the type that values are rounded to; bfloat16, which NumPy files cannot hold, is then stored as float32')
  add('--prompt_length', type=int, default=100, metavar='P', help='the number of rows; default: %(default)s')
  add('--population_size', type=int, metavar='N',
      help=f'draw from the first N rows, the most frequent tokens; default: {_POPULATION}, or all if fewer')
  add('--seed', type=int, default=0, help='default: %(default)s')
  add('--output_path', required=True, metavar='FILE', help='the file to write, under exactly this name')
  return _script.run(parser, argv, _subsample)


def sample_rows(embedding: Any, length: int, population: int | None, seed: int) -> Any:
  """Returns `length` distinct rows from the first `population` rows of an embedding [V, D].

  Args:
    embedding: [V, D].
    length: P.
    population: None means 5000, or V if that is less.
    seed: a run with this seed starts from the same rows.

  Raises:
    ValueError: there are not enough rows.
  """
  import jax

  from prompt_tuning import prompts

  if embedding.ndim != 2:
    raise ValueError(f'The array to draw from has shape {embedding.shape}, expected an embedding [rows, width]. '
                     'Set --embeddings_path to the name or file of an embedding.')
  population = min(_POPULATION, len(embedding)) if population is None else population
  initialise = prompts.from_sample_of_embeddings(embedding, population)
  if not 0 < length <= population:
    raise ValueError(f'{length} distinct rows cannot be drawn from {population}. '
                     f'Set --prompt_length to 1 to {population}, or increase --population_size.')
  prompt = prompts.Prompt(length, initialise)
  return prompt.init(jax.random.key(seed), embedding.shape[1])['params']['prompt']


def _subsample(options: Any) -> None:
  if options.checkpoint_dir:
    from prompt_tuning.scripts.extract_variable import read_variable

    name = options.embeddings_path or 'token_embedder/embedding'
    embedding = read_variable(options.checkpoint_dir, name, options.restore_dtype)
  elif options.embeddings_path:
    from prompt_tuning.checkpoints.prompt_files import read_prompt

    embedding = read_prompt(options.embeddings_path).astype(options.restore_dtype)
  else:
    raise ValueError('Neither --checkpoint_dir nor --embeddings_path is given, so there is nothing to draw from. '
                     'Give a checkpoint, or a NumPy file from extract_variable.')
  rows = sample_rows(embedding, options.prompt_length, options.population_size, options.seed)
  _script.write_array(options.output_path, rows)
  print(f'Wrote {options.output_path}: {rows.shape} {rows.dtype}')


if __name__ == '__main__':
  sys.exit(main())
