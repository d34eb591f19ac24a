"""Programs killed with signal 9 at random moments and started again."""

import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import sys
sys.path[:0] = [{tests!r}, {here!r}]
import pytest
import conftest as toy  # this folder's
from prompt_tuning import prompts
from prompt_tuning.data.vocabularies import PassThroughVocabulary
from prompt_tuning.models.loading import random_model
from prompt_tuning.models.t5 import T5Config
from prompt_tuning.training import loop

config = T5Config(vocab_size=29, width=12, heads=3, head_dim=5, mlp_dim=14, encoder_layers=2, decoder_layers=3,
                  relative_buckets=6, relative_max_distance=9, dropout_rate=0.1)
loop.train(model=random_model(config, vocabulary=PassThroughVocabulary(29)), task=toy.TASK, seed=5, packed=True,
           method=prompts.PromptTuning(prompts.Prompt(3)), lengths={{'inputs': 6, 'targets': 5}}, model_dir=sys.argv[1],
           train_steps=400, batch_size=4, saving=loop.Saving(1, keep=2), evaluations=toy.EVALUATIONS, log_period=1,
           quiet=True)
"""


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_with_the_same_files(tmp_path):
  here = pathlib.Path(__file__).parent
  program = PROGRAM.format(tests=str(here.parent), here=str(here))
  command = lambda folder: [sys.executable, '-c', program, str(tmp_path / folder)]
  subprocess.run(command('whole'), check=True)
  random.seed()
  kills = 0
  while kills < 6:
    process = subprocess.Popen(command('killed'))
    saved = len(list((tmp_path / 'killed').glob('checkpoint_*')))
    while process.poll() is None and len(list((tmp_path / 'killed').glob('checkpoint_*'))) <= min(saved, 1):
      time.sleep(0.05)  # until it has begun to train
    time.sleep(random.uniform(0, 2))
    if process.poll() is not None:
      break
    process.send_signal(signal.SIGKILL)
    process.wait()
    kills += 1
  subprocess.run(command('killed'), check=True)
  assert kills
  for name in ('checkpoint_400/state.safetensors', 'last.safetensors', 'best.safetensors',
               'numpy_checkpoints/checkpoint_400/encoder.prompt.prompt.prompt'):
    assert (tmp_path / 'killed' / name).read_bytes() == (tmp_path / 'whole' / name).read_bytes(), name
