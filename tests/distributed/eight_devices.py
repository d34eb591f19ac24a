"""Compares meshes of eight simulated devices with one device. test_eight_devices.py runs it in a separate process."""

import collections
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prompt_tuning import prompts, trees
from prompt_tuning.checkpoints.huggingface import HuggingFaceFolder
from prompt_tuning.data.pipeline import eval_batches
from prompt_tuning.data.tasks import Task
from prompt_tuning.data.vocabularies import PassThroughVocabulary
from prompt_tuning.decoding.samplers import BeamSearch, Sampling
from prompt_tuning.devices import meshes, sharding
from prompt_tuning.devices.collectives import collectives
from prompt_tuning.evaluation.ranking import Ranked, rank
from prompt_tuning.losses import Loss, distillation, pairwise_cosine
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.loading import load_model, parameter_shapes, random_model, save_model
from prompt_tuning.models.positions import Rotary
from prompt_tuning.models.quantised import Quantised
from prompt_tuning.models.t5 import T5Config
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning, StackConditioning, Visibility
from prompt_tuning.rows.target_fields import with_fields
from prompt_tuning.serving import groups
from prompt_tuning.serving.engine import Engine
from prompt_tuning.serving.requests import Request
from prompt_tuning.training import many
from prompt_tuning.training.evaluations import Evaluations
from prompt_tuning.training.members import Member
from prompt_tuning.training.step import TrainState, make_step
from prompt_tuning.tuning.low_rank import LowRank
from prompt_tuning.tuning.method import Method
from prompt_tuning.tuning.prefix import Prefix
from prompt_tuning.tuning.retrained import Retrained
from prompt_tuning.tuning.scales import Scales

# All sizes of a model differ, except those that must divide.
CONFIGS = {
  't5': T5Config(vocab_size=32, width=16, heads=8, head_dim=3, mlp_dim=40, encoder_layers=2, decoder_layers=3,
                 relative_buckets=6, relative_max_distance=9),
  'llama': DecoderConfig(vocab_size=30, layers=3, width=16, heads=4, head_dim=6, mlp_dim=20, kv_heads=2,
                         mlp_activations=('silu', 'linear'), rotary=(Rotary(1e4),) * 3, windows=(0,) * 3,
                         query_scale=6**-0.5),
  'gpt2': DecoderConfig(vocab_size=29, layers=2, width=8, heads=4, head_dim=2, mlp_dim=12, mlp_activations=('gelu',),
                        norm='layer', bias=True, query_scale=2**-0.5, position_count=30, tied=True, family='gpt2'),
}
INPUTS = [[7, 8, 9, 1], [3, 1], [12, 2, 5, 6, 4, 1], [28, 20, 1]]
TARGETS = [[5, 6, 1], [11, 1], [3, 3, 4, 1], [9, 1]]
ROWS = 8  # of a training batch


@functools.cache
def mesh_of(*shape):
  return meshes.make_mesh(meshes.MeshShape(*shape))


@pytest.fixture(scope='session')
def folders(tmp_path_factory):
  """A folder for each model, with random weights that are large enough that every layer matters."""
  found = {}
  for name, config in CONFIGS.items():
    model = random_model(config)
    if name == 'gpt2':  # its biases begin as zeros
      model = dataclasses.replace(model, params=jax.tree.map(
        lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape), model.params))
    found[name] = str(tmp_path_factory.mktemp('models') / name)
    save_model(model, found[name])
  return found


@pytest.fixture(scope='session')
def model(folders):
  """Returns a function `(name, mesh shape or None, ...) -> model`."""
  @functools.cache
  def load(name, *shape, dtype=None, **changes):
    return load_model(folders[name], vocabulary=PassThroughVocabulary(29), mesh=mesh_of(*shape) if shape else None,
                      dtype=dtype, **changes)

  return load


