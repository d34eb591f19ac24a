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

# Prefix of a task's name -> the vocabulary that it has for other programs that read SeqIO tasks.
VOCABULARIES: dict[str, seqio.Vocabulary] = {
  '': seqio.SentencePieceVocabulary('gs://t5-data/vocabs/cc_all.32000.100extra/sentencepiece.model'),
  'mt5_': seqio.SentencePieceVocabulary('gs://t5-data/vocabs/mc4.250000.100extra/sentencepiece.model'),
  'byt5_': seqio.ByteVocabulary(),
}
LOGGED = 5  # examples of an evaluation, by tasks whose name ends in `_examples`


def add_tfds_task(name: str, dataset: str, preprocess: Preprocess, *, splits: Sequence[str] | Mapping[str, str] = (),
                  postprocess: Postprocess | None = None, metrics: Sequence[Metric] = (), index: int | None = None,
                  ) -> list[str]:
  """Adds a task over a TensorFlow Dataset, in all vocabularies and with and without logging of examples.

  Args:
    name: of the task; `mt5_` and `byt5_` are put in front of it, `_examples` behind it.
    dataset: TFDS name, config and version, such as 'glue/sst2:1.0.0'.
    preprocess: from an example of the dataset (texts are `str`, scalars Python numbers, sequences lists) to the
      examples that it gives: dicts with 'inputs' and 'targets', texts, and what the metrics read beside: texts,
      numbers, lists of them. What one example has, all have.
    splits: those that the task has, or name -> split of the dataset; empty is all.
    postprocess: `(text, example, is_target) -> value`, for the metrics; `example` is what `preprocess` gave.
    metrics: functions `(targets, predictions) -> {name: value}`.
    index: a token id that is put in front of the inputs: the number of the task in a set of tasks.

  Returns:
    the names that were added.
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
  """Adds a mixture of tasks that `add_tfds_task` added, in all vocabularies and with and without logging.

  Args:
    name: of the mixture, without prefix of a vocabulary and without `_examples`.
    tasks: names of tasks, likewise.
    rate: of each task, or a function of it, such as `seqio.mixing_rate_num_examples`; 'examples' is proportional
      to the sizes of the training splits.

  Returns:
    the names that were added.
  """
  rate = _training_examples if rate == 'examples' else rate
  names = []
  for prefix, suffix in itertools.product(VOCABULARIES, ('', '_examples')):
    names.append(f'{prefix}{name}{suffix}')
    seqio.MixtureRegistry.add(names[-1], [f'{prefix}{task}{suffix}' for task in tasks], default_rate=rate)
  return names


def log_examples(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
  """A metric without a value: logs the first targets with their predictions."""
  for target, prediction in list(zip(targets, predictions, strict=True))[:LOGGED]:
    logging.info('target %r, prediction %r', target, prediction)
  return {}


def from_python(preprocess: Preprocess) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
  """Returns the preprocessor of SeqIO that calls a Python function for each example; see `add_tfds_task`."""

  def apply(dataset: tf.data.Dataset) -> tf.data.Dataset:
    def generate() -> Iterable[Example]:
      for example in tfds.as_numpy(dataset):
        yield from preprocess({key: plain(value) for key, value in example.items()})

    first = next(iter(generate()), None)
    if first is None:
      raise ValueError('The split of the dataset gives no example. Choose another split.')
    return tf.data.Dataset.from_generator(
      generate, output_signature={key: _spec(value) for key, value in first.items()})

  return apply


def plain(value: Any) -> Any:
  """Returns a value of a TensorFlow Dataset as Python has it: text, number, list, or dict of them."""
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
    raise ValueError(f'A preprocessing function gave {value!r:.60}. Give texts, numbers, or lists of them.')
  return tf.TensorSpec([], kinds[type(value)])


def _in_front(token: int) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
  def prepend(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    first = tf.constant([token], example['inputs'].dtype)
    return example | {'inputs': tf.concat([first, example['inputs']], axis=0)}

  return lambda dataset: dataset.map(prepend, num_parallel_calls=tf.data.AUTOTUNE)


def _for_seqio(postprocess: Postprocess) -> Postprocess:
  """SeqIO hands over the example as NumPy has it."""

  def apply(text: str, example: Mapping[str, Any] | None = None, is_target: bool = False) -> Any:
    return postprocess(text, {key: plain(value) for key, value in (example or {}).items()}, is_target)

  return apply


def _training_examples(task: seqio.Task) -> float:
  return float(task.num_input_examples('train') or 0) if 'train' in task.splits else 0.0


Cut = Callable[[np.ndarray, Mapping[str, int], int], Iterable[Example]]


def add_text_task(name: str, dataset: str, cut: Cut, *, text: str = 'text', splits: Sequence[str] = ()) -> list[str]:
  """Adds a task that makes examples of the tokens of running text, in all vocabularies.

  Args:
    name: of the task; `mt5_` and `byt5_` are put in front of it.
    dataset: TFDS name, config and version.
    cut: makes the examples, see `from_ids`.
    text: the dataset's feature that holds the text.
    splits: those that the task has; empty is all.

  Returns:
    the names that were added.
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
  """Returns the preprocessor of SeqIO that makes examples of token ids with a function over NumPy arrays.

  Args:
    cut: `(ids, lengths, size) -> examples`: from the tokens of a text, without end token, to dicts with the arrays
      'inputs' and 'targets', likewise without. `lengths` is what the tokens of 'inputs' and 'targets' may be at most,
      end token included; one that nobody set is absent. `size` is the vocabulary's.
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
