"""Reads tasks and mixtures from SeqIO's registry.

The model provides the vocabulary: texts are tokenised with it, whatever vocabulary the task was added with. A split is
preprocessed once into an ArrayRecord file in the user's cache, and read from there by index. So the order depends only
on the run's seed, and a position in it is a number. The file is rebuilt if anything in the task's source has changed,
or its first examples after preprocessing, or the file itself. Preprocessing that draws random numbers draws them once
for all epochs. SeqIO's cache is not read, since its tokens may come from another vocabulary.

A split of more than a million examples stays a stream, with weaker guarantees: it is shuffled only within SeqIO's
buffer, and a resumed run reads and discards the examples that it had already used.
"""

import contextlib
import dataclasses
import hashlib
import inspect
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

from prompt_tuning.data import records
from prompt_tuning.data.tasks import Example, Mixture, Task
from prompt_tuning.data.vocabularies import Vocabulary
from prompt_tuning.files import storage

LARGE = 1_000_000  # examples; a split with more is not written to a file
_ENDLESS = 2**40
_LOOKED_AT = 32  # number of first examples that reveal changed preprocessing
_VERSION = 2  # of the files
_CUTS = ('append_eos_after_trim', 'append_eos_after_trim_impl')  # preprocessing that uses lengths only to truncate


def names() -> list[str]:
  """Returns the names of all tasks and mixtures in SeqIO's registry."""
  return sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()})


def load(name: str, vocabulary: Vocabulary | None, lengths: Mapping[str, int] | None = None) -> Task | Mixture:
  """Returns a SeqIO task or mixture.

  Args:
    name: its name in SeqIO's registry.
    vocabulary: tokenises texts; with None each task keeps its vocabulary.
    lengths: maximum tokens of 'inputs' and 'targets', for preprocessing that makes examples of these lengths.

  Raises:
    ValueError: its data, its features or its preprocessing cannot be used.
  """
  if os.environ.get('TFDS_DATA_DIR'):
    seqio.set_tfds_data_dir_override(os.environ['TFDS_DATA_DIR'])
  found = seqio.get_mixture_or_task(name)
  if isinstance(found, seqio.Task):
    return _task(found, vocabulary, lengths)
  # Tasks for evaluation only have the rate 0; evaluation ignores rates.
  return Mixture(name, tuple(_task(task, vocabulary, lengths) for task in found.tasks),
                 tuple(found.get_rate(task) or 1.0 for task in found.tasks))


def _task(task: seqio.Task, vocabulary: Vocabulary | None, lengths: Mapping[str, int] | None) -> Task:
  missing = {'inputs', 'targets'} - set(task.output_features)
  if missing:
    raise ValueError(f'The SeqIO task {task.name} has the features {sorted(task.output_features)} and lacks '
                     f'{sorted(missing)}. Use a task with both inputs and targets.')
  if task.predict_with_aux_metric_fns:
    logging.warning('The SeqIO task %s has metrics on auxiliary values, which are not supported and not computed.',
                    task.name)
  if vocabulary is not None:
    task = task.replace(output_features={key: _with_vocabulary(feature, vocabulary)
                                         for key, feature in task.output_features.items()})
  return Task(task.name, _Splits(task, vocabulary, lengths), tuple(task.predict_metric_fns),
              source=f'the SeqIO task {task.name}', postprocess=task.postprocessor,
              score_metrics=tuple(task.score_metric_fns))


class _Splits(Mapping):
  """Split name -> examples, made on first access."""

  def __init__(self, task: seqio.Task, vocabulary: Vocabulary | None, lengths: Mapping[str, int] | None):
    self._task, self._vocabulary = task, vocabulary
    self._lengths = dict(lengths or {}) if _reads_lengths(task) else None
    self._made: dict[str, Sequence[Example]] = {}

  def __iter__(self) -> Iterator[str]:
    with _explained(self._task):
      return iter(list(self._task.splits))

  def __len__(self) -> int:
    return len(list(iter(self)))

  def __contains__(self, split: object) -> bool:
    return split in list(self)

  def __getitem__(self, split: str) -> Sequence[Example]:
    if split not in self._made:
      if split not in self:
        raise KeyError(split)
      with _explained(self._task):
        size = self._task.num_input_examples(split)
      make = _Stream if size is not None and size > LARGE else _materialised
      self._made[split] = make(self._task, split, self._vocabulary, self._lengths)
    return self._made[split]


def _materialised(task: seqio.Task, split: str, vocabulary: Vocabulary | None,
                  lengths: Mapping[str, int] | None) -> Sequence[Example]:
  """Returns the examples of a split from a file; writes the file first if it does not exist or is damaged."""
  digest = hashlib.sha256(json.dumps([_VERSION, task.name, split, _described(vocabulary), lengths]).encode())
  for example in itertools.islice(_examples(task, split, lengths), _LOOKED_AT):
    digest.update(records.encode(example))
  with _explained(task):
    for example in tfds.as_numpy(task.source.get_dataset(split=split, shuffle=False)):
      records.update(digest, example)
  folder = os.path.join(cache_folder(), f'{task.name}-{split}-{digest.hexdigest()[:16]}')
  path = os.path.join(folder, 'examples.array_record')
  if os.path.exists(folder) and not records.is_whole(path):
    logging.warning('%s is damaged: it is not as it was written. It is rebuilt.', folder)
    storage.remove_tree(folder)
  if not os.path.exists(path):
    logging.info('Preparing the split %s of %s. This happens once.', split, task.name)
    try:
      with storage.whole_folder(folder) as temporary:
        count = records.write(os.path.join(temporary, 'examples.array_record'), _examples(task, split, lengths))
    except FileExistsError:  # another process was faster
      return records.Records(path)
    except OSError as error:
      raise OSError(f'The split {split} of {task.name} cannot be prepared. {error.strerror or error} '
                    'XDG_CACHE_HOME names another folder for caches.') from error
    logging.info('%d examples: %s', count, folder)
  return records.Records(path)


