"""New input and output heads around a frozen decoder-only model (Lu et al. 2021), trained with `Retrained`."""

import dataclasses

import jax
import jax.numpy as jnp

from prompt_tuning import trees
from prompt_tuning.data.vocabularies import PassThroughVocabulary
from prompt_tuning.models.decoder_only import DecoderOnly
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.models.loading import random_model

PATTERNS = ('token_embedder/.*', 'input_layer/.*', 'decoder/logits_dense/.*')  # the names of the new heads


def with_new_layers(model: LanguageModel, *, classes: int, tokens: int = 0, features: int = 0,
                  seed: int = 0) -> LanguageModel:
  """Returns the model between a new input layer and a new linear output layer with bias.

  `LabelLayout` lays out its examples: each of the last positions of an input predicts a label.

  Args:
    model: a decoder-only model.
    classes: the number of labels.
    tokens: the number of input tokens, which get a new embedding.
    features: the width of inputs that are real vectors [T, F], read by a linear layer with bias instead.
    seed: of the initial values of the new layers.

  Raises:
    ValueError: the model has an encoder, or the numbers are invalid.
  """
  if not isinstance(model.module, DecoderOnly):
    raise ValueError(f'{model.path} is an encoder-decoder, but new input and output heads need a decoder-only model. '
                     'Choose one, such as GPT-2.')
  if classes < 2 or (tokens > 0) == (features > 0):
    raise ValueError(f'classes={classes}, tokens={tokens} and features={features} cannot be used for new heads. Give '
                     'at least 2 classes, and either tokens or features.')
  config = dataclasses.replace(model.module.config, vocab_size=tokens, features=features, classes=classes, tied=False)
  fresh = random_model(config, seed=seed)
  frozen = trees.flatten(model.params)
  params = {name: array if trees.matches(name, PATTERNS) else frozen[name]
            for name, array in trees.flatten(fresh.params).items()}
  ids = PassThroughVocabulary(max(tokens, classes), eos_id=-1, pad_id=-1)  # labels are numbers; none ends a text
  return dataclasses.replace(model, module=fresh.module, params=trees.unflatten(params), vocabulary=ids)


def untrained(model: LanguageModel, *, seed: int = 0) -> LanguageModel:
  """Returns a model of the same shape with random frozen weights, to measure the benefit of pretraining."""
  fresh = random_model(model.module.config, seed=seed)
  return dataclasses.replace(model, params=fresh.params)


def changed(model: LanguageModel, original: LanguageModel) -> tuple[int, list[str]]:
  """Compares the frozen parameters with the checkpoint, to the last bit.

  Args:
    model: the model after training, with or without new heads.
    original: the checkpoint, read again.

  Returns:
    The number of arrays compared, and the names of those that differ.
  """
  fresh, frozen = trees.flatten(original.params), trees.flatten(model.params)
  new = PATTERNS if getattr(model.module.config, 'classes', 0) else ()
  names = [name for name in frozen if not trees.matches(name, new)]
  differs = lambda ours, theirs: any(
    bool(jnp.any(a != b)) for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True))
  return len(names), [name for name in names if differs(frozen[name], fresh[name])]
