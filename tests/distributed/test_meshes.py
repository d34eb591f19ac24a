"""Meshes that do not fit the devices, the model or the data, and the advice in the messages."""

import jax
import pytest
import toy_run

from prompt_tuning.devices import meshes, multihost, sharding
from prompt_tuning.models.cached_texts import require_cacheable
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.t5 import T5Config

T5 = T5Config(vocab_size=32, width=12, heads=6, head_dim=5, mlp_dim=18, encoder_layers=2, decoder_layers=3)
GROUPED = DecoderConfig(vocab_size=32, layers=2, width=16, heads=8, head_dim=4, mlp_dim=24, kv_heads=2)


def mesh(*sizes):
  return jax.sharding.AbstractMesh(sizes, meshes.AXES)  # needs no devices


@pytest.mark.parametrize(('sizes', 'config', 'message'), [
  ((2, 1, 4), T5, r'has 6 heads and 6 KV heads and a hidden width of the MLP of 18, which model=4 does '
   r'not divide. Choose a mesh with model=1, 2, 3, 6\.'),
  ((1, 1, 6), GROUPED, r'8 heads and 2 KV heads, which model=6 does not divide. .* with model=1, 2\.'),
  ((1, 1, 4), GROUPED, r'has 2 KV heads, which model=4 does not divide. .* model=1, 2\.'),
  ((1, 8, 1), T5, r'has a width of 12, which fsdp=8 does not divide. Choose a mesh with fsdp=1, 2, 3, 4, 6, 12\.')])
def test_a_dimension_that_does_not_divide_is_named_with_meshes_that_would_do(sizes, config, message):
  with pytest.raises(ValueError, match=message):
    meshes.require_fit(mesh(*sizes), config)


@pytest.mark.parametrize(('sizes', 'count', 'advice'), [
  ((4, 2, 1), 12, 'multiple of 8, or a mesh whose data x fsdp divides 12, such as data=4, fsdp=1, model=2'),
  ((2, 3, 1), 9, 'multiple of 6, or a mesh whose data x fsdp divides 9, such as data=3, fsdp=1, model=2')])
def test_rows_that_do_not_divide_are_named_with_a_mesh_that_would_do(sizes, count, advice):
  with pytest.raises(ValueError, match=rf'batch_size={count} cannot be used: .* data x fsdp = .* Choose a {advice}\.'):
    meshes.rows_at_once(mesh(*sizes), count)


def test_what_divides_fits():
  for sizes in ((8, 1, 1), (2, 4, 3), (1, 12, 6)):
    meshes.require_fit(mesh(*sizes), T5)
    assert meshes.rows_at_once(mesh(*sizes), 24) == 24
    assert meshes.rows_at_once(mesh(*sizes), 48, 2) == 24
  assert meshes.rows_at_once(None, 7) == 7


@pytest.mark.parametrize(('shape', 'devices', 'message'), [
  ((2, 2, 1), 8, r'There are 8 devices, but a mesh of data=2 x fsdp=2 x model=1 needs 4. Choose a shape whose product '
   r'is 8, such as data=8, fsdp=1, model=1, or run on 4 devices\.'),
  ((-1, 1, 3), 8, r'needs a multiple of 3\.'), ((4, 4, 1), 8, r'needs 16\.')])
def test_a_mesh_that_the_devices_do_not_fill_is_an_error(shape, devices, message):
  with pytest.raises(ValueError, match=message):
    meshes.MeshShape(*shape).filled(devices)


@pytest.mark.parametrize('shape', [(0, 1, 1), (-2, 1, 1), (1, -1, 1), (1, 1, 0)])
def test_an_axis_has_at_least_one_device(shape):
  with pytest.raises(ValueError, match=r'is not valid. Use numbers of at least 1, or data=-1 to use all'):
    meshes.MeshShape(*shape)


def test_what_is_left_becomes_copies_and_one_device_needs_no_mesh():
  assert meshes.MeshShape(fsdp=2, model=2).filled(16) == meshes.MeshShape(4, 2, 2)
  assert meshes.make_mesh(devices=jax.devices()[:1]) is None


def test_a_parameter_that_no_rule_names_is_an_error():
  with pytest.raises(ValueError, match=r'No rule in sharding.PARAMETERS matches .* decoder/layers/other/kernel'):
    sharding.spec('decoder/layers/other/kernel', (2, 16, 3), mesh(1, 2, 1))


def test_texts_are_not_cached_on_a_mesh():
  with pytest.raises(ValueError, match=r'spread over 4 devices, and each would read different texts. Run it on one'):
    require_cacheable(toy_run.TASK, 'train', packed=False, mesh=mesh(2, 1, 2))


@pytest.mark.parametrize('message', ['RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes', 'UNAVAILABLE: Gloo'])
def test_errors_of_a_process_that_is_single_process_are_its_own(message):
  assert not multihost.lost(jax.errors.JaxRuntimeError(message))


def test_out_of_memory_is_no_sign_of_a_lost_process(monkeypatch):
  monkeypatch.setattr(multihost, 'is_single_process', lambda: False)
  lost = lambda message: multihost.lost(jax.errors.JaxRuntimeError(message))
  assert not lost('RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes')
  assert lost('UNKNOWN: Gloo all-reduce failed') and lost('UNAVAILABLE: Socket closed')
  assert not multihost.lost(ValueError('batch_size=3 cannot be used'))