def assert_close(found, wanted):
  """Compares arrays to 1e-5 of their largest value."""
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  largest = max(np.abs(np.asarray(each)).max() for each in jax.tree.leaves(wanted))
  for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5 * largest, rtol=0, err_msg=str(path))


# --- Loading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(('name', 'shape'), [('t5', (2, 2, 2)), ('gpt2', (1, 2, 4)), ('llama', (8, 1, 1))])
def test_each_device_holds_its_shard_alone_and_nothing_else_is_read(model, folders, monkeypatch, name, shape):
  taken, read = [], HuggingFaceFolder.read

  def counted(self, array, part=...):
    found = read(self, array, part)
    taken.append(found.nbytes)
    return found

  monkeypatch.setattr(HuggingFaceFolder, 'read', counted)
  loaded = load_model(folders[name], mesh=mesh_of(*shape))
  arrays = trees.flatten(loaded.params)
  shapes = parameter_shapes(loaded.module)
  assert sum(taken) == sum(array.nbytes for array in arrays.values())  # each shard once, however many devices hold it
  layers = {path: array.shape[0] if trees.is_stacked(path) else 1 for path, array in arrays.items()}
  assert max(taken) == max(array.addressable_shards[0].data.nbytes // layers[path] for path, array in arrays.items())
  for device in range(8):
    held = sum(array.addressable_shards[device].data.nbytes for array in arrays.values())
    assert held == sharding.bytes_of_device(shapes, loaded.module.config.mesh)
  kernel = arrays['decoder/layers/mlp/wo/kernel']
  assert math.prod(kernel.shape) == kernel.addressable_shards[0].data.size * shape[1] * shape[2]
  alone = model(name).params
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), loaded.params, alone)


def test_matrices_in_eight_bits_are_split_as_others_are(model):
  spread, alone = model('llama', 2, 2, 2, dtype='int8'), model('llama', dtype='int8')
  found, wanted = (each.params['decoder']['layers']['mlp']['wi_0']['kernel'] for each in (spread, alone))
  assert isinstance(found, Quantised) and found.values.dtype == jnp.int8
  assert found.values.addressable_shards[0].data.size == found.values.size // 4
  np.testing.assert_array_equal(found.values, wanted.values)
  np.testing.assert_array_equal(found.scale, wanted.scale)


def test_fresh_parameters_do_not_depend_on_the_mesh():
  wanted = random_model(CONFIGS['gpt2']).params
  found = random_model(dataclasses.replace(CONFIGS['gpt2'], mesh=mesh_of(1, 4, 2))).params
  assert len(found['decoder']['layers']['mlp']['wo']['kernel'].addressable_shards[0].data[0]) == 12 // 2
  assert_close(found, wanted)


# --- Use -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope='session')
def vectors():
  """A prompt for each width."""
  return {width: np.random.default_rng(width).normal(size=(3, width)).astype(np.float32) for width in (8, 16)}


@pytest.mark.parametrize(('name', 'shape', 'dtype'), [
  ('t5', (2, 2, 2), None), ('gpt2', (1, 2, 4), None), ('llama', (2, 2, 2), 'int8'),
  *(pytest.param(*each, marks=pytest.mark.slow) for each in (('t5', (1, 1, 8), None), ('llama', (2, 2, 2), None)))])
def test_logits_are_those_of_one_device(model, vectors, name, shape, dtype):
  found, wanted = (each.logits(INPUTS, TARGETS, vectors[each.width])
                   for each in (model(name, *shape, dtype=dtype), model(name, dtype=dtype)))
  assert_close(found, wanted)


@pytest.mark.parametrize(('name', 'shape'), [
  ('t5', (2, 2, 2)),
  *(pytest.param(*each, marks=pytest.mark.slow) for each in (('gpt2', (1, 2, 4)), ('llama', (2, 2, 2))))])
def test_beams_are_those_of_one_device(model, vectors, name, shape):
  def beams(model):
    prompt = vectors[model.width]
    return model.predict(INPUTS, [prompt, None, prompt[:2], prompt], sampler=BeamSearch(3), max_length=5)

  for found, wanted in zip(beams(model(name, *shape)), beams(model(name)), strict=True):
    assert found.tolist() == wanted.tolist()


