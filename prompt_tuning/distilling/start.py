"""First values of what is distilled from a document: keys and values of its tokens, or their embeddings."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from prompt_tuning.checkpoints.state import read_state, write_state
from prompt_tuning.evaluation.saved import Trained
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.names import require_number

STARTS = ('first', 'sampled')


def tokens_of(ids: Sequence[int], length: int, *, first: str, kept: int = 0, seed: int = 0) -> list[int]:
  """Returns the tokens of a document that first values are made of.

  Args:
    ids: what the teacher reads before a question.
    length: how many.
    first: 'first' takes the first ones; 'sampled' takes others than the first `kept` at random, in their order.
    kept: see `first`.
    seed: of the sample.

  Raises:
    ValueError: there are not as many.
  """
  if first not in STARTS:
    raise ValueError(f'first={first!r} cannot be used: expected {" or ".join(STARTS)}.')
  require_number('length', length, least=1, whole=True)
  if length > len(ids):
    raise ValueError(f'length={length} cannot be used: the document has {len(ids)} tokens, with what stands around it, '
                     'and each vector starts from one of them. Give a smaller length.')
  if first == 'first':
    return list(ids[:length])
  random = np.random.Generator(np.random.Philox(key=seed))
  others = kept + random.permutation(len(ids) - kept)[:length - kept]
  return [ids[i] for i in [*range(kept), *sorted(others.tolist())]]


def keys_and_values(model: LanguageModel, ids: Sequence[int]) -> tuple[Any, Any]:
  """Returns the keys and values [L, P, kv_heads, K] of tokens, read at the positions 0 to P − 1."""
  return model.read([list(ids)]).as_prefix()


def write(path: str, found: Trained, first: str) -> None:
  """Writes first values, and which tokens they were made of, as a file that a run can start from."""
  write_state(path, found.tensors, {**found.about, 'first': first})


def require_same(path: str, first: str) -> None:
  """Raises ValueError if the first values of a file were made of other tokens."""
  there = read_state(path)[1].get('first')
  if there != first:
    raise ValueError(f'{path} holds the values of first={there}, but here it is first={first}. Choose another folder, '
                     'or what that run was started with.')


def as_trained(model: LanguageModel, ids: Sequence[int], *, prefix: bool) -> Trained:
  """Returns first values as the tensors of a file: a prefix, or a prompt of the tokens' embeddings."""
  if prefix:
    keys, values = keys_and_values(model, ids)
    tensors = {'decoder/prefix/keys': keys, 'decoder/prefix/values': values}
  else:
    tensors = {'decoder/prompt/prompt/prompt': model.embeddings()[np.asarray(ids)]}
  return Trained({name: np.asarray(array, np.float32) for name, array in tensors.items()},
                 {'method': 'Prefix' if prefix else 'PromptTuning', 'made_for': model.facts.made_for(),
                  'weights': model.weights_digest})
