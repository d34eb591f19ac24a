"""The shape of a decoder-only model."""

import dataclasses

from prompt_tuning.models.stack_config import StackConfig, require_choices, require_rotary, require_sizes


@dataclasses.dataclass(frozen=True)
class DecoderConfig(StackConfig):
  """The shape of a decoder-only model: its stack, and the layers around it.

  Attributes:
    vocab_size: V, the number of rows of the embedding.
    layer_vocab_size: the number of rows of the embeddings that each layer reads, see `layer_embedding`.
    family: the family that defines the names and config of a folder; see `families`.
    tied: the output layer is the embedding.
    position_count: positions of a learned position table; 0 means no table.
    position_offset: rows before those in the table, which nothing reads (OPT).
    embedding_scale: factor on embedded tokens, and on prompts, which take the place of tokens; other tools store
      prompts multiplied by it (Gemma).
    input_scale: factor on the same vectors, but other tools store prompts without it (Granite).
    embedding_norm: these vectors are normed (BLOOM).
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
  layer_vocab_size: int = 0
  family: str = 'llama'
  tied: bool = False
  position_count: int = 0
  position_offset: int = 0
  embedding_scale: float = 1.0
  input_scale: float = 1.0
  embedding_norm: bool = False
  output_scale: float = 1.0
  output_cap: float = 0.0
  prefix_lm: bool = False
  started: bool = False
  features: int = 0
  classes: int = 0
  kind = 'a decoder-only model'

  def __post_init__(self) -> None:
    require_choices(self)
    require_rotary(self)
    require_sizes(self, 'width', 'heads', 'head_dim', 'mlp_dim', 'layers')
    if self.experts:
      require_sizes(self, 'experts', 'experts_per_token')
      if self.experts_per_token > self.experts:
        raise ValueError(f'experts_per_token={self.experts_per_token} cannot be used with experts={self.experts}: a '
                         'token cannot choose more experts than there are.')
    if self.delta:
      self._require_delta()
    if self.wide or self.shared_layers:
      self._require_kinds()
    object.__setattr__(self, 'causal', True)
    object.__setattr__(self, 'outputs', self.classes or (0 if self.tied else self.vocab_size))
    object.__setattr__(self, 'output_bias', self.output_bias or self.classes > 0)

  def _require_delta(self) -> None:
    """Raises ValueError if the delta layers cannot be those of a model."""
    require_sizes(self.delta, *(field.name for field in dataclasses.fields(self.delta)))
    if self.delta.value_heads % self.delta.key_heads:
      raise ValueError(f'value_heads={self.delta.value_heads} cannot be used with key_heads={self.delta.key_heads}, '
                       'which does not divide it. Let every query and key serve the same number of value heads.')
    if len(self.delta_layers) != self.layers or set(self.delta_layers) != {False, True}:
      raise ValueError(f'delta_layers={self.delta_layers!r} cannot be used with layers={self.layers}: expected True or '
                       'False for each, and at least one of both.')
    if self.prefix_lm:
      raise ValueError('prefix_lm=True cannot be used with delta layers, which read positions in their order. Leave it '
                       'out.')

  def _require_kinds(self) -> None:
    """Raises ValueError if the layers cannot be wide, or share keys and values, as they are said to."""
    if self.wide:
      require_sizes(self.wide, 'head_dim', 'kv_heads')
      if self.heads % self.wide.kv_heads:
        raise ValueError(f'wide={self.wide!r} cannot be used with heads={self.heads}, which kv_heads does not divide. '
                         'Give every KV head the same number of heads.')
      if len(self.wide_layers) != self.layers:
        raise ValueError(f'wide_layers={self.wide_layers!r} cannot be used with layers={self.layers}: expected True or '
                         'False for each.')
    own = self.layers - self.shared_layers
    wide = self.wide_layers or (False,) * self.layers
    if not 0 <= self.shared_layers < self.layers or not {*wide[own:]} <= {*wide[:own]} or (
        self.shared_layers and self.delta):
      raise ValueError(f'shared_layers={self.shared_layers} cannot be used: it leaves {own} layers, and each of the '
                       'others needs one among them that is as wide as itself, and no delta layers. Share fewer.')

  @property
  def stored_layers(self) -> int:
    """The number of layers that have keys and values of their own."""
    return self.layers - sum(self.delta_layers) - self.shared_layers

  @property
  def position_limit(self) -> int:
    """How many positions rows may have: those of the table, or those that rotary positions are scaled for; 0: any."""
    limits = {rotary.limit(self.rotary_length) for rotary in self.rotary if rotary}
    return min(filter(None, {self.position_count, *limits}), default=0)