def cache_folder() -> str:
  """Returns the folder of cached splits: `prompt_tuning/tasks` in XDG_CACHE_HOME, or in ~/.cache."""
  root = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
  return os.path.join(root, 'prompt_tuning', 'tasks')


class _Stream(Sequence[Example]):
  """The examples of a split that is too large for a file; see the module docstring for its guarantees."""

  def __init__(self, task: seqio.Task, split: str, _: Any, lengths: Mapping[str, int] | None):
    self._task, self._split, self._lengths = task, split, lengths

  def __len__(self) -> int:
    return self._task.num_input_examples(self._split)

  def __getitem__(self, index: int) -> Example:
    return next(itertools.islice(_examples(self._task, self._split, self._lengths), index, None))

  def draw(self, seed: int) -> '_Drawn':
    """Returns an endless sequence of the examples, shuffled by seed and epoch."""
    return _Drawn(lambda: itertools.chain.from_iterable(
      _examples(self._task, self._split, self._lengths, seed=(seed + epoch) % 2**31) for epoch in itertools.count()))


class _Drawn(Sequence[Example]):
  def __init__(self, begin: Any):
    self._begin, self._next = begin, None

  def __len__(self) -> int:
    return _ENDLESS

  def __getitem__(self, index: int) -> Example:
    if self._next is None or index < self._next:
      self._examples, self._next = self._begin(), 0
    for _ in range(index - self._next):
      next(self._examples)
    self._next = index + 1
    return next(self._examples)


def _examples(task: seqio.Task, split: str, lengths: Mapping[str, int] | None,
              seed: int | None = None) -> Iterator[Example]:
  """Yields the examples in order, or shuffled by a seed, with every feature that preprocessing kept."""
  endings = {f'{name}_ends': False for name, feature in task.output_features.items()
             if not getattr(feature, 'add_eos', True)}

  with _explained(task):
    dataset = task.get_dataset(
      lengths, split, shuffle=seed is not None, seed=seed or 0, trim_output_features=False,
      try_in_mem_cache=False)
    for example in tfds.as_numpy(dataset):
      yield example | endings


@contextlib.contextmanager
def _explained(task: seqio.Task) -> Iterator[None]:
  """Turns an error while reading data into a ValueError with the task's name and advice."""
  try:
    yield
  except Exception as error:  # from TFDS, TensorFlow, SeqIO or the task's functions
    advice = 'Fix the task or its data.'
    if isinstance(task.source, seqio.TfdsDataSource):
      name, place = task.source.tfds_dataset.name, os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
      advice = (f'It reads {name} of TensorFlow Datasets from {place}. Set --tfds_data_dir to the folder that holds '
                f'it, or download it: python3 -c "import tensorflow_datasets as t; t.load({name!r})".')
    lines = [line.strip() for line in str(error).strip().splitlines()] or ['']
    # The last line of TensorFlow's message about a user's function is the original error.
    found = lines[-1] if lines[0] == 'in user code:' else f'{type(error).__name__}: {lines[0]}'
    raise ValueError(f'The SeqIO task {task.name} yields no examples: {found[:300]}. {advice}') from error


def _reads_lengths(task: seqio.Task) -> bool:
  """Returns True if the preprocessing makes examples of given lengths, and does not only truncate to them."""
  return any(getattr(step, '__name__', '') not in _CUTS and 'sequence_length' in inspect.signature(step).parameters
             for step in task.preprocessors)


def _described(vocabulary: Vocabulary | None) -> str:
  file = getattr(vocabulary, 'digest', vars(vocabulary) if vocabulary else '')
  return f'{type(vocabulary).__name__} {file}{getattr(vocabulary, "added", None) or ""}'


def _with_vocabulary(feature: seqio.Feature, vocabulary: Vocabulary) -> seqio.Feature:
  own = getattr(feature, 'vocabulary', None)
  if own is None or isinstance(own, seqio.PassThroughVocabulary):
    return feature
  return dataclasses.replace(feature, vocabulary=_Adapted(vocabulary))


class _Adapted(seqio.Vocabulary):
  """A vocabulary of this package, with SeqIO's interface."""

  def __init__(self, vocabulary: Vocabulary):
    super().__init__()
    self._vocabulary = vocabulary

  @property
  def eos_id(self) -> int:
    return self._vocabulary.eos_id

  @property
  def bos_id(self) -> int | None:
    return self._vocabulary.bos_id

  @property
  def pad_id(self) -> int:
    return self._vocabulary.pad_id

  @property
  def unk_id(self) -> None:
    return None

  @property
  def _base_vocab_size(self) -> int:
    return self._vocabulary.size

  def _encode(self, s: str) -> list[int]:
    return self._vocabulary.encode(s)

  def _decode(self, ids: Sequence[int]) -> str:
    return self._vocabulary.decode(ids)

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    encode = lambda text: np.asarray(self._vocabulary.encode(text.decode()), np.int32)
    return tf.ensure_shape(tf.numpy_function(encode, [s], tf.int32), [None])

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    decode = lambda found: self._vocabulary.decode(found.tolist()).encode()
    return tf.ensure_shape(tf.numpy_function(decode, [ids], tf.string), [])
