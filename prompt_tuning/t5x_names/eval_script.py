"""`eval_script.evaluate`: a run that judges."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence

from absl import logging

from prompt_tuning.data.tasks import Mixture, Task
from prompt_tuning.devices import meshes, multihost
from prompt_tuning.evaluation import evaluate as library
from prompt_tuning.evaluation import predictions
from prompt_tuning.evaluation.ranking import Ranked
from prompt_tuning.files import storage
from prompt_tuning.t5x_names.models import EncoderDecoderModel
from prompt_tuning.t5x_names.partitioning import PjitPartitioner
from prompt_tuning.t5x_names.seqio import Evaluator
from prompt_tuning.t5x_names.utils import DatasetConfig, RestoreCheckpointConfig, check_folder
from prompt_tuning.training import metric_log, run_files

__all__ = ['evaluate']


@dataclasses.dataclass(frozen=True)
class evaluate:
  """A run that judges a frozen model and a prompt by a task's metrics.

  Attributes:
    model: the frozen model and its prompt.
    dataset_cfg: the task and split.
    restore_checkpoint_cfg: where the model is read from.
    output_dir: where metrics and answers are written.
    inference_evaluator_cls: what is answered and kept.
    partitioner: how the model is spread over devices.
    fallback_init_rng: seed of a prompt that is made anew; None forbids that.
    label_words: take the likeliest of these words instead of generating; 'task' takes those of the task's label map.
    label_score: what decides: 'sum' of a word's log-probabilities, or 'mean'.
  """

  model: EncoderDecoderModel
  dataset_cfg: DatasetConfig
  restore_checkpoint_cfg: RestoreCheckpointConfig
  output_dir: str
  inference_evaluator_cls: Callable[[], Evaluator] = Evaluator
  partitioner: PjitPartitioner = PjitPartitioner()
  fallback_init_rng: int | None = None
  label_words: Sequence[str] | str | None = None
  label_score: str = 'sum'

  def __post_init__(self) -> None:
    check_folder('EVAL_OUTPUT_DIR', self.output_dir)

  @property
  def restore(self) -> RestoreCheckpointConfig:
    """Where the model is read from."""
    return self.restore_checkpoint_cfg

  @property
  def data(self) -> DatasetConfig:
    """The examples that it reads."""
    return self.dataset_cfg

  def task(self) -> Task | Mixture:
    """Returns what it judges by."""
    return self.dataset_cfg.task(self.model.vocabulary(self.restore.source or ''))

  def ranked(self, task: Task) -> Ranked | None:
    """Returns the words to rank of one task; None where answers are generated.

    Raises:
      ValueError: the task has no label map, or the words cannot be ranked.
    """
    if self.label_words is None:
      return None
    if self.label_words != 'task':
      if isinstance(self.label_words, str):
        raise ValueError(f'eval_script.evaluate.label_words is {self.label_words!r}, wanted a list of words or "task". '
                         f'Write [{self.label_words!r}, …].')
      return Ranked(self.label_words, self.label_score)
    if not task.labels:
      raise ValueError(f'eval_script.evaluate.label_words is "task", but the task {task.name} has no label map. Set '
                       "files.FileTask.labels, or label_words to the words, such as ['negative', 'positive'].")
    return Ranked(task.labels, self.label_score)

  def run(self, config_text: str) -> dict[str, Mapping[str, float]]:
    """Evaluates, prints and writes; returns task -> metrics."""
    cfg, evaluator = self.dataset_cfg, self.inference_evaluator_cls()
    task = self.task()
    model = self.model.load(self.restore, mesh=self.partitioner.mesh())
    meshes.rows_at_once(model.module.config.mesh, cfg.batch_size)
    trained = self.model.trained(model, self.restore, seed=self.fallback_init_rng)
    conditioning, layout = trained.conditioning(model), model.layout(trained.layout())
    step = int(trained.about.get('step', model.step))
    if multihost.is_main():
      storage.write_bytes(storage.join(self.output_dir, 'config.gin'), config_text.encode())
      run_files.write_model_info(self.output_dir, model.params, trained.tensors, step)
    found = {}
    for each, _ in task.parts(cfg.split):
      result = library.evaluate(
        model, conditioning, layout, each, sampler=self.model.sampler(), split=cfg.split,
        lengths=cfg.task_feature_lengths, batch_size=cfg.batch_size, num_examples=evaluator.num_examples,
        ranked=self.ranked(each))
      found[each.name] = result.metrics
      if multihost.is_main():
        self._write(os.path.basename(each.name), step, result, evaluator.write_n_results)
    if multihost.is_main():
      print(f'Wrote {self.output_dir}')
    return found

  def _write(self, name: str, step: int, result: library.Evaluation, count: int | None) -> None:
    print(f'{name}, {len(result.lines)} examples: ' + ', '.join(
      f'{metric} {value:.4g}' for metric, value in result.metrics.items()))
    cut = result.truncated
    if cut['inputs'] or cut['targets']:
      logging.warning('Of %d examples, %d inputs and %d targets were longer than TASK_FEATURE_LENGTHS and were cut.',
                      cut['examples'], cut['inputs'], cut['targets'])
    folder = storage.join(self.output_dir, 'inference_eval')
    predictions.write_lines(storage.join(folder, f'{name}-{step:06}.jsonl'), iter(result.lines[:count]))
    metric_log.append_metrics(self.output_dir, name, step, result.metrics)
    with contextlib.closing(storage.GrowingFolder(storage.join(folder, name))) as grown, \
         contextlib.closing(metric_log.open_tensorboard(grown.path)) as writer:
      metric_log.add_scalars(writer, step, result.metrics, judged=True)

  def files(self) -> list[str]:
    """Returns what it writes."""
    name = os.path.basename(self.dataset_cfg.name)
    return [storage.join(self.output_dir, file) for file in (
      'config.gin', 'model-info.txt', f'inference_eval/{name}-metrics.jsonl', f'inference_eval/{name}-{{step}}.jsonl',
      f'inference_eval/{name}/events*')]
