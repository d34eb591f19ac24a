"""Writes small TensorFlow Datasets to a folder in TFDS's format, for tests of tasks that read TFDS."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')


def store(data_dir: Any, dataset: str, features: Any, splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
  """Writes a dataset.

  Args:
    data_dir: the folder for TFDS_DATA_DIR.
    dataset: name, config and version, such as 'glue/sst2:1.0.0' or 'xsum:1.1.0'.
    features: a `tfds.features.FeaturesDict`.
    splits: the examples of each split, as `features` encodes them: texts, names of labels, numbers, lists.
  """
  import tensorflow_datasets as tfds

  path, version = dataset.split(':')
  name, _, config = path.partition('/')
  tfds.disable_progress_bar()
  tfds.dataset_builders.store_as_tfds_dataset(
    name=name, config=config or None, version=version, features=features, data_dir=os.fspath(data_dir),
    split_datasets={split: list(enumerate(examples)) for split, examples in splits.items()}, disable_shuffling=True)
