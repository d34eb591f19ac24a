"""Every family but T5 on eight simulated devices and on one; test_eight_devices.py runs it in another process."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prompt_tuning import trees, tune, with_verbaliser
from prompt_tuning.checkpoints.huggingface import HuggingFaceFolder
from prompt_tuning.data.vocabularies import PassThroughVocabulary
from prompt_tuning.devices import meshes, sharding
from prompt_tuning.models.decoder_config import DecoderConfig
from prompt_tuning.models.loading import load_model, random_model, read_config, save_model
from prompt_tuning.models.stacks_config import StacksConfig
from prompt_tuning.rows import layouts
from prompt_tuning.training.step import TrainState, make_step
from prompt_tuning.tuning.scales import Scales

FOLDERS = pathlib.Path(__file__).parents[1] / 'models/families'
ENCODERS = FOLDERS.parent / 'encoders'
INPUTS, TARGETS = [[7, 8, 9, 1], [3, 1], [12, 2, 5, 6, 4, 1], [28, 20, 1]], [[5, 6], [11], [3, 3, 4], [9]]


def spread(name):
  """Returns a member's config with sizes that a mesh can split; None for a T5, which eight_devices.py has."""
  config = read_config(HuggingFaceFolder(str((ENCODERS if name in NAMES else FOLDERS) / name)))
  if isinstance(config, StacksConfig):
    return dataclasses.replace(config, vocab_size=32, **{name: dataclasses.replace(
      stack, heads=4, kv_heads=2, width=24, mlp_dim=mlp_dim) for name, stack, mlp_dim in (
        ('encoder', config.encoder, 40), ('decoder', config.decoder, 56))},
      **{name: 24**0.5 for name in ('embedding_scale', 'input_scale', 'decoder_scale') if getattr(config, name) != 1.0})
  if not isinstance(config, DecoderConfig):
    return None
  width = 4 * config.head_dim
  return dataclasses.replace(config, heads=4, kv_heads=config.kv_heads and 2, width=width, mlp_dim=4 * width,
                             embedding_width=config.embedding_width and 8, vocab_size=32,
                             embedding_scale=config.embedding_scale if config.embedding_scale == 1.0 else width**0.5,
                             wide=config.wide and dataclasses.replace(config.wide, kv_heads=2),
                             shared_mlp_dim=config.shared_mlp_dim and 8 * width,
                             layer_vocab_size=config.layer_vocab_size and 32)


NAMES = [path.name for path in sorted(ENCODERS.iterdir())]
CONFIGS = {name: spread(name) for name in [*[path.name for path in sorted(FOLDERS.iterdir())], *NAMES]}


@pytest.mark.parametrize('name', NAMES)
def test_scores_of_masked_words_on_eight_devices_are_those_of_one(name):
  shape = dataclasses.replace(CONFIGS[name], tied=True, mask_activation='gelu')
  one = random_model(shape, vocabulary=PassThroughVocabulary(32))
  save = dataclasses.replace(one, params=jax.tree.map(
    lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape), one.params))
  mesh = meshes.make_mesh(meshes.MeshShape(2, 2, 2))
  places = {path: jax.device_put(array, sharding.parameter_sharding(path, array.shape, mesh))
            for path, array in trees.flatten(save.params).items()}
  wide = dataclasses.replace(save, params=trees.unflatten(places),
                             module=save.module.clone(config=dataclasses.replace(shape, mesh=mesh)))
  data = [{'inputs': [5 + i, 4, 9], 'targets': 'ab'[i % 2]} for i in range(8)]
  found = []
  for model in (save, wide):
    model = with_verbaliser(model, {'a': '20', 'b': '21'}, mask_id=4)
    run = tune(model, data, prompt_length=2, steps=2, batch_size=4, quiet=True, validation=data)
    found.append((np.concatenate(model.logits([row['inputs'] for row in data], [[0]] * 8)), run.prompt.vectors))
  for other, wanted in zip(*found[::-1], strict=True):
    np.testing.assert_allclose(other, wanted, atol=2e-5 * np.abs(wanted).max())


@pytest.mark.parametrize('name', [name for name, config in CONFIGS.items()
                                  if config and not 0 < getattr(config, 'position_limit', 0) <= 20])
def test_logits_of_a_sharded_folder_are_those_of_one_device(name, tmp_path):
  model = random_model(CONFIGS[name])
  model = dataclasses.replace(model, params=jax.tree.map(
    lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape), model.params))
  save_model(model, str(tmp_path / 'model'))
  wide = load_model(str(tmp_path / 'model'), mesh=meshes.make_mesh(meshes.MeshShape(2, 2, 2)))
  for path, array in jax.tree_util.tree_leaves_with_path(wide.params):
    if path[-1].key == 'kernel':
      assert array.addressable_shards[0].data.size < array.size, path
  targets = [[0]] * len(INPUTS) if name in NAMES else TARGETS
  prompt = np.random.default_rng(0).normal(size=(3, model.width)).astype(np.float32)
  found, wanted = (np.concatenate(each.logits(INPUTS, targets, prompt)) for each in (wide, model))
  np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max())
  if model.prompted == 'encoder':  # its memory is read by a program of its own
    for found, wanted in zip(*(each.predict(INPUTS, prompt, max_length=4) for each in (wide, model)), strict=True):
      np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize('name', ['mixtral', 'qwen3_moe', 'gpt_oss', 'gemma4'])
def test_gradients_through_experts_and_shared_layers_are_those_of_one_device(name):
  """With dropout, whose masks depend on the rows alone."""
  method, remember, ends = Scales(), optax.trace(0.0), []
  for mesh in (meshes.make_mesh(meshes.MeshShape(2, 2, 2)), None):
    model = random_model(dataclasses.replace(CONFIGS[name], dropout_rate=0.3, mesh=mesh))
    layout = model.layout(method.layout())
    rows = [[layout.example(*row)] for row in zip(INPUTS * 2, TARGETS * 2, strict=True)]
    trained = method.initialise(jax.random.key(1), model)
    state = sharding.copied(mesh, TrainState(jnp.int32(0), trained, remember.init(trained), jnp.uint32(3)))
    batch = sharding.global_batch(mesh, layouts.assemble(rows, {'decoder': 9}), len(rows))
    state, sums = jax.jit(make_step(model.module, method, remember))(model.params, state, batch)
    ends.append((float(sums['loss']), trees.flatten(jax.device_get(state.optimizer.trace))))
  (loss, found), (wanted_loss, wanted) = ends
  np.testing.assert_allclose(loss, wanted_loss, rtol=1e-5)
  largest = max(np.abs(array).max() for array in wanted.values())
  for path, array in wanted.items():
    assert (array != 0).any(), path
    np.testing.assert_allclose(found[path], array, atol=2e-5 * largest, err_msg=path)
