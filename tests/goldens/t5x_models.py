"""Two tiny random models of T5X and Flaxformer, for `make_t5x.py`: each takes a prompt as ids before its text.

A prompt of P vectors is P additional rows of the embedding, and P additional ids come before the text. T5X and
Flaxformer therefore run unmodified: nothing is added to their stacks, masks or searches.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import seqio
import tensorflow as tf
from flax import linen, traverse_util
from flax.linen import partitioning as axes
from flaxformer.architectures.t5 import t5_architecture
from flaxformer.components import dense, embedding, layer_norm, relative_position_biases
from flaxformer.components.attention import dense_attention
from t5x import adafactor, decoding, models, optimizers

VOCAB, WIDTH, HEADS, HEAD_DIM, HIDDEN, ENCODER, DECODER, P = 37, 10, 3, 5, 14, 2, 4, 6
BUCKETS, MAX_DISTANCE = 8, 11
START = VOCAB + P  # a copy of row 0, the begin token of a decoder-only model: 0 would count as padding
ENCODER_PROMPT, DECODER_PROMPT = 'encoder/prompt/prompt/prompt', 'decoder/prompt/prompt/prompt'
VOCABULARY = seqio.PassThroughVocabulary(size=VOCAB, eos_id=1)


def architecture(decoder_only=False, scanned=False, dtype='float32', tied=False):
  """Returns T5 1.1 of these sizes in Flaxformer, its embedding with rows for the prompt and for `START`.

  `tied` makes the embedding the output layer, as in T5 1.0.
  """
  dropout = functools.partial(linen.Dropout, rate=0.0)
  norm = functools.partial(layer_norm.T5LayerNorm, dtype=dtype)
  attention = lambda: dense_attention.MultiHeadDotProductAttention(
    num_heads=HEADS, head_dim=HEAD_DIM, use_bias=False, broadcast_dropout=True, dropout_rate=0.0, dtype=dtype)
  mlp = lambda: dense.MlpBlock(
    intermediate_dim=HIDDEN, activations=('gelu', 'linear'), use_bias=False, intermediate_dropout_rate=0.0,
    final_dropout_rate=0, dtype=dtype)
  biases = functools.partial(relative_position_biases.RelativePositionBiases, num_heads=HEADS, num_buckets=BUCKETS,
                             max_distance=MAX_DISTANCE, dtype=dtype)
  embed = functools.partial(embedding.Embed, name='token_embedder', num_embeddings=VOCAB + P + 1, features=WIDTH,
                            cast_input_dtype='int32', one_hot=True, dtype=dtype, attend_dtype='float32')
  logits = functools.partial(dense.DenseGeneral, features=VOCAB, use_bias=False, kernel_axis_names=['embed', 'vocab'],
                             dtype='float32')
  layer = {'dropout_factory': dropout, 'layer_norm_factory': norm}
  stack = {'layer_norm_factory': norm, 'dtype': dtype}
  if scanned:  # each layer has separate position biases
    layer |= {'scanned': True, 'relative_position_bias_factory': biases}
    stack |= {'scan_layers': True}
  else:
    stack |= {'shared_relative_position_bias_factory': biases}

  def encoder_layer(**given):
    return t5_architecture.EncoderLayer(attention=attention(), mlp=mlp(), **layer, **given)

  def decoder_layer(**given):
    return t5_architecture.DecoderLayer(
      self_attention=attention(), encoder_decoder_attention=None if decoder_only else attention(), mlp=mlp(), **layer,
      **given)

  encoder = functools.partial(
    t5_architecture.Encoder, num_layers=ENCODER, layer_factory=encoder_layer, input_dropout_factory=dropout,
    output_dropout_factory=dropout, position_embedder_factory=None, **stack)
  decoder = functools.partial(
    t5_architecture.Decoder, num_layers=DECODER, layer_factory=decoder_layer, dropout_factory=dropout,
    output_logits_factory=None if tied else logits, **({'token_embedder_factory': embed} if decoder_only else {}),
    **stack)
  whole = {'dtype': dtype} | ({'scan_layers': True} if scanned else {})
  if decoder_only:
    return t5_architecture.DecoderOnly(decoder_factory=decoder, **whole)
  return t5_architecture.EncoderDecoder(encoder_factory=encoder, decoder_factory=decoder,
                                        shared_token_embedder_factory=embed, **whole)


def flat(tree):
  return {name: np.asarray(array) for name, array in traverse_util.flatten_dict(tree, sep='/').items()}


def nested(arrays):
  return traverse_util.unflatten_dict(dict(arrays), sep='/')


def joined(params):
  """Returns the parameters of `architecture`: a prompt is removed from them and appended to the embedding's rows."""
  arrays = traverse_util.flatten_dict(params, sep='/')
  name = 'token_embedder/embedding' if 'token_embedder/embedding' in arrays else 'decoder/token_embedder/embedding'
  rows, first = jnp.asarray(arrays[name]), arrays[name][:1]
  prompt = arrays.pop(ENCODER_PROMPT, jnp.zeros((P, WIDTH)))
  if DECODER_PROMPT in arrays:
    prompt = arrays.pop(DECODER_PROMPT)
    rows = rows.at[0].set(prompt[0])  # see `DecoderOnly`
  arrays[name] = jnp.concatenate([rows, prompt, first])
  return nested(arrays)


