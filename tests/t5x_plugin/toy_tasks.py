"""SeqIO tasks for T5X's programs and for this package's.

`toy_beginnings` consists of token ids: the targets repeat the beginning of the inputs. `toy_films` consists of texts,
in the vocabulary of the variable TOY_VOCABULARY.
"""

import os

import numpy as np
import seqio

ROWS = {'train': 48, 'validation': 6}
VOCABULARY = seqio.PassThroughVocabulary(size=128, eos_id=1)


def examples(split: str) -> list[dict[str, str]]:
  """Returns inputs and targets as texts of ids."""
  random = np.random.default_rng(len(split))
  rows = [random.integers(2, 128, random.integers(3, 9)) for _ in range(ROWS[split])]
  return [{'inputs': ' '.join(map(str, row)), 'targets': ' '.join(map(str, row[:2]))} for row in rows]


def as_ids(dataset):
  """Converts texts of ids to ids."""
  import tensorflow as tf

  numbers = lambda text: tf.strings.to_number(tf.strings.split(text), tf.int32)
  return dataset.map(lambda row: {key: numbers(value) for key, value in row.items()}
                     | {f'{key}_pretokenized': value for key, value in row.items()})


def dataset(split, shuffle_files=False, seed=None):
  import tensorflow as tf

  del shuffle_files, seed
  rows = examples(split)
  return tf.data.Dataset.from_tensor_slices({key: [row[key] for row in rows] for key in ('inputs', 'targets')})


def exact(targets, predictions):
  """Returns the share of correct predictions."""
  return {'exact': float(np.mean([list(a) == list(b) for a, b in zip(targets, predictions, strict=True)]))}


seqio.TaskRegistry.add(
  'toy_beginnings', source=seqio.FunctionDataSource(dataset, splits=tuple(ROWS)),
  preprocessors=[as_ids, seqio.preprocessors.append_eos],
  output_features={key: seqio.Feature(VOCABULARY, dtype='int32') for key in ('inputs', 'targets')},
  metric_fns=[exact])

FILMS = {'inputs': ['sentence: dull', 'sentence: a gripping film'], 'targets': ['negative', 'positive']}


def films(split, shuffle_files=False, seed=None):
  import tensorflow as tf

  del split, shuffle_files, seed
  return tf.data.Dataset.from_tensor_slices(FILMS)


if 'TOY_VOCABULARY' in os.environ:
  words = seqio.SentencePieceVocabulary(os.environ['TOY_VOCABULARY'])
  seqio.TaskRegistry.add(
    'toy_films', source=seqio.FunctionDataSource(films, splits=tuple(ROWS)),
    preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
    output_features={key: seqio.Feature(words) for key in ('inputs', 'targets')}, metric_fns=[exact])
