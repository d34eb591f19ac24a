"""C4 as training text: prefix language modelling, and T5's span corruption.

  c4_{v220,v301}_prefix_lm         the objective of LM adaptation (Lester et al. 2021, section 3.2; Raffel et al. 2020,
                                   section 3.3.1): a text is split at random; the first part is the input, the rest is
                                   the target
  c4_{v220,v301}_span_corruption   T5's pre-training (Raffel et al. 2020, section 3.3.4): 15 % of the tokens are removed
                                   in spans of 3 on average; the input has a sentinel for each span, the target has
                                   each sentinel followed by its span

v220 is TFDS c4/en:2.2.0, the oldest version that TFDS prepares and the closest to T5's; v301 is c4/en:3.0.1, which the
Allen Institute for AI published ready-made (Dodge et al. 2021).

These tasks yield token ids. A document is tokenised and cut into pieces that fill the lengths of inputs and targets;
each piece is an example, and the remainder is a shorter one. Documents are not joined. The random numbers of a piece
are seeded with its document's ids and its index, so the examples are the same every time. There are no metrics: the
loss is the only measure.

The end token is added later but counted here. For the prefix, a piece has L = min(inputs, targets) tokens: each part is
at most L - 1 and the end token. Span corruption removes noise = round(0.15 L) tokens in spans = round(noise / 3), so

  inputs = L - noise + spans + 1,   targets = noise + spans + 1

and L is the largest that fits both and needs at most 100 sentinels. T5's inputs of 512 give L = 568, targets 114.
"""

import functools
import zlib
from collections.abc import Iterator, Mapping

import numpy as np

from prompt_tuning.data import seqio_tasks
from prompt_tuning.data.tasks import Example

VERSIONS = {'v220': '2.2.0', 'v301': '3.0.1'}
NOISE = 0.15
SPAN = 3.0  # tokens, on average
SENTINELS = 100  # the last ids of a vocabulary
LENGTHS = {'inputs': 512, 'targets': 512}  # defaults
_SHORTEST = 2  # tokens of a piece: one input, one target


def prefix_lm(ids: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
  """Splits a piece at a random place and returns both parts; neither is empty.

  Args:
    ids: [L] a piece, L >= 2.
    rng: draws the place.
  """
  cut = int(rng.integers(1, len(ids)))
  return ids[:cut], ids[cut:]


def span_corruption(ids: np.ndarray, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns inputs, with sentinels in place of the removed spans, and targets, the sentinels with their spans.

  A piece begins with kept tokens and ends with a span. The paper's figure 2 has one more sentinel at the end of the
  targets; T5's lengths leave no room for it, so T5 was trained without it and it is omitted here.

  Args:
    ids: [L] a piece, L >= 2.
    rng: draws the spans.
    size: the vocabulary size; the sentinels <extra_id_0>, <extra_id_1>, ... are the last ids, counting down.
  """
  noise, spans = noise_and_spans(len(ids))
  kept, taken = _parts(len(ids) - noise, spans, rng), _parts(noise, spans, rng)
  inputs, targets, start = [], [], 0
  for number, (stay, leave) in enumerate(zip(kept, taken, strict=True)):
    sentinel = [size - 1 - number]
    middle, end = start + stay, start + stay + leave
    inputs += [ids[start:middle], sentinel]
    targets += [sentinel, ids[middle:end]]
    start = end
  return np.concatenate(inputs).astype(ids.dtype), np.concatenate(targets).astype(ids.dtype)


def noise_and_spans(length: int) -> tuple[int, int]:
  """Returns how many of a piece's tokens are removed, and in how many spans."""
  noise = max(1, int(length * NOISE + 0.5))
  return noise, max(1, int(noise / SPAN + 0.5))


@functools.cache
def raw_length(inputs: int, targets: int) -> int:
  """Returns the length of the longest piece whose corrupted inputs and targets, with end tokens, fit.

  Raises:
    ValueError: no piece fits.
  """
  length = _SHORTEST - 1
  while True:
    noise, spans = noise_and_spans(length + 1)
    if length + 1 - noise + spans + 1 > inputs or noise + spans + 1 > targets or spans > SENTINELS:
      break
    length += 1
  _check(length, inputs, targets)
  return length


def pieces(ids: np.ndarray, length: int) -> list[np.ndarray]:
  """Returns a document in pieces of `length` tokens; a remainder of at least 2 tokens is the last piece."""
  found = [ids[start:start + length] for start in range(0, len(ids), length)]
  return [piece for piece in found if len(piece) >= _SHORTEST]


def generator(ids: np.ndarray, number: int) -> np.random.Generator:
  """Returns the random generator of a document's piece: the same for the same ids and number."""
  return np.random.default_rng([zlib.crc32(ids.astype('<i4').tobytes()), number])


def prefix_lm_examples(ids: np.ndarray, lengths: Mapping[str, int], size: int) -> Iterator[Example]:
  """Yields the examples of a document for prefix language modelling; see `seqio_tasks.from_ids`.

  A piece is as long as the shorter of inputs and targets, so both parts fit wherever it is split.
  """
  del size
  inputs, targets = _lengths(lengths)
  length = min(inputs, targets)
  _check(length, inputs, targets)
  for number, piece in enumerate(pieces(ids, length)):
    yield dict(zip(('inputs', 'targets'), prefix_lm(piece, generator(ids, number)), strict=True))


def span_corruption_examples(ids: np.ndarray, lengths: Mapping[str, int], size: int) -> Iterator[Example]:
  """Yields the examples of a document for span corruption; see `seqio_tasks.from_ids`."""
  for number, piece in enumerate(pieces(ids, raw_length(*_lengths(lengths)))):
    yield dict(zip(('inputs', 'targets'), span_corruption(piece, generator(ids, number), size), strict=True))


def _lengths(lengths: Mapping[str, int]) -> tuple[int, int]:
  return tuple(lengths.get(name) or default for name, default in LENGTHS.items())


def _check(length: int, inputs: int, targets: int) -> None:
  if length < _SHORTEST:
    raise ValueError(f'No piece of {_SHORTEST} tokens fits into inputs of {inputs} and targets of {targets} tokens. '
                     'Increase the lengths, for example to 512 and 114.')


def _parts(count: int, parts: int, rng: np.random.Generator) -> np.ndarray:
  """Returns `parts` positive numbers that sum to `count`, uniformly at random."""
  cuts = np.sort(rng.choice(np.arange(1, count), parts - 1, replace=False))
  return np.diff([0, *cuts, count])


def _add() -> None:
  for suffix, version in VERSIONS.items():
    for objective, cut in (('prefix_lm', prefix_lm_examples), ('span_corruption', span_corruption_examples)):
      seqio_tasks.add_text_task(f'c4_{suffix}_{objective}', f'c4/en:{version}', cut, splits=['train', 'validation'])


_add()
