"""Dense layers: products with frozen matrices, to which low-rank updates may be added and whose ends may be scaled."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from prompt_tuning.types import Array

_ROUNDING = ('bfloat16', 'BF16_BF16_F32')
_FEW_ROWS = 16  # up to which three products are faster than one after a conversion


class Dense(nn.Module):
  """x · kernel + bias, like `nn.Dense`; with the factors of a low-rank update beside the kernel, see `parameters`.

  Attributes:
    features: width of the output.
    use_bias: add a bias.
    dtype: type of the output, and of the product's factors unless both already have the same type.
    kernel_init: initialiser of the kernel.
  """

  features: int
  use_bias: bool = True
  dtype: Any = jnp.float32
  kernel_init: Any = nn.initializers.lecun_normal()

  @nn.compact
  def __call__(self, x: Array, scales: Mapping[str, Array] | None = None) -> Array:
    self.param('kernel', self.kernel_init, (x.shape[-1], self.features))
    if self.use_bias:
      self.param('bias', nn.initializers.zeros, (self.features,))
    return apply_scaled(self.variables['params'], x, self.dtype, scales or {}, '/'.join(self.path[-2:]))


def apply_scaled(params: Mapping[str, Array], x: Array, dtype: Any, scales: Mapping[str, Array], place: str) -> Array:
  """Returns `apply`, with the factors of `scaling.picked` on the input and output of the dense layer at a place."""
  x = _scaled(x, scales.get(f'{place}/input'))
  y, scale = apply(params, x, dtype), scales.get(f'{place}/output')
  return y if scale is None else _scaled(checkpoint_name(y, 'unscaled'), scale)


def _scaled(x: Array, scale: Array | None) -> Array:
  return x if scale is None else (x * scale).astype(x.dtype)


def apply(params: Mapping[str, Array], x: Array, dtype: Any) -> Array:
  """Returns x · (kernel + down · up) + bias, [..., out].

  The update has a separate product, and is added in float32 before the sum is rounded: added to a kernel of bfloat16,
  most of an update that is small compared with the weights would be rounded away.

  Args:
    params: kernel [in, out]; optional are bias [out], and down [in, r] with up [r, out].
    x: [..., in].
    dtype: as in `Dense`. Logits are float32: products of bfloat16 are then summed in float32.
  """
  kernel = params['kernel']
  if 'down' in params:
    y = product(x, kernel, dtype, jnp.float32)
    y = (y + x.astype(jnp.float32) @ params['down'] @ params['up']).astype(dtype)
  else:
    y = product(x, kernel, dtype, dtype)
  return y + params['bias'].astype(dtype) if 'bias' in params else y


def product(x: Array, kernel: Array, dtype: Any, out: Any) -> Array:
  """Returns x · kernel, [..., out].

  XLA's CPU backend is slow in products of float32 with bfloat16, and in those of which the result is bfloat16; with two
  factors of bfloat16 and a sum of float32 it uses the processor's matrix units (`benchmarks/bfloat16.py`). So on CPUs,
  with a kernel of bfloat16, an x of float32 is split into three parts of bfloat16, whose products add up to that of
  float32; or rounded to one part where JAX's default precision of products, `jax_default_matmul_precision`, is
  bfloat16, as TPUs do by default.

  Args:
    x: [..., in].
    kernel: [in, out].
    dtype: the type that both are multiplied in, unless they already have the same type.
    out: the type of the result.
  """
  if kernel.dtype == jnp.bfloat16 and jax.default_backend() == 'cpu':
    rounded = x.dtype == jnp.bfloat16 or jax.config.jax_default_matmul_precision in _ROUNDING
    if rounded or x.size <= _FEW_ROWS * x.shape[-1]:
      return of_parts(1 if rounded else 3, x, kernel).astype(out)
  if x.dtype != kernel.dtype:
    x, kernel = x.astype(dtype), kernel.astype(dtype)
  return jnp.dot(x, kernel, preferred_element_type=out)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def of_parts(count: int, x: Array, kernel: Array) -> Array:
  """Returns x · kernel, [..., out] in float32, of x as the sum of so many parts of bfloat16; see `product`."""
  return _sum_of_parts(count, x, kernel, 0)


def _sum_of_parts(count: int, x: Array, kernel: Array, axis: int) -> Array:
  """Returns the product [..., out] in float32 of x in so many parts with a kernel, over an axis of the kernel."""
  if count == 1 and x.size > x.shape[-1]:
    return _product_of_bfloat16(x, kernel, axis)
  parts, rest = [], x
  for _ in range(count):
    parts.append(jax.lax.reduce_precision(rest, 8, 7))  # a conversion to bfloat16 and back may be optimised away
    rest = rest - parts[-1]
  if count * x.size == x.shape[-1]:
    parts.append(jnp.zeros_like(x))  # of a single row, the product is slow
  return _product_of_bfloat16(jnp.stack(parts), kernel, axis).sum(0)


def _product_of_bfloat16(x: Array, kernel: Array, axis: int) -> Array:
  return jax.lax.dot_general(x.astype(jnp.bfloat16), kernel, (((x.ndim - 1,), (axis,)), ((), ())),
                             preferred_element_type=jnp.float32)


def _forward(count: int, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
  return of_parts(count, x, kernel), (x, kernel)


def _backward(count: int, factors: tuple[Array, Array], of_product: Array) -> tuple[Array, Array]:
  x, kernel = factors
  of_kernel = jnp.einsum('...i,...o->io', x.astype(jnp.float32), of_product)
  return _sum_of_parts(count, of_product, kernel, 1).astype(x.dtype), of_kernel.astype(kernel.dtype)


of_parts.defvjp(_forward, _backward)
