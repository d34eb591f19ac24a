"""A classification head on an encoder-only model: made, and used to predict labels."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prompt_tuning import trees
from prompt_tuning.models.abilities import is_encoder
from prompt_tuning.models.compiled import apply_model
from prompt_tuning.models.families.registry import get_family
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.models.loading import random_model
from prompt_tuning.models.masked_words import mask_of, words_of
from prompt_tuning.rows.conditioning import Conditioning
from prompt_tuning.rows.text_layout import HEAD
from prompt_tuning.types import Batch

_HEADS = (HEAD, r'pooler(_norm)?/.*')  # what a verbaliser does not read


def with_head(model: LanguageModel, labels: Sequence[str] = (), *, pooling: str = 'cls', problem: str = 'single',
              words: Sequence[str] = (), mask_id: int | None = None, seed: int = 0) -> LanguageModel:
  """Returns an encoder-only model with a new linear classification head, which training with any method trains too.

  A head that the model has is replaced; of it, only the dense layer before the output stays, if the family's heads
  have it: BERT's with pooling='cls', ModernBERT's with both.

  Args:
    model: the model.
    labels: the names of the head's outputs; none for a regression, whose one output is a number.
    pooling: what the head reads: 'cls', the output at the first position of a row (as BERT's heads do, through the
      model's pooler if it has one), 'mean', the mean over the tokens, or 'all', that over tokens and prompt.
    problem: 'single' (a text has one of the labels), 'multi' (any number of them) or 'regression' (a number).
    words: of a verbaliser, the word of each label, see `with_verbaliser`.
    mask_id: likewise.
    seed: of the head's first values.

  Raises:
    ValueError: the model is not encoder-only, or the labels do not suit the problem.
  """
  if not is_encoder(model.module):
    raise ValueError(f'{model.path} is {model.module.config.kind}, and a classification head needs an encoder-only '
                     'model, such as BERT. Train this model with label words as targets, or give a BERT.')
  labels = ('score',) if problem == 'regression' and not labels else tuple(labels)
  least = {'regression': 1, 'multi': 1}.get(problem, 2)
  if len(labels) < least or len(set(labels)) < len(labels) or (problem == 'regression' and len(labels) > 1):
    raise ValueError(f'labels={list(labels)!r:.200} cannot be used with problem={problem}: expected ' + (
      'none' if problem == 'regression' else f'{least} or more different labels') + '.')
  if problem == 'multi' and any(',' in label for label in labels):
    raise ValueError('A label has a comma, which separates the labels of a text with problem=multi. Rename it.')
  given = model.module.config
  if words or pooling == 'mask':
    return _with_words(model, labels, words, mask_id, pooling=pooling, problem=problem)
  config = dataclasses.replace(
    given, tied=False, classes=len(labels), labels=labels, pooling=pooling, problem=problem, mask_activation='',
    words=(), word_ids=(),
    pooler=given.pooler if pooling == 'cls' or given.pooler_norm else '')
  fresh = random_model(config, seed=seed)
  frozen = trees.flatten(model.params)
  params = {name: array if trees.matches(name, (HEAD,)) else frozen[name]
            for name, array in trees.flatten(fresh.params).items()}
  return dataclasses.replace(model, module=fresh.module, params=trees.unflatten(params))


def with_verbaliser(model: LanguageModel, verbaliser: Mapping[str, str], *,
                    mask_id: int | None = None) -> LanguageModel:
  """Returns an encoder-only model that predicts labels by the words that its head of masked words fills in (PET).

  Nothing of it is trained, so it predicts without training, and any method can be trained with it. Each text must have
  a mask, such as "A fine film. It was [MASK].", or as many masks as each word has tokens.

  Args:
    model: a model whose folder holds a head of masked words, such as that of a BertForMaskedLM.
    verbaliser: label -> its word.
    mask_id: the mask; None means the vocabulary's.

  Raises:
    ValueError: the model has no such head, or a word cannot be used.
  """
  return with_head(model, tuple(verbaliser), pooling='mask', words=tuple(verbaliser.values()), mask_id=mask_id)


def _with_words(model: LanguageModel, labels: tuple[str, ...], words: Sequence[str], mask_id: int | None, *,
                pooling: str, problem: str) -> LanguageModel:
  """Returns the model with a verbaliser instead of a head; see `with_head`."""
  config = model.module.config
  if pooling != 'mask' or problem != 'single' or len(words) != len(labels):
    raise ValueError(f'words={list(words)!r:.200} cannot be used with pooling={pooling}, problem={problem} and '
                     f"{len(labels)} labels: expected pooling='mask', problem='single' and a word for each label.")
  if not config.mask_activation:
    raise ValueError(f'{model.path} has no head of masked words, which a verbaliser reads: its folder lacks '
                     f'{get_family(config.family).their_names("mask_head/bias")[0]}. Give the folder of a '
                     '…ForMaskedLM, or train a classification head with prompt_tuning.with_head.')
  config = dataclasses.replace(
    config, tied=False, classes=len(labels), labels=labels, pooling=pooling, problem=problem, pooler='',
    words=tuple(words), word_ids=words_of(model.vocabulary, labels, words),
    mask_id=mask_of(model.vocabulary, mask_id, model.path))
  kept = {name: array for name, array in trees.flatten(model.params).items() if not trees.matches(name, _HEADS)}
  return dataclasses.replace(model, module=model.module.clone(config=config), params=trees.unflatten(kept))


def described(model: LanguageModel) -> dict[str, Any]:
  """Returns what files say about a model's head; {} without one. `with_head(model, **…)` makes it."""
  config = model.module.config
  if not (is_encoder(model.module) and config.classes):
    return {}
  found = {'labels': list(config.labels), 'pooling': config.pooling, 'problem': config.problem}
  return found | ({'words': list(config.words), 'mask_id': config.mask_id} if config.words else {})


def outputs(model: LanguageModel, batch: Batch, conditioning: Conditioning) -> np.ndarray:
  """Returns the outputs of the head [B, classes] for a batch with one text in each row; of an ensemble, joint ones."""
  logits = np.asarray(apply_model(model.module, model.params, batch, conditioning))
  first = np.argmax(batch['decoder']['segments'] > 0, axis=1)[::conditioning.members]
  return logits[np.arange(len(logits)), first]


def predicted(model: LanguageModel, values: np.ndarray) -> tuple[str, dict[str, float]]:
  """Returns what the outputs [classes] of a text mean: a label, labels with commas, or a number; and a score for each.

  Scores are probabilities: of labels that exclude each other with 'single', of each label with 'multi'.
  """
  config, values = model.module.config, values.astype(np.float64)
  if config.problem == 'regression':
    return repr(float(values[0])), {config.labels[0]: float(values[0])}
  if config.problem == 'multi':
    scores = 1 / (1 + np.exp(-values))
    chosen = [label for label, score in zip(config.labels, scores, strict=True) if score > 0.5]
    return ','.join(chosen), dict(zip(config.labels, scores.tolist(), strict=True))
  scores = np.exp(values - values.max())
  return config.labels[int(values.argmax())], dict(zip(config.labels, (scores / scores.sum()).tolist(), strict=True))


def require_head(model: LanguageModel) -> None:
  """Raises ValueError if a model has no classification head."""
  if not described(model):
    raise ValueError(f'{model.path} has no classification head. Give it one with prompt_tuning.with_head, or words '
                     'with prompt_tuning.with_verbaliser.')


def require_same_head(about: Mapping[str, Any] | None, model: Any) -> None:
  """Raises ValueError if trained tensors belong to a head with other labels than the model's."""
  if not about or not hasattr(model, 'module'):
    return
  found = described(model)
  if dict(about) != found:
    there = f'The tensors belong to a head {dict(about)}'
    if not found:
      raise ValueError(f'{there}, but the model has none. Give it one: with_head(model, **that).')
    raise ValueError(f"{there}, but the model's is {found}. Give the model the head of the tensors.")
