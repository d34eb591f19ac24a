"""T5 as plain formulas on arrays: no cache, no scan, no layout. The tests hold the models and decoders against it.

A model is a flat dict of arrays under T5X's names, and a `Shape`. Functions take `xp`, numpy or jax.numpy.
"""

import dataclasses

import numpy as np
from safetensors.numpy import load_file


@dataclasses.dataclass(frozen=True)
class Shape:
  """What the arrays do not say. T5 1.0 ties its embedding and scales what comes out of the decoder."""

  heads: int = 4
  max_distance: int = 128
  zero_padding: bool = False  # T5X sets padded positions of the encoder to zero
  tied: bool = False


_HUGGING_FACE = (  # the order matters: the feed-forward norm comes after the attention's
  ('shared.weight', 'token_embedder/embedding'), ('lm_head.weight', 'decoder/logits_dense/kernel'),
  ('block.0.layer.0.SelfAttention.relative_attention_bias.weight', 'relpos_bias/rel_embedding'),
  ('encoder.final_layer_norm.weight', 'encoder/encoder_norm/scale'),
  ('decoder.final_layer_norm.weight', 'decoder/decoder_norm/scale'),
  ('encoder.', 'encoder/'), ('decoder.', 'decoder/'), ('block.', 'layers_'), ('.weight', '/kernel'),
  ('.q/', '/query/'), ('.k/', '/key/'), ('.v/', '/value/'), ('.o/', '/out/'),
  ('.layer.1.EncDecAttention', '/encoder_decoder_attention'), ('.DenseReluDense.', '/mlp/'))


def read_hugging_face(path) -> dict[str, np.ndarray]:
  """Returns the parameters of a safetensors file of transformers under T5X's names."""
  params = {}
  for name, value in load_file(path).items():
    for theirs, ours in _HUGGING_FACE:
      name = name.replace(theirs, ours)
    encoder = name.startswith('encoder/')
    norms = ('pre_attention', 'pre_mlp', '') if encoder else ('pre_self_attention', 'pre_cross_attention', 'pre_mlp')
    for i in range(3):
      name = name.replace(f'.layer.{i}.layer_norm/kernel', f'/{norms[i]}_layer_norm/scale')
      name = name.replace(f'.layer.{i}/mlp', '/mlp')
    name = name.replace('.layer.0.SelfAttention', '/attention' if encoder else '/self_attention')
    params[name] = value if 'embedding' == name.split('/')[-1] else value.T
  return params


def encode(params, shape: Shape, tokens, prompt=None, xp=np):
  """Returns what the decoder reads: the encoder's outputs [B, P + T, D] and which of them are no padding."""
  x, visible = params['token_embedder/embedding'][tokens], tokens > 0
  if prompt is not None:
    rows, length = len(tokens), len(prompt)
    x = xp.concatenate([xp.broadcast_to(prompt, (rows, *prompt.shape)), x], axis=1)
    visible = xp.concatenate([xp.ones((rows, length), bool), visible], axis=1)
  mask = xp.where(visible, 0, -1e10)[:, None, None, :]
  for layer in _layers(params, 'encoder'):
    bias = _position_bias(layer, 'encoder', shape, x.shape[1]) + mask
    h = _norm(layer, 'pre_attention_layer_norm', x, xp)
    x = x + _attend(layer, 'attention', shape, h, h, bias, xp)
    x = x + _feed_forward(layer, _norm(layer, 'pre_mlp_layer_norm', x, xp), xp)
  x = _norm(params, 'encoder/encoder_norm', x, xp)
  return (x * visible[:, :, None] if shape.zero_padding else x), visible


def decode_logits(params, shape: Shape, memory, visible, tokens, xp=np):
  """Returns logits [B, S, V] of decoder inputs [B, S], each position reading itself and those before it."""
  x, length = params['token_embedder/embedding'][tokens], tokens.shape[1]
  mask = np.triu(np.full((length, length), -1e10), 1)
  memory_bias = xp.where(visible, 0, -1e10)[:, None, None, :]
  for layer in _layers(params, 'decoder'):
    bias = _position_bias(layer, 'decoder', shape, length) + mask
    h = _norm(layer, 'pre_self_attention_layer_norm', x, xp)
    x = x + _attend(layer, 'self_attention', shape, h, h, bias, xp)
    h = _norm(layer, 'pre_cross_attention_layer_norm', x, xp)
    x = x + _attend(layer, 'encoder_decoder_attention', shape, h, memory, memory_bias, xp)
    x = x + _feed_forward(layer, _norm(layer, 'pre_mlp_layer_norm', x, xp), xp)
  x = _norm(params, 'decoder/decoder_norm', x, xp)
  if shape.tied:
    return x * x.shape[-1] ** -0.5 @ params['token_embedder/embedding'].T
  return x @ params['decoder/logits_dense/kernel']


def _layers(params, stack):
  """Gives the parameters of each layer, and the position biases that it uses: its own or its stack's."""
  for i in range(sum(name.startswith(f'{stack}/layers_') and name.endswith('mlp/wo/kernel') for name in params)):
    prefix = f'{stack}/layers_{i}/'
    shared = {'relpos_bias/rel_embedding': params.get(f'{stack}/relpos_bias/rel_embedding')}
    yield shared | {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}


def _norm(params, name, x, xp):
  return x / xp.sqrt(xp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * params[f'{name}/scale']


def _attend(params, name, shape, x, memory, bias, xp):
  query, key, value = (
    (y @ params[f'{name}/{part}/kernel']).reshape(*y.shape[:2], shape.heads, -1)
    for part, y in (('query', x), ('key', memory), ('value', memory)))
  scores = xp.einsum('bqhk,bthk->bhqt', query, key) + bias
  weights = xp.exp(scores - scores.max(axis=-1, keepdims=True))
  weights = weights / weights.sum(axis=-1, keepdims=True)
  return xp.einsum('bhqt,bthk->bqhk', weights, value).reshape(*x.shape[:2], -1) @ params[f'{name}/out/kernel']


def _feed_forward(params, x, xp):
  if 'mlp/wi/kernel' in params:  # T5 1.0
    return xp.maximum(x @ params['mlp/wi/kernel'], 0) @ params['mlp/wo/kernel']
  gate = x @ params['mlp/wi_0/kernel']
  gate = gate * (1 + xp.tanh((2 / np.pi) ** 0.5 * (gate + 0.044715 * gate**3))) / 2
  return gate * (x @ params['mlp/wi_1/kernel']) @ params['mlp/wo/kernel']


def _position_bias(layer, stack, shape, length):
  """Returns [H, T, T]: half the buckets one distance each, the others growing with its logarithm."""
  table = layer['relpos_bias/rel_embedding']  # [H, buckets]
  distance = np.arange(length)[:, None] - np.arange(length)[None, :]  # how far the key lies behind the query
  buckets, offset = table.shape[1], 0
  if stack == 'encoder':  # half of the buckets for keys ahead
    buckets //= 2
    distance, offset = np.abs(distance), np.where(distance < 0, buckets, 0)
  distance, exact = np.maximum(distance, 0), buckets // 2
  growth = np.log(np.maximum(distance, 1) / exact) / np.log(shape.max_distance / exact) * (buckets - exact)
  far = np.minimum(exact + growth.astype(int), buckets - 1)
  return table[:, np.where(distance < exact, distance, far) + offset]