def in_front(tokens, prompted):
  """Returns tokens [B, T] after the prompt's ids, if there is a prompt."""
  ids = jnp.broadcast_to(jnp.arange(VOCAB, VOCAB + P, dtype=jnp.int32), (len(tokens), P))
  return jnp.concatenate([ids, tokens], 1) if prompted else jnp.asarray(tokens)


class EncoderDecoder(models.EncoderDecoderModel):
  """T5X's model of parameters that may hold a prompt."""

  def _compute_logits(self, params, batch, *args, **kwargs):
    return super()._compute_logits(joined(params), self._with_prompt(params, batch), *args, **kwargs)

  def predict_batch_with_aux(self, params, batch, *args, **kwargs):
    return super().predict_batch_with_aux(joined(params), self._with_prompt(params, batch), *args, **kwargs)

  def encode(self, params, batch):
    tokens = self._with_prompt(params, batch)['encoder_input_tokens']
    return self.module.apply({'params': joined(params)}, tokens, enable_dropout=False, method=self.module.encode)

  def _with_prompt(self, params, batch):
    tokens = in_front(batch['encoder_input_tokens'], ENCODER_PROMPT in traverse_util.flatten_dict(params, sep='/'))
    return {**batch, 'encoder_input_tokens': tokens}


class DecoderOnly(models.DecoderOnlyModel):
  """T5X's model of parameters that may hold a prompt, which comes before the begin token of a row.

  T5X's beam search removes a row's first id only if it is 0. So 0 is the prompt's first id here, and `START` replaces
  the token 0.
  """

  def _compute_logits(self, params, batch, *args, **kwargs):
    longer, count = self._with_prompt(params, batch)
    return super()._compute_logits(joined(params), longer, *args, **kwargs)[:, count:]

  def predict_batch_with_aux(self, params, batch, *args, **kwargs):
    return super().predict_batch_with_aux(joined(params), self._with_prompt(params, batch)[0], *args, **kwargs)

  def _with_prompt(self, params, batch):
    if DECODER_PROMPT not in traverse_util.flatten_dict(params, sep='/'):
      return batch, 0
    tokens = in_front(jnp.asarray(batch['decoder_input_tokens']).at[:, 0].set(START), True)
    longer = {'decoder_input_tokens': tokens.at[:, 0].set(0)}
    for name, value in (('decoder_target_tokens', 1), ('decoder_causal_attention', 1), ('decoder_loss_weights', 0)):
      longer[name] = jnp.pad(jnp.asarray(batch[name]), ((0, 0), (P, 0)), constant_values=value)
    return longer, P


HYPER = {'decay_rate': 0.8, 'step_offset': 0, 'weight_decay_rate': 1e-5, 'multiply_by_parameter_scale': False,
         'factored': True, 'clipping_threshold': 1.0, 'beta1': None, 'epsilon1': 1e-30, 'min_dim_size_to_factor': 128}


def prompt_optimizer(**changes):
  """Returns Adafactor for every parameter named as a prompt; other parameters have no state."""
  return optimizers.MultiOptimizer(((
    traverse_util.ModelParamTraversal(lambda name, _: '/prompt/' in name), adafactor.Adafactor(**HYPER | changes)),))


def make_model(decoder_only=False, prefix_lm=True, optimizer=None, **shape):
  common = {'module': architecture(decoder_only, **shape), 'optimizer_def': optimizer or prompt_optimizer(),
            'decode_fn': decoding.beam_search, 'label_smoothing': 0.0, 'z_loss': 1e-4, 'loss_normalizing_factor': None}
  if decoder_only:
    return DecoderOnly(vocabulary=VOCABULARY, inputs_bidirectional_attention=prefix_lm, **common)
  return EncoderDecoder(input_vocabulary=VOCABULARY, output_vocabulary=VOCABULARY, **common)


def first_variables(model, batch):
  """Returns the shapes of a model's parameters by their names, and their logical axes."""
  variables = model.get_initial_variables(
    jax.random.PRNGKey(0), {name: array.shape for name, array in batch.items()},
    dict.fromkeys(batch, jnp.int32))
  return flat(variables['params']), variables['params_axes']


def random_parameters(shapes, seed, ends=1.0):
  """Returns parameters that all have an effect: no norm's scale is one. `ends` changes the end token's probability."""
  random, arrays = np.random.default_rng(seed), {}
  for name, shape in sorted(shapes.items()):
    array = random.normal(size=shape)
    if name.endswith('scale'):
      array = 1 + 0.3 * array
    elif name.endswith('kernel'):
      array = array / shape[0]**0.5
    if name.endswith('logits_dense/kernel'):
      array[:, 1] *= ends
    arrays[name] = array.astype(np.float32)
  return arrays


def converted(converter, rows, lengths):
  """Returns the batch that SeqIO makes of rows of inputs and targets."""
  signature = {name: tf.TensorSpec([None], tf.int32) for name in ('inputs', 'targets')}
  dataset = tf.data.Dataset.from_generator(lambda: rows, output_signature=signature)
  found = list(converter(dataset, lengths).as_numpy_iterator())
  return {name: np.stack([each[name] for each in found]).astype(np.int32) for name in found[0]}


def prompt_axes(params_axes, name):
  """Returns logical axes with those of a prompt added."""
  arrays = traverse_util.flatten_dict(dict(params_axes), sep='/')
  return nested(arrays | {f'{name}_axes': axes.AxisMetadata(names=('prompt', 'embed'))})
