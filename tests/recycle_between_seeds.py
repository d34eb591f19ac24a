"""Pretrains a small model twice, and recycles prompts from one to the other; prints losses as JSON.

  python tests/recycle_between_seeds.py FOLDER

The model is 24 wide, and 26 numbers occur in its tasks, so that their embeddings determine a map. It learns seven
integer tasks in 1500 steps, for each of two seeds (about a minute each on two cores). For two tasks, a prompt is tuned
for the first model, and its loss with the second compared with those of four starts from sampled rows.
"""

import dataclasses
import json
import sys

import numpy as np

import prompt_tuning as pt
from prompt_tuning.data import integers
from prompt_tuning.data.vocabulary_folders import load_vocabulary
from prompt_tuning.evaluation.evaluate import evaluate_loss
from prompt_tuning.evaluation.saved import SavedPrompt
from prompt_tuning.models.loading import find_model, random_model
from prompt_tuning.models.parameters import merge
from prompt_tuning.training.evaluations import Evaluations
from prompt_tuning.training.optimizers import AdamW
from prompt_tuning.training.schedules import create_schedule

CONFIG = pt.T5Config(vocab_size=32, width=24, heads=4, head_dim=8, mlp_dim=96, encoder_layers=2, decoder_layers=2)
SHAPE, LENGTHS = {'length': 3, 'largest': 24}, {'inputs': 5, 'targets': 5}
ROWS = 28  # the tokens that occur
OPTIMIZER = AdamW(create_schedule('constant * linear_warmup', 0.004, warmup_steps=200), b2=0.98, clip=1.0)


def pretrained(seed: int, folder: str) -> pt.LanguageModel:
  """Returns a model that has learnt the mixture of the integer tasks."""
  start = random_model(CONFIG, vocabulary=load_vocabulary(find_model('t5_integers')), seed=seed)
  run = pt.tune(start, integers.mixture(**SHAPE), method=pt.Retrained(), steps=1500, batch_size=128, seed=seed,
                lengths=LENGTHS, quiet=True, evaluations=Evaluations(examples=0, loss_steps=1, period=1500),
                optimizer=OPTIMIZER, model_dir=f'{folder}/{seed}')
  return dataclasses.replace(start, params=merge(start.params, run.trained))


def main(folder: str) -> None:
  """Prints task -> the loss of the recycled prompt, and those of random starts."""
  first, second = (pretrained(seed, folder) for seed in (1, 2))
  random, found = np.random.default_rng(0), {}
  for name in ('SortAscending', 'SortDescending'):
    task = integers.task(name, **SHAPE)
    run = pt.tune(first, task, prompt_length=5, steps=100, batch_size=64, lengths=LENGTHS, quiet=True,
                  learning_rate=0.1, model_dir=f'{folder}/{name}')
    starts = [SavedPrompt(np.asarray(second.embeddings())[random.choice(ROWS, 5)]) for _ in range(4)]
    losses = [evaluate_loss(second, prompt.conditioning(second), second.layout(prompt.layout()), task,
                            lengths=LENGTHS, batch_size=64, steps=4)['loss']
              for prompt in (pt.recycle(run.prompt, first, second, rows=ROWS), *starts)]
    found[name] = losses[0], losses[1:]
  print(json.dumps(found))


if __name__ == '__main__':
  main(sys.argv[1])
