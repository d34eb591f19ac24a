"""Multitask prompts of PEFT: task t has the prompt `prompt_embeddings` ∘ (`prefix_task_cols`[t] `prefix_task_rows`[t]).

Their shapes are [P, D], [tasks, P, r] and [tasks, r, D], those of this package's shared prompt, columns and rows.
"""

from typing import Any

import numpy as np

from prompt_tuning.types import Flat

KIND = 'MULTITASK_PROMPT_TUNING'
STORED = {'shared': 'prompt_embeddings', 'columns': 'prefix_task_cols', 'rows': 'prefix_task_rows'}


def names(stack: str) -> dict[str, str]:
  """Returns the names of the parts in the files of this package: part -> name."""
  return {part: f'{stack}/prompt/multitask/{part}' for part in STORED}


def require_factors(path: str, arrays: Flat, shape: tuple[int, ...]) -> None:
  """Raises ValueError if the factors of the tasks do not fit a shared prompt of a shape [P, D]."""
  columns, rows = arrays[STORED['columns']], arrays[STORED['rows']]
  tasks, _, ranks = columns.shape if columns.ndim == 3 else (0, 0, 0)
  if columns.shape != (tasks, shape[0], ranks) or rows.shape != (tasks, ranks, shape[1]) or not tasks * ranks:
    raise ValueError(f'{path} holds prefix_task_cols {columns.shape} and prefix_task_rows {rows.shape}; expected '
                     f'[tasks, {shape[0]}, r] and [tasks, r, {shape[1]}]. Save it again.')


def factor(folder: str, arrays: Flat, task: int) -> np.ndarray:
  """Returns the factor [P, D] of the shared prompt for one task. Raises ValueError if there is no such task."""
  columns, rows = arrays[STORED['columns']], arrays[STORED['rows']]
  if not 0 <= task < len(columns):
    raise ValueError(f'{folder} holds the prompts of {len(columns)} tasks, but task {task} is not one of them. Choose '
                     f'0 to {len(columns) - 1} (--task of `prompt-tuning convert`).')
  return columns[task] @ rows[task]


def read(arrays: Flat, prompt: np.ndarray, stack: str) -> Flat:
  """Returns the tensors of all tasks under this package's names, given the shared prompt in the model's scale."""
  parts = {part: arrays[stored] for part, stored in STORED.items()} | {'shared': prompt}
  return {name: np.ascontiguousarray(parts[part]) for part, name in names(stack).items()}


def form(tensors: Flat, stack: str, embedding_scale: float) -> tuple[dict[str, Any], Flat]:
  """Returns PEFT's config and arrays for the tensors of all tasks; ({}, {}) if they are of another kind."""
  if tensors.keys() != set(names(stack).values()):
    return {}, {}
  arrays = {STORED[part]: np.ascontiguousarray(tensors[name]) for part, name in names(stack).items()}
  shared = arrays[STORED['shared']]
  if shared.ndim != 2:
    raise ValueError(f'The shared prompt has shape {list(shared.shape)}; expected [P, D]. Train it again.')
  require_factors('The multitask prompt', arrays, shared.shape)
  arrays[STORED['shared']] = shared * np.float32(embedding_scale)
  tasks, length, ranks = arrays[STORED['columns']].shape
  return {'peft_type': KIND, 'num_virtual_tokens': length, 'token_dim': shared.shape[1], 'num_tasks': tasks,
          'num_ranks': ranks, 'num_transformer_submodules': 1}, arrays
