"""One minute of the load of soak.py; by hand it runs for as long as one likes."""

import asyncio
import importlib.util

import numpy as np
import pytest

if importlib.util.find_spec('starlette') is None or importlib.util.find_spec('openai') is None:
  pytest.skip("needs `pip install '.[serve,peers]'`", allow_module_level=True)

import chat_toys
import soak
from test_server_process import Process

from prompt_tuning.evaluation.saved import SavedPrompt


@pytest.mark.slow
def test_a_server_under_mixed_load_does_nothing_but_what_is_intended(tmp_path, users_environment):
  model = chat_toys.write_model(tmp_path / 'toy')
  (tmp_path / 'prompts').mkdir()
  for length in (2, 5, 9):
    vectors = np.random.default_rng(length).normal(size=(length, 12)).astype(np.float32)
    SavedPrompt(vectors).save(str(tmp_path / f'prompts/p{length}.safetensors'))
  with Process(model, '--prompts', str(tmp_path / 'prompts'), '--loadable', str(tmp_path), '--served_model_name',
               'base', environment=users_environment) as server:
    load = soak.Soak(server.url, ['base', 'p2', 'p5', 'p9'], str(tmp_path / 'prompts/p9.safetensors'), 60)
    soak.check(load, asyncio.run(load.run(40, server.process.pid)))
