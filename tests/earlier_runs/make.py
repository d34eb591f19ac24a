"""Makes this folder: a run of each kind, and its expected outputs. Made by the package's version of 2026-11.

  PYTHONPATH=. python tests/earlier_runs/make.py      # in the root of a checkout

The commit is in `made_at.txt`. Do not run it again: the files must stay as that version wrote them. Add a new kind of
run under a new name.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import test_earlier_runs as tests

from prompt_tuning.evaluation.saved import SavedPrompt, load_trained
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.loading import random_model, save_model
from prompt_tuning.models.positions import Rotary
from prompt_tuning.models.t5_config import T5Config
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Visibility

HERE = pathlib.Path(__file__).parent
MODELS = {  # all dimensions differ
  't5': T5Config(vocab_size=29, width=12, heads=4, head_dim=5, mlp_dim=14, encoder_layers=2, decoder_layers=3,
                 relative_buckets=8, relative_max_distance=11),
  'llama': DecoderConfig(vocab_size=29, layers=3, width=12, heads=4, kv_heads=2, head_dim=6, mlp_dim=14, tied=True,
                         mlp_activations=('silu', 'linear'), query_scale=6**-0.5,
                         rotary=(Rotary(),) * 3, windows=(0, 0, 0)),
}
# Folders of event files, which only TensorBoard reads.
UNUSED = ('train', 'training_eval', 'inference_eval/turn', 'inference_eval/turn.jsonl')


def main() -> None:
  """Writes everything; the folder holds only this file."""
  os.chdir(HERE)
  commit = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True, check=True).stdout
  pathlib.Path('made_at.txt').write_text(f'commit {commit.strip()}, the version of 2026-11\n')
  pathlib.Path('expected').mkdir()
  write_examples()
  for name, config in MODELS.items():
    save_model(random_model(config, seed=1), f'models/{name}')
  for name in tests.METHODS:
    make_run(name)
  make_prompts()
  make_adapters()
  make_by_command()


def write_examples():
  """Writes lists of ids and their reversals."""
  random = np.random.default_rng(0)
  rows = [random.integers(2, 29, random.integers(1, 5)).tolist() for _ in range(40)]
  pathlib.Path('turn.jsonl').write_text(''.join(json.dumps(
    {'inputs': ' '.join(map(str, row)), 'targets': ' '.join(map(str, row[::-1]))}) + '\n' for row in rows))


def write_expected(name, values, arrays):
  """Writes numbers and arrays next to the folders."""
  pathlib.Path(f'expected/{name}.json').write_text(json.dumps(values, indent=1) + '\n')
  np.savez_compressed(f'expected/{name}.npz', **{path: np.asarray(array) for path, array in arrays.items()})


def make_run(name):
  """Makes a run of `METHODS`, and its expected outputs."""
  tests.train(name, HERE / name, tests.STEPS)
  drop_unused(name)
  values, arrays = {}, {}
  for each in tests.TENSORS:
    used = load_trained(f'{name}/{each}.safetensors'), tests.METHODS[name][0]
    values[each], values[f'{each}/answers'] = tests.losses(*used), tests.answers(*used)
    arrays[f'{each}/logits'] = tests.logits(*used)
  values['best_step'] = load_trained(name).about['step']
  shutil.copytree(name, 'resumed')
  values['resumed'], trained = tests.train(name, HERE / 'resumed', tests.STEPS + tests.MORE)
  shutil.rmtree('resumed')
  write_expected(name, values, arrays | {f'resumed/{path}': array for path, array in trained.items()})


def drop_unused(folder):
  """Deletes the event files of TensorBoard."""
  for each in UNUSED:
    shutil.rmtree(f'{folder}/{each}', ignore_errors=True)


def make_prompts():
  """Makes files of one prompt."""
  vectors = np.random.default_rng(1).normal(size=(7, 12)).astype(np.float32)
  prompt = SavedPrompt(vectors, layouts.before_eos, Visibility(input=False), {'model': 't5', 'step': 7})
  values = {}
  for file in ('prompt.safetensors', 'prompt.npy'):
    prompt.save(file)
    values[file] = tests.losses(load_trained(file), 't5')
  write_expected('prompt', values, {'vectors': vectors})


def make_adapters():
  """Makes folders of PEFT."""
  for folder, run in tests.ADAPTERS.items():
    tests.run_command('convert', run, folder, '--model=models/llama')
    write_expected(folder, {}, load_trained(run).tensors)


def make_by_command():
  """Makes a run with `prompt-tuning train`, and the outputs of `prompt-tuning eval` for it and for others."""
  tests.run_command(*tests.TRAIN, '--gin.TRAIN_STEPS=3')
  drop_unused('by_command')
  values = {'evaluated': {}}
  for source in tests.EVALUATED:
    tests.run_command(*tests.EVAL, f"--gin.PROMPT_FILE='{source}'")
    values['evaluated'][source] = tests.outputs(HERE)
    shutil.rmtree('judged')
  shutil.copytree('by_command', 'kept')
  tests.run_command(*tests.TRAIN, '--gin.TRAIN_STEPS=5')
  vectors = load_trained('by_command/last.safetensors').prompt().vectors
  values['resumed'] = tests.last_figures(HERE / 'by_command')
  shutil.rmtree('by_command')
  shutil.move('kept', 'by_command')
  write_expected('by_command', values, {'resumed/vectors': vectors})


if __name__ == '__main__':
  main()
