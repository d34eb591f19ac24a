"""Writes one array of a checkpoint as a NumPy file: the embedding, for EMBEDDING_FILE or `subsample_vocab`.

  python3 -m prompt_tuning.scripts.extract_variable --checkpoint_dir=MODELS/checkpoint_1100000 \\
    --variable_path=target/token_embedder/embedding --output_path=embedding.npy

The name may use '/' or '.', with or without a leading `target/`.
"""

import sys
from collections.abc import Sequence
from typing import Any

from prompt_tuning.names import nearest
from prompt_tuning.scripts import _script


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the script from the command line; returns the exit status."""
  parser = _script.parser('extract_variable', __doc__)
  add = parser.add_argument
  add('--checkpoint_dir', required=True, metavar='PATH',
      help='a T5X checkpoint, local or gs://, a folder of such (the newest is used), or a Hugging Face folder')
  add('--variable_path', default='token_embedder/embedding', metavar='NAME', help='default: %(default)s')
  add('--restore_dtype', default='float32', choices=_script.DTYPES,
      help='the type that values are rounded to; bfloat16, which NumPy files cannot hold, is then stored as float32')
  add('--output_path', required=True, metavar='FILE', help='the file to write, under exactly this name')
  return _script.run(parser, argv, _extract)


def read_variable(checkpoint: str, name: str, dtype: str) -> Any:
  """Returns one array of a checkpoint.

  Raises:
    FileNotFoundError: there is no checkpoint.
    ValueError: the checkpoint has no such array, or is damaged.
  """
  import jax.numpy as jnp

  from prompt_tuning.models import loading

  reader = loading.open_checkpoint(loading.find_model(checkpoint))
  known = reader.names()
  plain = name.strip('/').replace('.', '/').removeprefix('target/')
  embedding = 'shared.weight' if plain == 'token_embedder/embedding' else plain  # in a Hugging Face folder
  found = next((each for each in (name, plain, embedding) if each in known), None)
  if found is None:
    near = nearest(plain, known)
    raise ValueError(f'{reader.path} has no array {name!r}.{near}'
                     f'{"" if near else f" It holds {len(known)}, such as {min(known, default=None)}."}'
                     ' Set --variable_path (--embeddings_path of subsample_vocab) to a name of the checkpoint.')
  return reader.read(found).astype(jnp.dtype(dtype))


def _extract(options: Any) -> None:
  array = read_variable(options.checkpoint_dir, options.variable_path, options.restore_dtype)
  _script.write_array(options.output_path, array)
  print(f'Wrote {options.output_path}: {array.shape} {array.dtype}')


if __name__ == '__main__':
  sys.exit(main())
