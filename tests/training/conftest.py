"""A tiny run: the frozen toy model learns to turn short lists of ids round."""

import dataclasses

import numpy as np
import pytest

from prompt_tuning import prompts
from prompt_tuning.data import metrics
from prompt_tuning.data.tasks import Task
from prompt_tuning.models.generation import Greedy
from prompt_tuning.training import loop


def _examples(count: int, seed: int) -> list[dict[str, str]]:
  random = np.random.default_rng(seed)
  rows = [random.integers(2, 29, random.integers(1, 5)).tolist() for _ in range(count)]
  return [{'inputs': ' '.join(map(str, row)), 'targets': ' '.join(map(str, row[::-1]))} for row in rows]


TASK = Task('turn', {'train': _examples(10, 0), 'validation': _examples(3, 1)}, (metrics.accuracy,))
EVALUATIONS = loop.Evaluations(period=3, loss_steps=1, sampler=Greedy())


@pytest.fixture(scope='session')
def task() -> Task:
  """Ten examples to learn from and three to be judged by."""
  return TASK


@pytest.fixture(scope='session')
def train_tiny(tiny):
  """Returns a function that trains in a folder: six steps of four rows with dropout, packed, saved every second step.

  Other arguments of `training.loop.train` replace these; `evaluations` and `model` are dicts of changed fields.
  """
  frozen = dataclasses.replace(tiny, path='models/toy', step=100)

  def run(folder, *, evaluations=None, model=None, dropout_rate=0.1, **settings) -> loop.Run:
    config = dataclasses.replace(tiny.module.config, dropout_rate=dropout_rate)
    changes = {'module': tiny.module.clone(config=config)} | (model or {})
    defaults = {
      'method': prompts.PromptTuning(prompts.Prompt(3)), 'task': TASK, 'lengths': {'inputs': 6, 'targets': 5},
      'train_steps': 106, 'batch_size': 4, 'seed': 5, 'packed': True, 'saving': loop.Saving(2), 'log_period': 1,
      'quiet': True}
    return loop.train(model=dataclasses.replace(frozen, **changes), model_dir=str(folder),
                      evaluations=dataclasses.replace(EVALUATIONS, **(evaluations or {})), **(defaults | settings))

  return run
