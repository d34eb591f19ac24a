"""The shape of an encoder-only model, with or without a classification head."""

import dataclasses

from prompt_tuning.models.decoder_config import DecoderConfig

POOLINGS = ('cls', 'mean', 'all', 'mask')
PROBLEMS = ('single', 'multi', 'regression')


@dataclasses.dataclass(frozen=True)
class EncoderConfig(DecoderConfig):
  """The shape of an encoder-only model: a stack in which every position sees the whole text, and perhaps a head.

  `classes` is the number of outputs of the head, 0 without one. `tied` is True of a folder without a head.

  Attributes:
    token_types: rows of the table of token types; every token has the first; 0 means no table.
    pooling: what the head reads: 'cls', the output at the first position of a row; 'mean', the mean over its tokens; or
      'all', the mean over tokens and prompt, as in PEFT's models with such a head; or 'mask', the masks of a
      verbaliser, whose head is that of masked words, see `masked_words`.
    pooler: activation of a dense layer before the head, 'tanh' or one of an MLP; '' means no such layer.
    pooler_norm: a norm follows it (ModernBERT).
    pooler_bias: it has a bias, and so has that of the head of masked words.
    mask_activation: activation of the dense layer of a head of masked words; '' means no such head.
    words: of a verbaliser, the word of each label.
    word_ids: their tokens, one for each mask.
    mask_id: the token that is the mask.
    labels: the names of the head's outputs.
    problem: 'single' (one of the labels), 'multi' (any number of them) or 'regression' (a number).
    kind: a description for messages.

  Raises:
    ValueError: a value is not one of those, or there are not as many labels as classes.
  """

  token_types: int = 0
  pooling: str = 'cls'
  pooler: str = ''
  pooler_norm: bool = False
  pooler_bias: bool = True
  mask_activation: str = ''
  words: tuple[str, ...] = ()
  word_ids: tuple[tuple[int, ...], ...] = ()
  mask_id: int = 0
  labels: tuple[str, ...] = ()
  problem: str = 'single'
  kind = 'an encoder-only model'

  def __post_init__(self) -> None:
    if self.tied:  # the folder has no output layer
      object.__setattr__(self, 'classes', 0)
      object.__setattr__(self, 'labels', ())
    super().__post_init__()
    object.__setattr__(self, 'causal', False)
    object.__setattr__(self, 'outputs', 0 if self.words else self.classes)
    for name, known in (('pooling', POOLINGS), ('problem', PROBLEMS)):
      if getattr(self, name) not in known:
        raise ValueError(f'{name}={getattr(self, name)!r} cannot be used: expected one of {", ".join(known)}.')
    if len(self.labels) not in (0, self.classes):
      raise ValueError(f'The head has {self.classes} outputs, but {len(self.labels)} labels. Give each a label.')

  @property
  def masks(self) -> int:
    """How many masks each text has; 0 without a verbaliser."""
    return len(self.word_ids[0]) if self.word_ids else 0
