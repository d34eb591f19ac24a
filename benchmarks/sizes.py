"""The models and batches of the benchmarks, as numbers only: both sides of a comparison read them."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Size:
  """A T5 1.1, or a GPT-2, and a batch.

  Attributes:
    family: 't5' or 'gpt2'; where that has `targets` 0, the loss is that of all text.
    heads: H.
    layers: L, of the encoder and again of the decoder.
    width: D.
    mlp_dim: F.
    head_dim: K.
    vocabulary: V.
    batch: B.
    inputs: tokens of an input.
    targets: S.
    prompt: P, in front of each input.
  """

  heads: int
  layers: int
  width: int
  mlp_dim: int
  head_dim: int = 64
  vocabulary: int = 32128
  batch: int = 8
  inputs: int = 128
  targets: int = 8
  prompt: int = 100
  family: str = 't5'

  def necessary_flops(self) -> float:
    """Returns the FLOPs of a step that no way of computing it can avoid.

    Forward and backward through activations: 4 for each parameter and token of a stack (no gradient of weights),
    keys and values of cross-attention counted on the encoder's tokens, 12·B·H·T·S·K for each attention's two
    products, and the output layer.
    """
    if self.family == 'gpt2':
      return self._necessary_flops_of_gpt2()
    joined, length = self.heads * self.head_dim, self.prompt + self.inputs
    projections, mlp = self.width * joined, 3 * self.width * self.mlp_dim
    encoder_tokens, decoder_tokens = self.batch * length, self.batch * self.targets
    parameters = 4 * self.layers * (
      (4 * projections + mlp + 2 * projections) * encoder_tokens + (6 * projections + mlp) * decoder_tokens)
    products = 12 * self.layers * self.batch * joined * (
      length * length + self.targets * self.targets + self.targets * length)
    return parameters + products + 4 * decoder_tokens * self.width * self.vocabulary

  def _necessary_flops_of_gpt2(self) -> float:
    """The same for a decoder alone: the prompt is run once, and each row attends to it."""
    kernels = 4 * self.width * self.heads * self.head_dim + 2 * self.width * self.mlp_dim
    tokens = self.batch * self.inputs
    attended = self.batch * self.inputs * (self.prompt + self.inputs) + self.prompt**2
    return (4 * self.layers * kernels * (tokens + self.prompt) + 12 * self.layers * self.width * attended
            + 4 * tokens * self.width * self.vocabulary)


SIZES = {'small': Size(heads=6, layers=8, width=512, mlp_dim=1024),
         'base': Size(heads=12, layers=12, width=768, mlp_dim=2048),
         'large': Size(heads=16, layers=24, width=1024, mlp_dim=2816, batch=32, inputs=512),
         'xl': Size(heads=32, layers=24, width=2048, mlp_dim=5120, batch=16, inputs=512),
         'gpt2': Size(heads=12, layers=12, width=768, mlp_dim=3072, vocabulary=50257, targets=0, family='gpt2'),
         'small_gpt2': Size(heads=8, layers=6, width=512, mlp_dim=2048, inputs=64, prompt=8, family='gpt2'),
         'toy_gpt2': Size(heads=2, layers=2, width=16, mlp_dim=64, head_dim=8, vocabulary=128, prompt=5, inputs=16,
                          targets=0, family='gpt2'),
         'toy': Size(heads=2, layers=2, width=16, mlp_dim=32, head_dim=8, vocabulary=128, prompt=5, inputs=16)}
