"""Attention kernels against plain XLA, and the choice between them.

Pallas' kernel runs here in interpret mode, and the inputs of cuDNN's run through JAX's attention. The last test runs
the kernel of the available accelerator.
"""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas

from prompt_tuning.models import attention, kernels
from prompt_tuning.models.attention import Block, hide
from prompt_tuning.models.compiled import attention_weights
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.kernels import Facts, choose
from prompt_tuning.models.loading import random_model
from prompt_tuning.models.stack_config import StackConfig
from prompt_tuning.models.t5 import T5Config
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning, StackConditioning
from prompt_tuning.runs.train_run import TrainRun

GPU = Facts('gpu', jnp.bfloat16, queries=512, keys=640, head_dim=64, capability=8.0)
TPU = Facts('tpu', jnp.bfloat16, queries=512, keys=640, head_dim=64, by_segments=True)
REPLACE = dataclasses.replace


@pytest.mark.parametrize(('asked', 'facts', 'wanted', 'why'), [
  ('auto', Facts('cpu', jnp.float32, 512, 512, 64), 'xla', 'no kernel for a cpu'),
  ('auto', GPU, 'cudnn', 'types and shapes'),
  ('auto', TPU, 'pallas', 'types and shapes'),
  ('xla', GPU, 'xla', 'requested'),
  ('cudnn', REPLACE(GPU, by_head=True, queries=2, keys=3), 'cudnn', 'requested'),
  ('pallas', REPLACE(TPU, by_segments=False, queries=2), 'pallas', 'requested'),
  ('cudnn', REPLACE(GPU, weights=True), 'xla', 'weights are needed'),
  ('pallas', REPLACE(TPU, queries=1), 'xla', 'one query at a time'),
  ('auto', REPLACE(GPU, dtype=jnp.float32), 'xla', 'float32, not bfloat16 or float16'),
  ('auto', REPLACE(GPU, capability=7.0), 'xla', 'needs compute capability 8.0, and this has 7.0'),
  ('auto', REPLACE(GPU, head_dim=136), 'xla', 'width 136, not a multiple of 8 up to 128'),
  ('auto', REPLACE(GPU, head_dim=136, capability=9.0), 'cudnn', ''),
  ('auto', REPLACE(GPU, head_dim=20), 'xla', 'width 20, not a multiple of 8'),
  ('auto', REPLACE(GPU, by_head=True), 'xla', 'biases of every head'),
  ('auto', REPLACE(GPU, dropout=True), 'xla', 'weights are dropped'),
  ('auto', REPLACE(GPU, cap=True), 'xla', 'logits are capped'),
  ('auto', REPLACE(GPU, queries=127), 'xla', '127 queries are fewer than 128'),
  ('auto', REPLACE(GPU, head_dim=128, queries=255), 'xla', '255 queries are fewer than 256'),
  ('auto', REPLACE(GPU, keys=100), 'xla', '100 keys are fewer than 128'),
  ('auto', REPLACE(TPU, by_segments=False), 'xla', 'biases would be added up'),
  ('auto', REPLACE(TPU, dtype=jnp.float16), 'xla', 'float16, not bfloat16 or float32'),
  ('auto', REPLACE(TPU, head_dim=192), 'xla', 'width 192'),
])
def test_the_program_follows_from_what_is_known_before_compiling(asked, facts, wanted, why):
  found, reason = choose(asked, facts)
  assert found == wanted
  assert why in reason


@pytest.mark.parametrize(('asked', 'facts', 'why'), [
  ('cudnn', Facts('cpu', jnp.bfloat16, 512, 512, 64), "cuDNN's kernel needs a GPU, and this is a cpu"),
  ('pallas', GPU, "Pallas' kernel needs a TPU, and this is a gpu"),
  ('cudnn', REPLACE(GPU, dtype=jnp.float32, weights=True), 'activations are float32, not bfloat16 or float16'),
  ('cudnn', REPLACE(GPU, dropout=True), 'dropped in training .dropout_rate.'),
  ('pallas', REPLACE(TPU, cap=True), 'capped .attention_cap.'),
])
def test_a_kernel_that_cannot_run_is_an_error_where_it_is_asked_for(asked, facts, why):
  with pytest.raises(ValueError, match=f"attention='{asked}' cannot be used: .*{why}.* Use 'auto', or 'xla'"):
    choose(asked, facts)


def test_an_unknown_program_is_an_error():
  with pytest.raises(ValueError, match="attention='flash' cannot be used: expected one of auto, xla, cudnn, pallas"):
    T5Config(32, 8, 2, 4, 12, 1, 1, attention='flash')


def test_a_kernel_that_is_not_there_is_an_error_when_the_model_is_made():
  with pytest.raises(ValueError, match='needs a GPU, and this is a cpu'):
    random_model(DecoderConfig(vocab_size=29, layers=1, width=8, heads=2, head_dim=4, mlp_dim=12, attention='cudnn'))


