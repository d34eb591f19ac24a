"""A tiny frozen model, and a run that tunes a prompt for it: lists of ids shall be turned round."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np

from prompt_tuning import prompts
from prompt_tuning.data import metrics
from prompt_tuning.data.tasks import Task
from prompt_tuning.data.vocabularies import PassThroughVocabulary
from prompt_tuning.decoding.samplers import Greedy
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.models.loading import random_model
from prompt_tuning.models.t5 import T5Config
from prompt_tuning.training import loop
from prompt_tuning.training.optimizers import Adafactor


def _examples(count: int, seed: int) -> list[dict[str, str]]:
  random = np.random.default_rng(seed)
  rows = [random.integers(2, 29, random.integers(1, 5)).tolist() for _ in range(count)]
  return [{'inputs': ' '.join(map(str, row)), 'targets': ' '.join(map(str, row[::-1]))} for row in rows]


TASK = Task('turn', {'train': _examples(10, 0), 'validation': _examples(3, 1)}, (metrics.accuracy,))
OPTIMIZER = Adafactor(lambda step: jnp.where(step < 150, 0.3, jnp.inf))  # bursts after fifty steps
EVALUATIONS = loop.Evaluations(period=3, loss_steps=1, sampler=Greedy())
START = 100  # the step of the frozen model


@functools.cache
def model() -> LanguageModel:
  """Returns a random T5 1.1 whose every dimension differs from the others, with token ids as its texts."""
  config = T5Config(vocab_size=29, width=12, heads=3, head_dim=5, mlp_dim=14, encoder_layers=2, decoder_layers=3,
                    relative_buckets=6, relative_max_distance=9)
  return random_model(config, vocabulary=PassThroughVocabulary(29))


def train(folder, *, evaluations=None, changes=None, dropout_rate=0.1, **settings) -> loop.Run:
  """Trains in a folder: six steps of four rows with dropout, packed, saved every second step.

  Args:
    folder: the MODEL_DIR.
    evaluations: changed fields of `EVALUATIONS`.
    changes: changed fields of the frozen model.
    dropout_rate: of the frozen model.
    **settings: replace the other arguments of `training.loop.train`.
  """
  module = model().module
  module = module.clone(config=dataclasses.replace(module.config, dropout_rate=dropout_rate))
  fields = {'module': module, 'path': 'models/toy', 'step': START} | (changes or {})
  defaults = {
    'method': prompts.PromptTuning(prompts.Prompt(3)), 'task': TASK, 'lengths': {'inputs': 6, 'targets': 5},
    'train_steps': START + 6, 'optimizer': OPTIMIZER, 'batch_size': 4, 'seed': 5, 'packed': True,
    'saving': loop.Saving(2), 'log_period': 1, 'quiet': True}
  return loop.train(model=dataclasses.replace(model(), **fields), model_dir=str(folder),
                    evaluations=dataclasses.replace(EVALUATIONS, **(evaluations or {})), **(defaults | settings))
