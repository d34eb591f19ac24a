"""A run that trains, as a value."""

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from prompt_tuning.runs.base import Count, Positive, Rate, Run, setting
from prompt_tuning.runs.choice import Choice


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class TrainRun(Run):
  """A run that trains a few tensors for a frozen model.

  Attributes:
    output: the folder of the run, local or gs://; a run that is there is resumed.
    loss_weight: the column of the file that weights each row's targets in the loss; none weights all equally.
    train_on: the turns of a conversation whose loss is minimised: all of the assistant's, or its last.
    method: the tuning method: prompt, residual, factored, multitask, prefix, layer_prompts, scales, low_rank, together,
      retrained, or one that a module registers.
    start_from: a run's folder or file whose trained tensors are the first values; for any method.
    trainable: regular expressions that must match the names of the trained tensors and no frozen parameter; none
      checks nothing.
    steps: training steps.
    total_steps: the global step at which the run ends, the checkpoint's steps included, instead of steps.
    learning_rate: none means one that suits the method and the model, for Adafactor; else the optimizer's own.
    schedule: factors of the learning rate, joined by *: constant, linear_warmup, rsqrt_decay, linear_decay,
      cosine_decay.
    warmup_steps: steps of linear_warmup, after which the decays start.
    decay_steps: the step at which linear_decay and cosine_decay reach 0; none is the last.
    global_schedule: the schedule counts the steps of the checkpoint too.
    optimizer: adafactor, adamw, any function of optax, or one that a module registers.
    loss: cross_entropy, distillation, margin, pairwise_cosine, pairwise_distance, or one that a module registers.
    loss_divisor: what the summed loss is divided by: tokens, a number, or none.
    microbatches: the number of parts that a batch is run in.
    packed: put several examples into a row if they fit.
    buckets: ascending lengths of inputs; batches are only as long as their rows need.
    dropout_rate: share of activations dropped in training.
    rematerialise: full keeps only each layer's input, for less memory and more time.
    evaluation_data: a task to evaluate on, instead of the one that is learnt.
    evaluation_split: the split to evaluate on; none is validation, or train if there is none.
    evaluation_max_input_length: max_input_length of evaluations; none is as in training.
    evaluation_max_target_length: max_target_length of evaluations; none is as in training.
    evaluation_period: steps from one evaluation to the next; none is a quarter of the run.
    evaluation_examples: how many examples predictions are generated for; 0 is no example, none is all.
    compare: evaluate the frozen model alone first, for comparison.
    loss_steps: batches of the evaluation loss; 0 skips it.
    written_examples: how many predictions are written; none is all.
    objective: the metric, or loss, that selects the best step; none is the first metric.
    patience: stop after this many evaluations without improvement.
    stop_accuracy: stop when this share of the tokens of the last stop_examples examples is right.
    stop_examples: see stop_accuracy.
    saving_period: steps from one saved state to the next.
    keep: how many states are kept; none keeps all.
    log_period: steps from one line of metrics to the next.
    cache_limit: bytes of memory for the cached keys and values of texts; the rest goes to disk.
    extend: resume the run with more steps even if its learning rate depends on their number.
    check_frozen: at the end, compare all frozen parameters with the checkpoint, to the last bit.
    profile: how many steps JAX's profiler records, after the first ten.
    tracker: where the figures are shown too: wandb, mlflow, trackio, or one that a module registers; tensorboard, whose
      files are always written, is no other place.
  """

  executor: ClassVar[str] = 'training'

  output: str | None = setting(None, 'output', learnt=False)
  loss_weight: str | None = setting(None, 'data')
  train_on: Literal['all', 'last'] = setting('all', 'data')
  method: Choice = setting(Choice('prompt'), 'method')
  start_from: str | None = setting(None, 'method')
  trainable: tuple[str, ...] | None = setting(None, 'method', learnt=False)
  steps: Positive | None = setting(1000, 'training')
  total_steps: Positive | None = setting(None, 'training')
  learning_rate: Rate | None = setting(None, 'training')
  schedule: str = setting('linear_decay', 'training')
  warmup_steps: Count = setting(0, 'training')
  decay_steps: Positive | None = setting(None, 'training')
  global_schedule: bool = setting(False, 'training')
  optimizer: Choice = setting(Choice('adafactor'), 'training')
  loss: Choice = setting(Choice('cross_entropy'), 'training')
  loss_divisor: Rate | Literal['tokens'] | None = setting('tokens', 'training')
  microbatches: Positive | None = setting(None, 'machine', learnt=False)
  packed: bool = setting(False, 'training')
  buckets: tuple[Positive, ...] | None = setting(None, 'training')
  dropout_rate: Annotated[float, Meta(ge=0, lt=1)] = setting(0.0, 'training')
  rematerialise: Literal['none', 'full'] = setting('none', 'machine', learnt=False)
  evaluation_data: Choice | None = setting(None, 'evaluation', learnt=False)
  evaluation_split: str | None = setting(None, 'evaluation', learnt=False)
  evaluation_max_input_length: Positive | None = setting(None, 'evaluation', learnt=False)
  evaluation_max_target_length: Positive | None = setting(None, 'evaluation', learnt=False)
  evaluation_period: Positive | None = setting(None, 'evaluation', learnt=False)
  evaluation_examples: Count | None = setting(200, 'evaluation', learnt=False)
  compare: bool = setting(True, 'evaluation', learnt=False)
  loss_steps: Count = setting(4, 'evaluation', learnt=False)
  written_examples: Count | None = setting(None, 'evaluation', learnt=False)
  objective: str | None = setting(None, 'evaluation', learnt=False)
  patience: Positive | None = setting(None, 'evaluation', learnt=False)
  stop_accuracy: Annotated[float, Meta(gt=0, le=1)] | None = setting(None, 'training', learnt=False)
  stop_examples: Positive = setting(50, 'training', learnt=False)
  saving_period: Positive = setting(1000, 'output', learnt=False)
  keep: Positive | None = setting(1, 'output', learnt=False)
  log_period: Positive = setting(10, 'output', learnt=False)
  cache_limit: Count = setting(4 << 30, 'machine', learnt=False)
  extend: bool = setting(False, 'training', learnt=False)
  check_frozen: bool = setting(False, 'output', learnt=False)
  profile: Positive | None = setting(None, 'output', learnt=False)
  tracker: Choice = setting(Choice('tensorboard'), 'output', learnt=False)

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.model is None and self.architecture is None:
      raise ValueError('model is missing. Give model=FOLDER, a Hugging Face folder or a T5X checkpoint.')
    if self.data is None:
      raise ValueError('data is missing. Give data=FILE, a .jsonl, .tsv or .csv file, or the name of a task.')
    if self.output is None:
      raise ValueError('output is missing. Give output=FOLDER, the folder of the run.')
    if (self.steps is None) == (self.total_steps is None):
      if self.steps is None or self.steps != type(self).steps:
        raise ValueError(f'steps={self.steps} and total_steps={self.total_steps} cannot be used together. '
                         'Give one of them.')
      object.__setattr__(self, 'steps', None)  # its default gives way to a total
    if self.packed and self.buckets is not None:
      raise ValueError(f'packed=True and buckets={",".join(map(str, self.buckets))} cannot be used together: rows that '
                       'hold several examples have one length. Leave one of them out.')
    if self.start_from is not None and 'init' in self.method.options:
      raise ValueError(f'start_from={self.start_from!r} and init={self.method.options["init"]!r} cannot be used '
                       'together: both are first values. Give one of them.')
    if 'learning_rate' in self.optimizer.options and self.learning_rate is not None:
      raise ValueError(f'learning_rate={self.learning_rate} and the learning rate '
                       f'{self.optimizer.options["learning_rate"]} of the optimizer {self.optimizer.name} cannot be '
                       'used together. Give one of them.')

  @property
  def steps_between_evaluations(self) -> int:
    """The evaluation period: a quarter of the run unless it is given, or 1000 if only the last step is known."""
    return self.evaluation_period or max(1, (self.steps or 4000) // 4)

  def decides(self) -> dict[str, Any]:
    """Returns the settings that decide what is learnt: the steps only if the learning rate decays until the last."""
    settings = super().decides()
    if not any(name in self.schedule for name in ('linear_decay', 'cosine_decay')) or self.decay_steps is not None:
      settings = {name: value for name, value in settings.items() if name not in ('steps', 'total_steps')}
    return settings
