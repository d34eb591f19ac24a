"""T5X checkpoints with scanned layers, from T5X's list of their names and shapes."""

import json

import golden_models
import jax
import numpy as np
import pytest
import reference_t5

from prompt_tuning import trees
from prompt_tuning.checkpoints.scanned import Layers, is_scanned
from prompt_tuning.checkpoints.t5x import T5XCheckpoint, write_t5x
from prompt_tuning.decoding.samplers import Greedy
from prompt_tuning.models.generation import generate
from prompt_tuning.models.loading import load_model, parameter_shapes
from prompt_tuning.models.t5 import T5, T5Config

FORMS = ['flaxformer_scan', 't5x_examples_scalable_t5']


class Shapes:
  """A checkpoint with names and shapes only."""

  path = 'shapes'

  def __init__(self, shapes):
    self.shapes = shapes

  def names(self):
    return {name: (tuple(shape), np.dtype(np.float32)) for name, shape in self.shapes.items()}


def golden_shapes(shared, form):
  listed = json.loads((shared / 't5x/f_misc/scan_layers_params_small.json').read_text())[form]
  return {name: each['shape'] for name, each in listed.items()}


def scan(named, shapes):
  """Returns layer-by-layer arrays as T5X scans them: stacked along dimension 1, in the listed shapes."""
  scanned = {}
  for name, shape in shapes.items():
    stack, _, rest = name.partition('/')
    if rest.startswith(f'{stack}/'):
      rest = rest.removeprefix(f'{stack}/')
      layers = [named[f'{stack}/layers_{i}/{rest}'] for i in range(shape[1])]
      if len(shape) == 4:  # heads are split
        layers = [layer.reshape(shape[0], *shape[2:]) for layer in layers]
      scanned[name] = np.stack(layers, axis=1)
    else:
      scanned[name] = named[name]
    assert scanned[name].shape == tuple(shape) or 'relpos' in name
  return scanned


@pytest.fixture
def named(shared):
  """The parameters of d_small by layer, with separate position biases for each layer."""
  named, random = dict(np.load(shared / 't5x/d_small/params.npz')), np.random.default_rng(3)
  for stack in ('encoder', 'decoder'):
    shape = named.pop(f'{stack}/relpos_bias/rel_embedding').shape
    for i in range(2):
      named[f'{stack}/layers_{i}/relpos_bias/rel_embedding'] = random.normal(size=shape).astype(np.float32)
  return named


@pytest.mark.parametrize('form', FORMS)
def test_t5xs_names_and_shapes_are_read_as_those_of_layers(shared, form):
  reader = Shapes(golden_shapes(shared, form))
  assert is_scanned(reader.names()) and not is_scanned(Layers(reader).names())
  buckets = reader.names()['encoder/encoder/relpos_bias/rel_embedding'][0][2]
  config = T5Config(vocab_size=128, width=32, heads=4, head_dim=8, mlp_dim=64, encoder_layers=2, decoder_layers=2,
                    relative_buckets=buckets, layer_biases=True)
  wanted = trees.unstack({path: np.empty(array.shape) for path, array in parameter_shapes(T5(config)).items()})
  assert {name: shape for name, (shape, _) in Layers(reader).names().items()} == {
    name: array.shape for name, array in wanted.items()}


@pytest.mark.parametrize('form', FORMS)
def test_every_layer_is_read_to_the_bit(shared, tmp_path, named, form):
  path = write_t5x(str(tmp_path), 7, scan(named, golden_shapes(shared, form)))
  reader = Layers(T5XCheckpoint(path))
  assert (reader.path, reader.step) == (path, 7)
  assert reader.names().keys() == named.keys()
  for name in reversed(sorted(named)):
    np.testing.assert_array_equal(reader.read(name), named[name], strict=True)


def greedy(params, shape, memory, visible, length):
  """Returns the most likely tokens [B, S], rerunning the whole decoder for each."""
  tokens = np.zeros((len(memory), length + 1), np.int32)
  ended = np.zeros(len(memory), bool)
  for i in range(length):
    best = reference_t5.decode_logits(params, shape, memory, visible, tokens[:, :-1])[:, i].argmax(-1)
    tokens[:, i + 1] = np.where(ended, 0, best)
    ended |= best == 1
  return tokens[:, 1:]


def test_a_model_of_scanned_layers_uses_the_biases_of_each(shared, tmp_path, named):
  golden = np.load(shared / 't5x/d_small/golden.npz')
  model = load_model(write_t5x(str(tmp_path), 7, scan(named, golden_shapes(shared, FORMS[1]))))
  assert model.module.config.layer_biases and model.step == 7
  inputs, targets = golden['encoder_input_tokens'], golden['decoder_target_tokens']
  batch = golden_models.make_batch(inputs, targets)
  real = batch['decoder']['segments'] > 0
  found = model.module.apply({'params': model.params}, batch)
  shape = reference_t5.Shape(max_distance=128, zero_padding=True)
  memory, visible = reference_t5.encode(named, shape, inputs)
  wanted = reference_t5.decode_logits(named, shape, memory, visible, golden['decoder_input_tokens'])
  np.testing.assert_allclose(found[real], wanted[real], atol=2e-4)
  batch, conditioning = golden_models.make_generation_batch(inputs, [None] * 4, model)
  tokens, _ = generate(model.module, model.params, batch, conditioning, jax.random.key(0), sampler=Greedy(),
                       max_length=8)
  np.testing.assert_array_equal(tokens[:, 0], greedy(named, shape, memory, visible, 8))


def test_a_scanned_model_of_equal_biases_gives_t5xs_logits(shared, tmp_path):
  golden = np.load(shared / 't5x/d_small/golden.npz')
  named = dict(np.load(shared / 't5x/d_small/params.npz'))
  for stack in ('encoder', 'decoder'):
    table = named.pop(f'{stack}/relpos_bias/rel_embedding')
    named |= {f'{stack}/layers_{i}/relpos_bias/rel_embedding': table for i in range(2)}
  path = write_t5x(str(tmp_path), 7, scan(named, golden_shapes(shared, FORMS[0])))
  model = load_model(path, relative_max_distance=16)
  batch = golden_models.make_batch(golden['encoder_input_tokens'], golden['decoder_target_tokens'])
  real = batch['decoder']['segments'] > 0
  found = model.module.apply({'params': model.params}, batch)
  np.testing.assert_allclose(found[real], golden['plain_logits'][real], atol=2e-4)


def test_a_scanned_model_of_flaxformer_gives_t5xs_logits(tmp_path):
  folder = golden_models.OWN / 't5x'
  golden = np.load(folder / 'scanned.npz')
  model = load_model(write_t5x(str(tmp_path), 7, dict(np.load(folder / 'scanned_parameters.npz'))),
                     relative_max_distance=11)
  assert model.module.config.layer_biases
  batch = golden_models.make_batch(golden['encoder_input_tokens'], golden['decoder_target_tokens'])
  real = batch['decoder']['segments'] > 0
  found = model.module.apply({'params': model.params}, batch)
  np.testing.assert_allclose(found[real], golden['logits'][real], atol=2e-4)