@pytest.fixture
def interpreted(monkeypatch):
  """Runs Pallas' kernels without a TPU. Its own mode for that has effects, which rematerialisation does not support."""
  monkeypatch.setattr(pallas, 'pallas_call', functools.partial(pallas.pallas_call, interpret=True))


@pytest.fixture
def on_tpu(interpreted, monkeypatch):
  """Makes the process act as if it ran on a TPU."""
  monkeypatch.setattr(jax, 'local_devices', lambda: [types.SimpleNamespace(platform='tpu')])


def shared_blocks(dtype):
  """Returns queries, a front of one row, and a block of half the heads after it; lengths are odd."""
  random = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(random.normal(size=shape), dtype)
  visible = random.random((2, 1, 131, 145)) > 0.3
  visible[1, 0, 7] = False  # a query that sees nothing
  front = Block(draw(1, 2, 6, 8), draw(1, 2, 6, 8), (hide(jnp.arange(6) < 5),))
  own = Block(draw(2, 2, 145, 8), draw(2, 2, 145, 8), (hide(visible), draw(4, 131, 145).astype(jnp.float32)))
  return draw(2, 4, 131, 8), [front, own]


def output_and_gradients(attend, query, blocks):
  """Returns the result of `attend`, and gradients of a sum of squares to queries, keys, values and position biases."""
  def loss(query, keys_values, bias):
    changed = [Block(*parts, block.biases) for parts, block in zip(keys_values, blocks, strict=True)]
    changed[-1] = REPLACE(changed[-1], biases=(changed[-1].biases[0], bias))
    out = attend(query, changed)
    return jnp.sum(out.astype(jnp.float32)**2), out

  keys_values = [(block.keys, block.values) for block in blocks]
  (_, out), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(
    query, keys_values, blocks[-1].biases[1])
  return out, gradients


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('kernel', ['cudnn', 'pallas'])
def test_a_kernel_computes_what_plain_attention_does(kernel, dtype, interpreted):
  query, blocks = shared_blocks(dtype)

  def joined(query, blocks):
    if kernel == 'cudnn':
      return kernels.cudnn(query, *kernels.join(query, blocks, 2), implementation='xla')
    return kernels.pallas(query, *kernels.join(query, blocks, 4))

  wanted = output_and_gradients(lambda query, blocks: attention.attend(query, blocks)[0], query, blocks)
  found = output_and_gradients(joined, query, blocks)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    assert a.dtype == b.dtype
    a, b = (np.asarray(x, np.float32) for x in (a, b))
    np.testing.assert_allclose(a, b, atol=np.abs(b).max() * (1e-5 if dtype == 'float32' else 2e-2), rtol=0)


@pytest.mark.parametrize('causal', [False, True])
def test_segments_and_order_stand_for_the_bias_that_they_make(causal, interpreted):
  random = np.random.default_rng(1)
  query, keys, values = (jnp.asarray(random.normal(size=(2, 3, 133, 8)), jnp.float32) for _ in range(3))
  segments = jnp.asarray(np.sort(random.integers(0, 3, (2, 133)))[:, ::-1])
  visible = attention.self_visible({'segments': segments}, causal=causal, visibility=attention.Visibility())
  wanted, _ = attention.attend(query, [Block(keys, values, (hide(visible),))])
  found = kernels.pallas(query, keys, values, None, (segments, segments), causal=causal)
  real = np.asarray(segments > 0)[:, None, :, None]
  np.testing.assert_allclose(found * real, wanted * real, atol=1e-5)


def test_keys_that_fill_a_tile_need_no_bias_and_others_are_hidden(interpreted):
  random = np.random.default_rng(1)
  for count in (128, 130):
    query, keys, values = (jnp.asarray(random.normal(size=(1, 2, length, 8)), jnp.float32)
                           for length in (3, count, count))
    wanted, _ = attention.attend(query, [Block(keys, values)])
    np.testing.assert_allclose(kernels.pallas(query, keys, values, None), wanted, atol=1e-5)
    np.testing.assert_allclose(kernels.cudnn(query, keys, values, None, implementation='xla'), wanted, atol=1e-5)


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_what_is_hidden_stays_finite_in_half_precision_and_padding_is_hidden_more(dtype):
  *_, bias = kernels._padded(*(jnp.zeros((1, 1, 3, 8), dtype),) * 3, hide(jnp.zeros((1, 1, 3, 3), bool)), 2)
  assert bias.shape == (1, 1, 4, 4)
  assert jnp.isfinite(bias).all()
  assert (bias[..., :3, 3] < 1.5 * bias[..., :3, :3].min()).all()


PLACES = {'before': layouts.before, 'behind': layouts.after_eos}


def with_attention(model, name):
  return model.module.clone(config=REPLACE(model.module.config, attention=name))


@functools.partial(jax.jit, static_argnames=('module', 'stack'))
def logits_and_gradient(module, params, batch, vectors, stack):
  def loss(vectors):
    prompt = Conditioning(**{stack: StackConditioning(vectors)})
    logits = module.apply({'params': params}, batch, prompt)
    return jnp.sum(jnp.sin(logits) * batch['decoder']['loss_weights'][..., None])

  return jax.value_and_grad(loss)(vectors)


