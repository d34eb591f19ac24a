"""Tables of the Hugging Face hub, at addresses `hf://datasets/OWNER/NAME`.

  hf://datasets/OWNER/NAME               the split train of the data set
  hf://datasets/OWNER/NAME/CONFIG:SPLIT  another split; some data sets have several configurations, by name
  hf://datasets/OWNER/NAME/FOLDER/FILE   a file of the repository: .jsonl, .tsv, .csv or .parquet

`@REVISION` may follow NAME. Data sets are read with `datasets`, single files with huggingface_hub
(`pip install '.[hub]'`); none runs code of a repository.
"""

import functools
import os
import re
from typing import Any

from absl import logging

from prompt_tuning.data.tasks import FILE_ENDINGS, HUB
from prompt_tuning.files import hub, terminal

_ADDRESS = re.compile(re.escape(HUB) + r'([^/@:]+/[^/@:]+)(?:@([^:/]+))?(?:/([^:]+))?(?::([^/]+))?')
_EXAMPLE = f'{HUB}OWNER/NAME, {HUB}OWNER/NAME/CONFIG:SPLIT or {HUB}OWNER/NAME/FILE.parquet'


def local_file(address: str) -> str | None:
  """Returns the local path of a file of a repository, which is fetched; None if the address is that of a data set.

  Raises:
    ImportError: huggingface_hub is not installed.
    OSError: there is no such file, or it cannot be read.
    ValueError: the address cannot be read.
  """
  name, revision, rest, split = _parsed(address)
  if rest is None or not rest.removesuffix('.gz').endswith(FILE_ENDINGS):
    return None
  if split is not None:
    raise ValueError(f'{address} names the split {split!r} of a file, which has none. Leave :{split} out.')
  path = os.path.join(hub.fetch(name + (f'@{revision}' if revision else ''), (rest,), 'dataset'), rest)
  if not os.path.exists(path):
    raise FileNotFoundError(f'{address}: the data set {name} has no file {rest}. Give one that it has, or '
                            f'{HUB}{name} for its split train.')
  return path


@functools.lru_cache(maxsize=4)  # a run reads its examples several times
def read(address: str) -> list[dict[str, Any]]:
  """Returns the rows of a split of a data set as dicts of its columns.

  Raises:
    ImportError: datasets is not installed.
    OSError: the data set cannot be read; the message says why.
    ValueError: the address cannot be read.
  """
  try:
    import datasets
  except ImportError as error:
    raise ImportError(f"{address} is read with datasets, which is not installed: `pip install '.[hub]'`.") from error
  name, revision, config, split = _parsed(address)
  if not terminal.is_terminal():
    datasets.disable_progress_bars()  # a file or a pipe has no use for them
  try:
    found = datasets.load_dataset(name, config, split=split or 'train', revision=revision)
    rows = found.to_list()
  except Exception as error:  # whatever the library, its HTTP client or the files' readers raise
    reason = str(error).strip().splitlines() or ['']
    raise OSError(f'{address} cannot be read ({type(error).__name__}: {reason[0]}). Check the name, the configuration '
                  f'and the split, written as {_EXAMPLE}; without network, only what datasets has in its cache is '
                  'read.') from error
  others = [each for each in found.info.splits or () if each != str(found.split)]
  if split is None and others:
    start = address if ':' not in address.removeprefix(HUB) else address.rpartition(':')[0]
    logging.warning('%s: the split train is read. The data set also has %s, which is read only where it is named, as '
                    'in validation=%s:%s.', address, ', '.join(others), start, others[0])
  return rows


def _parsed(address: str) -> tuple[str, str | None, str | None, str | None]:
  """Returns name, revision, configuration or file, and split."""
  match = _ADDRESS.fullmatch(address)
  if match is None:
    raise ValueError(f'{address} is not the address of a data set. Give {_EXAMPLE}.')
  name, revision, rest, split = match.groups()
  return name, revision, rest, split
