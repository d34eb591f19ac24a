"""Texts and token ids, as users give them, read as rows of ids."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from prompt_tuning.data import vocabulary as vocabularies
from prompt_tuning.rows.layouts import Layout

Texts = Sequence[str] | Sequence[Sequence[int]] | np.ndarray
BUCKETS = (8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


def bucket(length: int) -> int:
  """Returns the next of a few lengths, so that few programs need to be compiled."""
  return next((size for size in BUCKETS if size >= length), -(-length // 512) * 512)


@dataclasses.dataclass(frozen=True)
class Row:
  """One text as ids without padding; it began at `start` in an array of `length`."""

  ids: list[int]
  start: int
  length: int


def text_rows(texts: Texts, what: str, *, vocabulary: Any, layout: Layout, size: int,
              started: bool = True) -> list[Row]:
  """Returns texts or token ids as rows of ids.

  Args:
    texts: texts, or token ids `[B, T]` padded with 0 on either side, or a list of rows of ids.
    what: 'inputs', 'targets' or 'texts'; determines the tokens added to texts, and is used in messages.
    vocabulary: the model's, or None.
    layout: the model's, which determines whether inputs have an end token.
    size: V, rows of the embedding.
    started: inputs get their begin token; False if they follow a context.

  Raises:
    ValueError: there are no rows, or a row is neither a text nor ids of this model.
  """
  if texts is None:
    raise ValueError(f'{what}=None cannot be used here. Give texts or token ids.')
  if isinstance(texts, str):
    raise ValueError(f'{what} is a single text, expected a list of texts. Write [text].')
  if len(texts) == 0:
    raise ValueError(f'{what} is empty. Give at least one row.')
  rows = []
  for text in texts:
    if isinstance(text, str):
      if vocabulary is None:
        raise ValueError('This model was loaded without a vocabulary, so it takes token ids, not text. '
                         'Give load_model(..., vocabulary=...), or let transformers make its tokenizer.json: '
                         'AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER).')
      ends = what == 'targets' or (what == 'inputs' and layout.input_ends)
      ids = vocabulary.encode(text)
      ids = ids if what == 'targets' or not started else vocabularies.started(ids, vocabulary)
      ids = [*ids, *([vocabulary.eos_id] if ends else [])]
      rows.append(Row(ids, 0, len(ids)))
      continue
    ids = np.asarray(text, np.int32)
    if ids.ndim != 1:
      raise ValueError(f'{what} is a single row of token ids, expected a list of rows. Write [ids].')
    real = np.flatnonzero(ids)
    first, last = (int(real[0]), int(real[-1]) + 1) if len(real) else (0, 0)
    rows.append(Row(ids[first:last].tolist(), first, len(ids)))
  for b, row in enumerate(rows):
    wrong = [i for i in row.ids if not 0 <= i < size]
    if wrong:
      raise ValueError(f'Row {b} of {what} holds the token id {wrong[0]}, but the embedding of the model has {size} '
                       'rows. Use the vocabulary of this model.')
  return rows
