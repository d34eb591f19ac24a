"""The most positions that a model's rows may have."""

import os
from typing import Any

from prompt_tuning.files import model_files
from prompt_tuning.files.json_files import part_of

_POSITIONS = ('n_positions', 'max_position_embeddings')  # of a config.json


def longest_row(model: Any) -> int | None:
  """Returns the most positions of a model's rows, by its position table or its `config.json`; None if none says it.

  Raises:
    ValueError: the file is damaged.
  """
  if count := getattr(model.module.config, 'position_count', 0):
    return count
  path = os.path.join(model.path, 'config.json')
  stored = part_of(model_files.read_object(path) if model_files.exists(path) else {}, 'encoder', 'text_config')
  return next((stored[name] for name in _POSITIONS if type(stored.get(name)) is int and stored[name] > 0), None)
