"""What every encoder-only family must do, on the golden members: mix prompts, round, merge, and be written."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_encoder_only import MEMBERS, batch_of

from prompt_tuning import trees
from prompt_tuning.data.vocabularies import PassThroughVocabulary
from prompt_tuning.evaluation.saved import SavedPrompt, Trained
from prompt_tuning.models import loading
from prompt_tuning.models.compiled import apply_model
from prompt_tuning.models.families import modernbert
from prompt_tuning.models.parameters import merged
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning
from prompt_tuning.tuning.layer_prompts import LayerPrompts
from prompt_tuning.tuning.low_rank import LowRank
from prompt_tuning.tuning.prefix import Prefix
from prompt_tuning.tuning.scales import Scales

NAMES = sorted(path.name for path in MEMBERS.iterdir())
each = pytest.mark.parametrize('name', NAMES)
random = np.random.default_rng(0)


def load(name, **options):
  ids = PassThroughVocabulary(40, eos_id=1, pad_id=2 if name == 'roberta' else 0)
  return loading.load_model(MEMBERS / name, vocabulary=ids, **options)


def golden_of(name):
  return np.load(MEMBERS / name / 'golden.npz')


def logits_of(model, batch, given=Conditioning()):
  """Returns the head's logits of every text, in order."""
  return np.asarray(apply_model(model.module, model.params, batch, given))[batch['decoder']['loss_weights'] > 0]


def trained(method, model, seed):
  """Returns the content of a file of this method, every number of which is random."""
  noise = np.random.default_rng(seed)
  values = {name: 0.6 * noise.normal(size=array.shape) + isinstance(method, Scales)
            for name, array in trees.flatten(method.initialise(jax.random.key(seed), model)).items()}
  return Trained({name: value.astype(np.float32) for name, value in values.items()},
                 {'mode': method.mode} if isinstance(method, LayerPrompts) else {})


@pytest.mark.slow
@each
def test_rows_with_different_prompts_are_as_alone(name):
  model, golden = load(name), golden_of(name)
  vectors = random.normal(size=(3, model.width)).astype(np.float32)
  given = {'prompt': vectors, 'among': SavedPrompt(vectors[:2], layouts.after_bos),
           'prefix': trained(Prefix(2), model, 1), 'scales': trained(Scales(), model, 2), 'nothing': None,
           'replaced': trained(LayerPrompts(2, mode='replace'), model, 3),
           'added': trained(LayerPrompts(2, mode='add'), model, 4)}
  inputs = [golden[f'input_{i % 3}'].tolist() for i in range(len(given))]
  found = model.logits(inputs, [[0]] * len(inputs), list(given.values()))
  alone = [model.logits(inputs[i:i + 1], [[0]], one)[0] for i, one in enumerate(given.values())]
  for kind, one, wanted in zip(given, found, alone, strict=True):
    np.testing.assert_allclose(one, wanted, atol=1e-4 * np.abs(wanted).max(), err_msg=kind)
  assert np.abs(alone[0] - alone[3]).max() > 1e-3


@pytest.mark.slow
@each
def test_scales_and_low_rank_updates_can_be_merged_into_the_weights(name):
  model = load(name)
  method = LowRank(2, ('.*/(query|key|value|out|wi|wi_0|wi_1|wo)/kernel',))
  tensors = trees.unflatten({path: jnp.asarray(0.2 * random.normal(size=array.shape), jnp.float32) for path, array in
                             trees.flatten(method.initialise(jax.random.key(0), model)).items()})
  scales = trained(Scales(), model, 5).conditioning(model)
  given = dataclasses.replace(scales, parameters=method.condition(tensors, model).parameters)
  batch = batch_of(model, golden_of(name), side='right')
  found = logits_of(model, batch, given)
  wanted = logits_of(dataclasses.replace(model, params=merged(model.params, given)), batch)
  np.testing.assert_allclose(found, wanted, atol=2e-4 * np.abs(wanted).max())
  assert np.abs(found - logits_of(model, batch)).max() > 0.02 * np.abs(wanted).max()


