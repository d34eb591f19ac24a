"""`eval_script.evaluate`: a run that evaluates."""

from collections.abc import Callable, Mapping, Sequence

from prompt_tuning.runs.eval_run import EvalRun
from prompt_tuning.t5x_names.models import EncoderDecoderModel
from prompt_tuning.t5x_names.partitioning import PjitPartitioner
from prompt_tuning.t5x_names.seqio import Evaluator
from prompt_tuning.t5x_names.utils import DatasetConfig, RestoreCheckpointConfig

__all__ = ['evaluate']


def evaluate(model: EncoderDecoderModel, dataset_cfg: DatasetConfig, restore_checkpoint_cfg: RestoreCheckpointConfig,
             output_dir: str, inference_evaluator_cls: Callable[[], Evaluator] = Evaluator,
             partitioner: Mapping[str, int] = PjitPartitioner(), fallback_init_rng: int | None = None,
             label_words: Sequence[str] | str | None = None, label_score: str = 'sum') -> EvalRun:
  """Returns a run that evaluates; the other parameters are described in `runs.eval_run.EvalRun`.

  Args:
    model: the frozen model and its prompt.
    dataset_cfg: the task and split.
    restore_checkpoint_cfg: where the model is read from.
    output_dir: the folder for metrics and predictions.
    inference_evaluator_cls: which examples are evaluated, and how many predictions are written.
    partitioner: how the model is spread over devices.
    fallback_init_rng: seed of a newly initialised prompt; None forbids one.
  """
  if isinstance(label_words, str) and label_words != 'task':
    raise ValueError(f'eval_script.evaluate.label_words is {label_words!r}, expected a list of words or "task". '
                     f'Write [{label_words!r}, …].')
  evaluator = inference_evaluator_cls()
  return EvalRun(
    output=output_dir, examples=evaluator.num_examples, written_examples=evaluator.write_n_results, mesh=partitioner,
    label_words=label_words, label_score=label_score, **dataset_cfg.settings(),
    **model.settings(restore_checkpoint_cfg, trains=False), **model.use(restore_checkpoint_cfg, fallback_init_rng))