def test_samples_are_those_of_one_device_and_their_cache_stays_spread(model):
  settings = {'sampler': Sampling([0.5, 1.0, 0.0, 2.0]), 'seed': [1, 2, 3, 4], 'max_length': 5}
  spread, alone = (each.prefill(INPUTS, **settings).finish() for each in (model('llama', 2, 2, 2), model('llama')))
  for [found], [wanted] in zip(spread.predictions(), alone.predictions(), strict=True):
    assert found.ids.tolist() == wanted.ids.tolist()
  keys = spread._state.cache[0]
  assert max(shard.data.nbytes for shard in keys.addressable_shards) < keys.nbytes


@pytest.mark.parametrize('name', ['llama', 't5'])
def test_an_engine_on_a_mesh_answers_as_on_one_device(model, vectors, monkeypatch, name):
  monkeypatch.setattr(groups, 'row_sizes', lambda slots: [slots])  # few programs

  def answers(model):
    with Engine(model, slots=4) as engine:
      engine.prompts.load('prompt', vectors[model.width])
      asked = [Request(ids, prompt, max_tokens=5, temperature=temperature, seed=3, top=1)
               for ids, prompt, temperature in zip(INPUTS, (None, 'prompt') * 2, (0, 0, 0.7, 0.7), strict=True)]
      found = [engine.submit(request).result() for request in asked]
      return found, [part.sharding for part in jax.tree.leaves(groups.Bank(model, 4, {'self': 8, 'memory': 8,
                                                                                      'encoder': 0}).caches)]

  (alone, _), (spread, shardings) = answers(model(name)), answers(model(name, 2, 2, 2))
  assert all('model' in str(each.spec) for each in shardings)
  for one, other in zip(alone, spread, strict=True):
    assert [token.id for token in one.tokens] == [token.id for token in other.tokens]
    assert_close([token.log_prob for token in one.tokens], [token.log_prob for token in other.tokens])


@pytest.mark.parametrize(('name', 'shape'), [
  ('llama', (2, 2, 2)), pytest.param('t5', (2, 2, 2), marks=pytest.mark.slow)])
def test_scores_and_ranked_words_are_those_of_one_device(model, name, shape):
  examples = [{'inputs': ' '.join(map(str, ids[:-1]))} for ids in INPUTS] * 2

  def scores(model):
    batches = eval_batches(examples, model.vocabulary, model.layout(), batch_size=8)
    return model.score(INPUTS, TARGETS), np.array(list(rank(model, Conditioning(), batches, Ranked(('5 6', '7')))))

  assert_close(scores(model(name, *shape)), scores(model(name)))


@pytest.mark.slow
def test_a_text_that_was_read_before_stands_before_rows_on_a_mesh(model):
  found, wanted = (each.score(INPUTS, TARGETS, context=each.read(INPUTS[::-1]))
                   for each in (model('gpt2', 1, 2, 4), model('gpt2')))
  assert_close(found, wanted)


# --- Training --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TwoPrompts(Method):
  """Two prompts; each example uses one of them."""

  placement: layouts.Placement

  def layout(self):
    return layouts.Layout(2, self.placement)

  def initialise(self, key, model):
    return {model.prompted: 0.5 * jax.random.normal(key, (2, 2, model.width))}

  def condition(self, trained, model):
    (stack, vectors), = trained.items()
    return Conditioning(**{stack: StackConditioning(prompt=vectors)})


PROMPT = prompts.PromptTuning(prompts.Prompt(3))
APART = prompts.PromptTuning(prompts.Prompt(3), visibility=Visibility(input=False))


