"""The rows of methods.py: which of them are for training, validation and test. No imports but the standard library."""

import argparse
import json
import os
import pathlib
from collections.abc import Mapping

LABELS = ('negative', 'positive')
TEMPLATE = 'Review: {text}\nSentiment:'  # then ' positive' or ' negative'


def options(description: str | None) -> argparse.Namespace:
  """Returns the arguments of one measurement: the model's folder, that of the rows, and the job."""
  flags = argparse.ArgumentParser(description=description)
  flags.add_argument('--model', required=True)
  flags.add_argument('--rows', required=True)
  flags.add_argument('job', type=json.loads)
  return flags.parse_args()


def split(folder: str, protocol: Mapping[str, int], output: str) -> dict[str, str]:
  """Writes the rows of each split to a file of its own; returns the paths.

  Args:
    folder: has `train.jsonl` and `test.jsonl`.
    protocol: how many rows, `validation` and `test`.
    output: the folder to write to.

  Raises:
    ValueError: there are too few rows.
  """
  train, test = (pathlib.Path(folder, f'{name}.jsonl').read_text().splitlines() for name in ('train', 'test'))
  if len(train) <= protocol['validation'] or len(test) < protocol['test']:
    raise ValueError(f'{folder} holds {len(train)} rows to train on and {len(test)} to test, expected more than '
                     f'{protocol["validation"]} and {protocol["test"]}. Give --validation and --test.')
  parts = {'train': train[:-protocol['validation']], 'validation': train[-protocol['validation']:],
           'test': test[:protocol['test']]}
  paths = {name: os.path.join(output, f'{name}.jsonl') for name in parts}
  for name, lines in parts.items():
    pathlib.Path(paths[name]).write_text('\n'.join(lines) + '\n')
  return paths
