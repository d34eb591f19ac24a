"""The rows of methods.py: which of them are for training, validation and test. What PEFT's side imports needs only the
standard library.
"""

import argparse
import json
import os
import pathlib
import statistics
from collections.abc import Mapping
from typing import Any

LABELS = ('negative', 'positive')
TEMPLATE = 'Review: {text}\nSentiment:'  # then ' positive' or ' negative'


def options(description: str | None) -> argparse.Namespace:
  """Returns the arguments of one measurement: the model's folder, that of the rows, and the job."""
  flags = argparse.ArgumentParser(description=description)
  flags.add_argument('--model', required=True)
  flags.add_argument('--rows', required=True)
  flags.add_argument('job', type=json.loads)
  return flags.parse_args()


def write_integers(protocol: Mapping[str, Any], output: str) -> None:
  """Writes `TASK/{train,validation,test}.jsonl` with inputs and targets: as many rows to train on as steps take.

  Args:
    protocol: the names of the `tasks`, `steps`, `batch_size`, and how many rows, `validation` and `test`.
    output: the folder to write to.
  """
  from prompt_tuning.data import integers

  for name in protocol['tasks']:
    task = integers.task(name)
    train, unseen = task.split('train').draw(0), task.split('validation')
    counts = {'train': range(protocol['steps'] * protocol['batch_size']), 'validation': range(protocol['validation']),
              'test': range(protocol['validation'], protocol['validation'] + protocol['test'])}
    folder = pathlib.Path(output, name)
    folder.mkdir()
    for part, places in counts.items():
      examples = [(train if part == 'train' else unseen)[i] for i in places]
      (folder / f'{part}.jsonl').write_text(''.join(
        json.dumps({name: each[name] for name in ('inputs', 'targets')}) + '\n' for each in examples))


def integers_of(folder: str, protocol: Mapping[str, Any]) -> dict[str, dict[str, str]]:
  """Returns task -> the paths of its rows."""
  return {name: {part: os.path.join(folder, name, f'{part}.jsonl') for part in ('train', 'validation', 'test')}
          for name in protocol['tasks']}


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


def means(tasks: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
  """Returns the means over tasks of what was measured of each, and each task's accuracy on its test rows."""
  names = next(iter(tasks.values()))
  found = {name: statistics.mean(each[name] for each in tasks.values()) for name in names}
  return {**found, 'tasks': {task: each['test'] for task, each in tasks.items()}}
