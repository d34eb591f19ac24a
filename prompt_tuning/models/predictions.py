"""Generation as users drive it: a batch of inputs whose answers grow by any number of tokens, and the answers."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from prompt_tuning.decoding.samplers import BeamSearch, Greedy, Sampler, Sampling
from prompt_tuning.models import generation
from prompt_tuning.models.text_rows import bucket
from prompt_tuning.names import require_number
from prompt_tuning.rows.conditioning import Conditioning
from prompt_tuning.types import Batch

_PIECE = 8  # tokens that are generated before stop texts are looked for


@dataclasses.dataclass(frozen=True)
class Prediction:
  """One answer.

  Attributes:
    text: the answer up to its end token or stop text, neither included; None without a vocabulary.
    ids: [S] the generated tokens, with the end token or those of the stop text, if the answer ended with one.
    ended: why it ended: 'end' (token), 'stop' (text) or 'length'.
    log_probs: [S] the model's log-probabilities of the tokens, whatever distribution they were drawn from.
    top_ids: [S, K] the likeliest tokens at each place, the likeliest first.
    top_log_probs: [S, K].
  """

  text: str | None
  ids: np.ndarray
  ended: str
  log_probs: np.ndarray | None = None
  top_ids: np.ndarray | None = None
  top_log_probs: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Asked:
  """What is asked for, of all inputs alike or with a value for each.

  Attributes:
    max_length: most generated tokens, end token included.
    seed: of the noise; one seed for all is combined with an input's number, so that inputs differ.
    stop: texts that end an answer; a list of texts, or one for each input.
    top: K, the likeliest tokens that are kept at each place; 0 keeps no scores.

  Raises:
    ValueError: a value cannot be used.
  """

  max_length: int | Sequence[int] = 64
  seed: int | Sequence[int] = 0
  stop: Sequence[str] | Sequence[Sequence[str]] = ()
  top: int = 0

  def __post_init__(self) -> None:
    for name, limits in (('max_length', {'least': 1}), ('seed', {'least': 0, 'below': 2**32})):
      value = getattr(self, name)
      for each in value if _is_list(value) else [value]:
        require_number(name, each, whole=True, **limits)
    texts = [text for each in self.stop for text in (each if _is_list(each) else [each])]
    if isinstance(self.stop, str) or not all(isinstance(text, str) and text for text in texts):
      raise ValueError(f'stop={self.stop!r:.80} cannot be used: expected a list of texts of at least one character.')

  @property
  def has_own_seeds(self) -> bool:
    """Whether every input has a seed of its own."""
    return _is_list(self.seed)

  def of(self, own: range, count: int) -> 'Asked':
    """Returns what is asked for some of `count` inputs, with a list of texts, and a length, for each."""
    stops = self.stop if any(map(_is_list, self.stop)) else [list(self.stop)] * count
    lengths = self.max_length if _is_list(self.max_length) else [self.max_length] * count
    return Asked(_part('max_length', lengths, own, count),
                 _part('seed', self.seed, own, count) if self.has_own_seeds else self.seed,
                 _part('stop', stops, own, count), self.top)


def of_rows(sampler: Sampler, own: range, count: int) -> Sampler:
  """Returns a sampler for some of `count` inputs; fields with a value for each input keep those of these inputs."""
  return jax.tree.map(lambda field: _part('A field of sampler', field, own, count) if _is_list(field) else field,
                      sampler, is_leaf=_is_list)


def returning(sampler: Sampler, n: int) -> Sampler:
  """Returns a sampler that returns `n` sequences for each input. Raises ValueError if it cannot."""
  if isinstance(sampler, Greedy) and n > 1:
    raise ValueError(f'n={n} cannot be used with Greedy(), which has one answer. Use Sampling(...) or BeamSearch(...).')
  if isinstance(sampler, BeamSearch) and n > sampler.num_decodes:
    raise ValueError(f'n={n} cannot be used with num_decodes={sampler.num_decodes}. Search with at least {n} beams.')
  return dataclasses.replace(sampler, num_decodes=n) if isinstance(sampler, Sampling) else sampler


class Answers:
  """The growing answers to a batch of inputs, see `LanguageModel.prefill`.

  Args:
    model: the frozen model.
    batch: the inputs; rows after those that something is asked for only fill it up.
    conditioning: the model's.
    sampler: chooses the tokens; its fields are numbers, or lists with one for each input.
    asked: what is asked for each input.
  """

  def __init__(self, model: Any, batch: Batch, conditioning: Conditioning, sampler: Any, asked: Asked):
    if any(asked.stop) and model.vocabulary is None:
      raise ValueError('stop= cannot be used: the model was loaded without a vocabulary, which makes texts of tokens.')
    self._model, self._conditioning, self._stops = model, conditioning, asked.stop
    rows, members = len(batch['example_ids']), conditioning.members
    fill = lambda values, kind=None: np.resize(np.repeat(np.asarray(values, kind), members), rows)
    self._sampler = jax.tree.map(
      lambda field: fill(field, np.float32 if np.asarray(field).dtype == np.float64 else None), sampler,
      is_leaf=_is_list)
    self._most = max(asked.max_length)
    # Few sizes of caches, so few programs; a position table might not have room for more.
    places = self._most if getattr(model.module.config, 'position_limit', 0) else bucket(self._most)
    self._steps, self._state = generation.start(
      model.module, model.params, batch, conditioning, fill(asked.seed, np.uint32),
      np.zeros(rows, np.int32) if asked.has_own_seeds else batch['example_ids'],
      np.tile(np.asarray(model.end_ids, np.int32), (rows, 1)), fill(asked.max_length, np.int32),
      num_decodes=getattr(sampler, 'num_decodes', 1), max_length=places, top=asked.top)
    self._stopped: dict[tuple[int, int], tuple[str, int]] = {}  # answer -> its text, and its number of tokens

  @property
  def length(self) -> int:
    """The number of tokens generated so far."""
    return int(self._state.index)

  @property
  def ids(self) -> np.ndarray:
    """[B, N] the newest tokens; 0 of answers that had ended."""
    return self._of_inputs(self._state.ids)

  @property
  def ended(self) -> np.ndarray:
    """[B, N] booleans: the answers that grow no more."""
    return self._of_inputs(self._state.ended)

  def step(self, tokens: int = 1) -> np.ndarray:
    """Generates so many further tokens, fewer if all answers end; returns the newest, `ids`."""
    require_number('tokens', tokens, least=1, whole=True)
    self._state = generation.proceed(self._model.module, self._model.layers, self._conditioning, self._steps,
                                     self._state, self._sampler, self.length + tokens)
    if any(self._stops):
      self._look_for_stops()
    return self.ids

  def finish(self) -> 'Answers':
    """Generates until all answers have ended."""
    while not self.ended.all():
      self.step(_PIECE if any(self._stops) else self._most)
    return self

  def predictions(self) -> list[list[Prediction]]:
    """Returns the N answers to each input so far, best last."""
    rows = dataclasses.replace(self._state, cache=None, keys=None, index=None)
    state = jax.tree.map(self._of_inputs, rows)
    order = np.argsort(state.scores, axis=1, kind='stable')
    return [[self._prediction(state, b, n) for n in order[b]] for b in range(len(self._stops))]

  def _prediction(self, state: Any, b: int, n: int) -> Prediction:
    scores = () if state.log is None else tuple(
      array[b, n] for array in (state.log.log_probs, state.log.top_ids, state.log.top_log_probs))
    ids = state.tokens[b, n, :min(self.length, int(state.budgets[b]))]
    if (b, n) not in self._stopped:
      return _ended(self._model, ids, *scores)
    text, count = self._stopped[b, n]
    return Prediction(text, ids[:count], 'stop', *(array[:count] for array in scores))

  def _of_inputs(self, rows: Any) -> np.ndarray:
    """Returns the rows of the inputs: one for each, of the equal ones of an ensemble, and none that fills the batch."""
    return np.asarray(rows)[::self._conditioning.members][:len(self._stops)]

  def _look_for_stops(self) -> None:
    """Ends the answers that hold one of their stop texts."""
    decode = self._model.vocabulary.decode
    tokens, ended = self._of_inputs(self._state.tokens), np.array(self._state.ended)
    members = self._conditioning.members
    for b, stops in enumerate(self._stops):
      for n in range(tokens.shape[1]):
        ids = tokens[b, n, :self.length].tolist()
        text = decode(ids)
        places = [place for place in map(text.find, stops) if place >= 0]
        if places and (b, n) not in self._stopped:
          count = next(count for count in range(1, len(ids) + 1) if any(stop in decode(ids[:count]) for stop in stops))
          self._stopped[b, n] = text[:min(places)], count
          ended[b * members:(b + 1) * members, n] = True
    self._state = dataclasses.replace(self._state, ended=ended)


class BeamAnswers:
  """The answers of a beam search, which are found all at once; the arguments are those of `Answers`."""

  def __init__(self, model: Any, batch: Batch, conditioning: Conditioning, sampler: BeamSearch, asked: Asked):
    found = [f'{name}=' for name, wrong in (
      ('stop', any(asked.stop)), ('return_scores', asked.top), ('seed', asked.has_own_seeds),
      ('max_length', len(set(asked.max_length)) > 1)) if wrong]
    if found:
      raise ValueError(f'{found[0]} cannot be used with BeamSearch, whose beams of all inputs are found at once. Use '
                       'Greedy() or Sampling(...), or one value for all inputs.')
    self._model, self._count = model, len(asked.stop)
    tokens, _ = generation.generate(model.module, model.params, batch, conditioning, jax.random.key(asked.seed),
                                    sampler=sampler, max_length=asked.max_length[0], end_ids=model.end_ids,
                                    layers=model.layers)
    self._tokens = np.asarray(tokens)

  def finish(self) -> 'BeamAnswers':
    """Returns itself."""
    return self

  def predictions(self) -> list[list[Prediction]]:
    """Returns the N answers to each input, best last."""
    return [[_ended(self._model, ids) for ids in row] for row in self._tokens[:self._count]]


def _ended(model: Any, ids: np.ndarray, *scores: np.ndarray) -> Prediction:
  """Returns the answer of generated ids [S], which ends with its first end token."""
  ends = np.flatnonzero(np.isin(ids, model.end_ids))
  count = ends[0] + 1 if len(ends) else len(ids)
  text = None if model.vocabulary is None else model.vocabulary.decode(ids[:count].tolist())
  return Prediction(text, ids[:count], 'end' if len(ends) else 'length', *(array[:count] for array in scores))


def _is_list(value: Any) -> bool:
  return isinstance(value, list | tuple) or np.ndim(value) == 1


def _part(name: str, values: Any, own: range, count: int) -> Any:
  """Returns the values of some rows; raises ValueError if there is not one for each of all rows."""
  if len(values) != count:
    raise ValueError(f'{name} has {len(values)} values for {count} inputs. Give one for each, or one for all.')
  return values[own.start:own.stop]
