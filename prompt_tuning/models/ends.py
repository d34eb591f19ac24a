"""New input and output layers around a frozen decoder-only model (Lu et al. 2021), to be trained with `Retrained`."""

import dataclasses

import jax
import jax.numpy as jnp

from prompt_tuning import trees
from prompt_tuning.data.vocabularies import PassThroughVocabulary
from prompt_tuning.models.decoder_only import DecoderOnly
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.models.loading import random_model

PATTERNS = ('token_embedder/.*', 'input_layer/.*', 'decoder/logits_dense/.*')  # the names of what is new


def with_new_ends(model: LanguageModel, *, classes: int, tokens: int = 0, features: int = 0,
                  seed: int = 0) -> LanguageModel:
  """Returns the model between a new input layer and a new linear output layer with bias.

  Its examples are laid out by `LabelLayout`: the last positions of an input predict a label each.

  Args:
    model: a decoder-only model.
    classes: labels of a position.
    tokens: the input is so many tokens, embedded anew.
    features: the input is real vectors [T, F] of this width instead, read by a linear layer with bias.
    seed: of the new layers' first values.

  Raises:
    ValueError: the model has an encoder, or the numbers make no sense.
  """
  if not isinstance(model.module, DecoderOnly):
    raise ValueError(f'{model.path} is an encoder-decoder, but new ends are put around decoder-only models. '
                     'Choose a model of that kind, such as GPT-2.')
  if classes < 2 or (tokens > 0) == (features > 0):
    raise ValueError(f'New ends are asked for with {tokens} tokens, {features} features and {classes} classes. Give at '
                     'least 2 classes, and either tokens or features.')
  config = dataclasses.replace(model.module.config, vocab_size=tokens, features=features, classes=classes, tied=False)
  fresh = random_model(config, seed=seed)
  frozen = trees.flatten(model.params)
  params = {name: array if trees.matches(name, PATTERNS) else frozen[name]
            for name, array in trees.flatten(fresh.params).items()}
  ids = PassThroughVocabulary(max(tokens, classes), eos_id=-1, pad_id=-1)  # labels are numbers, and none is an end
  return dataclasses.replace(model, module=fresh.module, params=trees.unflatten(params), vocabulary=ids)


def untrained(model: LanguageModel, *, seed: int = 0) -> LanguageModel:
  """Returns a model of the same shape with random weights, to be frozen instead: what pretraining is worth."""
  fresh = random_model(model.module.config, seed=seed)
  return dataclasses.replace(model, params=fresh.params)


def changed(model: LanguageModel, original: LanguageModel) -> tuple[int, list[str]]:
  """Compares what is frozen with a fresh copy of the checkpoint, to the last bit.

  Args:
    model: after training, perhaps with new ends.
    original: the checkpoint, read again.

  Returns:
    How many arrays were compared, and the names of those that differ.
  """
  fresh, frozen = trees.flatten(original.params), trees.flatten(model.params)
  new = PATTERNS if getattr(model.module.config, 'classes', 0) else ()
  names = [name for name in frozen if not trees.matches(name, new)]
  differs = lambda ours, theirs: any(
    bool(jnp.any(a != b)) for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True))
  return len(names), [name for name in names if differs(frozen[name], fresh[name])]
