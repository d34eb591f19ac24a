"""A prompt as the embeddings that vLLM reads (`prompt_embeds`), alone or in a row with the tokens of a text."""

import argparse
import os
from collections.abc import Mapping
from typing import Any


def read_base_model(options: argparse.Namespace) -> Any:
  """Returns the abstract decoder-only model that a prompt was trained for, see `convert`.

  Raises:
    FileNotFoundError: there is no such model.
    ValueError: nothing names it, or vLLM cannot use it with a prompt.
  """
  from prompt_tuning.models.loading import find_model
  from prompt_tuning.scripts import _base_model

  outline = _base_model.read_base_model(options.source, options.model, vocabulary=options.text is not None)
  if not os.path.exists(os.path.join(find_model(outline.path), 'config.json')):
    raise ValueError(f'{outline.path} has no config.json, but vLLM reads models in Hugging Face folders only. '
                     'Give model=FOLDER, the same model in that form.')
  if outline.prompted != 'decoder':
    raise ValueError(f'{outline.path} has an encoder ({outline.config.family}), but vLLM takes embeddings for '
                     'decoder-only models only. Serve it with this package.')
  return outline


def write_row(options: argparse.Namespace, tensors: Mapping[str, Any], about: Mapping[str, Any], model: Any) -> str:
  """Writes the embeddings [T, D] for vLLM; returns the message that says what was written.

  Args:
    options: `source`, `destination`, `text` and `dtype`, see `convert`.
    tensors: the trained tensors.
    about: their metadata.
    model: their abstract model.

  Raises:
    ValueError: the tensors are not a prompt alone, or vLLM cannot place or represent it.
  """
  import jax.numpy as jnp
  import numpy as np

  from prompt_tuning.checkpoints import torch_file
  from prompt_tuning.evaluation.saved import Trained

  trained = Trained(tensors, about)
  conditioning = trained.conditioning(model)
  if conditioning.given() != ('decoder.prompt',) or conditioning.parameters:
    raise ValueError(f'{options.source} holds {", ".join(sorted(tensors))[:200]}, but vLLM takes only '
                     'embeddings in place of tokens: a prompt, without prefixes, layer prompts or changed '
                     'parameters. Serve it with this package.')
  given, placement = conditioning.decoder, trained.layout().placement
  _require_causal(options.source, given.visibility, placement.__name__)
  ids, slots = _row(options, model, placement, given.prompt.shape[1])
  stored = np.asarray(model.embeddings()[np.asarray(ids, int)])
  dtype = jnp.dtype(options.dtype or stored.dtype)
  vectors = np.empty((len(slots), model.width), dtype)
  with np.errstate(over='ignore'):  # below
    vectors[slots >= 0] = np.asarray(given.prompt[0], dtype)
    vectors[slots < 0] = stored.astype(dtype)
    vectors *= np.asarray(model.facts.embedding_scale, dtype)  # as the model does, in its type
  if not np.isfinite(vectors.astype(np.float32)).all():
    raise ValueError(f'{options.source} has vectors that are too large for dtype={dtype}. Give dtype=bfloat16 or '
                     'dtype=float32.')
  torch_file.write_tensor(options.destination, vectors)
  return f'Wrote {options.destination} (vLLM, {dtype} {list(vectors.shape)}): {given.prompt.shape[1]} vectors of the ' \
         f'prompt{_told(options, ids, placement.__name__)}'


def _require_causal(source: str, visibility: Any, placement: str) -> None:
  """Raises ValueError if the prompt does not see all that comes before it, as it would in vLLM."""
  hidden = [name for name, seen in (('see_prompt', visibility.prompt),
                                    ('see_input', visibility.input or placement == 'before')) if not seen]
  if hidden:
    raise ValueError(f'{source} holds a prompt that was trained with {" and ".join(f"{each}=False" for each in hidden)}'
                     ', but in vLLM every position sees all that come before it. Serve it with this package.')


def _row(options: argparse.Namespace, model: Any, placement: Any, length: int) -> tuple[list[int], Any]:
  """Returns the token ids of the text, and the slots [T] of the row: -1 for a token, else the prompt's vector."""
  import numpy as np

  from prompt_tuning.files import storage
  from prompt_tuning.models.text_rows import text_rows
  from prompt_tuning.rows import layouts, placements

  if options.text is None:
    return [], np.arange(length)
  if placement in layouts.IN_TURNS.values():
    raise ValueError(f'text= cannot be used: {options.source} holds a prompt inside a turn of a conversation '
                     f'({placement.__name__}). Leave it out, and send the prompt as the first part of that message.')
  if os.path.isfile(options.text):
    try:
      options.text = storage.read_bytes(options.text).decode().removesuffix('\n')
    except UnicodeDecodeError as error:
      raise ValueError(f'{options.text} is not a text in UTF-8 ({error}). Convert the file first.') from error
  (row,) = text_rows([options.text], 'inputs', vocabulary=model.vocabulary, layout=model.layout(layouts.Layout()),
                     size=model.config.vocab_size)
  return row.ids, placements.place(placement, row.ids, length)


def _told(options: argparse.Namespace, ids: list[int], placement: str) -> str:
  if options.text is not None:
    return f', placement {placement}, and {len(ids)} tokens of {options.text!r:.60}. A row for completions.'
  if placement.startswith('at_'):
    return f', for the first part of the {placement.removeprefix("at_")} message of a chat.'
  return (f'. It was trained with the placement {placement} in a whole text, but in a part of a chat it comes after '
          'the header of a message. --text writes whole rows.')
