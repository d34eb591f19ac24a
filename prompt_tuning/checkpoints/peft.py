"""Reads and writes Hugging Face PEFT adapters: prompts, prefixes, IA3, LoRA, and retrained norms.

`peft_prompts.py` and `peft_tuners.py` describe the forms of each kind.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from prompt_tuning.checkpoints import peft_folder, peft_prompts, peft_tuners
from prompt_tuning.checkpoints.peft_folder import CAUSAL, CONFIG, SEQ_2_SEQ, Stored, adapters_inside
from prompt_tuning.checkpoints.peft_modules import Modules
from prompt_tuning.checkpoints.peft_prompts import DECODER_PROMPT, ENCODER_PROMPT, PREFIX_KEYS, PREFIX_VALUES
from prompt_tuning.checkpoints.peft_tuners import needs_modules
from prompt_tuning.names import printable
from prompt_tuning.types import Flat

__all__ = ['CAUSAL', 'CONFIG', 'DECODER_PROMPT', 'ENCODER_PROMPT', 'PREFIX_KEYS', 'PREFIX_VALUES', 'SEQ_2_SEQ',
           'Adapter', 'adapters_inside', 'needs_modules', 'read_adapter', 'write_adapter']
KINDS = peft_prompts.PROMPTS + peft_prompts.PREFIXES + peft_tuners.KINDS


@dataclasses.dataclass(frozen=True)
class Adapter(Stored):
  """An adapter as saved by PEFT, of any kind; see `Stored`."""

  @property
  def is_prefix(self) -> bool:
    """Returns True if the adapter holds keys and values instead of input vectors."""
    return self.kind in peft_prompts.PREFIXES

  @property
  def changes_modules(self) -> bool:
    """Returns True if the adapter belongs to modules of its base model, so that it is read with their names."""
    return self.kind in peft_tuners.KINDS

  @property
  def about(self) -> dict[str, Any]:
    """What files of this package keep of the adapter: its kind, and how many rows of a cartridge are frozen."""
    given = self.config.get('num_frozen_tokens')
    frozen = 0 if self.kind != peft_prompts.CARTRIDGE else 1 if given is None else given
    return {'peft_type': self.kind, **({'frozen': frozen} if frozen else {})}

  def trained(self, *, encoder_decoder: bool | None = None, width: int | None = None, layers: int | None = None,
              kv_heads: int | None = None, head_dim: int | None = None, embedding_scale: float = 1.0,
              task: int | None = None, modules: Modules | None = None) -> Flat:
    """Returns the trained tensors under this package's names.

    Args:
      encoder_decoder: whether the base model is an encoder-decoder; None uses the adapter's task type.
      width: D of the base model; None skips the check.
      layers: L of the decoder. For prefixes, this and the next two default to the adapter's config.
      kv_heads: H, the number of KV heads.
      head_dim: K.
      embedding_scale: the factor by which the base model scales its embeddings.
      task: the index of the task whose prompt is returned, of a multitask prompt; None returns those of all.
      modules: those of the base model, for IA3, LoRA and LN_TUNING.

    Returns:
      `encoder/prompt/prompt/prompt` or, without an encoder, `decoder/prompt/prompt/prompt` [P, D];
      or the parts of a multitask prompt; or `decoder/prefix/keys` and `decoder/prefix/values` [L, P, H, K];
      or scales [L, width], the factors of low-rank updates, or retrained norms.

    Raises:
      ValueError: the adapter is of another kind, or does not fit.
    """
    if self.kind not in KINDS:
      raise ValueError(f'{self.folder} is an adapter of type {printable(self.kind)}, which cannot be read. Give an '
                       f'adapter of one of these types: {", ".join(KINDS)}.')
    self.require_family(encoder_decoder)
    if self.changes_modules:
      return peft_tuners.read(self, modules)
    return peft_prompts.read(self, encoder_decoder=encoder_decoder, width=width, layers=layers, kv_heads=kv_heads,
                             head_dim=head_dim, embedding_scale=embedding_scale, task=task)


def read_adapter(folder: str) -> Adapter:
  """Returns an adapter of any type; `Adapter.trained` checks whether the type is supported.

  Raises:
    FileNotFoundError: the folder holds no adapter.
    ValueError: a file is damaged, or the arrays are pickled.
    OSError: the folder is not on this machine.
  """
  return Adapter(**vars(peft_folder.read_folder(folder)))


def scale_of_embeddings(family: Any, width: int) -> float:
  """Returns the factor on embedded tokens, and on this package's prompts, that a family has and PEFT's files do not."""
  return width**0.5 if str(family).startswith(('gemma', 't5gemma2')) else 1.0


def has_prefixes(family: Any) -> bool:
  """Returns True if PEFT has prefixes of all layers of a family; it leaves out those of another shape (Gemma 4)."""
  return not str(family).startswith('gemma4')


def write_adapter(folder: str, trained: Mapping[str, Any], *, task_type: str, kind: str = peft_prompts.PROMPTS[0],
                  base_model_name_or_path: str | None = None, embedding_scale: float = 1.0,
                  modules: Modules | None = None, frozen: int = 0) -> dict[str, Any]:
  """Writes a folder that PEFT loads; returns its config.

  Args:
    folder: a local folder that does not exist or is empty.
    trained: one prompt, keys and values of a prefix, scales, low-rank updates, or retrained norms, under the names in
      `Adapter.trained`.
    task_type: 'SEQ_2_SEQ_LM' for an encoder-decoder, 'CAUSAL_LM' for a decoder-only model.
    kind: the kind of prompt: 'PROMPT_TUNING', or 'P_TUNING', of which PEFT stores the output of its network.
    base_model_name_or_path: the base model's name in PEFT's config.
    embedding_scale: as in `Adapter.trained`.
    modules: likewise.
    frozen: how many first rows of a prefix are frozen: with any, it is a cartridge.

  Raises:
    ValueError: PEFT has no format for these tensors.
    FileExistsError: the folder is not empty.
    OSError: it cannot be written; nothing is left of it.
  """
  if task_type not in (SEQ_2_SEQ, CAUSAL):
    raise ValueError(f'task_type={task_type!r} is not valid; expected {SEQ_2_SEQ} or {CAUSAL}. Use the one of the base '
                     'model.')
  if kind not in peft_prompts.PROMPTS[:2]:
    raise ValueError(f'kind={kind!r} is not valid for a prompt; expected {" or ".join(peft_prompts.PROMPTS[:2])}. Use '
                     'one of them.')
  arrays = {name: np.asarray(array, np.float32) for name, array in trained.items()}
  config, stored = peft_prompts.form(arrays, encoder_decoder=task_type == SEQ_2_SEQ, kind=kind,
                                     embedding_scale=embedding_scale, frozen=frozen)
  if not config:
    config, stored = peft_tuners.form(arrays, modules)
  if not config:
    raise ValueError(f'Found the tensors {", ".join(sorted(arrays)) or "(none)"}; a PEFT adapter for {task_type} '
                     f'holds {DECODER_PROMPT if task_type == CAUSAL else ENCODER_PROMPT}, or {PREFIX_KEYS} and '
                     f'{PREFIX_VALUES}, or scales, low-rank updates or norms alone, and nothing else. '
                     "Keep this package's file, which holds everything.")
  config |= {'task_type': task_type, 'base_model_name_or_path': base_model_name_or_path, 'inference_mode': True}
  peft_folder.write_folder(folder, config, stored)
  return config