@dataclasses.dataclass(frozen=True)
class Case:
  """One step: a model, its trainable parameters, and settings."""

  name: str
  method: Any
  shape: tuple[int, ...]
  packed: bool = False
  microbatches: int | None = None
  loss: Loss = Loss()
  dtype: str | None = None
  dropout_rate: float = 0.0
  rematerialise: str = 'none'
  rows: int = 8

  def model(self, load):
    return load(self.name, *self.shape, dtype=self.dtype, dropout_rate=self.dropout_rate,
                rematerialise=self.rematerialise)


DATA, FSDP, MODEL = (Case('t5', PROMPT, shape) for shape in ((8, 1, 1), (1, 8, 1), (1, 1, 8)))
IN_FRONT = Case('gpt2', PROMPT, (8, 1, 1))
CASES = {
  'prompt, data': DATA, 'prompt, fsdp': FSDP,
  'two prompts in packed rows, dropout, microbatches':
    Case('gpt2', TwoPrompts(layouts.before_eos), (2, 2, 2), packed=True, microbatches=2, dropout_rate=0.3),
  'retrained, eight bits': Case('llama', Retrained('.*layers_1/(mlp|self).*'), (2, 2, 2), dtype='int8'),
}
SLOW = {
  'pairs of rows': Case('gpt2', PROMPT, (2, 2, 2), loss=Loss(function=pairwise_cosine, of='hidden')),
  'prompt, model': MODEL, 'prompt in front of a causal model': IN_FRONT,
  'prefix, eight bits': Case('llama', Prefix(3), (2, 2, 2), dtype='int8'),
  'two prompts in front, one a row': Case('llama', TwoPrompts(layouts.before), (2, 2, 2)),
  'low rank, eight bits': Case('llama', LowRank(2, ('.*(query|wo)/kernel',)), (2, 2, 2), dtype='int8'),
  'prompt that sees nothing': Case('t5', APART, (2, 2, 2), rematerialise='full'),
  'prefix': Case('t5', Prefix(3), (2, 2, 2)),
  'cartridge': Case('llama', Prefix(3, frozen=1), (2, 2, 2), loss=Loss(function=distillation), microbatches=2),
  'scales': Case('t5', Scales(), (2, 2, 2), packed=True),
  'retrained': Case('gpt2', Retrained('.*layers_1/.*|token_embedder.*'), (2, 2, 2)),
  'dropout in an encoder': Case('t5', TwoPrompts(layouts.before_eos), (2, 2, 2), packed=True, dropout_rate=0.3),
}


