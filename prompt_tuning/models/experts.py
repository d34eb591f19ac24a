"""A mixture of experts (Shazeer et al. 2017): several MLPs, of which a router chooses a few for each token.

The tokens are sorted by expert, and each expert multiplies only those that chose it, see `grouped`. No expert is ever
full, so padding and other rows do not change a token's output. The router is frozen with the rest and needs no
balancing loss.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from prompt_tuning.devices import meshes, sharding
from prompt_tuning.models import dense, grouped
from prompt_tuning.models.activations import multiplied
from prompt_tuning.models.dropout import drop
from prompt_tuning.models.stack_config import StackConfig, mlp_names
from prompt_tuning.types import Array

_HIDDEN = 'mlp/wo/input'


class Experts(nn.Module):
  """The experts of a layer, in place of its MLP: kernels [E, D, F] and [E, F, D], and a router [D, E].

  Attributes:
    config: the stack's shape.
  """

  config: StackConfig

  @nn.compact
  def __call__(self, x: Array, dropout: Array | None, *, site: int, scales: Mapping[str, Array] | None = None) -> Array:
    """Returns the sum of the chosen experts' outputs [B, T, D], each multiplied by its share.

    All experts of a position have the same scales, and all experts of a row drop the same hidden units.
    """
    config = self.config
    weights = {name: _Weights(config, name=name)() for name in (*mlp_names(config), 'wo')}
    router = _Router(config, name='router')
    shares, chosen = choose(checkpoint_name(router(x), 'gate'), config)
    factors = {name: scale for name, scale in (scales or {}).items() if name.startswith('mlp/')}
    if dropout is not None and config.dropout_rate:
      kept = drop(jnp.ones((len(x), 1, config.mlp_dim), x.dtype), dropout, config.dropout_rate, site=site, over=(2,))
      factors[_HIDDEN] = kept * factors.get(_HIDDEN, 1)
    compute = _on_each_device(lambda *arrays: _computed(config, *arrays), config, x, weights, factors)
    return compute(x, shares, chosen, weights, factors).reshape(x.shape)


class _Weights(nn.Module):
  config: StackConfig

  @nn.compact
  def __call__(self) -> dict[str, Array]:
    config, writes = self.config, self.name == 'wo'
    read, written = (config.mlp_dim, config.width) if writes else (config.width, config.mlp_dim)
    initialise = config.initialiser(shape='truncated_normal', writes=writes)
    of_each = lambda key, shape: jax.vmap(lambda key: initialise(key, shape[1:]))(jax.random.split(key, shape[0]))
    found = {'kernel': self.param('kernel', of_each, (config.experts, read, written))}
    if config.bias or config.mlp_bias:
      found['bias'] = self.param('bias', nn.initializers.zeros, (config.experts, written))
    return found


class _Router(nn.Module):
  config: StackConfig

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Returns the logits [B, T, E] of the experts, float32."""
    config = self.config
    self.param('kernel', config.initialiser(), (config.width, config.experts))
    if config.router_bias:
      self.param('bias', nn.initializers.zeros, (config.experts,))
    return dense.apply(self.variables['params'], x, jnp.float32)


def choose(logits: Array, config: StackConfig) -> tuple[Array, Array]:
  """Returns the shares and numbers [B, T, k] of the experts with the largest logits [B, T, E]."""
  largest, chosen = jax.lax.top_k(logits, config.experts_per_token)
  if config.shares_sum_to_one:
    return jax.nn.softmax(largest, axis=-1), chosen
  return jnp.exp(largest - jax.nn.logsumexp(logits, axis=-1, keepdims=True)), chosen


def _computed(config: StackConfig, x: Array, shares: Array, chosen: Array, weights: Mapping[str, Any],
              factors: Mapping[str, Array]) -> Array:
  """Returns [B · T, D]; the weights may be those of a part of the hidden width F, and then so is the sum.

  Factors are [B or 1, T or 1, ·].
  """
  flat = lambda array: array.reshape(-1, array.shape[-1])  # [B, T, ·] -> [B·T, ·]
  experts = flat(chosen).ravel()  # [B·T·k]
  order = jnp.argsort(experts, stable=True)
  tokens, experts = order // config.experts_per_token, experts[order]
  sizes = jnp.bincount(experts, length=config.experts)
  platform = meshes.device(config.mesh).platform

  def scaled(array: Array, place: str) -> Array:
    if place not in factors:
      return array
    factor = factors[place]
    if factor.shape[1] > 1:
      factor = flat(jnp.broadcast_to(factor, (*x.shape[:2], factor.shape[-1])))[tokens]
    elif len(factor) > 1:
      factor = factor[tokens // x.shape[1], 0]
    else:
      factor = factor[0]
    return (array * factor).astype(array.dtype)

  def multiply(array: Array, name: str) -> Array:
    kernel, array = weights[name]['kernel'], scaled(array, f'mlp/{name}/input')
    if array.dtype != kernel.dtype:
      array, kernel = array.astype(config.dtype), kernel.astype(config.dtype)
    y = grouped.product(array, kernel, sizes, platform=platform, dtype=config.dtype)
    if 'bias' in weights[name]:
      y = y + weights[name]['bias'].astype(config.dtype)[experts]
    return scaled(y, f'mlp/{name}/output')

  read = flat(x)[tokens]
  hidden = multiplied(config, [checkpoint_name(multiply(read, name), 'mlp_hidden') for name in mlp_names(config)])
  y = multiply(hidden, 'wo').astype(jnp.float32) * shares.reshape(-1)[order][:, None]
  y = y[jnp.argsort(order)].reshape(-1, config.experts_per_token, y.shape[-1])
  return y.sum(axis=1).astype(config.dtype)


def _on_each_device(compute: Any, config: StackConfig, x: Array, weights: Mapping[str, Any],
                    factors: Mapping[str, Array]) -> Any:
  """Returns the computation, run by each device on its own rows and its part of the hidden width F.

  Left to the compiler, the tokens of all devices would be sorted together.
  """
  mesh = config.mesh
  if mesh is None:
    return compute
  apart = sharding.mapped_axes()  # of the caller
  over = tuple(axis for axis in sharding.RULES['batch'] if axis not in apart)
  over = over if over and x.shape[0] % math.prod(mesh.shape[axis] for axis in over) == 0 else None
  rows = PartitionSpec(over)

  def of_weights(name: str, part: str) -> PartitionSpec:
    if name == 'wo':
      return PartitionSpec(None, 'model') if part == 'kernel' else PartitionSpec()
    return PartitionSpec(None, None, 'model') if part == 'kernel' else PartitionSpec(None, 'model')

  def of_factor(name: str, factor: Array) -> PartitionSpec:
    whole = name == 'mlp/wo/output' or (name.endswith('/input') and name != _HIDDEN)
    return PartitionSpec(over if len(factor) > 1 else None, None, None if whole else 'model')

  def mapped(x: Array, shares: Array, chosen: Array, weights: Any, factors: Any) -> Array:
    if 'bias' in weights['wo']:  # each device adds its part of the sum
      bias = weights['wo']['bias']
      weights = {**weights, 'wo': {**weights['wo'], 'bias': bias / mesh.shape['model']}}
    return jax.lax.psum(compute(x, shares, chosen, weights, factors), 'model')

  specs = (rows, rows, rows,
           {name: {part: of_weights(name, part) for part in parts} for name, parts in weights.items()},
           {name: of_factor(name, factor) for name, factor in factors.items()})
  return jax.shard_map(mapped, mesh=None if apart else mesh, in_specs=specs, out_specs=rows,
                       axis_names=set(meshes.AXES) - apart, check_vma=False)
