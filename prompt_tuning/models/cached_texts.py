"""Keys and values of texts, computed once and cached for every step whose rows follow these texts.

In a decoder-only model a text never sees what comes after it, so its keys and values are exact for every prompt and
every epoch.
"""

import collections
import functools
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from absl import logging

from prompt_tuning.data.tasks import Mixture, Task
from prompt_tuning.files import storage
from prompt_tuning.models.compiled import read_batch
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.models.text_rows import bucket
from prompt_tuning.rows import layouts
from prompt_tuning.types import Array, Batch

# Texts that are read together: always this many, so that the bits of a text do not depend on the other texts.
_ROWS = 8


class CachedTexts:
  """The keys and values of texts, by token ids: each is computed once, without dropout, and kept on the host.

  Texts beyond the memory limit go to an unnamed, memory-mapped file. It disappears with the process, however that ends:
  reading a text again costs less than a step without the cache, and no stale file can be found.

  Args:
    model: a decoder-only model.
    folder: the folder for the file, if one is needed; the system's temporary folder is used instead of `gs://`.
    memory_limit: bytes kept in memory.

  Attributes:
    read: how many texts the model has read.
    in_memory: bytes in memory.
    on_disk: bytes on disk.
  """

  def __init__(self, model: LanguageModel, folder: str, *, memory_limit: int):
    if memory_limit < 0:
      raise ValueError(f'cache_limit={memory_limit} cannot be used: expected a number of bytes of at least 0. Give 0 '
                       'to keep all cached texts on disk.')
    self._model, self._limit = model, memory_limit
    self._folder = tempfile.gettempdir() if storage.is_remote(folder) else folder
    self._kept: dict[bytes, np.ndarray | int] = {}  # ids -> [2, L, kv_heads, S, K], or its offset in the file
    self.read, self.in_memory, self.on_disk = 0, 0, 0

  def of(self, texts: Mapping[str, Array]) -> dict[str, np.ndarray]:
    """Returns 'keys' and 'values' [B, L, kv_heads, S, K] of a batch's texts, and 'seen' [B, S], True for tokens.

    Args:
      texts: the stack 'context' of a batch, `tokens` and `segments` [B, S].

    Raises:
      OSError: the disk is full.
    """
    rows = [tokens[segments > 0] for tokens, segments in zip(texts['tokens'], texts['segments'], strict=True)]
    self._read({row.tobytes(): row for row in rows if row.tobytes() not in self._kept}.values())
    found = [self._find(row) for row in rows]
    _, layers, heads, _, width = found[0].shape
    length = texts['tokens'].shape[1]
    keys, values = (np.zeros((len(rows), layers, heads, length, width), found[0].dtype) for _ in range(2))
    for b, (row, each) in enumerate(zip(rows, found, strict=True)):
      keys[b, :, :, :len(row)], values[b, :, :, :len(row)] = each
    return {'keys': keys, 'values': values, 'seen': np.arange(length) < np.array([[len(row)] for row in rows])}

  def _read(self, texts: Iterable[np.ndarray]) -> None:
    groups = collections.defaultdict(list)
    for ids in texts:
      groups[self._padded(len(ids))].append(ids)
    layout = self._model.layout(layouts.Layout(started=False))  # the texts already have their begin token
    for length, group in groups.items():
      for first in range(0, len(group), _ROWS):
        part = group[first:first + _ROWS]
        rows = [[layout.question(ids)] if len(ids) else [] for ids in part] + [[]] * (_ROWS - len(part))
        batch = layouts.assemble(rows, {layout.target_stack: length})
        context = read_batch(self._model.module, self._model.params, batch)
        both = np.stack(jax.device_get((context.keys, context.values)))
        for b, ids in enumerate(part):
          self._keep(ids, both[:, :, b, :, :len(ids)])

  def _padded(self, length: int) -> int:
    return min(bucket(length), self._model.module.config.position_limit or bucket(length))

  def _keep(self, ids: np.ndarray, both: np.ndarray) -> None:
    self.read += 1
    if self.in_memory + both.nbytes <= self._limit:
      self.in_memory += both.nbytes
      self._kept[ids.tobytes()] = np.array(both)  # a copy: a view would keep the whole batch in memory
      return
    try:
      self._file.seek(self.on_disk)
      self._file.write(both.tobytes())
    except OSError as error:
      raise OSError(error.errno, f'{self._folder} has no room for the cached texts ({error.strerror}): '
                    f'{self.on_disk:,} bytes of them are there, and {self.in_memory:,} in memory. Free space, increase '
                    'cache_limit=, or leave out cached=True.') from error
    self._kept[ids.tobytes()] = self.on_disk
    self._dtype = both.dtype
    self.on_disk += both.nbytes

  @functools.cached_property
  def _file(self) -> Any:
    logging.info('The cached texts exceed %d bytes of memory: further ones go to a file in %s.', self._limit,
                 self._folder)
    file = tempfile.TemporaryFile(dir=self._folder, buffering=0)
    weakref.finalize(self, file.close)
    return file

  def _find(self, ids: np.ndarray) -> np.ndarray:
    kept = self._kept[ids.tobytes()]
    if isinstance(kept, np.ndarray):
      return kept
    layers, heads, width = self._model.prefix_shapes()['decoder']
    shape = (2, layers, heads, len(ids), width)
    return np.memmap(self._file, self._dtype, 'r', kept, shape)


class BehindCachedTexts:
  """Batches with the cached keys and values of their texts as the stack 'context', on the device."""

  def __init__(self, batches: Any, texts: CachedTexts):
    self._batches, self._texts = batches, texts
    self.state, self.restore = batches.state, batches.restore

  @property
  def truncated(self) -> Mapping[str, int]:
    """How many texts were truncated, as the original batches report it."""
    return self._batches.truncated

  def __iter__(self) -> Iterator[Batch]:
    return self

  def __next__(self) -> Batch:
    batch = next(self._batches)
    return {**batch, 'context': jax.device_put(self._texts.of(batch['context']))}


def require_cacheable(task: Task | Mixture, split: str, *, packed: bool, mesh: Any = None) -> None:
  """Raises ValueError if texts cannot be cached: rows are packed, the task is endless, or there are several devices.
  """
  if mesh is not None:
    raise ValueError(f'cached=True cannot be used: the model is spread over {mesh.size} devices, and each would read '
                     'different texts. Run it on one device, or leave out cached=True.')
  if packed:
    raise ValueError('packed=True cannot be used: the texts before the rows are cached, one for each row, but a packed '
                     'row holds several examples. Leave out packed=True, or cached=True.')
  endless = [each.name for each, _ in task.parts(split) if hasattr(each.split(split), 'draw')]
  if endless:
    raise ValueError(f'cached=True cannot be used: {", ".join(endless)} draws examples without end, so few texts '
                     'would be read again. Use a task with a fixed number of examples, or leave out cached=True.')
