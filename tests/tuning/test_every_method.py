"""Requirements for every tuning method. A new method is one line in METHODS."""

import copy
import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prompt_tuning import prompts, trees
from prompt_tuning.evaluation.saved import load_trained
from prompt_tuning.models import loading
from prompt_tuning.models.attention_shape import AttentionShape
from prompt_tuning.models.compiled import apply_model
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.delta_shape import DeltaShape
from prompt_tuning.models.positions import Rotary
from prompt_tuning.models.rotary_scaling import Proportional
from prompt_tuning.models.stack_config import StackConfig
from prompt_tuning.models.stacks_config import StacksConfig
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Visibility
from prompt_tuning.training import run_files
from prompt_tuning.training.step import TrainState, make_step
from prompt_tuning.tuning.factored import Factored
from prompt_tuning.tuning.layer_prompts import LayerPrompts
from prompt_tuning.tuning.low_rank import LowRank
from prompt_tuning.tuning.multitask import MultitaskPrompt
from prompt_tuning.tuning.prefix import Prefix
from prompt_tuning.tuning.residual import Residual
from prompt_tuning.tuning.retrained import Retrained
from prompt_tuning.tuning.scales import Scales
from prompt_tuning.tuning.together import Together

METHODS = {  # the name of a case -> the method, for an encoder-decoder
  'prompt before': prompts.PromptTuning(prompts.Prompt(2)),
  'prompt after_bos': prompts.PromptTuning(prompts.Prompt(2), layouts.after_bos),
  'prompt before_eos': prompts.PromptTuning(prompts.Prompt(2), layouts.before_eos),
  'prompt after_eos': prompts.PromptTuning(prompts.Prompt(2), layouts.after_eos),
  'prompt that sees nothing': prompts.PromptTuning(prompts.Prompt(2), visibility=Visibility(False, False)),
  'retrained norms': Retrained('.*(norm|layer_norm)/scale'),
  'retrained layer': Retrained(['decoder/layers_1/self_attention/(value|out)/kernel', 'encoder/relpos_bias/.*']),
  'low rank': LowRank(2, ['.*/encoder_decoder_attention/(query|out)/kernel', 'encoder/.*/wo/kernel']),
  'prefix': Prefix(3),
  'scales': Scales(),
  'layer prompts that are added': LayerPrompts(2, mode='add'),
  'prefix of cross-attention': Prefix(2, attentions=('cross',)),
  'prefix of a network': Prefix(2, attentions=('encoder', 'decoder'), hidden=3, width=4),
  'residual': Residual(prompts.Prompt(4), hidden=3),
  'factored': Factored(prompts.Prompt(3), layouts.after_bos, rank=2),
  'prompt together with low rank': Together(prompts.PromptTuning(prompts.Prompt(3)), LowRank(2, '.*/wo/kernel')),
  'multitask prompt': MultitaskPrompt(prompts.Prompt(3), task_rank=2, tasks=('a',)),
}
DECODER_METHODS = {  # the same for a decoder-only model
  'decoder prompt before': prompts.PromptTuning(prompts.Prompt(2)),
  'decoder prompt after_bos': prompts.PromptTuning(prompts.Prompt(2), layouts.after_bos),
  'decoder prompt after_eos': prompts.PromptTuning(prompts.Prompt(2), layouts.after_eos),
  'decoder prefix': Prefix(3),
  'decoder prefix of a network': Prefix(2, hidden=3),
  'layer prompts': LayerPrompts(2),
  'decoder layer prompts that are added': LayerPrompts(2, mode='add'),
  'decoder scales': Scales('.*'),
  'decoder low rank': LowRank(2, '.*/(value|wi_0)/kernel'),
  'decoder retrained norms': Retrained('.*(norm|layer_norm)/scale'),
  'decoder residual': Residual(prompts.Prompt(4), hidden=7, separate=True),
  'decoder factored': Factored(prompts.Prompt(3), rank=4),
  'decoder prefix together with low rank': Together(Prefix(3), LowRank(2, '.*/(query|wo)/kernel')),
  'decoder multitask prompt': MultitaskPrompt(prompts.Prompt(3), layouts.after_eos, tasks=('a',)),
}
ON_T5GEMMA = {f't5gemma {name}': copy.copy(method) for name, method in METHODS.items()} | {
  't5gemma retrained layer': Retrained(['decoder/layers_1/self_attention/(value|out)/kernel', 'encoder/.*/wo/kernel'])}
ON_T5GEMMA2 = {f't5gemma2 {name}': copy.copy(METHODS[name]) for name in (
  'prompt before', 'prompt that sees nothing', 'retrained norms', 'prefix', 'prefix of cross-attention', 'scales',
  'layer prompts that are added')} | {
  't5gemma2 low rank': LowRank(2, ['.*/self_attention/(key|value)/kernel', 'encoder/.*/wo/kernel'])}
GEMMA = StackConfig(width=12, layers=2, heads=4, kv_heads=2, head_dim=6, mlp_dim=14, query_scale=6**-0.5,
                    norm_offset=1.0, post_norms=True, rotary=(Rotary(), Rotary()), windows=(4, 0))
