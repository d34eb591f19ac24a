"""What examples look like: rows as the model reads them, lengths, labels, what is cut, and duplicates."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from prompt_tuning.data.preprocessing import FEATURES, Preprocessor, row_lengths
from prompt_tuning.data.tasks import Example, Task
from prompt_tuning.data.token_texts import TokenTexts
from prompt_tuning.evaluation import predictions
from prompt_tuning.names import printable
from prompt_tuning.rows.layouts import Layout, assemble

_WIDTH = 40  # of a histogram's longest bar
_BINS = 10
_LABELS = 30  # so many different targets are labels
_SHOWN = 60  # tokens of a row that are shown


@dataclasses.dataclass(frozen=True)
class Split:
  """The examples of a split that are looked at.

  Attributes:
    name: the split.
    examples: the first of it.
    count: how many it has; None if it is endless.
  """

  name: str
  examples: Sequence[Example]
  count: int | None

  def __str__(self) -> str:
    if self.count is None:
      return f'{self.name} endless, of which {len(self.examples):,} are looked at'
    looked = f', of which the first {len(self.examples):,} are looked at' if self.count > len(self.examples) else ''
    return f'{self.name} {self.count:,}{looked}'


def splits_of(task: Task, most: int) -> list[Split]:
  """Returns the first examples of each split that is not the whole of the others; empty splits are left out."""
  found = []
  for name, examples in task.splits.items():
    if name == 'all' and len(task.splits) > 1:
      continue
    endless = hasattr(examples, 'draw')
    drawn = examples.draw(0) if endless else examples
    count = min(most, 1000) if endless else min(most, len(examples))
    if count:
      found.append(Split(name, [drawn[i] for i in range(count)], None if endless else len(examples)))
  return found


def rows(examples: Sequence[Example], vocabulary: Any, layout: Layout, lengths: Mapping[str, int]) -> Iterator[str]:
  """Yields lines that show laid-out examples: prompt positions and padding in brackets, learnt tokens in «».

  Args:
    examples: the examples.
    vocabulary: the model's.
    layout: the layout of training.
    lengths: most tokens of 'inputs' and 'targets'.
  """
  lay_out = Preprocessor(vocabulary, layout, lengths)
  shown = functools.partial(_shown, vocabulary, TokenTexts(vocabulary))
  laid_out, cut = [], []
  for example in examples:
    before = dict(lay_out.truncated)
    laid_out.append([lay_out(example)])
    cut.append(''.join(f', {name} cut' for name in FEATURES if lay_out.truncated[name] > before[name]))
  batch = assemble(laid_out, row_lengths(layout, lengths))
  for i, example in enumerate(examples):
    weight = example.get('loss_weight', 1.0)
    yield f'Example {i + 1}{cut[i]}' + (f', loss weight {weight:g}' if weight != 1 else '')
    for stack, arrays in batch.items():
      if isinstance(arrays, Mapping):
        row = {name: np.asarray(array[i]) for name, array in arrays.items()}
        yield f'  {stack:8} {_row(row, shown, layout, stack)}'


def _row(row: Mapping[str, np.ndarray], shown: Callable[[Any], str], layout: Layout, stack: str) -> str:
  """Returns one row as text, given what shows a token."""
  if 'targets' in row and len(layout.stacks) > 1:  # what is learnt comes from the targets; tokens are these, shifted
    used, padding = int((row['segments'] > 0).sum()), int((row['segments'] == 0).sum())
    items = [(shown(token), weight > 0)
             for token, weight in zip(row['targets'][:used], row['loss_weights'][:used], strict=True)]
    return _joined(items) + f' [padding {padding}]' * bool(padding)
  items: list[tuple[str, bool]] = []
  if layout.in_front and layout.prompt_length and stack == layout.target_stack:
    items.append((f'[prompt {layout.prompt_length}]', False))
  kinds = ['padding' if segment == 0 else 'prompt' if slot >= 0 else 'token' for segment, slot in zip(
    row['segments'], row.get('prompt_slots', np.full(len(row['tokens']), -1)), strict=True)]
  learnt = row['loss_weights'] > 0 if 'loss_weights' in row else np.zeros(len(kinds), bool)
  for at, kind in enumerate(kinds):
    if kind == 'token':
      text = f'[vector of {row["features"].shape[-1]}]' if 'features' in row else shown(row['tokens'][at])
      items.append((text, at > 0 and bool(learnt[at - 1])))
    elif at == 0 or kinds[at - 1] != kind:
      run = next((end for end in range(at, len(kinds)) if kinds[end] != kind), len(kinds)) - at
      items.append((f'[{kind} {run}]', False))
    if learnt[at] and (at + 1 == len(kinds) or kinds[at + 1] == 'padding'):  # predicted, and not read again
      items.append((shown(row['targets'][at]), True))
  return _joined(items)


def _joined(items: Sequence[tuple[str, bool]]) -> str:
  """Returns the pieces of a row, without the middle of a long one; neighbours that are learnt share their marks."""
  if len(items) > _SHOWN:
    half = _SHOWN // 2
    left = len(items) - 2 * half
    items = [*items[:half], (f'[… {left} more …]', False), *items[-half:]]
  text = ''
  for at, (piece, learnt) in enumerate(items):
    before = at > 0 and items[at - 1][1]
    after = at + 1 < len(items) and items[at + 1][1]
    text += ' ' * (at > 0) + '«' * (learnt and not before) + piece + '»' * (learnt and not after)
  return text


def _shown(vocabulary: Any, texts: TokenTexts, token: Any) -> str:
  """Returns a token as text, with ▁ for a space, and the bytes of a part of a character, such as <0xE2>."""
  piece, found = vocabulary.piece(int(token)), texts.bytes_of(int(token))
  try:
    text = found.decode()
  except UnicodeDecodeError:
    return ''.join(f'<0x{byte:02X}>' for byte in found)
  return printable(piece if piece == text.strip() else text.replace(' ', '▁'))


def token_counts(examples: Sequence[Example], vocabulary: Any, layout: Layout) -> dict[str, list[int]]:
  """Returns the tokens of the inputs and of the targets that are not cut, end token included."""
  count = Preprocessor(vocabulary, layout, {})
  ids = [count.ids(example) for example in examples]
  return {name: [len(each[i]) for each in ids] for i, name in enumerate(FEATURES)}


def histogram(name: str, counts: Sequence[int], most: int | None) -> Iterator[str]:
  """Yields the lines of a histogram of lengths, and how many are longer than `most`."""
  middle, high, higher = (int(np.percentile(counts, share, method='higher')) for share in (50, 95, 99))
  yield f'Tokens of {name}: {min(counts)} to {max(counts)}, median {middle}, 95 % up to {high}, 99 % up to {higher}'
  width = max(1, -(-(max(counts) - min(counts) + 1) // _BINS))
  bins = collections.Counter((count - min(counts)) // width for count in counts)
  for i in range(max(bins) + 1):
    first = min(counts) + i * width
    span = f'{first}' if width == 1 else f'{first}-{first + width - 1}'
    yield f'  {span:>13} {"█" * -(-bins[i] * _WIDTH // max(bins.values()))} {bins[i]:,}'
  if most is not None and (cut := sum(count > most for count in counts)):
    yield f'  {cut:,} of {len(counts):,} are longer than {most} and would be cut: max_{name[:-1]}_length={most}'


def labels(splits: Sequence[Split], vocabulary: Any) -> Iterator[str]:
  """Yields a table of the targets by split, if there are few different ones."""
  counts = {each.name: collections.Counter(_text(example, 'targets', vocabulary) for example in each.examples
                                           if 'targets' in example) for each in splits}
  texts = sorted({text for counter in counts.values() for text in counter})
  total = sum(counter.total() for counter in counts.values())
  if not texts or len(texts) > min(_LABELS, total / 2):
    return
  width = max(len(_quoted(text)) for text in texts)
  yield f'{"Target":{width}}' + ''.join(f'  {name:>18}' for name in counts)
  for text in texts:
    yield f'{_quoted(text):{width}}' + ''.join(
      f'  {counter[text]:>9,} ({counter[text] / max(1, counter.total()):>5.1%})' for counter in counts.values())
  missing = [text for text in texts if not counts[splits[0].name][text]]
  if missing:
    yield f'Warning: {splits[0].name} has no target {", ".join(map(_quoted, missing[:5]))}.'


def duplicates(splits: Sequence[Split], vocabulary: Any) -> Iterator[str]:
  """Yields how many examples occur twice in a split, with other targets, or in two splits."""
  keys = {each.name: [(_text(example, 'inputs', vocabulary), _text(example, 'targets', vocabulary))
                      for example in each.examples] for each in splits}
  for name, pairs in keys.items():
    again = len(pairs) - len(set(pairs))
    if again:
      (text, _), _ = collections.Counter(pairs).most_common(1)[0]
      yield f'{name}: {again:,} of {len(pairs):,} examples repeat an earlier one, such as {_quoted(text)}'
    targets: dict[str, set[str]] = {}
    for text, target in pairs:
      targets.setdefault(text, set()).add(target)
    several = [text for text, found in targets.items() if len(found) > 1]
    if several:
      yield f'{name}: {len(several):,} inputs have several targets, such as {_quoted(several[0])}'
  names = list(keys)
  for i, name in enumerate(names):
    for other in names[i + 1:]:
      known = {text for text, _ in keys[name]}
      both = [text for text, _ in keys[other] if text in known]
      if both:
        yield (f'{other}: {len(both):,} of {len(keys[other]):,} inputs are in {name} too, such as {_quoted(both[0])}')


def _quoted(text: str) -> str:
  return repr(text if len(text) <= 60 else f'{text[:59]}…')


def _text(example: Example, feature: str, vocabulary: Any) -> str:
  """Returns the text of an example's inputs or targets; of vectors, a text that equal ones share."""
  value = example.get(feature, '')
  return np.asarray(value).tobytes().hex() if np.ndim(value) == 2 else predictions.text_of(example, feature, vocabulary)
