"""The architectures of new models, by name, as plain values."""

from typing import Any

from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.t5_config import T5Config
from prompt_tuning.names import Registry


def t5(*, vocab_size: int, width: int, heads: int, head_dim: int, mlp_dim: int, encoder_layers: int,
       decoder_layers: int, tied: bool = False, **more: Any) -> T5Config:
  """Returns the shape of a T5; that of T5 1.0 if the output layer is the embedding."""
  return T5Config(vocab_size, width, heads, head_dim, mlp_dim, encoder_layers, decoder_layers, tied=tied, scaled=tied,
                  **more)


def gpt2(*, vocab_size: int, width: int, heads: int, layers: int, position_count: int, mlp_dim: int = 0,
         tied: bool = True) -> DecoderConfig:
  """Returns the shape of a GPT-2: learned positions, LayerNorm before attention and MLP, GELU by tanh, biases.

  Args:
    vocab_size: V.
    width: D.
    heads: H, each of width D / H.
    layers: L.
    position_count: the longest row, prompt and prefix included.
    mlp_dim: F; 0 means 4 D.
    tied: the output layer is the embedding (GPT-2); else it has separate weights, without bias (minGPT).

  Raises:
    ValueError: H does not divide D.
  """
  if not heads or width % heads:
    raise ValueError(f'heads={heads} cannot be used with width={width}. Give a number of heads that divides the width.')
  head_dim = width // heads
  return DecoderConfig(
    vocab_size=vocab_size, width=width, heads=heads, head_dim=head_dim, layers=layers, mlp_dim=mlp_dim or 4 * width,
    mlp_activations=('gelu',), norm='layer', norm_epsilon=1e-5, bias=True, query_scale=head_dim**-0.5,
    position_count=position_count, tied=tied, family='gpt2', initial_scale=0.02)


ARCHITECTURES: Registry = Registry('architecture', {'t5': t5, 'gpt2': gpt2})
