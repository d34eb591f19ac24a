"""`eval_script.evaluate`: a run that judges."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping

from absl import logging

from prompt_tuning import evaluation as library
from prompt_tuning import inference, storage
from prompt_tuning.data.tasks import Mixture, Task
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
  """

  model: EncoderDecoderModel
  dataset_cfg: DatasetConfig
  restore_checkpoint_cfg: RestoreCheckpointConfig
  output_dir: str
  inference_evaluator_cls: Callable[[], Evaluator] = Evaluator
  partitioner: PjitPartitioner = PjitPartitioner()
  fallback_init_rng: int | None = None

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

  def run(self, config_text: str) -> dict[str, Mapping[str, float]]:
    """Evaluates, prints and writes; returns task -> metrics."""
    cfg, evaluator = self.dataset_cfg, self.inference_evaluator_cls()
    task = self.task()
    model = self.model.load(self.restore)
    trained = self.model.trained(model, self.restore, seed=self.fallback_init_rng)
    conditioning, layout = trained.conditioning(model), model.layout(trained.layout())
    step = int(trained.about.get('step', model.step))
    storage.write_bytes(storage.join(self.output_dir, 'config.gin'), config_text.encode())
    run_files.write_model_info(self.output_dir, model.params, trained.tensors, step)
    found = {}
    for each, _ in task.parts(cfg.split):
      result = library.evaluate(
        model, conditioning, layout, each, sampler=self.model.sampler(), split=cfg.split,
        lengths=cfg.task_feature_lengths, batch_size=cfg.batch_size, num_examples=evaluator.num_examples)
      found[each.name] = result.metrics
      self._write(os.path.basename(each.name), step, result, evaluator.write_n_results)
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
    inference.write_lines(storage.join(folder, f'{name}-{step:06}.jsonl'), iter(result.lines[:count]))
    metric_log.append_metrics(self.output_dir, name, step, result.metrics)
    with contextlib.closing(metric_log.open_tensorboard(storage.join(folder, name))) as writer:
      metric_log.add_scalars(writer, step, result.metrics, judged=True)

  def files(self) -> list[str]:
    """Returns what it writes."""
    name = os.path.basename(self.dataset_cfg.name)
    return [storage.join(self.output_dir, file) for file in (
      'config.gin', 'model-info.txt', f'inference_eval/{name}-metrics.jsonl', f'inference_eval/{name}-{{step}}.jsonl',
      f'inference_eval/{name}/events*')]