T5GEMMA = loading.random_model(StacksConfig(
  29, dataclasses.replace(GEMMA, windows_ahead=(3, 0), attention_cap=9.0), dataclasses.replace(
    GEMMA, width=10, heads=3, kv_heads=1), input_scale=12**0.5, decoder_scale=10**0.5, output_cap=8.0), seed=1)
T5GEMMA2 = loading.random_model(StacksConfig(
  29, dataclasses.replace(GEMMA, windows_ahead=(3, 0), query_norms=True), dataclasses.replace(
    GEMMA, heads=6, kv_heads=3, merged=True, query_norms=True), embedding_scale=12**0.5, decoder_scale=12**0.5,
  separate_embeddings=False, image_end=8, tied=True, family='t5gemma2'), seed=1)
EXPERTS_METHODS = {  # the same for one with experts, in place of those that update matrices of an MLP
  **{name.replace('decoder', 'experts'): copy.copy(method) for name, method in DECODER_METHODS.items()},
  'experts layer prompts': LayerPrompts(2),
  'experts low rank': LowRank(2, '.*/(value|router)/kernel'),
  'experts prefix together with low rank': Together(Prefix(3), LowRank(2, '.*/(query|out)/kernel')),
  'experts retrained layer': Retrained('decoder/layers_1/mlp/(wi_0|wo|router)/kernel'),
}
del EXPERTS_METHODS['layer prompts']
CONFIG = DecoderConfig(
  vocab_size=29, layers=2, width=12, heads=4, kv_heads=2, head_dim=6, mlp_dim=14, mlp_activations=('silu', 'linear'),
  query_scale=6**-0.5, rotary=(Rotary(), Rotary()), windows=(4, 0), query_norms=True)
DECODER_ONLY = loading.random_model(CONFIG, seed=1)
EXPERTS = loading.random_model(dataclasses.replace(CONFIG, experts=3, experts_per_token=2, shares_sum_to_one=False),
                               seed=1)
HYBRID_METHODS = {f'hybrid {name}': dataclasses.replace(method) for name, method in DECODER_METHODS.items()}
HYBRID = loading.random_model(DecoderConfig(
  vocab_size=29, layers=4, width=12, heads=4, kv_heads=2, head_dim=6, mlp_dim=14, mlp_activations=('silu', 'linear'),
  query_scale=6**-0.5, rotary=(None, Rotary()) * 2, query_norms=True, output_gate=True, norm_epsilon=0.01,
  delta_layers=(True, False) * 2, delta=DeltaShape(2, 4, 5, 3, 3), family='qwen3_5'), seed=1)
GEMMA4_METHODS = {f'gemma4 {name}': dataclasses.replace(method) for name, method in DECODER_METHODS.items()}
GEMMA4 = loading.random_model(DecoderConfig(
  vocab_size=29, layers=6, width=12, heads=4, kv_heads=2, head_dim=4, mlp_dim=14, query_norms=True, value_norms=True,
  post_norms=True, norm_epsilon=0.01, rotary=(Rotary(), Proportional(40.0, rotated=0.5)) * 3, windows=(4, 0) * 3,
  wide=AttentionShape(6, 1, keys_are_values=True), wide_layers=(False, True) * 3, shared_layers=2, shared_mlp_dim=18,
  layer_embedding=3, layer_vocab_size=29, output_scales=True, tied=True, family='gemma4'), seed=1)
TEXTS = (([7, 8, 9, 4, 1], [5, 6, 1]), ([10, 3, 1], [11, 1]))
OPTIMIZER = optax.chain(optax.trace(0.0), optax.adam(0.1))  # the first remembers the gradient

SLOW = ('prompt after_bos', 'prompt before_eos', 'retrained layer', 'prefix of cross-attention',
        'decoder prompt after_bos', 'decoder prompt after_eos', 'decoder prefix of a network',
        'decoder retrained norms', 'decoder scales')
every_method = pytest.mark.parametrize('method', [
  pytest.param(method, id=name, marks=[pytest.mark.slow] * (
    name in SLOW or name.startswith(('t5gemma', 'experts', 'hybrid', 'gemma4'))))
  for methods in (METHODS, DECODER_METHODS, ON_T5GEMMA, ON_T5GEMMA2, EXPERTS_METHODS, HYBRID_METHODS,
                  GEMMA4_METHODS)
  for name, method in methods.items()])


@pytest.fixture
def model(method, tiny):
  """The frozen model for the tests of a method."""
  return next(found for methods, found in (
    (METHODS, tiny), (DECODER_METHODS, DECODER_ONLY), (ON_T5GEMMA, T5GEMMA), (ON_T5GEMMA2, T5GEMMA2),
    (EXPERTS_METHODS, EXPERTS), (HYBRID_METHODS, HYBRID), (GEMMA4_METHODS, GEMMA4))
              if any(method is each for each in methods.values()))


