"""Dense layers: products with frozen matrices, to which low-rank updates may be added and whose ends may be scaled."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from prompt_tuning.types import Array


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
  if x.dtype != kernel.dtype:
    x, kernel = x.astype(dtype), kernel.astype(dtype)
  if 'down' in params:
    y = jnp.dot(x, kernel, preferred_element_type=jnp.float32)
    y = (y + x.astype(jnp.float32) @ params['down'] @ params['up']).astype(dtype)
  else:
    y = jnp.dot(x, kernel, preferred_element_type=dtype)
  return y + params['bias'].astype(dtype) if 'bias' in params else y
