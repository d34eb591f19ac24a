"""Shared by the tests of file formats: copies that may be damaged."""

import os
import pathlib
import shutil

import pytest


@pytest.fixture
def writable_copy(tmp_path):
  """Copies a folder of golden data, which is read-only, into a fresh folder of the same name."""

  def copy(source: pathlib.Path) -> pathlib.Path:
    target = tmp_path / 'copy' / source.name
    for parent, _, files in os.walk(source):
      folder = target / os.path.relpath(parent, source)
      folder.mkdir(parents=True)
      for name in files:
        shutil.copyfile(os.path.join(parent, name), folder / name)
    return target

  return copy