@pytest.mark.parametrize(('family', 'asked', 'place', 'rematerialise'), [
  ('causal', 'pallas', 'before', 'none'), ('causal', 'auto', 'behind', 'none'),
  pytest.param('t5', 'pallas', 'behind', 'none', marks=pytest.mark.slow),
  pytest.param('causal', 'pallas', 'behind', 'full', marks=pytest.mark.slow)])
def test_a_model_with_a_kernel_is_the_model_without(family, asked, place, rematerialise, request, on_tpu):
  if family == 't5':
    model, layout, stack = request.getfixturevalue('tiny'), layouts.Layout(3), 'encoder'
    rows = {'encoder': 9, 'decoder': 5}
  else:
    config = DecoderConfig(vocab_size=29, layers=2, width=12, heads=4, head_dim=4, mlp_dim=14, kv_heads=2,
                           position_count=150)
    model = random_model(REPLACE(config, attention='xla'))
    layout, stack, rows = layouts.CausalLayout(3, PLACES[place]), 'decoder', {}
    rows = {'decoder': 131 if asked == 'auto' else 12}
  model = REPLACE(model, module=model.module.clone(config=REPLACE(model.module.config, rematerialise=rematerialise)))
  batch = layouts.assemble([[layout.example([7, 8, 1], [5, 1])], [layout.example([9, 1], [3, 4, 1])]], rows)
  vectors = jax.random.normal(jax.random.key(0), (1, 3, 12))
  wanted = logits_and_gradient(with_attention(model, 'xla'), model.params, batch, vectors, stack)
  module = with_attention(model, asked)
  found = logits_and_gradient(module, model.params, batch, vectors, stack)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4), found, wanted)
  assert 'pallas_call' in str(logits_and_gradient.trace(module, model.params, batch, vectors, stack).jaxpr)


@pytest.mark.parametrize(('asked', 'platform', 'kernel'), [
  ('cudnn', 'cuda', '__cudnn$fmhaScaleBias'), ('pallas', 'tpu', 'tpu_custom_call')])
def test_a_model_with_a_kernel_is_lowered_for_its_platform(asked, platform, kernel, monkeypatch):
  device = types.SimpleNamespace(platform='gpu' if asked == 'cudnn' else 'tpu', compute_capability='8.0')
  monkeypatch.setattr(jax, 'local_devices', lambda: [device])
  monkeypatch.setattr('jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version', lambda: 91300)
  config = T5Config(29, 16, 3, 8, 14, 2, 2, dtype=jnp.bfloat16, attention=asked)
  model, layout = random_model(config), layouts.Layout(3)
  batch = layouts.assemble([[layout.example([7, 8, 1], [5, 1])]], {'encoder': 9, 'decoder': 5})
  found = logits_and_gradient.trace(model.module, model.params, batch, jnp.zeros((1, 3, 16)), 'encoder')
  assert kernel in found.lower(lowering_platforms=(platform,)).as_text()


def test_weights_that_are_wanted_are_computed_beside_a_kernel(causal, on_tpu):
  batch = layouts.assemble([[layouts.CausalLayout().example([7, 8, 1], [5, 1])]], {'decoder': 6})
  found = attention_weights(with_attention(causal, 'pallas'), causal.params, batch, Conditioning())
  assert {name: weights.shape for name, weights in found.items()} == {'decoder/layers/self_attention': (2, 1, 3, 6, 6)}


def test_the_choice_is_logged_once(caplog):
  query, blocks = shared_blocks('float32')
  caplog.set_level('INFO', 'absl')
  for _ in range(2):
    kernels.attend(query[:, :, :113], [Block(blocks[1].keys, blocks[1].values)], asked='auto')
  assert caplog.messages == ['Attention of 113 queries to 145 keys: xla, as there is no kernel for a cpu.']


def test_plain_xla_is_the_default_since_no_kernel_has_run_on_its_hardware():
  assert StackConfig(1, 8, 2, 4, 12).attention == T5Config(32, 8, 2, 4, 12, 1, 1).attention == 'xla'
  assert TrainRun.settings()['attention'].default == 'xla'


@pytest.mark.skipif(jax.default_backend() == 'cpu', reason='there is no accelerator, whose own kernel runs here')
def test_the_kernel_of_the_accelerator_computes_what_plain_attention_does():
  query, blocks = shared_blocks('bfloat16')
  asked = {'gpu': 'cudnn', 'tpu': 'pallas'}[jax.default_backend()]
  wanted = output_and_gradients(lambda query, blocks: attention.attend(query, blocks)[0], query, blocks)
  found = output_and_gradients(lambda query, blocks: kernels.attend(query, blocks, asked=asked)[0], query, blocks)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    a, b = (np.asarray(x, np.float32) for x in (a, b))
    np.testing.assert_allclose(a, b, atol=np.abs(b).max() * 2e-2, rtol=0)
