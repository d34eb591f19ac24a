"""`models.…`: the frozen model, with its method, loss and decoding."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prompt_tuning import trees
from prompt_tuning.prompts import PATH
from prompt_tuning.runs.choice import Choice
from prompt_tuning.runs.first_values import file_of
from prompt_tuning.t5x_names import adafactor, decoding
from prompt_tuning.t5x_names.architectures import Architecture
from prompt_tuning.t5x_names.prompts import Prompt
from prompt_tuning.t5x_names.utils import RestoreCheckpointConfig

__all__ = ['EncoderDecoderModel']
_DIVISORS = {'NUM_REAL_TARGET_TOKENS': 'tokens'}  # T5X's name for it


@dataclasses.dataclass(frozen=True)
class EncoderDecoderModel:
  """A frozen model, what is trained for it, and how it is evaluated.

  Attributes:
    module: the model's shape.
    input_vocabulary: encodes inputs.
    output_vocabulary: must be the same.
    optimizer_def: updates the trained tensors.
    prompt: what is trained, `train_prompts.Prompt` or `retrained.Retrained`, called or not; None is nothing.
    trainable: regular expressions of the trained tensors, which must be those of `prompt`.
    decode_fn: how predictions are decoded, a function of `num_decodes`.
    ends: new input and output layers around a decoder-only model, `@architectures.NewEnds()`; None leaves its own.
    any_model: use trained tensors that were made for another model, if they fit.
    untrained: freeze random weights of the checkpoint's shape instead, to measure the benefit of pretraining.
    num_decodes: how many sequences are decoded; the best one is used.
    z_loss: pulls the log of the softmax's sum towards 0.
    label_smoothing: share of probability given to all other tokens.
    loss_normalizing_factor: what the summed loss is divided by: None (nothing), a number, or 'tokens'.
    loss_fn: what is minimised, of `losses`; None is cross-entropy.
  """

  module: Architecture
  input_vocabulary: Choice
  output_vocabulary: Choice | None = None
  optimizer_def: Choice = dataclasses.field(default_factory=adafactor.Adafactor)
  prompt: Any = None
  trainable: Sequence[str] = (r'.*/prompt/.*',)
  decode_fn: Callable[..., Choice] = decoding.beam_search
  ends: Mapping[str, int] | None = None
  any_model: bool = False
  untrained: bool = False
  num_decodes: int = 1
  z_loss: float = 1e-4
  label_smoothing: float = 0.0
  loss_normalizing_factor: float | str | None = None
  loss_fn: Choice | None = None

  @staticmethod
  def predict_batch_with_aux(num_decodes: int = 1) -> int:
    """Returns how many sequences are decoded. (The name under which T5X's users set it.)"""
    return num_decodes

  def settings(self, restore: RestoreCheckpointConfig, *, trains: bool) -> dict[str, Any]:
    """Returns the settings of a run that describe its model.

    Raises:
      ValueError: inputs and targets have different vocabularies.
    """
    other = self.output_vocabulary
    if other is not None and other != self.input_vocabulary:
      raise ValueError(f'Inputs are encoded with {self.input_vocabulary}, targets with {other}, but a model has one '
                       'vocabulary here. Set VOCABULARY for both.')
    return {'model': restore.source, 'dtype': str(restore.dtype), 'ignored': restore.ignored,
            'vocabulary': self.input_vocabulary, 'random_weights': self.untrained, 'new_layers': self.ends,
            'sampler': self.decode_fn(num_decodes=self.num_decodes), **self.module.settings(trains=trains)}

  def training(self, *, started: bool = False) -> dict[str, Any]:
    """Returns the settings of a training run that describe its method and loss.

    Args:
      started: saved tensors are the first values, so a prompt's default ones are left out.

    Raises:
      ValueError: there is no method.
    """
    method = self.method()
    if method is None:
      raise ValueError('There is nothing to train: PROMPT is not set. Choose a model file that ends in _prompt.gin.')
    if started and method.options.get('init') == Prompt.default_init:
      method = Choice(method.name, {name: value for name, value in method.options.items() if name != 'init'})
    entropy = Choice('cross_entropy', {'z_loss': self.z_loss, 'label_smoothing': self.label_smoothing})
    factor = self.loss_normalizing_factor
    return {'method': method, 'trainable': tuple(self.trainable) if method.name == 'prompt' else None,
            'loss': self.loss_fn or entropy, 'loss_divisor': _DIVISORS.get(factor, factor)}

  def use(self, restore: RestoreCheckpointConfig, seed: int | None) -> dict[str, Any]:
    """Returns the settings of a run that uses trained tensors: a file's, the checkpoint's own, or first values."""
    method = self.method()
    path = None if method is None or method.name != 'prompt' else file_of(method.options['init'])
    if path is not None:
      method = Choice('prompt', {name: value for name, value in method.options.items()
                                   if name != 'init' and (name, value) != ('length', None)})
    return {'prompt': path, 'method': method, 'any_model': self.any_model,
            'checkpoint_prompt': bool(restore.source and method) and not trees.matches(PATH, restore.ignored),
            'first_values_seed': seed if restore.fallback_to_scratch else None}

  def method(self) -> Choice | None:
    """Returns the method.

    Raises:
      ValueError: first values are made with another vocabulary than the model's.
    """
    chosen = self.prompt() if callable(self.prompt) else self.prompt
    if not isinstance(chosen, Choice | None):
      raise ValueError(f'PROMPT={self.prompt!r} cannot be used: expected a method such as @train_prompts.Prompt, or '
                       'None.')
    init = chosen.options.get('init') if isinstance(chosen, Choice) else None
    if isinstance(init, Choice) and 'vocabulary' in init.options:
      if init.options['vocabulary'] != self.input_vocabulary:
        raise ValueError(f'First values are made of texts with {init.options["vocabulary"]}, but the model has '
                         f'{self.input_vocabulary}. Set VOCABULARY for both.')
      own = {name: value for name, value in init.options.items() if name != 'vocabulary'}
      chosen = chosen.with_options(init=Choice(init.name, own))
    return chosen
