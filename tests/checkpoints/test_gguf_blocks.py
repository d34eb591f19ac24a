"""GGUF files with arrays in blocks of 256 numbers (K-quants), against the package gguf and transformers."""

import itertools

import gguf
import numpy as np
import pytest
from gguf_files import MEMBERS, PLAIN, assert_logits_are_those_of, random_blocks, write_member

from prompt_tuning.models import loading


def write_in_blocks(folder, monkeypatch):
  """Writes a Llama whose matrices are in blocks of 256 numbers, by turns of several types; returns name -> matrix."""
  for size in 'DF':
    monkeypatch.setattr(f'gguf_files.{size}', 256)
  kinds, wanted, quantise = itertools.cycle(('Q4_K', 'Q5_K', 'Q6_K', 'Q8_0')), {}, gguf.quantize

  def add(writer, name, array, raw_dtype=None):
    if array.dtype == np.float32 and array.ndim == 2:
      kind = next(kinds)
      raw_dtype = gguf.GGMLQuantizationType[kind]
      array = quantise(array, raw_dtype) if kind == 'Q8_0' else random_blocks(kind, array.shape, len(wanted))
      wanted[name] = kind, gguf.dequantize(array, raw_dtype)
    add_tensor(writer, name, array, raw_dtype=raw_dtype)

  add_tensor = gguf.GGUFWriter.add_tensor
  monkeypatch.setattr(gguf.GGUFWriter, 'add_tensor', add)
  monkeypatch.setitem(MEMBERS, 'k', ('llama', 'F32', {'num_key_value_heads': 2, 'rope_parameters': PLAIN}))
  return write_member('k', folder), wanted


def test_blocks_of_256_numbers_are_read_as_the_package_reads_them(tmp_path, monkeypatch):
  folder, wanted = write_in_blocks(tmp_path, monkeypatch)
  assert {kind for kind, _ in wanted.values()} == {'Q4_K', 'Q5_K', 'Q6_K', 'Q8_0'}
  reader = loading.open_checkpoint(str(folder / 'model.gguf'))
  for name, stored in (('lm_head', 'output'), ('model.layers.1.mlp.down_proj', 'blk.1.ffn_down'),
                       ('model.layers.0.self_attn.v_proj', 'blk.0.attn_v'),
                       ('model.layers.1.self_attn.o_proj', 'blk.1.attn_output')):
    kind, array = wanted[f'{stored}.weight']
    np.testing.assert_array_equal(reader.read(f'{name}.weight'), array, kind)
    np.testing.assert_array_equal(reader.read(f'{name}.weight', (slice(3, 9), slice(100, 200))), array[3:9, 100:200])
    assert 0.01 < array.std() < 1


@pytest.mark.slow
def test_logits_of_blocks_of_256_numbers_are_those_of_transformers(tmp_path, monkeypatch):
  torch, transformers = pytest.importorskip('torch'), pytest.importorskip('transformers')
  folder, _ = write_in_blocks(tmp_path, monkeypatch)
  theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file='model.gguf', dtype=torch.float32).eval()
  assert_logits_are_those_of(theirs, folder)
