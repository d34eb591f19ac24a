"""Adds tasks and mixtures to SeqIO's registry; `seqio_reading` reads them. No other file imports seqio or TensorFlow.

`add_tfds_task` adds a task over a TensorFlow Dataset whose preprocessing is a plain Python function.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from prompt_tuning.data.tasks import Example, Metric

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

Preprocess = Callable[[Example], Iterable[Example]]
Postprocess = Callable[..., Any]

# Prefix of a task's name -> its vocabulary, used only by other programs that read SeqIO tasks.
VOCABULARIES: dict[str, seqio.Vocabulary] = {
  '': seqio.SentencePieceVocabulary('gs://t5-data/vocabs/cc_all.32000.100extra/sentencepiece.model'),
  'mt5_': seqio.SentencePieceVocabulary('gs://t5-data/vocabs/mc4.250000.100extra/sentencepiece.model'),
  'byt5_': seqio.ByteVocabulary(),
}
LOGGED = 5  # examples logged per evaluation, by tasks with names ending in `_examples`


def add_tfds_task(name: str, dataset: str, preprocess: Preprocess, *, splits: Sequence[str] | Mapping[str, str] = (),
                  postprocess: Postprocess | None = None, metrics: Sequence[Metric] = (), index: int | None = None,
                  ) -> list[str]:
  """Adds a task over a TensorFlow Dataset, in all vocabularies and with and without logging of examples.

  Args:
    name: the task's name; the prefixes `mt5_` and `byt5_` and the suffix `_examples` are added to it.
    dataset: TFDS name, config and version, such as 'glue/sst2:1.0.0'.
    preprocess: maps an example of the dataset (texts are `str`, scalars Python numbers, sequences lists) to examples:
      dicts with the texts 'inputs' and 'targets' and any other values that the metrics read: texts, numbers, lists of
      them. All examples must have the same keys.
    splits: the task's splits, or a mapping from name to split of the dataset; empty means all.
    postprocess: `(text, example, is_target) -> value`, for the metrics; `example` is an output of `preprocess`.
    metrics: functions `(targets, predictions) -> {name: value}`.
    index: a token id that is prepended to the inputs: the number of the task in a set of tasks.

  Returns:
    the added names.
  """
  names = []
  for (prefix, vocabulary), suffix in itertools.product(VOCABULARIES.items(), ('', '_examples')):
    preprocessors = [from_python(preprocess), seqio.preprocessors.tokenize, seqio.CacheDatasetPlaceholder(),
                     seqio.preprocessors.append_eos_after_trim]
    if index is not None:
      preprocessors.append(_in_front(index))
    names.append(f'{prefix}{name}{suffix}')
    seqio.TaskRegistry.add(
      names[-1], seqio.TfdsDataSource(dataset, splits=splits or None), preprocessors=preprocessors,
      output_features={feature: seqio.Feature(vocabulary, add_eos=True) for feature in ('inputs', 'targets')},
      postprocess_fn=None if postprocess is None else _for_seqio(postprocess),
      metric_fns=[*metrics, *([log_examples] if suffix else [])])
  return names


def add_mixture(name: str, tasks: Sequence[str], rate: Any = 1.0) -> list[str]:
  """Adds a mixture of tasks from `add_tfds_task`, in all vocabularies and with and without logging.

  Args:
    name: the mixture's name, without vocabulary prefix and without `_examples`.
    tasks: names of tasks, likewise.
    rate: the rate of every task, or a function of the task, such as `seqio.mixing_rate_num_examples`; 'examples' is
      proportional to the sizes of the training splits.

  Returns:
    the added names.
  """
  rate = _training_examples if rate == 'examples' else rate
  names = []
  for prefix, suffix in itertools.product(VOCABULARIES, ('', '_examples')):
    names.append(f'{prefix}{name}{suffix}')
    seqio.MixtureRegistry.add(names[-1], [f'{prefix}{task}{suffix}' for task in tasks], default_rate=rate)
  return names


def log_examples(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
  """Logs the first targets with their predictions; a metric without a value."""
  for target, prediction in list(zip(targets, predictions, strict=True))[:LOGGED]:
    logging.info('target %r, prediction %r', target, prediction)
  return {}


def from_python(preprocess: Preprocess) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
  """Returns a SeqIO preprocessor that calls a Python function for each example; see `add_tfds_task`."""

  def apply(dataset: tf.data.Dataset) -> tf.data.Dataset:
    def generate() -> Iterable[Example]:
      for example in tfds.as_numpy(dataset):
        yield from preprocess({key: plain(value) for key, value in example.items()})

    first = next(iter(generate()), None)
    if first is None:
      raise ValueError('The split of the dataset yields no examples. Choose another split.')
    return tf.data.Dataset.from_generator(
      generate, output_signature={key: _spec(value) for key, value in first.items()})

  return apply


def plain(value: Any) -> Any:
  """Returns a value of a TensorFlow Dataset as a Python object: text, number, list, or dict of them."""
  if isinstance(value, bytes):
    return value.decode()
  if isinstance(value, Mapping):
    return {key: plain(each) for key, each in value.items()}
  if isinstance(value, np.ndarray | np.generic) and np.ndim(value) == 0:
    return plain(value.item())
  if hasattr(value, 'to_list'):  # ragged
    return plain(value.to_list())
  if isinstance(value, list | tuple | np.ndarray):
    return [plain(each) for each in value]
  return value


def _spec(value: Any) -> tf.TensorSpec:
  if isinstance(value, list):
    return tf.TensorSpec([None], _spec(value[0]).dtype if value else tf.string)
  kinds = {str: tf.string, bool: tf.bool, int: tf.int32, float: tf.float32}
  if type(value) not in kinds:
    raise ValueError(f'A preprocessing function returned {value!r:.60}. Return texts, numbers, or lists of them.')
  return tf.TensorSpec([], kinds[type(value)])


def _in_front(token: int) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
  def prepend(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    first = tf.constant([token], example['inputs'].dtype)
    return example | {'inputs': tf.concat([first, example['inputs']], axis=0)}

  return lambda dataset: dataset.map(prepend, num_parallel_calls=tf.data.AUTOTUNE)


def _for_seqio(postprocess: Postprocess) -> Postprocess:
  """Returns `postprocess` with the example's NumPy values, as SeqIO passes them, turned into Python objects."""

  def apply(text: str, example: Mapping[str, Any] | None = None, is_target: bool = False) -> Any:
    return postprocess(text, {key: plain(value) for key, value in (example or {}).items()}, is_target)

  return apply


