"""Recycling: a prompt for another model, without training (Lester, Yurtsever, Shakeri and Constant 2022, v2v-lin).

  W = argmin ‖E_a W − E_b‖²,  p'_i = p_i W,    E_a, E_b the models' embeddings of the words that they share.

Recycled prompts are better than random ones, and worse than trained ones; prompts that were trained for few steps, near
the embeddings, are recycled best. They are a start for training.
"""

from typing import Any

import numpy as np

from prompt_tuning.checks import typed
from prompt_tuning.data.token_texts import TokenTexts
from prompt_tuning.evaluation.saved import SavedPrompt
from prompt_tuning.models.row_prompts import collect_prompts
from prompt_tuning.names import require_number
from prompt_tuning.tuning.prompt import PROMPTS


@typed
def recycle(prompt: Any, source: Any, target: Any, *, rows: int | None = None) -> SavedPrompt:
  """Returns a prompt for the target model, made of one for the source model.

  Args:
    prompt: an array [P, D], or the result of `load_prompt` or `load_trained`.
    source: the model that it was trained for; only its embedding and vocabulary are read.
    target: the other model; likewise.
    rows: so many of the shared tokens are compared, those of the smallest ids in the source model first, which are the
      most frequent in most vocabularies; None means all.

  Returns:
    The prompt [P, D'], with placement and visibility of the given one. Its metadata has the number of compared tokens,
    `recycled_rows`, and the share of the target's embedding that the map explains, `recycled_share`, at most 1.

  Raises:
    ValueError: the prompt does not fit the source model or has more than vectors among embedded tokens; a model has no
      embedding or no vocabulary; or they share fewer tokens than D, so that the map is not determined.
  """
  require_number('rows', rows, least=source.width, whole=True, none=True)
  for model in (source, target):
    if 'token_embedder' not in model.params:
      raise ValueError(f'{model.path or "The model"} reads real vectors instead of tokens, so it has no embedding.')
  (use,), conditioning = collect_prompts(prompt, 1, source)
  own = getattr(conditioning, source.prompted)
  held = [*conditioning.given(), *conditioning.parameters]
  if held != [f'{source.prompted}.prompt']:
    raise ValueError(f'The trained tensors are {", ".join(held)[:200] or "nothing"}, but only vectors among embedded '
                     'tokens can be recycled. Give a prompt.')
  ours, theirs = shared_tokens(source, target)
  if len(ours) < source.width:
    raise ValueError(f'The models share {len(ours)} tokens, expected at least {source.width}, the width of the vectors '
                     'that are mapped. Train a prompt for the other model instead.')
  embedded = lambda model, ids: np.asarray(model.embeddings())[ids[:rows]].astype(np.float64)
  a, b = embedded(source, ours), embedded(target, theirs)
  matrix = np.linalg.lstsq(a.T @ a, a.T @ b, rcond=None)[0]  # the normal equations: [D, D] instead of [n, D]
  share = 1 - np.sum((a @ matrix - b)**2) / max(np.sum(b**2), np.finfo(np.float64).tiny)
  vectors = (np.asarray(own.prompt[0], np.float64) @ matrix).astype(np.float32)
  about = {'made_for': target.facts.made_for(), 'model': target.path, 'recycled_from': source.path,
           'recycled_rows': len(a), 'recycled_share': round(float(share), 4)}
  return SavedPrompt(vectors, use.layout.placement, own.visibility, about, PROMPTS[target.prompted])


def shared_tokens(source: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
  """Returns the ids [n] of the tokens that two models share, in each of them; ascending in the first.

  Tokens of different vocabularies are the same if they have the same bytes within a text. Without vocabularies, models
  with equally many tokens share all of them.

  Raises:
    ValueError: one has a vocabulary and the other not, or both have none and different sizes.
  """
  words, sizes = [source.vocabulary, target.vocabulary], [len(source.embeddings()), len(target.embeddings())]
  if words == [None, None] and sizes[0] == sizes[1]:
    return np.arange(sizes[0]), np.arange(sizes[0])
  if None in words:
    told = [f'{model.path or "a model"} has {"no" if model.vocabulary is None else "a"} vocabulary and {size} tokens'
            for model, size in zip((source, target), sizes, strict=True)]
    raise ValueError(f'Tokens cannot be compared: {", ".join(told)}. Give load_model(..., vocabulary=...).')
  sizes = [min(size, vocabulary.size) for size, vocabulary in zip(sizes, words, strict=True)]
  if words[0] == words[1]:
    return np.arange(min(sizes)), np.arange(min(sizes))
  ids = []
  for vocabulary, size in zip(words, sizes, strict=True):
    bytes_of, found = TokenTexts(vocabulary).bytes_of, {}
    for token in range(size):
      found.setdefault(bytes_of(token), token)
    found.pop(b'', None)
    ids.append(found)
  pairs = [(token, ids[1][text]) for text, token in ids[0].items() if text in ids[1]]
  return tuple(np.array(pairs, np.int64).reshape(-1, 2).T)
