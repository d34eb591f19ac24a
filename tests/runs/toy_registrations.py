"""A method, a model family, a loss and an optimizer of a user's own, each registered by one call."""

import dataclasses

import jax.numpy as jnp
import optax

import prompt_tuning as pt
from prompt_tuning.losses import cross_entropy
from prompt_tuning.models.families import llama
from prompt_tuning.rows.conditioning import Conditioning, StackConditioning
from prompt_tuning.rows.layouts import Layout
from prompt_tuning.tuning.method import Method

NAME = '{}/scaled/vectors'


@dataclasses.dataclass(frozen=True)
class Scaled(Method):
  """A prompt whose vectors are multiplied by a number.

  Attributes:
    vectors: how many.
    scale: the number.
  """

  vectors: int = 2
  scale: float = 0.5

  def layout(self):
    return Layout(self.vectors)

  def initialise(self, key, model):
    return {model.prompted: {'scaled': {'vectors': jnp.ones((self.vectors, model.width))}}}

  def condition(self, trained, model):
    (tree,) = trained.values()
    vectors = self.scale * jnp.asarray(tree['scaled']['vectors'])
    return Conditioning(**{model.prompted: StackConditioning(prompt=vectors[None])})

  def describe(self):
    return super().describe() | {'scale': self.scale}

  @classmethod
  def owns(cls, name):
    return name in (NAME.format('encoder'), NAME.format('decoder'))

  @classmethod
  def read(cls, tensors, about):
    (vectors,) = tensors.values()
    return cls(len(vectors), about['scale'])


def squared(logits, targets, weights, *, power: float = 2.0):
  """Cross-entropy, multiplied by itself where `power` is 2: per batch, so that it differs."""
  loss, sums = cross_entropy(logits, targets, weights)
  return loss**power, {**sums, 'loss': loss**power}


pt.register_method('scaled', Scaled)
pt.register_loss('squared', squared)
pt.register_optimizer('plain_sgd', optax.sgd)
pt.register_family(dataclasses.replace(llama.FAMILY, name='toy_llama', model_types=('toy_llama',)))