def _training_examples(task: seqio.Task) -> float:
  return float(task.num_input_examples('train') or 0) if 'train' in task.splits else 0.0


Cut = Callable[[np.ndarray, Mapping[str, int], int], Iterable[Example]]


def add_text_task(name: str, dataset: str, cut: Cut, *, text: str = 'text', splits: Sequence[str] = ()) -> list[str]:
  """Adds a task that makes examples from the tokens of running text, in all vocabularies.

  Args:
    name: the task's name; the prefixes `mt5_` and `byt5_` are added to it.
    dataset: TFDS name, config and version.
    cut: makes the examples, see `from_ids`.
    text: the dataset's text feature.
    splits: the task's splits; empty means all.

  Returns:
    the added names.
  """
  def take(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {'targets': example[text]}

  for prefix, vocabulary in VOCABULARIES.items():
    seqio.TaskRegistry.add(
      f'{prefix}{name}', seqio.TfdsDataSource(dataset, splits=splits or None),
      preprocessors=[seqio.map_over_dataset(take), seqio.preprocessors.tokenize, seqio.CacheDatasetPlaceholder(),
                     from_ids(cut), seqio.preprocessors.append_eos_after_trim],
      output_features={feature: seqio.Feature(vocabulary, add_eos=True) for feature in ('inputs', 'targets')})
  return [f'{prefix}{name}' for prefix in VOCABULARIES]


def from_ids(cut: Cut) -> Callable[..., tf.data.Dataset]:
  """Returns a SeqIO preprocessor that makes examples from token ids with a function over NumPy arrays.

  Args:
    cut: `(ids, lengths, size) -> examples`: maps the tokens of a text to dicts with the arrays 'inputs' and 'targets',
      all without end tokens. `lengths` holds the maximum tokens of 'inputs' and 'targets', including the end token; a
      length that is not set is absent. `size` is the vocabulary size.
  """
  def apply(dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature],
            sequence_length: Mapping[str, int] | None = None) -> tf.data.Dataset:
    size = output_features['targets'].vocabulary.vocab_size
    lengths = {name: length for name, length in (sequence_length or {}).items() if length is not None}

    def generate() -> Iterable[Example]:
      for example in tfds.as_numpy(dataset):
        yield from cut(example['targets'], lengths, size)

    return tf.data.Dataset.from_generator(
      generate, output_signature={name: tf.TensorSpec([None], tf.int32) for name in ('inputs', 'targets')})

  return apply
