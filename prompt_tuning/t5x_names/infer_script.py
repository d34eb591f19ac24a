"""`infer_script.infer`: a run that predicts for a file."""

import inspect
import os
from collections.abc import Mapping

from prompt_tuning.data.registry import KINDS
from prompt_tuning.data.tasks import is_table
from prompt_tuning.runs.choice import Choice
from prompt_tuning.runs.infer_run import InferRun
from prompt_tuning.t5x_names.models import EncoderDecoderModel
from prompt_tuning.t5x_names.partitioning import PjitPartitioner
from prompt_tuning.t5x_names.utils import DatasetConfig, RestoreCheckpointConfig

__all__ = ['infer']
_LINES = {'json': 't5x', 'id||text': 'id||text'}


def infer(model: EncoderDecoderModel, dataset_cfg: DatasetConfig, restore_checkpoint_cfg: RestoreCheckpointConfig,
          output_dir: str, mode: str = 'predict', checkpoint_period: int = 100, shard_id: int = 0, num_shards: int = 1,
          partitioner: Mapping[str, int] = PjitPartitioner(), fallback_init_rng: int | None = None,
          random_seed: int = 0, lines: str = 'json') -> InferRun:
  """Returns a run that predicts for the inputs of a file or of a task's split.

  Args:
    model: the frozen model and its prompt.
    dataset_cfg: the inputs: a .jsonl, .tsv, .csv or text file (one input per line), or a task and split.
    restore_checkpoint_cfg: where the model is read from.
    output_dir: the folder for the predictions.
    mode: 'predict', 'predict_with_aux' (with scores) or 'score' (log-likelihoods of given targets).
    checkpoint_period: accepted; predictions are written when all are made.
    shard_id: 0.
    num_shards: 1.
    partitioner: how the model is spread over devices.
    fallback_init_rng: seed of a newly initialised prompt; None forbids one.
    random_seed: seed of sampling.
    lines: 'json', or 'id||text' for a text file of the predictions alone, with the examples' ids or numbers from 0.
  """
  if lines not in _LINES:
    raise ValueError(f'infer_script.infer.lines is {lines!r}. Give one of {", ".join(map(repr, _LINES))}.')
  if (shard_id, num_shards) != (0, 1):
    raise ValueError(f'infer_script.infer has shard {shard_id} of {num_shards}, but this version predicts for a whole '
                     'file. Split the file, or leave both out.')
  data = dataset_cfg.settings()
  if is_table(data['data']):
    data['split'] = 'all'  # predictions are for the whole of a file; the split is for tasks
  name, _ = os.path.splitext(os.path.basename(_title(dataset_cfg.mixture_or_task_name)))
  file = f'{name}-{mode}.' + ('jsonl-00000-of-00001' if lines == 'json' else 'txt')
  return InferRun(
    output=os.path.join(output_dir, file), mode=mode, lines=_LINES[lines], marker=True, seed=random_seed,
    mesh=partitioner, **data, **model.settings(restore_checkpoint_cfg, trains=False),
    **model.use(restore_checkpoint_cfg, fallback_init_rng))


def _title(data: str | Choice) -> str:
  """Returns what the examples are called."""
  if isinstance(data, str):
    return data
  title = inspect.signature(KINDS[data.name]).parameters.get('title')
  return data.options.get('task') or data.options.get('title') or (title.default if title else data.name)
