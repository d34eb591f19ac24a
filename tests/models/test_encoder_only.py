"""Encoder-only models against transformers and PEFT; `make_encoder_goldens.py` made the folders."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from prompt_tuning.checkpoints.huggingface import read_arrays, write_arrays
from prompt_tuning.distilling import phases
from prompt_tuning.evaluation import saved
from prompt_tuning.models import loading
from prompt_tuning.models.compiled import apply_model
from prompt_tuning.models.families import bert
from prompt_tuning.rows import layouts
from prompt_tuning.serving.engine import Engine

MEMBERS = pathlib.Path(__file__).parent / 'encoders'
ADAPTERS = [str(path.parent.relative_to(MEMBERS)) for path in sorted(MEMBERS.glob('*/*/adapter_config.json'))]


def batch_of(model, golden, *, side, layout=layouts.Layout(), packed=False):
  layout = model.layout(layout)
  texts = [layout.example(golden[f'input_{b}'].astype(np.int32), [0]) for b in range(3)]
  rows = [[texts[0], texts[1]], [texts[2]]] if packed else [[text] for text in texts]
  return layouts.assemble(rows, {'decoder': 23}, side=side)


def require_logits(model, golden, trained=saved.Trained({})):
  given = trained.conditioning(model)
  for how in ({'side': 'right'}, {'side': 'left'}, {'side': 'right', 'packed': True}):
    batch = batch_of(model, golden, layout=trained.layout(), **how)
    logits = np.asarray(apply_model(model.module, model.params, batch, given))
    found = logits[batch['decoder']['loss_weights'] > 0]
    wanted = np.stack([golden[f'logits_{b}'] for b in range(3)])
    np.testing.assert_allclose(found, wanted, atol=2e-4 * np.abs(wanted).max(), err_msg=str(how))


@pytest.mark.parametrize('name', sorted(path.name for path in MEMBERS.iterdir()))
def test_logits_and_hidden_states_equal_transformers(name):
  model, golden = loading.load_model(MEMBERS / name), np.load(MEMBERS / name / 'golden.npz')
  require_logits(model, golden)
  plain = dataclasses.replace(model.module.config, pooling='cls')  # hidden states before they are pooled
  module = model.module.clone(config=plain)
  for side in ('right', 'left'):
    batch = batch_of(model, golden, side=side)
    hidden = np.asarray(apply_model(module, model.params, batch, saved.Trained({}).conditioning(model),
                                    hidden=True))
    for b in range(3):
      found = hidden[b][batch['decoder']['segments'][b] > 0]
      np.testing.assert_allclose(found, golden[f'hidden_{b}'], atol=2e-4 * np.abs(found).max())


@pytest.mark.parametrize('name', ADAPTERS)
def test_adapters_of_peft_with_their_heads_give_its_logits(name):
  folder = MEMBERS / name
  model = loading.load_model(folder.parent)
  golden = {**np.load(folder.parent / 'golden.npz'), **np.load(folder / 'golden.npz')}
  require_logits(model, golden, saved.load_for(model, str(folder)))


def test_a_folder_is_written_as_it_was_read(tmp_path):
  for member in sorted(MEMBERS.iterdir()):
    model = loading.load_model(member)
    loading.save_model(model, str(tmp_path / member.name))
    again = loading.load_model(tmp_path / member.name)
    assert again.module.config == model.module.config
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)


def test_heads_of_folders_are_read_with_their_labels_and_problem():
  found = {member.name: loading.load_model(member).module.config for member in MEMBERS.iterdir()}
  assert found['bert'].labels == ('LABEL_0', 'LABEL_1', 'LABEL_2') and found['bert'].problem == 'single'
  assert found['roberta'].problem == 'multi' and found['distilbert'].problem == 'regression'
  assert [found[name].pooler for name in ('bert', 'roberta', 'distilbert')] == ['tanh', 'tanh', 'relu']
  assert (found['modernbert'].pooling, found['modernbert'].pooler) == ('all', 'gelu_exact')


def without_head(name, folder):
  """Writes a member as its base model alone, with the shorter names that such folders have."""
  arrays, prefix = read_arrays(str(MEMBERS / name / 'model.safetensors')), (
    'model.' if name == 'modernbert' else f'{name}.')
  folder.mkdir()
  (folder / 'config.json').write_bytes((MEMBERS / name / 'config.json').read_bytes())
  write_arrays(str(folder / 'model.safetensors'), {
    each.removeprefix(prefix): array for each, array in arrays.items() if each.startswith(prefix)})
  return loading.load_model(folder)


@pytest.mark.parametrize('name', ['bert', 'roberta', 'distilbert', 'modernbert'])
def test_a_model_without_a_head_says_what_it_needs(name, tmp_path):
  model = without_head(name, tmp_path / 'base')
  assert model.module.config.classes == 0 and model.module.config.pooler == ('tanh' if name == 'bert' else '')
  with pytest.raises(ValueError, match=r'has no classification head.*with_head'):
    model.logits([[3, 4]], [[1]])


def test_a_head_of_another_kind_is_refused():
  stored = json.loads((MEMBERS / 'bert' / 'config.json').read_text())
  read = lambda **changed: bert.FAMILY.read_config(stored | changed, ['classifier.weight'], 'here')
  assert read().classes == 3
  with pytest.raises(ValueError, match='is a BertForTokenClassification, whose head does not classify whole texts'):
    read(architectures=['BertForTokenClassification'])
  assert bert.FAMILY.read_config(stored | {'tie_word_embeddings': False}, [], 'here').classes == 0


def test_what_only_decoders_do_is_refused():
  model = loading.load_model(MEMBERS / 'bert')
  study = lambda texts: phases.require_usable(model, texts[0])
  for call in (model.predict, model.chat, lambda texts: model.score(texts, [[1]]), model.read, study,
               lambda _: Engine(model)):
    with pytest.raises(ValueError, match='encoder-only'):
      call([[3, 4, 5]])
