"""`linen.initializers.…`, as Flax has them."""

from flax.linen.initializers import (
  constant,
  glorot_normal,
  glorot_uniform,
  normal,
  ones_init,
  orthogonal,
  truncated_normal,
  uniform,
  variance_scaling,
  zeros_init,
)

__all__ = ['constant', 'glorot_normal', 'glorot_uniform', 'normal', 'ones_init', 'orthogonal', 'truncated_normal',
           'uniform', 'variance_scaling', 'zeros_init']
