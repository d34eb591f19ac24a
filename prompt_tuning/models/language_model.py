"""A frozen language model as users hold it: text or ids in, logits, scores or text out.

A prompt is anything with `vectors` [P, D], `placement` and `visibility` (`inference.SavedPrompt`), a plain array
[P, D], or a list with one of these, or None, for each row.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from prompt_tuning import layouts
from prompt_tuning.conditioning import Conditioning, StackConditioning, Visibility
from prompt_tuning.losses import log_likelihood
from prompt_tuning.models.generation import Greedy, Sampler, generate
from prompt_tuning.models.parameters import merge
from prompt_tuning.models.t5 import T5
from prompt_tuning.types import Array, Batch, Params

Texts = Sequence[str] | Sequence[Sequence[int]] | np.ndarray
BUCKETS = (8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


def bucket(length: int) -> int:
  """Returns the next of a few lengths, so that few programs are compiled."""
  return next((size for size in BUCKETS if size >= length), -(-length // 512) * 512)


@functools.partial(jax.jit, static_argnames='module')
def apply_model(module: T5, params: Params, batch: Batch, conditioning: Conditioning) -> Array:
  """Returns the logits [B, S, V] of a batch's targets, without dropout."""
  return module.apply({'params': merge(params, conditioning.parameters)}, batch, conditioning)


@functools.partial(jax.jit, static_argnames='module')
def score_batch(module: T5, params: Params, batch: Batch, conditioning: Conditioning) -> Array:
  """Returns [B], the log-likelihood of each row's targets."""
  logits = apply_model(module, params, batch, conditioning)
  return log_likelihood(logits, batch['decoder']['targets'], batch['decoder']['loss_weights'])


@dataclasses.dataclass(frozen=True)
class _Row:
  """One text as ids: what stood in an array of `length`, from `start` on, without the padding around it."""

  ids: list[int]
  start: int
  length: int


@dataclasses.dataclass(frozen=True, eq=False)
class LanguageModel:
  """A frozen model with its vocabulary.

  Attributes:
    module: the Linen module.
    params: θ, layers stacked.
    vocabulary: encodes and decodes texts; None where only ids are used.
    path: where it was read from, for messages and files.
    step: the step of its checkpoint, 0 where it has none.
  """

  module: T5
  params: Params
  vocabulary: Any = None
  path: str = ''
  step: int = 0

  @property
  def width(self) -> int:
    """D."""
    return self.module.config.width

  @property
  def eos_id(self) -> int:
    """The token that ends a text."""
    return 1 if self.vocabulary is None else self.vocabulary.eos_id

  def embeddings(self) -> Array:
    """Returns the embedding [V, D]."""
    return self.params['token_embedder']['embedding']

  def logits(self, inputs: Texts, targets: Texts, prompt: Any = None) -> np.ndarray:
    """Scores every vocabulary entry at every target position.

    Args:
      inputs: texts, or token ids, `[B, T]` padded with 0 on either side or a list of rows.
      targets: likewise; texts get an end token.
      prompt: see the top of this file.

    Returns:
      [B, S, V] float32, aligned with the targets as given; 0 at padding.
    """
    rows = self._rows(targets, 'targets')
    batch, conditioning = self._batch(inputs, [row.ids for row in rows], prompt)
    logits = np.asarray(apply_model(self.module, self.params, batch, conditioning))
    aligned = np.zeros((len(rows), max(row.length for row in rows), logits.shape[-1]), np.float32)
    for b, row in enumerate(rows):
      aligned[b, row.start:row.start + len(row.ids)] = logits[b, :len(row.ids)]
    return aligned

  def score(self, inputs: Texts, targets: Texts, prompt: Any = None) -> np.ndarray:
    """Returns [B], the log-likelihood of each target given its input."""
    batch, conditioning = self._batch(inputs, [row.ids for row in self._rows(targets, 'targets')], prompt)
    return np.asarray(score_batch(self.module, self.params, batch, conditioning))[:len(inputs)]

  def predict(self, inputs: Texts, prompt: Any = None, *, sampler: Sampler = Greedy(), max_length: int = 64,
              batch_size: int = 32, seed: int = 0) -> list[Any]:
    """Answers each input.

    Args:
      inputs: texts, or token ids (with their end token where the model expects one).
      prompt: see the top of this file.
      sampler: how tokens are chosen: `Greedy()`, `Sampling(...)` or `BeamSearch(...)`; the best sequence counts.
      max_length: the most tokens of an answer.
      batch_size: how many inputs are run together.
      seed: for samplers that draw.

    Returns:
      A text for each input, or, where ids were given, an array of ids without the end token.
    """
    if inputs is None:
      self._rows(inputs, 'inputs')
    answers = []
    given_text = len(inputs) > 0 and isinstance(inputs[0], str)
    for start in range(0, len(inputs), batch_size):
      part = inputs[start:start + batch_size]
      chosen = prompt[start:start + batch_size] if isinstance(prompt, (list, tuple)) else prompt
      batch, conditioning = self._batch(part, [[] for _ in part], chosen, first_id=start)
      tokens, _ = generate(self.module, self.params, batch, conditioning, jax.random.key(seed), sampler=sampler,
                           max_length=max_length, eos_id=self.eos_id)
      for ids in np.asarray(tokens)[:len(part), -1]:
        answers.append(self.vocabulary.decode(ids.tolist()) if given_text else self._until_end(ids))
    return answers

  def _until_end(self, ids: np.ndarray) -> np.ndarray:
    ends = np.flatnonzero(ids == self.eos_id)
    return ids[:ends[0]] if len(ends) else ids

  def _rows(self, texts: Texts, what: str) -> list[_Row]:
    if texts is None:
      raise ValueError(f'{what} is None, but this model reads inputs with its encoder and targets with its decoder. '
                       'Give texts or token ids.')
    if isinstance(texts, str):
      raise ValueError(f'Found one text where a list of texts was wanted as {what}. Write [text].')
    if len(texts) == 0:
      raise ValueError(f'{what} is empty. Give at least one row.')
    rows = []
    for text in texts:
      if isinstance(text, str):
        if self.vocabulary is None:
          raise ValueError('This model was loaded without a vocabulary, so it takes token ids, not text. '
                           'Give load_model(..., vocabulary=...).')
        ids = [*self.vocabulary.encode(text), self.eos_id]
        rows.append(_Row(ids, 0, len(ids)))
        continue
      ids = np.asarray(text, np.int32)
      if ids.ndim != 1:
        raise ValueError(f'Found one row of token ids where a list of rows was wanted as {what}. Write [ids].')
      real = np.flatnonzero(ids)
      first, last = (int(real[0]), int(real[-1]) + 1) if len(real) else (0, 0)
      rows.append(_Row(ids[first:last].tolist(), first, len(ids)))
    size = self.module.config.vocab_size
    for b, row in enumerate(rows):
      wrong = [i for i in row.ids if not 0 <= i < size]
      if wrong:
        raise ValueError(f'Row {b} of {what} holds the token id {wrong[0]}, but the model has {size} rows in its '
                         'embedding. Use the vocabulary that belongs to this model.')
    return rows

  def _batch(self, inputs: Texts, targets: Sequence[Sequence[int]], prompt: Any,
             first_id: int = 0) -> tuple[Batch, Conditioning]:
    rows = self._rows(inputs, 'inputs')
    if len(rows) != len(targets):
      raise ValueError(f'Found {len(rows)} inputs and {len(targets)} targets. Give one target for each input.')
    chosen, conditioning = collect_prompts(prompt, len(rows), self.width)
    examples = []
    for row, target, (prompt_id, length, placement) in zip(rows, targets, chosen, strict=True):
      layout = layouts.Layout(placement=placement)
      examples.append([layout.example(row.ids, target, prompt_length=length, prompt_id=prompt_id)])
    rows_to_fill = 1 << (len(examples) - 1).bit_length()  # few batch sizes, so few programs
    examples += [[]] * (rows_to_fill - len(examples))
    lengths = {stack: bucket(max([len(row[0][stack]['tokens']) for row in examples if row]))
               for stack in ('encoder', 'decoder')}
    return layouts.assemble(examples, lengths, first_id=first_id), conditioning


