"""`train_script.train`: a run that trains."""

from collections.abc import Callable, Mapping
from typing import Any

from prompt_tuning.runs.train_run import TrainRun
from prompt_tuning.t5x_names.models import EncoderDecoderModel
from prompt_tuning.t5x_names.partitioning import PjitPartitioner
from prompt_tuning.t5x_names.seqio import Evaluator
from prompt_tuning.t5x_names.trainer import Trainer
from prompt_tuning.t5x_names.utils import CheckpointConfig, DatasetConfig

__all__ = ['train']


def train(model: EncoderDecoderModel, model_dir: str, train_dataset_cfg: DatasetConfig,
          checkpoint_cfg: CheckpointConfig, total_steps: int | None = None, relative_steps: int | None = None,
          train_eval_dataset_cfg: DatasetConfig | None = None, infer_eval_dataset_cfg: DatasetConfig | None = None,
          eval_steps: int = 20, eval_period: int = 1000, random_seed: int | None = None, use_hardware_rng: bool = False,
          trainer_cls: Callable[[], Trainer] = Trainer, partitioner: Mapping[str, int] = PjitPartitioner(),
          inference_evaluator_cls: Callable[[], Evaluator] = Evaluator, objective: str | None = None,
          patience: int | None = None, log_period: int = 10, cache_limit: int = TrainRun.cache_limit,
          stop_accuracy: float | None = None, stop_examples: int = 50, check_frozen: bool = False,
          start_from: str | None = None, extend: bool = False) -> TrainRun:
  """Returns a run that trains; the other parameters are described in `runs.train_run.TrainRun`.

  Args:
    model: the frozen model and what is trained.
    model_dir: the run's folder.
    train_dataset_cfg: the examples to learn from.
    checkpoint_cfg: where the model is read from, and how the run is saved.
    total_steps: the global step at which it ends: the checkpoint's steps and its own.
    relative_steps: its own steps; if given, `total_steps` is not read.
    train_eval_dataset_cfg: examples whose loss is evaluated; None is none.
    infer_eval_dataset_cfg: examples for which predictions are generated and evaluated; None is none.
    eval_steps: batches of the evaluation loss.
    eval_period: steps from one evaluation to the next.
    random_seed: None draws one and saves it.
    use_hardware_rng: not supported.
    trainer_cls: how a step is made.
    partitioner: how the model is spread over devices.
    inference_evaluator_cls: which examples are evaluated, and how many predictions are written.

  Raises:
    ValueError: a setting cannot be used.
  """
  if use_hardware_rng:
    raise ValueError('USE_HARDWARE_RNG is True, but runs use the software generator only, so that they can be '
                     'repeated. Leave it out.')
  if train_dataset_cfg.task_feature_lengths is None:
    raise ValueError("Training needs the lengths of its batches. Set --gin.TASK_FEATURE_LENGTHS=\"{'inputs': 512, "
                     "'targets': 8}\".")
  if not train_dataset_cfg.shuffle:
    raise ValueError('train/utils.DatasetConfig.shuffle is False, but training always shuffles. Leave it out.')
  if total_steps is None and relative_steps is None:
    raise ValueError('Neither TRAIN_STEPS nor TRAIN_STEPS_RELATIVE is set. Set TRAIN_STEPS to the steps of the '
                     'checkpoint plus those of the run.')
  trainer, evaluator = trainer_cls(), inference_evaluator_cls()
  return TrainRun(
    output=model_dir, mesh=partitioner, seed=_seed(random_seed, train_dataset_cfg),
    steps=relative_steps, total_steps=total_steps if relative_steps is None else None,
    packed=train_dataset_cfg.pack, buckets=train_dataset_cfg.buckets, microbatches=trainer.num_microbatches,
    evaluation_period=eval_period, compare=False, objective=objective, patience=patience, log_period=log_period,
    cache_limit=cache_limit, stop_accuracy=stop_accuracy, stop_examples=stop_examples, check_frozen=check_frozen,
    start_from=start_from, extend=extend,
    saving_period=checkpoint_cfg.save.period, keep=checkpoint_cfg.save.keep, **_rate(model, trainer),
    **_evaluations(train_dataset_cfg, train_eval_dataset_cfg, infer_eval_dataset_cfg, eval_steps, evaluator),
    **train_dataset_cfg.settings(trains=True), **model.settings(checkpoint_cfg.restore, trains=True),
    **model.training(started=start_from is not None))


def _seed(random_seed: int | None, data: DatasetConfig) -> int | None:
  """Returns the one seed of the run, or None."""
  seeds = [seed for seed in (random_seed, data.seed) if seed is not None]
  if len(seeds) > 1 and seeds[0] != seeds[1]:
    raise ValueError(f'RANDOM_SEED is {random_seed} and train/utils.DatasetConfig.seed {data.seed}, but a run has '
                     'one seed. Set RANDOM_SEED only.')
  return seeds.pop() if seeds else None


def _rate(model: EncoderDecoderModel, trainer: Trainer) -> dict[str, Any]:
  """Returns the optimizer, and the trainer's learning rate if there is one."""
  optimizer, rate = model.optimizer_def, trainer.learning_rate_fn
  if isinstance(rate, int | float):
    return {'optimizer': optimizer, 'learning_rate': rate, 'schedule': 'constant'}
  if rate is None:
    return {'optimizer': optimizer, 'schedule': 'constant'}
  return {'optimizer': optimizer, **rate}


def _evaluations(train: DatasetConfig, loss: DatasetConfig | None, predictions: DatasetConfig | None, steps: int,
                 evaluator: Evaluator) -> dict[str, Any]:
  """Returns the settings about evaluations; ValueError if the two kinds of evaluation contradict each other."""
  given = [cfg for cfg in (loss, predictions) if cfg is not None]
  for field in ('mixture_or_task_name', 'split'):
    if len({str(getattr(cfg, field)) for cfg in given}) > 1:
      raise ValueError(f'train_eval/utils.DatasetConfig.{field} is {getattr(given[0], field)!r} and infer_eval/'
                       f'utils.DatasetConfig.{field} {getattr(given[1], field)!r}, but a run is evaluated on one task '
                       'and split. Set both to the same.')
  sizes = {cfg.batch_size for cfg in given} - {train.batch_size}
  if sizes:
    raise ValueError(f'An evaluation has the batch size {sizes.pop()}, but evaluations during training use that of '
                     f'training, {train.batch_size}. Set BATCH_SIZE for all.')
  last = given[-1] if given else train
  lengths = last.task_feature_lengths or {}
  same = last.mixture_or_task_name == train.mixture_or_task_name
  return {'evaluation_data': None if same else last.mixture_or_task_name,
          'evaluation_split': last.split if given else 'validation', 'loss_steps': 0 if loss is None else steps,
          'evaluation_examples': 0 if predictions is None else evaluator.num_examples,
          'written_examples': evaluator.write_n_results, 'evaluation_max_input_length': lengths.get('inputs'),
          'evaluation_max_target_length': lengths.get('targets')}