@pytest.mark.slow
@each
@pytest.mark.parametrize(('dtype', 'within'), [('bfloat16', 0.06), ('int8', 0.1)])
def test_rounded_weights_give_nearly_transformers_logits(name, dtype, within):
  model, golden = load(name, dtype=dtype, activation_dtype='bfloat16' if dtype == 'bfloat16' else 'float32'), (
    golden_of(name))
  found = logits_of(model, batch_of(model, golden, side='right'))
  wanted = np.stack([golden[f'logits_{b}'] for b in range(3)])
  assert found.dtype == np.float32
  assert np.sqrt(np.mean((found - wanted)**2)) < within * np.sqrt(np.mean(wanted**2))


@pytest.mark.slow
@each
def test_a_written_folder_is_read_by_transformers_with_equal_logits(name, tmp_path):
  transformers, torch = pytest.importorskip('transformers'), pytest.importorskip('torch')
  loading.save_model(load(name), str(tmp_path / 'written'))  # with a vocabulary, whose special tokens are written
  theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / 'written').eval()
  golden = golden_of(name)
  for b in range(3):
    with torch.no_grad():
      found = theirs(input_ids=torch.tensor(golden[f'input_{b}'][None], dtype=torch.int64)).logits[0].numpy()
    np.testing.assert_allclose(found, golden[f'logits_{b}'], atol=2e-4 * np.abs(found).max())


def test_a_modernbert_of_before_transformers_5_is_read(tmp_path):
  folder = tmp_path / 'old'
  shutil.copytree(MEMBERS / 'modernbert', folder)
  stored = json.loads((folder / 'config.json').read_text())
  for name in ('layer_types', 'rope_parameters', 'norm_eps'):
    del stored[name]
  read = lambda **more: loading.read_config(loading.open_checkpoint(str(_written(folder, stored | more))))
  new, old = load('modernbert').module.config, read(global_rope_theta=160000.0, local_rope_theta=10000.0)
  assert old == new and [rotary.base for rotary in old.rotary] == [160000.0, 10000.0, 10000.0, 160000.0]
  assert read() == new and old.windows == (0, 3, 3, 0)
  assert [rotary.base for rotary in read(global_rope_theta=5.0, global_attn_every_n_layers=2).rotary] == [
    5.0, 10000.0, 5.0, 10000.0]
  with pytest.raises(ValueError, match=r"sets layer_types to the type 'chunked'.* supported is sliding_attention or"):
    read(layer_types=['chunked'] * 4)
  with pytest.raises(ValueError, match='sets classifier_pooling to'):
    read(classifier_pooling='max')


def _written(folder, stored):
  (folder / 'config.json').write_text(json.dumps(stored))
  return folder


def test_biases_of_a_modernbert_are_read_and_written(tmp_path):
  config = dataclasses.replace(load('modernbert').module.config, norm_bias=True, mlp_bias=True, pooler_bias=True,
                               projection_biases=('query', 'key', 'value', 'out'))
  model = loading.random_model(config)
  loading.save_model(model, str(tmp_path))
  again = loading.load_model(tmp_path)
  assert again.module.config == config
  jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
  assert 'model.layers.0.attn_norm.weight' not in modernbert.FAMILY.named(model.params, config)


def test_the_program_of_a_modernbert_does_not_grow_with_its_layers():
  shape, golden = load('modernbert').module.config, golden_of('modernbert')

  def lines(layers):
    config = dataclasses.replace(shape, layers=layers, rotary=shape.rotary[:2] * (layers // 2),
                                 windows=(0, 3) * (layers // 2), windows_ahead=(0, 3) * (layers // 2))
    module = loading.module_of(config)
    batch = batch_of(loading.LanguageModel(module, {}), golden, side='right')
    shapes = trees.unflatten(loading.parameter_shapes(module))
    return apply_model.lower(module, shapes, batch, Conditioning()).as_text().count('\n')

  assert lines(40) == lines(4)