@functools.cache
def compiled(load, case):
  """Returns a case's step, compiled, and its arguments."""
  model = case.model(load)
  mesh, layout, rows = model.module.config.mesh, model.layout(case.method.layout()), range(case.rows)
  examples = [layout.example(INPUTS[i % 4], TARGETS[(i + i // 4) % 4], loss_weight=1 + 0.1 * i,
                             prompt_id=i % 2 if isinstance(case.method, TwoPrompts) else 0) for i in rows]
  if case.loss.fields:  # a teacher that finds each target likely, and the next id
    examples = [with_fields(each, {'teacher_ids': np.add.outer(TARGETS[(i + i // 4) % 4], np.arange(2)) % 29,
                                   'teacher_log_probs': np.full((len(TARGETS[(i + i // 4) % 4]), 2), -1.0)})
                for i, each in enumerate(examples)]
  held = [[examples[i], examples[(i + 3) % case.rows]] if case.packed else [examples[i]] for i in rows]
  longest = {stack: max(sum(len(each[stack]['tokens']) for each in row) for row in held) for stack in layout.stacks}
  batch = sharding.global_batch(mesh, layouts.assemble(held, longest, first_id=5), case.rows)
  remember = optax.trace(0.0)  # its state is the gradient
  trained = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape),
                         case.method.initialise(jax.random.key(1), model))
  state = sharding.copied(mesh, TrainState(jnp.int32(2), trained, remember.init(trained), jnp.uint32(3)))
  step = make_step(model.module, case.method, remember, loss=case.loss, microbatches=case.microbatches)
  return jax.jit(step).lower(model.params, state, batch).compile(), (model.params, state, batch)


@functools.cache
def gradient(load, case):
  step, arguments = compiled(load, case)
  state, sums = step(*arguments)
  return trees.flatten(state.optimizer.trace), sums


@pytest.mark.parametrize('name', [*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_steps_gradient_and_sums_are_those_of_one_device(model, name):
  case = (CASES | SLOW)[name]
  found, wanted = (gradient(model, each) for each in (case, dataclasses.replace(case, shape=())))
  assert all(np.abs(np.asarray(each)).max() > 0 for each in wanted[0].values())
  assert_close(found[0], wanted[0])
  for sum_of, value in wanted[1].items():
    np.testing.assert_allclose(found[1][sum_of], value, rtol=1e-5, err_msg=sum_of)


@pytest.mark.parametrize(('name', 'shape'), [
  ('gpt2', (2, 2, 2)), pytest.param('t5', (8, 1, 1), marks=pytest.mark.slow)])
def test_many_runs_on_a_mesh_are_those_of_one_device(model, tmp_path, name, shape):
  written = lambda ids: ' '.join(map(str, ids[:-1]))
  task = Task('turn', {'train': [{'inputs': written(each), 'targets': written(other)}
                                 for each, other in zip(INPUTS, TARGETS, strict=True)]}, ())

  def runs(*mesh):
    folder = tmp_path / str(mesh)
    return many.train_many(model=model(name, *mesh), model_dir=str(folder), quiet=True, members=[
      Member(name=f'{length}', method=prompts.PromptTuning(prompts.Prompt(length)), task=task, seed=length,
             lengths={'inputs': 6, 'targets': 4}, model_dir=str(folder / f'{length}'), train_steps=3, batch_size=8,
             optimizer=optax.sgd(0.1), evaluations=Evaluations(loss_steps=0, examples=0)) for length in (3, 4)])

  for found, wanted in zip(runs(*shape), runs(), strict=True):
    assert_close(found.trained, wanted.trained)
    assert found.loss == pytest.approx(wanted.loss, rel=1e-5)


# --- Collectives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('case', [DATA, pytest.param(IN_FRONT, marks=pytest.mark.slow)], ids=['rows', 'in front'])
def test_copies_of_a_model_exchange_the_gradient_and_what_is_reported_alone(model, case):
  step, (_, state, _) = compiled(model, case)
  _, sums = gradient(model, case)
  summed = set(sums) - {'scaled_loss', 'gradient_norm', 'trained_norm'}  # these are computed from sums
  gradients = sum(array.nbytes for array in jax.tree.leaves(state.trained))
  found = collectives(step)
  assert {(each.kind, each.times) for each in found} == {('all-reduce', 1)}
  assert sum(each.bytes for each in found) == gradients + 4 * len(summed)


def test_split_parameters_are_gathered_layer_by_layer_and_nothing_of_them_is_sent_back(model):
  step, (params, _, _) = compiled(model, FSDP)
  wanted = collections.Counter()
  for path, array in trees.flatten(params).items():
    if 'fsdp' in array.sharding.spec:
      layers = array.shape[0] if trees.is_stacked(path) else 1
      runs = 2 if trees.is_stacked(path) else 1  # a layer's forward and backward pass
      wanted['all-gather', array.nbytes // layers, layers] += runs
  found = collections.Counter(collectives(step))
  exchanged = collections.Counter(collectives(compiled(model, DATA)[0]))
  assert found - exchanged == wanted
  assert found - wanted == exchanged


def test_parts_of_a_model_exchange_activations_alone(model):
  small, large = (collections.Counter(collectives(compiled(model, dataclasses.replace(MODEL, rows=rows))[0]))
                  for rows in (8, 16))
  assert any(kind == 'all-reduce' and times > 1 for kind, _, times in small)
  # All of them grow with the number of rows; parameters do not.
  assert collections.Counter({each._replace(bytes=2 * each.bytes): count for each, count in small.items()}) == large
