"""`utils.…`: datasets, checkpoints, the learning rate."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from prompt_tuning.data import tasks
from prompt_tuning.data.buckets import bucket_lengths
from prompt_tuning.runs.choice import Choice
from prompt_tuning.t5x_names.files import FileTask
from prompt_tuning.training.schedules import create_schedule

__all__ = ['CheckpointConfig', 'DatasetConfig', 'RestoreCheckpointConfig', 'SaveCheckpointConfig',
           'create_learning_rate_scheduler']
_NO_PROMPT = ((r'^.*prompt.*$', None),)


def create_learning_rate_scheduler(factors: str = 'constant', base_learning_rate: float = 0.3, warmup_steps: int = 1000,
                                   total_steps: int | None = None) -> dict[str, Any]:
  """Returns the settings of a run's learning rate; its steps include those of the checkpoint.

  Raises:
    ValueError: a factor is unknown, or a decay lacks total_steps.
  """
  create_schedule(factors, base_learning_rate, warmup_steps, total_steps)  # raises its errors now
  return {'schedule': factors, 'learning_rate': base_learning_rate, 'warmup_steps': warmup_steps,
          'decay_steps': total_steps, 'global_schedule': True}


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
  """Which examples, and how they become batches.

  Attributes:
    mixture_or_task_name: a task's name, or the path of a .jsonl, .tsv or .csv file (`infer`: also of a text file); or a
      kind of task, such as `@integers.Task()`.
    task_feature_lengths: most tokens of 'inputs' and 'targets', end token included; None is the longest found, which
      training cannot use.
    split: 'train', 'validation', …
    batch_size: rows in a batch.
    shuffle: training always shuffles, evaluation never does; False is an error for training.
    seed: seed of training, if the run has no other.
    pack: put several examples into a row if they fit (training only).
    buckets: ascending lengths of inputs: a batch has the first of these lengths that its rows fit into (training only);
      None pads all to the length in `task_feature_lengths`, which is always the last bucket.
    use_cached: accepted; this package keeps its own files of SeqIO tasks.
    module: a Python module to import first, which adds tasks.
    files: how the lines of a file become examples.
  """

  mixture_or_task_name: str | Choice
  task_feature_lengths: Mapping[str, int] | None = None
  split: str = 'train'
  batch_size: int = 128
  shuffle: bool = True
  seed: int | None = None
  pack: bool = False
  buckets: Sequence[int] | None = None
  use_cached: bool = False
  module: str | None = None
  files: Mapping[str, Any] = dataclasses.field(default_factory=FileTask)

  def __post_init__(self) -> None:
    lengths = self.task_feature_lengths
    if lengths is not None and (not isinstance(lengths, Mapping) or set(lengths) != {'inputs', 'targets'}):
      raise ValueError(f'TASK_FEATURE_LENGTHS is {lengths!r}. Give both lengths, as in '
                       "{'inputs': 512, 'targets': 8}.")
    if self.buckets is not None and lengths is not None:
      bucket_lengths(self.buckets, lengths['inputs'], packed=self.pack)

  def settings(self, *, trains: bool = False) -> dict[str, Any]:
    """Returns the settings of a run's data; those of files only if they are used or changed."""
    lengths = self.task_feature_lengths or {}
    files = self.files if tasks.is_table(self.mixture_or_task_name) else {
      name: value for name, value in self.files.items() if value != FileTask()[name]}
    return {'data': self.mixture_or_task_name, 'split': self.split, 'batch_size': self.batch_size,
            'imports': (self.module,) if self.module else (), 'max_input_length': lengths.get('inputs'),
            'max_target_length': lengths.get('targets'),
            **{name: value for name, value in files.items() if trains or name != 'loss_weight'}}


@dataclasses.dataclass(frozen=True)
class SaveCheckpointConfig:
  """How a run's state is saved.

  Attributes:
    period: steps from one save to the next.
    keep: how many states are kept; None keeps all.
    dtype: 'float32': trained tensors are saved as they are, so that a resumed run has the same bits.
  """

  period: int = 1000
  keep: int | None = 1
  dtype: str = 'float32'

  def __post_init__(self) -> None:
    if self.dtype != 'float32':
      raise ValueError(f'utils.SaveCheckpointConfig.dtype is {self.dtype!r}, but trained tensors are saved as '
                       'float32, so that a resumed run has the same bits. Leave it out.')


@dataclasses.dataclass(frozen=True)
class RestoreCheckpointConfig:
  """Where the frozen model is read from.

  Attributes:
    path: a T5X checkpoint (local or `gs://`), a Hugging Face folder, or the name of a model that comes with the
      package; None or [] starts from random weights.
    mode: 'specific' (this checkpoint) or 'latest' (the newest in the folder).
    dtype: type of the frozen parameters in memory; 'int8' keeps the layers' matrices in 8 bits, all else in bfloat16.
    assignment_map: pairs (regular expression, None): what is matched is not read from the checkpoint. () reads the
      checkpoint's own prompt.
    fallback_to_scratch: whether a prompt that the checkpoint lacks is newly initialised.
  """

  path: str | Sequence[str] | None = None
  mode: str = 'specific'
  dtype: str = 'float32'
  assignment_map: Sequence[tuple[str, str | None]] | None = _NO_PROMPT
  fallback_to_scratch: bool = True

  def __post_init__(self) -> None:
    if self.mode not in ('specific', 'latest'):
      raise ValueError(f"utils.RestoreCheckpointConfig.mode is {self.mode!r}. Give 'specific' for the checkpoint at "
                       "`path`, or 'latest' for the newest in that folder; start one program for each of several.")
    renamed = [pair for pair in self.assignment_map or () if len(pair) != 2 or pair[1] is not None]
    if renamed:
      raise ValueError(f'utils.RestoreCheckpointConfig.assignment_map holds {renamed[0]!r}. Only pairs (regular '
                       'expression, None) are read here: names are not mapped to others.')

  @property
  def source(self) -> str | None:
    """The one path, or None."""
    if isinstance(self.path, str) or not self.path:
      return self.path or None
    if len(self.path) > 1:
      raise ValueError(f'utils.RestoreCheckpointConfig.path names {len(self.path)} checkpoints. Give one.')
    return self.path[0]

  @property
  def ignored(self) -> tuple[str, ...]:
    """Regular expressions of names that are not read."""
    return tuple(pattern for pattern, _ in self.assignment_map or ())


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """Where the frozen model is read from, and how the run is saved.

  Attributes:
    restore: where the frozen model is read from.
    save: how the run's state is saved.
  """

  restore: RestoreCheckpointConfig
  save: SaveCheckpointConfig = SaveCheckpointConfig()
