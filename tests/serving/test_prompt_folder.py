"""Prompts below a folder are found under their paths; what cannot be served is named and left out."""

import logging
import os

import numpy as np
import pytest

from prompt_tuning.evaluation.prompt_paths import find
from prompt_tuning.evaluation.saved import SavedPrompt
from prompt_tuning.serving.prompt_folder import PromptFolder


class Prompts(dict):
  """Takes prompts of width 4."""

  def load(self, name, path):
    if 'bad' in name:
      raise ValueError('it has width 5')
    self[name] = path


@pytest.fixture
def folder(tmp_path):
  def save(path):
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    SavedPrompt(np.ones((2, 4), np.float32)).save(str(tmp_path / path))

  for path in ('a.npy', 'deep/er/b.safetensors', 'run/best.safetensors', 'run/last.safetensors', 'bad.npy',
               'twice.npy', 'twice.safetensors', '.hidden/x.npy', 'model/model.safetensors'):
    save(path)
  (tmp_path / 'model/config.json').write_text('{}')
  (tmp_path / 'adapter').mkdir()
  (tmp_path / 'adapter/adapter_config.json').write_text('{}')
  save('adapter/adapter_model.safetensors')
  (tmp_path / 'begun').mkdir()
  (tmp_path / 'begun/run.toml').write_text('')
  os.symlink(tmp_path, tmp_path / 'deep/again')
  return tmp_path


def test_a_name_is_the_path_below_the_folder(folder):
  assert [name for name, _ in find(str(folder))] == [
    'a', 'adapter', 'bad', 'begun', 'deep/er/b', 'run', 'twice', 'twice']
  assert list(find(str(folder / 'run'))) == [('run', str(folder / 'run'))]


def test_what_cannot_be_served_is_named_and_left_out(folder, caplog):
  prompts = Prompts()
  with caplog.at_level(logging.WARNING):
    assert PromptFolder(str(folder), prompts, ('a',)).update() == 4
  assert set(prompts) == {'adapter', 'begun', 'deep/er/b', 'run'}
  text = caplog.text
  assert 'twice.npy and' in text and 'same name, twice' in text and 'it has width 5' in text and 'base model' in text


def test_a_second_look_loads_what_is_new_or_changed(folder, caplog):
  prompts = Prompts()
  watched = PromptFolder(str(folder), prompts)
  watched.update()
  caplog.clear()
  assert watched.update() == 0 and not caplog.messages
  np.save(folder / 'new.npy', np.ones((3, 4), np.float32))
  os.utime(folder / 'run/best.safetensors', (1, 1))
  (folder / 'twice.npy').unlink()
  (folder / 'a.npy').unlink()
  assert watched.update() == 3  # new, run, twice
  assert 'a' in prompts


def test_a_folder_that_is_none_is_an_error(tmp_path):
  with pytest.raises(NotADirectoryError, match=r'prompts=.*nowhere'):
    PromptFolder(str(tmp_path / 'nowhere'), Prompts())
