"""Parquet files, which pyarrow reads: it comes with `pip install '.[hub]'`."""

import io
from typing import Any

from prompt_tuning.files import storage


def read(path: str) -> list[dict[str, Any]]:
  """Returns the rows of a Parquet file, local or `gs://`, as dicts of its columns.

  Raises:
    FileNotFoundError: there is no such file.
    ImportError: pyarrow is not installed.
    ValueError: it is not a Parquet file, or it is damaged.
  """
  try:
    import pyarrow
    from pyarrow import parquet
  except ImportError as error:
    raise ImportError(f"{path} is a Parquet file, which pyarrow reads. It is not installed: `pip install '.[hub]'`."
                      ) from error
  try:
    content = storage.read_bytes(path)
  except FileNotFoundError as error:
    raise FileNotFoundError(f'{path}: there is no such file. Give the path of a file of examples.') from error
  try:
    table = parquet.read_table(io.BytesIO(content))
  except (pyarrow.ArrowException, OSError) as error:
    raise ValueError(f'{path} cannot be read as Parquet ({str(error).splitlines()[0]}). Write it again, uncompressed '
                     'as a whole, or as JSONL.') from error
  names = table.column_names
  if len(set(names)) < len(names):
    raise ValueError(f'{path} has two columns of the same name ({", ".join(names)}). Give each a unique name.')
  return table.to_pylist()
