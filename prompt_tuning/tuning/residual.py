"""Residual prompts (Razdaibiedina et al. 2023): during training, a small network adds to each vector of a prompt.

  p'_i = p_i + LN(U · relu(W p_i)),    LN(x) = g ∘ (x − mean(x)) / std(x) + b;    φ = {p, W [m, D], U [D, m], g, b}.

One network for all i couples the vectors, so that a prompt learns faster and depends less on its rate; `separate` gives
each its own. Only the prompt p' is exported, so it is used like any other. Here g = b = 0 at first: training starts
from p itself, whereas the paper starts with g = 1, which is small beside T5's embeddings only. For a model that is
large, or examples that are many, a prompt alone does as well.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning.names import require_number
from prompt_tuning.rows.conditioning import Frozen
from prompt_tuning.tuning.method import fields_of
from prompt_tuning.tuning.prompt import PromptSettings, PromptTuning
from prompt_tuning.types import Array, Flat, Params

_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class ResidualSettings(PromptSettings):
  """A residual prompt as plain values: those of a prompt, and its network.

  Attributes:
    hidden: m, the width of the network's hidden layer.
    separate: each vector has a network of its own.
    network_rate: the network's learning rate, as a multiple of the run's.
  """

  hidden: int = 128
  separate: bool = False
  network_rate: float = 0.1

  def build(self, model: Any) -> 'Residual':
    """Returns the method for a model; `init` must be a function by then."""
    return Residual(**fields_of(super().build(model)), hidden=self.hidden, separate=self.separate,
                    network_rate=self.network_rate)


@dataclasses.dataclass(frozen=True)
class Residual(PromptTuning):
  """The method: a prompt whose vectors go through a network with a skip connection.

  Attributes:
    hidden: m, the width of the network's hidden layer.
    separate: each vector has a network of its own.
    network_rate: the network's learning rate, as a multiple of the run's.

  Raises:
    ValueError: a number is out of range.
  """

  Settings = ResidualSettings

  hidden: int = 128
  separate: bool = False
  network_rate: float = 0.1

  def __post_init__(self) -> None:
    require_number('hidden', self.hidden, least=1, whole=True)
    require_number('network_rate', self.network_rate, above=0)

  def initialise(self, key: Array, model: Frozen) -> Params:
    """Returns φ: `encoder/prompt/prompt/prompt` [P, D], and `encoder/prompt/network/…`, or the same in the decoder.

    The network has `hidden_kernel` [D, m], `output_kernel` [m, D], `norm_scale` and `norm_bias` [D]; if they are
    separate, with P before the other axes.

    Raises:
      ValueError: the initialiser or the text does not fit the model and the length.
    """
    trained = super().initialise(key, model)
    copies = (self.prompt.length,) if self.separate else ()
    dense, zeros = nn.initializers.lecun_normal(batch_axis=range(len(copies))), jnp.zeros((*copies, model.width))
    first, second = jax.random.split(jax.random.fold_in(key, 1))
    trained[model.prompted]['prompt']['network'] = {
      'hidden_kernel': dense(first, (*copies, model.width, self.hidden)),
      'output_kernel': dense(second, (*copies, self.hidden, model.width)),
      'norm_scale': zeros, 'norm_bias': jnp.zeros_like(zeros)}
    return trained

  def vectors(self, trained: Params) -> Array:
    """Returns p' [P, D]; of a file, which has no network, the prompt as it is."""
    (tree,) = trained.values()
    prompt, network = super().vectors(trained), tree['prompt'].get('network')
    if network is None:
      return prompt
    multiply = lambda x, kernel: jnp.einsum('pi,pij->pj' if self.separate else 'pi,ij->pj', x, network[kernel])
    x = multiply(jax.nn.relu(multiply(prompt, 'hidden_kernel')), 'output_kernel')
    x = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + _EPSILON)
    return prompt + network['norm_scale'] * x + network['norm_bias']

  def rate_of(self, name: str) -> float:
    """Returns `network_rate` for the tensors of the network."""
    return self.network_rate if '/network/' in name else 1.0

  def start(self, given: Flat, about: Mapping[str, Any], own: Flat) -> Flat:
    """Returns a given prompt with a new network, which leaves it as it is at first."""
    return {**{name: array for name, array in own.items() if '/network/' in name}, **given}

  @classmethod
  def owns(cls, name: str) -> bool:
    """Returns False: what is exported is a prompt."""
    return False
