"""Texts and token ids, as users give them, read as rows of ids."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from prompt_tuning.data import vocabulary as vocabularies
from prompt_tuning.rows.layouts import Layout
from prompt_tuning.rows.token_ids import require_ids
from prompt_tuning.rows.turns import Turns

Texts = Sequence[str] | Sequence[Sequence[int]] | np.ndarray
BUCKETS = (8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


def bucket(length: int) -> int:
  """Returns the next of a few lengths, so that few programs need to be compiled."""
  return next((size for size in BUCKETS if size >= length), -(-length // 512) * 512)


@dataclasses.dataclass(frozen=True)
class Row:
  """One text as ids without padding; it began at `start` in an array of `length`."""

  ids: list[int] | Turns
  start: int
  length: int


def text_rows(texts: Texts, what: str, *, vocabulary: Any, layout: Layout, size: int,
              started: bool = True, mask: Any = None, ends: bool = True) -> list[Row]:
  """Returns texts or token ids as rows of ids.

  Args:
    texts: texts; a list of rows of ids, or of `Turns`, which are read as they are; or an array of ids [B, T], padded
      on either side with the vocabulary's padding token, or as the mask says.
    what: 'inputs', 'targets' or 'texts'; determines the tokens added to texts, and is used in messages.
    vocabulary: the model's, or None.
    layout: the model's, which determines whether inputs have an end token.
    size: V, rows of the embedding.
    started: inputs get their begin token; False if they follow a context.
    mask: [B, T], 1 for the tokens of an array and 0 for its padding, as tokenizers return it.
    ends: texts of targets get their end token.

  Raises:
    ValueError: there are no rows, a row is neither a text nor ids of this model, or the mask does not fit.
  """
  if texts is None:
    raise ValueError(f'{what}=None cannot be used here. Give texts or token ids.')
  if isinstance(texts, str):
    raise ValueError(f'{what} is a single text, expected a list of texts. Write [text].')
  if len(texts) == 0:
    raise ValueError(f'{what} is empty. Give at least one row.')
  if mask is not None or getattr(texts, 'ndim', 1) == 2:
    rows = _unpadded(texts, what, mask, vocabulary)
  else:
    adds_end = ends and (what == 'targets' or (what == 'inputs' and layout.input_ends))
    found = [_text_ids(text, what, vocabulary, started, adds_end) if isinstance(text, str) else _given_ids(text, what)
             for text in texts]
    rows = [Row(ids, 0, len(ids)) for ids in found]
  for b, row in enumerate(rows):
    require_ids(row.ids, size, f'Row {b} of {what}')
  return rows


def _text_ids(text: str, what: str, vocabulary: Any, started: bool, adds_end: bool) -> list[int]:
  """Returns the ids of a text, with its begin and end tokens."""
  if vocabulary is None:
    raise ValueError('This model was loaded without a vocabulary, so it takes token ids, not text. '
                     'Give load_model(..., vocabulary=...), or let transformers make its tokenizer.json: '
                     'AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER).')
  ids = vocabulary.encode(text)
  if started and what != 'targets':
    ids = vocabularies.started(ids, vocabulary)
  return [*ids, vocabulary.eos_id] if adds_end else list(ids)


def _given_ids(row: Any, what: str) -> list[int] | Turns:
  """Returns a row of ids as it is."""
  if isinstance(row, int | np.integer):
    raise ValueError(f'{what} is a single row of token ids, expected a list of rows. Write [ids].')
  if isinstance(row, Turns):
    return row
  ids = np.asarray(row)
  if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
    raise ValueError(f'{what} holds {row!r:.60}, expected texts, or rows of token ids.')
  return ids.tolist()


def _unpadded(texts: Any, what: str, mask: Any, vocabulary: Any) -> list[Row]:
  """Returns the rows of an array of ids, without its padding."""
  if isinstance(texts, list | tuple) and len({np.size(row) for row in texts}) > 1:
    raise ValueError(f'{what} with a mask must be an array of token ids [B, T], found rows of several lengths. Lists '
                     'of rows need no mask.')
  ids = np.asarray(texts)
  if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
    raise ValueError(f'{what} with a mask must be an array of token ids [B, T], found the shape {ids.shape} of '
                     f'{ids.dtype}. Lists of rows need no mask.')
  if mask is not None:
    real = np.asarray(mask) != 0
    if real.shape != ids.shape:
      raise ValueError(f'mask has the shape {real.shape}, but {what} has {ids.shape}. Give one value for each id.')
  elif vocabulary is None:
    if (ids[:, [0, -1]] == 0).any():
      raise ValueError(f'{what} is an array with rows that begin or end with 0, and without a vocabulary nothing tells '
                       'whether that is padding. Give mask=, or a list of rows.')
    real = np.ones(ids.shape, bool)
  else:
    real = ids != vocabulary.pad_id
    if what == 'targets' and vocabulary.pad_id in vocabulary.end_ids:  # the first one ends the target
      real[:, 1:] |= real[:, :-1]
  rows = []
  for b, (row, own) in enumerate(zip(ids, real, strict=True)):
    places = np.flatnonzero(own)
    first, last = (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)
    if mask is not None and last - first > len(places):
      raise ValueError(f'mask is 0 within row {b} of {what}. It may be 0 before and after the tokens only.')
    rows.append(Row(row[first:last].tolist(), first, len(row)))
  return rows