def collect_prompts(prompt: Any, count: int, width: int) -> tuple[list[tuple[int, int, Any]], Conditioning]:
  """Gathers the prompts of a batch's rows.

  Args:
    prompt: one for all rows, a list with one (or None) for each, or None.
    count: B.
    width: D.

  Returns:
    For each row which prompt it uses, that prompt's length (0 is none) and placement; and the Conditioning with
    all of them, `[N, P, D]`, shorter ones filled up.

  Raises:
    ValueError: a prompt does not fit the model, or two prompts differ in visibility.
  """
  rows = list(prompt) if isinstance(prompt, (list, tuple)) else [prompt] * count
  if len(rows) != count:
    raise ValueError(f'Found {len(rows)} prompts for {count} rows. Give one for each row (None for no prompt), '
                     'or a single one for all.')
  distinct: dict[int, Any] = {id(each): each for each in rows if each is not None}
  if not distinct:
    return [(0, 0, layouts.before)] * count, Conditioning()
  vectors, seen = [], set()
  for each in distinct.values():
    array = jnp.asarray(getattr(each, 'vectors', each), jnp.float32)
    if array.ndim != 2 or array.shape[1] != width:
      raise ValueError(f'The prompt has shape {tuple(array.shape)}, but the model wants [P, {width}]. '
                       'Load one that was trained for this model.')
    vectors.append(array)
    seen.add(getattr(each, 'visibility', Visibility()))
  if len(seen) > 1:
    raise ValueError('The prompts of one batch see different things (their visibility differs). '
                     'Run them in separate batches.')
  longest = max(len(array) for array in vectors)
  table = jnp.stack([jnp.pad(array, ((0, longest - len(array)), (0, 0))) for array in vectors])
  numbers = {key: n for n, key in enumerate(distinct)}
  chosen = [(0, 0, layouts.before) if each is None else
            (numbers[id(each)], len(vectors[numbers[id(each)]]), getattr(each, 'placement', layouts.before))
            for each in rows]
  return chosen, Conditioning(encoder=StackConditioning(prompt=table, visibility=seen.pop()))
