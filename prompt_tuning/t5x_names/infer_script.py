"""`infer_script.infer`: a run that answers a file."""

import dataclasses
import os
from collections.abc import Sequence

from prompt_tuning.data.tasks import Example, Mixture
from prompt_tuning.devices import meshes, multihost
from prompt_tuning.evaluation import predictions
from prompt_tuning.files import storage
from prompt_tuning.t5x_names.files import is_table
from prompt_tuning.t5x_names.models import EncoderDecoderModel
from prompt_tuning.t5x_names.partitioning import PjitPartitioner
from prompt_tuning.t5x_names.utils import DatasetConfig, RestoreCheckpointConfig, check_folder

__all__ = ['infer']
_LINES = {'json': predictions.json_line, 'id||text': predictions.text_line}


@dataclasses.dataclass(frozen=True)
class infer:
  """A run that answers the inputs of a file or of a task's split.

  Attributes:
    model: the frozen model and its prompt.
    dataset_cfg: the inputs: a .jsonl, .tsv or text file (a text a line), or a task and split.
    restore_checkpoint_cfg: where the model is read from.
    output_dir: where the answers are written.
    mode: 'predict', 'predict_with_aux' (with scores) or 'score' (log-likelihoods of given targets).
    checkpoint_period: accepted; answers are written when all are there.
    shard_id: 0.
    num_shards: 1.
    partitioner: how the model is spread over devices.
    fallback_init_rng: seed of a prompt that is made anew; None forbids that.
    random_seed: of samplers that draw.
    lines: 'json', or 'id||text' for a text file of the answers alone, with the examples' ids or numbers from 0.
  """

  model: EncoderDecoderModel
  dataset_cfg: DatasetConfig
  restore_checkpoint_cfg: RestoreCheckpointConfig
  output_dir: str
  mode: str = 'predict'
  checkpoint_period: int = 100
  shard_id: int = 0
  num_shards: int = 1
  partitioner: PjitPartitioner = PjitPartitioner()
  fallback_init_rng: int | None = None
  random_seed: int = 0
  lines: str = 'json'

  def __post_init__(self) -> None:
    check_folder('INFER_OUTPUT_DIR', self.output_dir)
    if self.mode not in ('predict', 'predict_with_aux', 'score'):
      raise ValueError(f'infer_script.infer.mode is {self.mode!r}. Give predict, predict_with_aux or score.')
    if self.lines not in _LINES:
      raise ValueError(f'infer_script.infer.lines is {self.lines!r}. Give one of {", ".join(map(repr, _LINES))}.')
    if self.mode != 'predict' and self.lines != 'json':
      raise ValueError(f'infer_script.infer.lines is {self.lines!r}, which has no place for what the mode {self.mode} '
                       "gives. Set the mode 'predict', or the lines 'json'.")
    if (self.shard_id, self.num_shards) != (0, 1):
      raise ValueError(f'infer_script.infer has shard {self.shard_id} of {self.num_shards}, but this version answers a '
                       'file whole. Cut the file into parts, or leave both out.')

  @property
  def restore(self) -> RestoreCheckpointConfig:
    """Where the model is read from."""
    return self.restore_checkpoint_cfg

  @property
  def data(self) -> DatasetConfig:
    """The examples that it reads."""
    return self.dataset_cfg

  def examples(self) -> Sequence[Example]:
    """Returns what is answered."""
    cfg, name = self.dataset_cfg, self.dataset_cfg.mixture_or_task_name
    if isinstance(name, str) and (storage.is_remote(name) or os.path.isfile(name)):
      if is_table(name) and self.mode == 'score':
        return cfg.files.task(name).split('all')
      return cfg.files.questions(name)
    task = cfg.task(self.model.vocabulary(self.restore.source or ''))
    if isinstance(task, Mixture):
      raise ValueError(f'{task.name} is a mixture. Give one of its tasks: {", ".join(t.name for t in task.tasks)}.')
    return task.split(cfg.split)

  def run(self, config_text: str) -> str:
    """Answers and writes; returns the path of the answers."""
    cfg, examples = self.dataset_cfg, self.examples()
    model = self.model.load(self.restore, mesh=self.partitioner.mesh())
    meshes.rows_at_once(model.module.config.mesh, cfg.batch_size)
    trained = self.model.trained(model, self.restore, seed=self.fallback_init_rng)
    # Before the work: where it cannot be written, the answers cannot either.
    if multihost.is_main():
      storage.write_bytes(storage.join(self.output_dir, 'config.gin'), config_text.encode())
    lengths = cfg.task_feature_lengths
    lines = predictions.infer(
      model, trained, examples, sampler=self.model.sampler(), lengths=lengths, batch_size=cfg.batch_size,
      mode=self.mode, max_length=(lengths or {}).get('targets', 64), seed=self.random_seed)
    path = self.files()[0]
    count = predictions.write_lines(path, lines, _LINES[self.lines])
    if multihost.is_main():
      storage.write_bytes(f'{path}.COMPLETED', b'')
      print(f'Wrote {count} answers: {path}')
    return path

  def files(self) -> list[str]:
    """Returns what it writes."""
    name, _ = os.path.splitext(os.path.basename(self.dataset_cfg.name))
    answers = f'{name}-{self.mode}.' + ('jsonl-00000-of-00001' if self.lines == 'json' else 'txt')
    return [storage.join(self.output_dir, file) for file in (answers, f'{answers}.COMPLETED', 'config.gin')]
