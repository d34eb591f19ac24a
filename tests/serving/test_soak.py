"""One minute of the load of soak.py; by hand it runs for as long as one likes."""

import importlib.util

import pytest

if importlib.util.find_spec('starlette') is None or importlib.util.find_spec('openai') is None:
  pytest.skip("needs `pip install '.[serve,peers]'`", allow_module_level=True)

import chat_toys
import soak
from test_server_process import Process


@pytest.mark.slow
def test_a_server_under_mixed_load_does_nothing_but_what_is_intended(tmp_path, users_environment):
  model = chat_toys.write_model(tmp_path / 'toy')
  with Process(model, *soak.write_prompts(tmp_path, 12), environment=users_environment) as server:
    soak.load(server, tmp_path, 60)
