"""GGUF files, read like a Hugging Face folder: their arrays under its names, in its order of rows, in float32."""

import re
from typing import Any

import numpy as np

from prompt_tuning.checkpoints.huggingface import HuggingFaceFolder
from prompt_tuning.files.gguf_config import ROPE_FACTORS, config_of
from prompt_tuning.files.gguf_file import open_gguf
from prompt_tuning.names import nearest

_OUTSIDE = {'token_embd': 'model.embed_tokens', 'output_norm': 'model.norm', 'output': 'lm_head'}
_IN_LAYER = {
  'attn_norm': 'input_layernorm', 'attn_q': 'self_attn.q_proj', 'attn_k': 'self_attn.k_proj',
  'attn_v': 'self_attn.v_proj', 'attn_output': 'self_attn.o_proj', 'attn_q_norm': 'self_attn.q_norm',
  'attn_k_norm': 'self_attn.k_norm', 'ffn_norm': 'post_attention_layernorm', 'ffn_gate': 'mlp.gate_proj',
  'ffn_up': 'mlp.up_proj', 'ffn_down': 'mlp.down_proj'}
_IN_GEMMA = _IN_LAYER | {
  'post_attention_norm': 'post_attention_layernorm', 'ffn_norm': 'pre_feedforward_layernorm',
  'post_ffw_norm': 'post_feedforward_layernorm'}
_NAME = re.compile(r'(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)')


class GgufCheckpoint(HuggingFaceFolder):
  """Reads the arrays of a GGUF file, one by one.

  Attributes:
    path: the file.
    config: the `config.json` that its metadata stands for.
  """

  def __init__(self, path: str):
    """Reads the metadata.

    Raises:
      FileNotFoundError: there is no such file.
      ImportError: gguf is not installed.
      ValueError: the file is damaged, or something in it is not supported.
    """
    self.path = str(path)
    self._file = open_gguf(self.path)
    self.config = config_of(self._file)
    self._gemma = self._file.architecture.startswith('gemma')
    unread = {ROPE_FACTORS} if self._file.architecture == 'llama' else set()  # part of the config
    self._stored = {self._their_name(name): name for name in self._file.shapes() if name not in unread}

  def names(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Returns name -> shape and type, without reading the arrays."""
    shapes = self._file.shapes()
    return {name: (shapes[stored], np.dtype(np.float32)) for name, stored in self._stored.items()}

  def read(self, name: str, part: Any = ...) -> np.ndarray:
    """Returns one array, or a slice of each of its axes.

    Raises:
      KeyError: the file has no such array.
    """
    if name not in self._stored:
      raise KeyError(f'{self.path} has no array {name}.{nearest(name, self._stored)}')
    stored, spans = self._stored[name], () if part is ... else tuple(part)
    heads = self._interleaved(stored)
    if heads:
      return _apart(self._file.read(stored), heads)[spans]
    found = self._file.read(stored, spans[0] if spans else slice(None))[(slice(None), *spans[1:])]
    return found - np.float32(1) if self._gemma and stored.endswith('norm.weight') else found  # it holds 1 + scale

  def _their_name(self, name: str) -> str:
    """Returns the folder's name of an array; a name that is not known stays."""
    match = _NAME.fullmatch(name)
    known = _OUTSIDE if match is None or match[1] is None else _IN_GEMMA if self._gemma else _IN_LAYER
    if match is None or match[2] not in known:
      return name
    layer = '' if match[1] is None else f'model.layers.{match[1]}.'
    return f'{layer}{known[match[2]]}.{match[3]}'

  def _interleaved(self, name: str) -> int:
    """Returns the number of heads of an array whose rotated neighbours are interleaved; 0 if they are apart."""
    found = _NAME.fullmatch(name) if self._file.architecture == 'llama' else None
    fields = {'attn_q': 'num_attention_heads', 'attn_k': 'num_key_value_heads'}
    return self.config[fields[found[2]]] if found and found[1] and found[2] in fields else 0


def _apart(array: np.ndarray, heads: int) -> np.ndarray:
  """Returns rows with the first of each rotated pair before the second ones, head by head, as transformers has them."""
  pairs = array.reshape(heads, -1, 2, *array.shape[1:])  # [H, K / 2, 2, …]
  return pairs.swapaxes(1, 2).reshape(array.shape)
