"""Toy folders of a T5 and of a Llama, a file of rows, and the command in this process."""

import json
import pathlib

import pytest

import prompt_tuning as pt
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.positions import Rotary
from prompt_tuning.models.t5_config import T5Config
from prompt_tuning.programs import command

LLAMA = DecoderConfig(vocab_size=32, layers=2, width=12, heads=4, kv_heads=2, head_dim=6, mlp_dim=14, family='llama',
                      mlp_activations=('silu', 'linear'), query_scale=6**-0.5, rotary=(Rotary(100.0),) * 2,
                      windows=(0, 0))
T5 = T5Config(vocab_size=32, width=8, heads=2, head_dim=5, mlp_dim=12, encoder_layers=1, decoder_layers=2)


@pytest.fixture(scope='session')
def folders(tmp_path_factory) -> dict[str, str]:
  """Returns the folders of two models with a tokenizer: name -> path."""
  words = pt.load_model('t5_integers').vocabulary
  root = tmp_path_factory.mktemp('models')
  for name, config in (('t5', T5), ('llama', LLAMA)):
    pt.save_model(pt.random_model(config, seed=1, vocabulary=words), str(root / name))
  return {name: str(root / name) for name in ('t5', 'llama')}


@pytest.fixture(scope='session')
def rows(tmp_path_factory) -> pathlib.Path:
  """Returns a JSONL file with the columns `list`, `label` and `id`."""
  path = tmp_path_factory.mktemp('rows') / 'rows.jsonl'
  path.write_text('\n'.join(
    json.dumps({'id': i, 'list': f'{i % 7} {i % 5} {i % 3}', 'label': i % 2}) for i in range(40)))
  return path


@pytest.fixture
def run(capsys, monkeypatch, tmp_path_factory):
  """Returns a function `(*arguments) -> exit status, what was printed, errors`."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.getbasetemp() / 'cache'))

  def call(*arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = command.main([str(each) for each in arguments])
    printed = capsys.readouterr()
    return status, printed.out, printed.err

  return call
