"""Prompt tuning (Lester, Al-Rfou and Constant 2021): P trained vectors among a frozen model's embedded input.

  logits = model([p_1; …; p_P; embed(x)]),    ∂loss/∂p only.

A prompt cannot teach new skills: it selects among the abilities of the frozen model.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning.names import nearest, require_number
from prompt_tuning.rows import layouts, placements
from prompt_tuning.rows.conditioning import Conditioning, Frozen, StackConditioning, Visibility
from prompt_tuning.tuning.initialisers import Encoder, Initializer, embed
from prompt_tuning.tuning.method import Method
from prompt_tuning.tuning.rates import in_scale
from prompt_tuning.types import Array, Flat, Params

# Stack of a prompt -> the name of its tensor, as in files of earlier tools.
PROMPTS = {stack: f'{stack}/prompt/prompt/prompt' for stack in ('encoder', 'decoder')}
PATH = PROMPTS['encoder']


class Prompt(nn.Module):
  """The prompt's vectors.

  Attributes:
    length: P, the number of vectors.
    prompt_init: initialiser, a function `(key, shape) -> array`.
    dtype: type in which the model gets the vectors; they are trained in float32.
  """

  length: int
  prompt_init: Initializer = nn.initializers.uniform(0.5)
  dtype: Any = jnp.float32

  def __post_init__(self) -> None:
    require_number('length', self.length, least=1, whole=True)
    super().__post_init__()

  def __repr__(self) -> str:
    return f'Prompt({self.length})'

  @nn.compact
  def __call__(self, width: int) -> Array:
    """Returns [P, D] for the model's width D."""
    return self.param('prompt', self.prompt_init, (self.length, width)).astype(self.dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class Wayward:
  """Keeps a prompt close to a text (Khashabi et al. 2022): γ Σ ‖p_i − e_i‖² is added to each step's loss.

  Attributes:
    vectors: [P, D], the text's embedded tokens.
    gamma: γ, above 0.
  """

  vectors: Array = dataclasses.field(repr=False)
  gamma: float

  def __post_init__(self) -> None:
    if self.gamma <= 0:
      raise ValueError(f'gamma={self.gamma}, the weight of the distance to a text, must be above 0. Use a number above '
                       '0, or no text.')

  @classmethod
  def of_text(cls, embeddings: Array, vocab: Encoder, text: str, gamma: float) -> 'Wayward':
    """Keeps a prompt close to a text of P tokens, given the embedding [V, D] and a vocabulary."""
    return cls(embed(embeddings, vocab, text), gamma)


@dataclasses.dataclass(frozen=True)
class PromptSettings:
  """Prompt tuning as plain values.

  Attributes:
    length: P, how many vectors.
    init: their first values: sampled, texts, text, file, or an initializer of Flax.
    placement: their position in the input: before, after_bos, before_eos or after_eos.
    prompt_at: their position in a conversation: start, before everything, or the start of the text of its system turn,
      system, or of its first user turn, user.
    see_input: the vectors see the input.
    see_prompt: the vectors see one another.
    cached: in training, cache the keys and values of the text before the prompt; after_eos, decoder-only models.
    wayward_text: a text of as many tokens as vectors, near which they stay.
    wayward_gamma: the weight of the squared distance to its embedding.
    vectors_dtype: the type of the vectors that the model reads.

  Raises:
    ValueError: a value cannot be used.
  """

  length: int = 20
  init: Any = 'sampled'
  placement: str = 'before'
  prompt_at: str = 'start'
  see_input: bool = True
  see_prompt: bool = True
  cached: bool = False
  wayward_text: str | None = None
  wayward_gamma: float = 0.0
  vectors_dtype: str = 'float32'

  def __post_init__(self) -> None:
    if self.placement not in layouts.PLACEMENTS:
      raise ValueError(f'placement={self.placement!r} is unknown.{nearest(self.placement, layouts.PLACEMENTS)} '
                       f'Choose one of {", ".join(layouts.PLACEMENTS)}.')
    if self.prompt_at not in ('start', *layouts.IN_TURNS):
      raise ValueError(f'prompt_at={self.prompt_at!r} cannot be used: expected start, {" or ".join(layouts.IN_TURNS)}.')
    if self.prompt_at != 'start' and self.placement != 'before':
      raise ValueError(f'prompt_at={self.prompt_at} and placement={self.placement} cannot be used together: both are '
                       "the prompt's position. Give one of them.")
    if (self.wayward_text is None) != (self.wayward_gamma == 0.0):
      raise ValueError(f'wayward_text={self.wayward_text!r} and wayward_gamma={self.wayward_gamma} need each other. '
                       'Give a text and a number above 0, or neither.')

  def build(self, model: Any) -> 'PromptTuning':
    """Returns the method for a model; `init` must be a function by then."""
    wayward = None if self.wayward_text is None else Wayward.of_text(
      model.embeddings(), model.vocabulary, self.wayward_text, self.wayward_gamma)
    placement = layouts.IN_TURNS.get(self.prompt_at, layouts.PLACEMENTS[self.placement])
    return PromptTuning(Prompt(self.length, self.init, self.vectors_dtype), placement,
                        Visibility(self.see_input, self.see_prompt), self.cached, wayward)


@dataclasses.dataclass(frozen=True)
class PromptTuning(Method):
  """The method: a prompt among the inputs of the encoder, or of a decoder-only model.

  Attributes:
    prompt: the vectors.
    placement: their position, a function from `layouts`.
    visibility: the positions that they see.
    cached: in training, keys and values of the text before the prompt are computed once, without dropout, and kept. For
      a prompt after the input (`layouts.after_eos`) of a decoder-only model.
    wayward: the text that the prompt stays close to.
  """

  Settings = PromptSettings

  prompt: Prompt
  placement: layouts.Placement = layouts.before
  visibility: Visibility = Visibility()
  cached: bool = False
  wayward: Wayward | None = None

  def rate(self, model: Any) -> float:
    """Returns the rate of prompt tuning in the scale of the model's embedding, from which prompts start."""
    return in_scale(self.learning_rate, model.embeddings())

  def layout(self) -> layouts.Layout:
    """Returns a layout with a position for every vector."""
    return layouts.Layout(self.prompt.length, self.placement, isolated=not self.visibility.input, cached=self.cached)

  def initialise(self, key: Array, model: Frozen) -> Params:
    """Returns φ: `encoder/prompt/prompt/prompt` [P, D], or the same in the decoder.

    Raises:
      ValueError: the initialiser or the text does not fit the model and the length.
    """
    wanted = (self.prompt.length, model.width)
    if self.wayward is not None and self.wayward.vectors.shape != wanted:
      raise ValueError(f'The text that the prompt stays close to is embedded as {tuple(self.wayward.vectors.shape)}, '
                       f'expected {wanted}: one token for each vector. Set length= to its number of tokens.')
    return {model.prompted: {'prompt': {'prompt': self.prompt.init(key, model.width)['params']}}}

  def penalty(self, trained: Params) -> Array | None:
    """Returns the weighted distance to a text, which is added to a step's loss; None without a text."""
    if self.wayward is None:
      return None
    (prompt,) = jax.tree.leaves(trained)
    return self.wayward.gamma * jnp.sum((prompt - jnp.asarray(self.wayward.vectors, prompt.dtype))**2)

  def condition(self, trained: Params, model: Frozen) -> Conditioning:
    """Returns the prompt as conditioning [1, P, D] of the stack that the model's prompts belong to."""
    (tree,) = trained.values()
    params = tree['prompt']['prompt']
    found = tuple(params['prompt'].shape)
    if len(found) != 2 or found[1] != model.width:
      raise ValueError(f'The prompt has shape {found}, but the model expects [P, {model.width}]. Choose one that was '
                       'trained for this model.')
    vectors = jnp.asarray(self.prompt.apply({'params': params}, model.width))
    return Conditioning(**{model.prompted: StackConditioning(prompt=vectors[None], visibility=self.visibility)})

  def describe(self) -> dict[str, Any]:
    """Returns the description that every method has, and the visibility."""
    return super().describe() | {'visibility': dataclasses.asdict(self.visibility)}

  @classmethod
  def owns(cls, name: str) -> bool:
    """Returns True for the names of `PROMPTS`."""
    return name in PROMPTS.values()

  @classmethod
  def read(cls, tensors: Flat, about: Mapping[str, Any]) -> 'PromptTuning':
    """Returns the method for one prompt [P, D], which comes before the text unless the file says otherwise."""
    if len(tensors) > 1:
      raise ValueError(f'The file holds the prompts {", ".join(sorted(tensors))}, but a model takes one. Give a '
                       'file with one of them.')
    name = about.get('placement', 'before')
    if name not in placements.SAVED:
      raise ValueError(f'The prompt was saved with the unknown placement {name!r}.'
                       f'{nearest(name, placements.SAVED)} Save it again with a placement of `layouts`.')
    (vectors,) = tensors.values()
    return cls(Prompt(len(vectors)), placements.SAVED[name], Visibility(**about.get('visibility', {})))
