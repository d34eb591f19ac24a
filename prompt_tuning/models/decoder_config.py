"""The shape of a decoder-only model."""

import dataclasses

from prompt_tuning.models.stack_config import StackConfig, require_choices, require_sizes


@dataclasses.dataclass(frozen=True)
class DecoderConfig(StackConfig):
  """The shape of a decoder-only model: its stack, and the layers around it.

  Attributes:
    vocab_size: V, the number of rows of the embedding.
    family: the family that defines the names and config of a folder; see `families`.
    tied: the output layer is the embedding.
    position_count: the number of rows of a learned position table; 0 means no table.
    embedding_scale: factor on embedded tokens, and on prompts, which take the place of tokens.
    output_scale: factor on the logits.
    output_cap: limit of the logits (Gemma 2); 0 means none.
    prefix_lm: the positions of an input see one another.
    started: every text begins with the token 0, and inputs have an end token (T5X).
    features: width of inputs that are real vectors, read by a linear layer instead of the embedding; 0 means tokens.
    classes: the number of labels of a separate output layer for input positions, see `LabelLayout`; 0 means that the
      output is the vocabulary.
    kind: a description for messages.
  """

  vocab_size: int = 0
  family: str = 'llama'
  tied: bool = False
  position_count: int = 0
  embedding_scale: float = 1.0
  output_scale: float = 1.0
  output_cap: float = 0.0
  prefix_lm: bool = False
  started: bool = False
  features: int = 0
  classes: int = 0
  kind = 'a decoder-only model'

  def __post_init__(self) -> None:
    require_choices(self)
    require_sizes(self, 'width', 'heads', 'head_dim', 'mlp_dim', 'layers')
    object.__setattr__(self, 'causal', True)
    object.__setattr__(self, 'outputs', self.classes or (0 if self.tied else self.vocab_size))
    object.__setattr__(self, 'output_bias', self.classes > 0)
