"""`train_script.train`: a run that trains."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from prompt_tuning.data.tasks import Mixture, Task
from prompt_tuning.devices import multihost
from prompt_tuning.models import ends
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.t5x_names.models import EncoderDecoderModel
from prompt_tuning.t5x_names.partitioning import PjitPartitioner
from prompt_tuning.t5x_names.seqio import Evaluator
from prompt_tuning.t5x_names.trainer import Trainer
from prompt_tuning.t5x_names.utils import CheckpointConfig, DatasetConfig, RestoreCheckpointConfig, check_folder
from prompt_tuning.training import loop
from prompt_tuning.training.optimizers import Optimizer

__all__ = ['train']


@dataclasses.dataclass(frozen=True)
class train:
  """A run that trains.

  Attributes:
    model: the frozen model and what is trained.
    model_dir: the run's folder.
    train_dataset_cfg: what it learns.
    checkpoint_cfg: where the model is read, how the run is saved.
    total_steps: the global step at which it ends: the checkpoint's steps and its own.
    relative_steps: its own steps; where given, `total_steps` is not read.
    train_eval_dataset_cfg: examples whose loss is watched; None is none.
    infer_eval_dataset_cfg: examples that are answered and judged; None is none.
    eval_steps: batches of the loss that is watched.
    eval_period: steps from one evaluation to the next.
    random_seed: of first values, order and dropout; None draws one and saves it.
    use_hardware_rng: not supported.
    trainer_cls: how a step is made.
    partitioner: how the model is spread over devices.
    inference_evaluator_cls: what is answered and kept.
    objective: the metric, or 'loss', that tells which prompt is best; None is the first metric.
    patience: stop after so many evaluations without a better one; None never stops early.
    log_period: steps from one line of figures to the next.
    cache_limit: bytes of memory for texts that `train_prompts.Prompt.cache_text` keeps; further ones go to disk.
    stop_accuracy: end when so many of the last `stop_examples` examples' tokens are right, 0 to 1; None never.
    stop_examples: see there.
    check_frozen: at the end read the checkpoint again, and compare all that is frozen with it to the last bit.
  """

  model: EncoderDecoderModel
  model_dir: str
  train_dataset_cfg: DatasetConfig
  checkpoint_cfg: CheckpointConfig
  total_steps: int | None = None
  relative_steps: int | None = None
  train_eval_dataset_cfg: DatasetConfig | None = None
  infer_eval_dataset_cfg: DatasetConfig | None = None
  eval_steps: int = 20
  eval_period: int = 1000
  random_seed: int | None = None
  use_hardware_rng: bool = False
  trainer_cls: Callable[[], Trainer] = Trainer
  partitioner: PjitPartitioner = PjitPartitioner()
  inference_evaluator_cls: Callable[[], Evaluator] = Evaluator
  objective: str | None = None
  patience: int | None = None
  log_period: int = 10
  cache_limit: int = loop.CACHE_LIMIT
  stop_accuracy: float | None = None
  stop_examples: int = 50
  check_frozen: bool = False

  def __post_init__(self) -> None:
    check_folder('MODEL_DIR', self.model_dir)
    self.trainer_cls()  # its mistakes are found now
    if self.use_hardware_rng:
      raise ValueError('USE_HARDWARE_RNG is True, but runs use the software generator only, so that they can be '
                       'repeated. Leave it out.')
    if self.train_dataset_cfg.task_feature_lengths is None:
      raise ValueError("Training needs the lengths of its batches. Set --gin.TASK_FEATURE_LENGTHS=\"{'inputs': 512, "
                       "'targets': 8}\".")
    if not self.train_dataset_cfg.shuffle:
      raise ValueError('train/utils.DatasetConfig.shuffle is False, but training always shuffles. Leave it out.')
    if self.total_steps is None and self.relative_steps is None:
      raise ValueError('Neither TRAIN_STEPS nor TRAIN_STEPS_RELATIVE is set. Set TRAIN_STEPS to the steps of the '
                       'checkpoint plus those of the run.')

  @property
  def seed(self) -> int | None:
    """The one seed of the run, or None."""
    seeds = {seed for seed in (self.random_seed, self.train_dataset_cfg.seed) if seed is not None}
    if len(seeds) > 1:
      raise ValueError(f'RANDOM_SEED is {self.random_seed} and train/utils.DatasetConfig.seed '
                       f'{self.train_dataset_cfg.seed}, but one seed decides all. Set RANDOM_SEED only.')
    return seeds.pop() if seeds else None

  @property
  def restore(self) -> RestoreCheckpointConfig:
    """Where the model is read from."""
    return self.checkpoint_cfg.restore

  @property
  def data(self) -> DatasetConfig:
    """The examples that it learns."""
    return self.train_dataset_cfg

  @property
  def optimizer(self) -> Optimizer:
    """The optimizer with the trainer's learning rate."""
    rate = self.trainer_cls().learning_rate_fn
    optimizer = self.model.optimizer_def
    return optimizer if rate is None else dataclasses.replace(optimizer, learning_rate=rate)

  @property
  def vocabulary(self) -> Any:
    """The model's vocabulary."""
    return self.model.vocabulary(self.restore.source or '')

  def task(self) -> Task | Mixture:
    """Returns what it learns."""
    return self.train_dataset_cfg.task(self.vocabulary)

  def end(self, start: int) -> int:
    """Returns the global step at which a run ends that starts from a checkpoint of step `start`."""
    return self.total_steps if self.relative_steps is None else start + self.relative_steps

  def evaluations(self, task: Task | Mixture) -> loop.Evaluations:
    """Returns what is evaluated on the way of a run that learns `task`.

    Raises:
      ValueError: the two kinds of evaluation differ in what the loop cannot tell apart, or have no example.
    """
    given = [cfg for cfg in (self.train_eval_dataset_cfg, self.infer_eval_dataset_cfg) if cfg is not None]
    first = given[-1] if given else None
    for name, field in (('name', 'mixture_or_task_name'), ('split', 'split')):
      if len({getattr(cfg, name) for cfg in given}) > 1:
        raise ValueError(f'train_eval/utils.DatasetConfig.{field} is {getattr(given[0], name)!r} and infer_eval/'
                         f'utils.DatasetConfig.{field} {getattr(given[1], name)!r}, but a run is judged by one task '
                         'and split. Set both alike.')
    sizes = {cfg.batch_size for cfg in given} - {self.train_dataset_cfg.batch_size}
    if sizes:
      raise ValueError(f'An evaluation has the batch size {sizes.pop()}, but while training evaluations use that of '
                       f'training, {self.train_dataset_cfg.batch_size}. Set BATCH_SIZE for all.')
    evaluator = self.inference_evaluator_cls()
    same = first is None or first.mixture_or_task_name == self.train_dataset_cfg.mixture_or_task_name
    judged = task if same else first.task(self.vocabulary)
    if first is not None:
      judged.parts(first.split)  # rather now than after a thousand steps
    return loop.Evaluations(
      task=None if same else judged, split=first.split if first else 'validation', period=self.eval_period,
      loss_steps=0 if self.train_eval_dataset_cfg is None else self.eval_steps,
      examples=0 if self.infer_eval_dataset_cfg is None else evaluator.num_examples,
      written=evaluator.write_n_results, lengths=first.task_feature_lengths if first else None,
      sampler=self.model.sampler(), objective=self.objective, patience=self.patience)

  def run(self, config_text: str) -> loop.Run:
    """Trains; goes on where the run in `model_dir` stopped."""
    cfg, save = self.train_dataset_cfg, self.checkpoint_cfg.save
    task = self.task()
    evaluations = self.evaluations(task)
    model = self.model.load(self.restore, seed=self.seed, mesh=self.partitioner.mesh())
    ended = loop.train(
      model=model, method=self.model.method(model), task=task, lengths=cfg.task_feature_lengths,
      model_dir=self.model_dir, train_steps=self.end(model.step), optimizer=self.optimizer,
      loss=self.model.loss(model.vocabulary), batch_size=cfg.batch_size,
      microbatches=self.trainer_cls().num_microbatches, seed=self.seed, packed=cfg.pack, buckets=cfg.buckets,
      split=cfg.split, evaluations=evaluations, saving=loop.Saving(save.period, save.keep), log_period=self.log_period,
      cache_limit=self.cache_limit,
      stop=None if self.stop_accuracy is None else loop.Stop(self.stop_accuracy, self.stop_examples),
      config_text=config_text)
    if self.check_frozen:
      self._check_frozen(model)
    return ended

  def _check_frozen(self, model: LanguageModel) -> None:
    """Prints that nothing frozen has changed.

    Raises:
      RuntimeError: something has, which would be a mistake of this package.
    """
    again = dataclasses.replace(self.model, ends=None).load(self.restore, seed=self.seed, mesh=model.module.config.mesh)
    count, names = ends.changed(model, again)
    if names:
      raise RuntimeError(f'{len(names)} of {count} frozen arrays have changed, first {names[0]}. Report this mistake.')
    if multihost.is_main():
      print(f'All {count} frozen arrays are unchanged to the last bit.')

  def files(self) -> list[str]:
    """Returns what it writes."""
    return [os.path.join(self.model_dir, name) for name in (
      'config.gin', 'model-info.txt', 'metrics.jsonl', 'checkpoint_{step}/state.safetensors',
      'numpy_checkpoints/checkpoint_{step}/encoder.prompt.prompt.prompt', 'last.safetensors', 'best.safetensors',
      'inference_eval/{task}-metrics.jsonl', 'inference_eval/{task}-{step}.jsonl', 'train/events*',
      'training_eval/{task}/events*', 'inference_eval/{task}/events*')]
