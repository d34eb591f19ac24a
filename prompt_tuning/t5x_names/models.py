"""`models.…`: the frozen model with all that is decided about it."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from prompt_tuning import trees
from prompt_tuning.decoding.samplers import BeamSearch, Sampler
from prompt_tuning.evaluation import saved
from prompt_tuning.losses import Loss
from prompt_tuning.models import loading
from prompt_tuning.models.ends import untrained
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.models.quantised import INT8
from prompt_tuning.prompts import PATH
from prompt_tuning.t5x_names import train_prompts
from prompt_tuning.t5x_names.architectures import T5, NewEnds
from prompt_tuning.t5x_names.losses import ChosenLoss
from prompt_tuning.t5x_names.recipe import made
from prompt_tuning.t5x_names.utils import RestoreCheckpointConfig
from prompt_tuning.training.optimizers import Adafactor, Optimizer
from prompt_tuning.tuning.method import Method

__all__ = ['EncoderDecoderModel']
_NORMALISING = {'NUM_REAL_TARGET_TOKENS': 'tokens'}  # T5X's word for it
_PROMPT_PATTERNS = (r'.*/prompt/.*',)


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a model is, before it is read: enough to find its vocabulary."""

  path: str


@dataclasses.dataclass(frozen=True)
class EncoderDecoderModel:
  """A frozen model, what is trained for it, and how it is judged.

  Attributes:
    module: the model's shape.
    input_vocabulary: encodes inputs.
    output_vocabulary: must be the same.
    optimizer_def: updates what is trained.
    prompt: what is trained: `train_prompts.Prompt` or `retrained.Retrained`, made or to be made; None is nothing.
    trainable: regular expressions of what is trained, which must be what `prompt` brings.
    decode_fn: how answers are decoded, a function of `num_decodes`.
    ends: new input and output layers around a decoder-only model, `@architectures.NewEnds()`; None leaves its own.
    any_model: use trained tensors that say they were made for another model, if they fit.
    untrained: freeze random weights of the checkpoint's shape instead: what pretraining is worth.
    num_decodes: how many answers are decoded; the best counts.
    z_loss: pulls the log of the softmax's sum towards 0.
    label_smoothing: share of probability given to all other tokens.
    loss_normalizing_factor: what the summed loss is divided by: None (nothing), a number, or 'tokens'.
    loss_fn: what is minimised, of `losses`; None is cross-entropy.
  """

  module: T5
  input_vocabulary: Any
  output_vocabulary: Any = None
  optimizer_def: Optimizer = Adafactor()
  prompt: Any = None
  trainable: Sequence[str] = _PROMPT_PATTERNS
  decode_fn: Callable[..., Sampler] = BeamSearch
  ends: NewEnds | None = None
  any_model: bool = False
  untrained: bool = False
  num_decodes: int = 1
  z_loss: float = 1e-4
  label_smoothing: float = 0.0
  loss_normalizing_factor: float | str | None = None
  loss_fn: ChosenLoss | None = None

  @staticmethod
  def predict_batch_with_aux(num_decodes: int = 1) -> int:
    """Returns how many answers are decoded. (The name under which T5X's users set it.)"""
    return num_decodes

  def vocabulary(self, path: str) -> Any:
    """Returns the vocabulary of the model at `path`.

    Raises:
      ValueError: inputs and targets have different ones.
    """
    found = made(self.input_vocabulary, Place(path))
    other = found if self.output_vocabulary is None else made(self.output_vocabulary, Place(path))
    if other != found:
      raise ValueError(f'Inputs are encoded with {found}, targets with {other}, but a model has one vocabulary here. '
                       'Set VOCABULARY for both.')
    return found

  def load(self, restore: RestoreCheckpointConfig, *, seed: int | None = None, mesh: Any = None) -> LanguageModel:
    """Reads the frozen model onto the devices of a mesh; without a checkpoint makes one of random weights.

    Raises:
      FileNotFoundError: there is no checkpoint, or no vocabulary.
      ValueError: they do not fit.
    """
    config, path = self.module.config(), restore.source
    vocabulary = self.vocabulary(path or '')
    if path is None:
      if config is None:
        raise ValueError('There is no checkpoint to read the shape of the model from. Set INITIAL_CHECKPOINT_PATH, or '
                         'choose a model file with a size.')
      model = loading.random_model(dataclasses.replace(config, mesh=mesh), seed=seed or 0, vocabulary=vocabulary)
    else:
      if any(os.path.exists(os.path.join(path, name)) for name in (saved.BEST, saved.LAST)):
        raise ValueError(f'{path} is the folder of a run, which holds what was trained, not the frozen model. Give the '
                         'model that it was trained for as the checkpoint, and this folder as PROMPT_FILE.')
      # A prompt that the checkpoint holds is read by `trained`, not as part of the model.
      model = loading.load_model(
        path, dtype=INT8 if restore.dtype == INT8 else jnp.dtype(restore.dtype), mesh=mesh,
        activation_dtype=jnp.dtype(self.module.dtype), vocabulary=vocabulary, config=config,
        ignore=(*restore.ignored, r'.*/prompt/prompt'), **self.module.changes())
    check_vocabulary(vocabulary, model.module.config.vocab_size)
    model = untrained(model, seed=seed or 0) if self.untrained else model
    return model if self.ends is None else self.ends.around(model)

  def method(self, model: Any) -> Method:
    """Returns the tuning method.

    Raises:
      ValueError: there is none, or PROMPT_REGEX means something else.
    """
    chosen = self._chosen()
    if chosen is None:
      raise ValueError('Nothing is to be trained: PROMPT is not set. Choose a model file that ends in _prompt.gin.')
    if not isinstance(chosen, train_prompts.Prompt):
      return chosen.build(model) if hasattr(chosen, 'build') else chosen
    frozen = [trees.layer_name(path, 0) if trees.is_stacked(path) else path for path in trees.flatten(model.params)]
    wrong = [name for name in frozen if trees.matches(name, self.trainable)]
    if wrong or not trees.matches(PATH, self.trainable):
      why = f'matches {wrong[0]}' if wrong else f'does not match {PATH}'
      raise ValueError(
        f'PROMPT_REGEX is {list(self.trainable)}, which {why}: with PROMPT=@train_prompts.Prompt the prompt is trained '
        'and nothing else. To retrain parameters, set --gin.PROMPT=@retrained.Retrained and '
        '--gin.retrained.Retrained.patterns="[\'.*layer_norm.*\']".')
    return chosen.build(model)

  def trained(self, model: LanguageModel, restore: RestoreCheckpointConfig, *,
              seed: int | None = 0) -> saved.Trained:
    """Returns what the model is handed when it is used: a file's, the checkpoint's own, or new values.

    Raises:
      ValueError: what was found does not fit, or there is none and none may be made.
    """
    chosen = self._chosen()
    if chosen is None:
      return saved.Trained({})
    if isinstance(chosen, train_prompts.Prompt) and chosen.prompt.file is not None:
      found = saved.load_trained(chosen.prompt.file, any_model=self.any_model)
      _check_length(chosen.prompt, found)
      return found
    method = self.method(model)
    about = {**method.describe(), 'step': model.step}
    if restore.source and not trees.matches(PATH, restore.ignored):
      reader = loading.open_checkpoint(loading.find_model(restore.source))
      if PATH in reader.names():
        found = saved.Trained({PATH: reader.read(PATH)}, about)
        _check_length(chosen.prompt, found)
        return found
    if not restore.fallback_to_scratch or seed is None:
      why = 'fallback_init_rng is None' if seed is None else 'RestoreCheckpointConfig.fallback_to_scratch is False'
      raise ValueError(f'{restore.source} gives no {PATH}, and none may be made anew ({why}). Give PROMPT_FILE with '
                       'prompt_tuning/configs/prompts/from_file.gin, or another checkpoint.')
    return saved.Trained(trees.flatten(method.initialise(jax.random.key(seed), model)), about)

  def sampler(self) -> Sampler:
    """Returns how answers are decoded."""
    return self.decode_fn(num_decodes=self.num_decodes)

  def loss(self, vocabulary: Any = None) -> Loss:
    """Returns what is minimised; `vocabulary` is for label words."""
    factor = self.loss_normalizing_factor
    loss = Loss(self.z_loss, self.label_smoothing, _NORMALISING.get(factor, factor))
    return loss if self.loss_fn is None else self.loss_fn.into(loss, vocabulary)

  def _chosen(self) -> Any:
    return self.prompt() if callable(self.prompt) else self.prompt


def check_vocabulary(vocabulary: Any, size: int) -> None:
  """Compares a vocabulary with the rows of the model's embedding.

  Raises:
    ValueError: it names tokens that the model does not have.
  """
  if vocabulary.size > size:
    raise ValueError(f'The vocabulary {vocabulary} has {vocabulary.size} tokens, but the embedding of the model {size} '
                     'rows. Use the vocabulary that belongs to this model.')


def _check_length(prompt: Any, found: saved.Trained) -> None:
  saved = found.prompt()
  if prompt.length is not None and saved is not None and len(saved.vectors) != prompt.length:
    raise ValueError(f'{prompt.file or "The checkpoint"} holds a prompt of {len(saved.vectors)} vectors, but the run '
                     f'asks for {prompt.length}. Set PROMPT_LENGTH={len(saved.vectors)}, or choose another file.')
