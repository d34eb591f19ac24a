"""The models and batches of the golden data, read as users read theirs.

`tests/goldens` is always there; `../shared/fixtures` holds more, and tests of it are skipped where it is absent.
"""

import atexit
import dataclasses
import functools
import pathlib
import shutil
import tarfile
import tempfile

import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.models.loading import load_model
from prompt_tuning.models.row_prompts import collect_prompts
from prompt_tuning.models.t5_config import T5Config
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning, StackConditioning

OWN = pathlib.Path(__file__).parent / 'goldens'
FAMILIES = pathlib.Path(__file__).parent / 'models/families'
SHARED = pathlib.Path(__file__).parents[2] / 'shared' / 'fixtures'
CONFIGS = {
  'own': T5Config(vocab_size=37, width=10, heads=3, head_dim=5, mlp_dim=14, encoder_layers=2, decoder_layers=4,
                  relative_buckets=8, relative_max_distance=11),
  'tiny': T5Config(vocab_size=32128, width=4, heads=2, head_dim=2, mlp_dim=8, encoder_layers=2, decoder_layers=2,
                   relative_buckets=4, relative_max_distance=8),
  'small': T5Config(vocab_size=128, width=32, heads=4, head_dim=8, mlp_dim=64, encoder_layers=2, decoder_layers=2,
                    relative_buckets=8, relative_max_distance=16),
}




@dataclasses.dataclass(frozen=True)
class T5XFiles:
  """Where a model of T5X, and what T5X gave for it, lies. Folders of checkpoints are called `ckpt_{layout}`."""

  golden: pathlib.Path
  params: pathlib.Path
  training: pathlib.Path
  checkpoints: pathlib.Path


def shared_folder() -> pathlib.Path:
  """Returns the folder of golden data beside the project; where it is absent, the test is skipped."""
  if not SHARED.exists():
    pytest.skip('no golden data: the folder ../shared/fixtures is absent')
  return SHARED


@functools.cache
def t5x_files(name: str) -> T5XFiles:
  """Returns the files of the model 'own' (of `tests/goldens`) or of 'small' (d beside the project)."""
  if name == 'own':
    folder = OWN / 't5x'
    return T5XFiles(folder / 'encoder_decoder.npz', folder / 'parameters.npz', folder / 'training.npz',
                    _unpacked(folder / 'checkpoints.tar.xz'))
  folder = shared_folder() / 't5x/d_small'
  return T5XFiles(folder / 'golden.npz', folder / 'params.npz', folder / 'train_20.npz', folder)


@functools.cache
def _unpacked(archive: pathlib.Path) -> pathlib.Path:
  folder = tempfile.mkdtemp(prefix='prompt_tuning_goldens_')
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  with tarfile.open(archive) as file:
    file.extractall(folder, filter='data')
  return pathlib.Path(folder)


@functools.cache
def t5x_model(name: str) -> LanguageModel:
  """Returns the model 'own', 'tiny' (of a, b and c) or 'small' (of d), from T5X's native checkpoint."""
  path = shared_folder() / 't5x_native/checkpoint_3' if name == 'tiny' else t5x_files(name).checkpoints / 'ckpt_native'
  return load_model(str(path), config=CONFIGS[name])


def hugging_face_files(name: str) -> tuple[pathlib.Path, pathlib.Path]:
  """Returns the folder of a model that transformers saved, and what it gave; 'own_…' is one of `models/families`."""
  if name.startswith('own_'):
    name = name.removeprefix('own_')
    return FAMILIES / name, OWN / f'hf/{name}.npz'
  return shared_folder() / 'hf' / name, shared_folder() / 'hf' / name / 'golden.npz'


@functools.cache
def hugging_face_model(name: str) -> LanguageModel:
  """Returns a model that transformers saved."""
  return load_model(str(hugging_face_files(name)[0]))


def make_batch(inputs, targets, prompt_length: int = 0):
  """Returns the batch of arrays [B, T] and [B, S] that are padded with 0 on the right, in the same places."""
  layout = layouts.Layout(prompt_length)
  rows = [[layout.example(i[i > 0], t[t > 0])] for i, t in zip(np.asarray(inputs), np.asarray(targets), strict=True)]
  return layouts.assemble(rows, {'encoder': inputs.shape[1] + prompt_length, 'decoder': targets.shape[1]})


def make_generation_batch(inputs, prompts, model: LanguageModel):
  """Returns a batch without targets and its Conditioning, one prompt or None for each row."""
  chosen, conditioning = collect_prompts(list(prompts), len(prompts), model)
  rows = [[use.layout.example(ids[ids > 0], [], prompt_id=use.number)]
          for ids, use in zip(np.asarray(inputs), chosen, strict=True)]
  longest = max(len(row[0]['encoder']['tokens']) for row in rows)
  return layouts.assemble(rows, {'encoder': longest, 'decoder': 1}), conditioning


def conditioning_of(prompt) -> Conditioning:
  """Returns what hands one prompt [P, D] to the encoder; nothing where it is None."""
  if prompt is None:
    return Conditioning()
  return Conditioning(encoder=StackConditioning(prompt=jnp.asarray(prompt)[None]))