def unread(name, shape):
  """Returns where a tensor of GEMMA4 has numbers that no layer reads: heads of 4, not 6, and MLPs of 14, not 18."""
  found = np.zeros(shape, bool)
  if name.endswith(('prefix/keys', 'prefix/values')):  # [L, P, H, K]
    found[::2, ..., 4:] = True
  elif name.endswith(('prefix/output_bias', 'prefix/output_kernel')):
    found = found.reshape(-1, 2, 4, 2, 6)
    found[:, :, ::2, :, 4:] = True
  elif name.endswith('layer_prompts/vectors'):  # the last layers have no keys and values
    found[4:] = True
  elif name.endswith(('wi_0/output', 'wi_1/output', 'wo/input')):
    found[:4, 14:] = True
  elif name.endswith(('query/output', 'out/input')):
    found[::2, 16:] = True
  elif name.endswith('key/output'):  # two heads of 4, or one of 6
    found[1::2, 6:] = True
  return found.reshape(shape)


def batch_of(model, asked):
  layout = model.layout(asked)
  return layouts.assemble([[layout.example(*each)] for each in TEXTS], layout.row_lengths({'inputs': 5, 'targets': 3}))


def initialised(method, model):
  return method.initialise(jax.random.key(1), model)


@functools.cache
def compiled_step(method, module):
  return jax.jit(make_step(module, method, OPTIMIZER))


@pytest.fixture(scope='module')
def stepped():
  """Returns a function that returns a random state of a method, and the state after one training step."""

  @functools.cache
  def run(method, model):
    random = np.random.default_rng(2)
    trained = jax.tree.map(lambda leaf: leaf + 0.1 * random.normal(size=leaf.shape).astype(np.float32),
                           initialised(method, model))
    state = TrainState(jnp.int32(0), trained, OPTIMIZER.init(trained))
    return state, compiled_step(method, model.module)(model.params, state, batch_of(model, method.layout()))[0]

  return run


@every_method
def test_first_values_depend_on_the_key_alone_and_have_names(model, method):
  first, again = trees.flatten(initialised(method, model)), trees.flatten(initialised(method, model))
  assert first and all(isinstance(name, str) for name in first)
  for name in first:
    np.testing.assert_array_equal(first[name], again[name])
    assert first[name].dtype == jnp.float32


@every_method
def test_first_values_are_the_methods_own_and_may_be_given_away(model, method):
  before = jax.device_get(model.params)
  for leaf in jax.tree.leaves(initialised(method, model)):
    leaf.delete()  # as with a donated array
  jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(model.params))


@every_method
def test_every_trained_number_changes_the_output(model, stepped, method):
  _, state = stepped(method, model)
  for name, array in trees.flatten(state.optimizer[0].trace).items():
    array = np.asarray(array)
    if 'rel_embedding' in name:  # these short texts do not cover all distances
      array = array[:, np.abs(array).max(axis=0) > 0]
    if 'network' in name and array.ndim == 3:  # of a network for each vector, some units are inactive
      units = np.any(array != 0, axis=1 if 'hidden' in name else 2, keepdims=True)
      array = array[np.broadcast_to(units, array.shape)]
    read = ~unread(name, array.shape) if model is GEMMA4 else np.ones(array.shape, bool)
    assert read.any() and (array[read] != 0).all() and not array[~read].any(), name


@every_method
def test_a_step_trains_every_tensor_and_nothing_else(model, stepped, method):
  frozen = jax.device_get(model.params)
  before, after = (trees.flatten(state.trained) for state in stepped(method, model))
  assert jax.tree.map(jnp.shape, before) == jax.tree.map(jnp.shape, after)
  for name, array in after.items():
    assert (np.asarray(array) != np.asarray(before[name])).any(), name
  jax.tree.map(np.testing.assert_array_equal, frozen, jax.device_get(model.params))


@every_method
def test_what_a_run_saves_gives_the_same_outputs_and_goes_on_with_the_same_bits(model, stepped, method, tmp_path):
  _, state = stepped(method, model)
  wanted = apply_model(model.module, model.params, batch_of(model, method.layout()),
                       method.condition(state.trained, model))
  run_files.save(str(tmp_path), 1, trained=trees.flatten(state.trained), optimizer=state.optimizer, metadata={},
                 about=json.loads(json.dumps(method.describe())), keep=1, exported=method.export(state.trained, model))

  saved = load_trained(str(tmp_path))
  found = apply_model(model.module, model.params, batch_of(model, saved.layout()), saved.conditioning(model))
  np.testing.assert_array_equal(found, wanted)

  _, arrays, _ = run_files.read_newest(str(tmp_path))
  fresh = initialised(method, model)
  resumed = dataclasses.replace(
    state, trained=run_files.restore(fresh, arrays, 'trained'),
    optimizer=run_files.restore(OPTIMIZER.init(fresh), arrays, 'optimizer'))
  step, batch = compiled_step(method, model.module), batch_of(model, method.layout())
  ends = [step(model.params, each, batch)[0] for each in (state, resumed)]
  jax.tree.map(np.testing.assert_array_equal, ends[0].trained, ends[1].trained)
  jax.tree.map(np.testing.assert_array_equal, ends[0].optimizer, ends[1].optimizer)
