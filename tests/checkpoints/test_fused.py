"""Fused arrays, cut in each of the four orders, against arrays that NumPy puts together."""

import types

import numpy as np
import pytest

from prompt_tuning.checkpoints.fused import Parts, cuts_in, join
from prompt_tuning.checkpoints.loading import Rule

K, D = 3, 5
SIZES = types.SimpleNamespace(heads=4, kv_heads=2, mlp_dim=4 * K)
random = np.random.default_rng(0)
QUERY, KEY, VALUE = (random.normal(size=(heads * K, D)).astype(np.float32) for heads in (4, 2, 2))
WIDE = [random.normal(size=(4 * K, D)).astype(np.float32) for _ in range(3)]
BY_HEAD = np.stack([part.reshape(4, K, D) for part in WIDE], axis=1).reshape(-1, D)  # [H, 3, K, D] -> [H·3·K, D]


class Arrays:
  path = 'here'

  def __init__(self, **arrays):
    self.arrays = arrays

  def names(self):
    return {name: (array.shape, array.dtype) for name, array in self.arrays.items()}

  def read(self, name, part=...):
    return self.arrays[name][part]


CASES = {
  '3': (np.concatenate(WIDE), WIDE, True),
  '3:grouped': (np.concatenate([QUERY, KEY, VALUE]), [QUERY, KEY, VALUE], True),
  '3:alternating': (np.stack(WIDE, axis=1).reshape(-1, D), WIDE, True),
  '3:heads': (BY_HEAD, WIDE, True), '3 columns': (np.concatenate(WIDE).T, [part.T for part in WIDE], False)}


@pytest.mark.parametrize('case', CASES)
def test_parts_are_what_was_put_together_and_joined_again(case):
  whole, parts, transpose = CASES[case]
  cuts = cuts_in([Rule('', f'a.{{i}}.w[0/{case.split()[0]}]', transpose)], SIZES)
  reader = Parts(Arrays(**{'a.0.w': whole, 'b': whole}), cuts)
  named = [f'a.0.w[{i}/{case.split()[0]}]' for i in range(3)]
  assert reader.names() == {name: (part.shape, part.dtype) for name, part in zip(named, parts, strict=True)} | {
    'b': (whole.shape, whole.dtype)}
  for name, part in zip(named, parts, strict=True):
    np.testing.assert_array_equal(reader.read(name), part)
    rows, columns = (slice(size // 3, size - 1) for size in part.shape)  # as a device of a mesh reads it
    np.testing.assert_array_equal(reader.read(name, (rows, columns)), part[rows, columns])
  np.testing.assert_array_equal(join(dict(zip(named, parts, strict=True)), cuts)['a.0.w'], whole)


def test_an_array_that_does_not_divide_is_left_whole():
  reader = Parts(Arrays(**{'a.0.w': WIDE[0][:7]}), cuts_in([Rule('', 'a.{i}.w[0/3:heads]', True)], SIZES))
  assert list(reader.names()) == ['a.0.w']
