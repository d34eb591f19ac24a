"""Layers of several kinds in one stack: prompts, texts and padding before and between rows change nothing else."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from test_families import FAMILIES, require_read_from_multimodal

from prompt_tuning import trees
from prompt_tuning.data.vocabularies import PassThroughVocabulary
from prompt_tuning.decoding.samplers import BeamSearch
from prompt_tuning.evaluation.saved import SavedPrompt, Trained
from prompt_tuning.models import apart, loading
from prompt_tuning.models.compiled import apply_model, attention_weights
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning, StackConditioning, Visibility
from prompt_tuning.tuning.layer_prompts import LayerPrompts
from prompt_tuning.tuning.low_rank import LowRank
from prompt_tuning.tuning.prefix import Prefix

pytestmark = pytest.mark.slow
FOLDER = FAMILIES / 'qwen3_5'
random = np.random.default_rng(0)
INPUTS, TARGETS = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15]], [[4, 9], [12], [5, 6, 7]]
WIDE = random.normal(size=(3, 12)).astype(np.float32)


def read(name, **options):
  return loading.load_model(str(FAMILIES / name), vocabulary=PassThroughVocabulary(40, eos_id=1), **options)


@pytest.fixture(scope='module', params=['qwen3_5', 'gemma4', 'gemma4_equal'])
def any_model(request):
  return read(request.param)


@pytest.fixture(scope='module')
def model():
  return read('qwen3_5')


def vectors_of(model):
  return WIDE[:, :model.width]


def trained(method, model):
  tensors = trees.flatten(method.initialise(jax.random.key(0), model))
  return Trained({name: 0.7 * random.normal(size=array.shape).astype(np.float32) for name, array in tensors.items()})


@pytest.mark.parametrize(('placement', 'count'), [  # all texts of a packed row have the first one's prompt in front
  (layouts.before, 1), (layouts.after_bos, 1), (layouts.after_bos, 2), (layouts.after_eos, 1), (layouts.after_eos, 2)])
def test_packed_and_padded_rows_with_prompts_are_as_alone(any_model, placement, count):
  model, vectors = any_model, vectors_of(any_model)
  prompts = np.stack([vectors, vectors[::-1]])[:count]
  layout, given = model.layout(layouts.Layout(3, placement)), Conditioning(decoder=StackConditioning(prompt=prompts))
  rows = [layout.example(*each, prompt_id=b % count) for b, each in enumerate(zip(INPUTS, TARGETS, strict=True))]

  def run(rows, length, side):
    batch = layouts.assemble(rows, {'decoder': length}, side=side)
    logits, segments = apply_model(model.module, model.params, batch, given), batch['decoder']['segments']
    return [np.asarray(logits[b])[segments[b] == g] for b, row in enumerate(rows) for g in range(1, len(row) + 1)]

  wanted = [run([[row]], len(row['decoder']['tokens']), 'right')[0] for row in rows]
  for side in ('left', 'right'):
    for found in (run([[row] for row in rows], 16, side), run([rows[:2], rows[2:]], 24, side)):
      for each, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(each, other, atol=1e-4)


@pytest.mark.parametrize('shared', [True, False])
@pytest.mark.parametrize('placement', [layouts.before, layouts.after_eos, None])
def test_rows_behind_a_text_that_was_read_are_rows_with_both(any_model, placement, shared):
  model, vectors = any_model, vectors_of(any_model)
  texts = [[16, 17, 18, 19, 20], [21, 22], [23, 24, 25]][:1 if shared else 3]
  whole = [text + row for text, row in zip(texts * 3 if shared else texts, INPUTS, strict=True)]
  prompt = plain = placement and SavedPrompt(vectors, placement)
  if placement is layouts.before:  # between the text and the input
    behind = lambda count: lambda tokens, length: np.r_[[-1] * count, range(length), [-1] * (tokens - count)].astype(
      np.int32)
    plain = [SavedPrompt(vectors, behind(len(text))) for text in (texts * 3 if shared else texts)]
  context = jax.device_get(model.read(texts))
  np.testing.assert_allclose(model.logits(INPUTS, TARGETS, prompt, context=context),
                             model.logits(whole, TARGETS, plain), atol=2e-4)
  options = {'sampler': BeamSearch(3), 'max_length': 5}
  found = model.predict(INPUTS, prompt, context=context, batch_size=2, **options)
  assert [each.tolist() for each in found] == [each.tolist() for each in model.predict(whole, plain, **options)]


def test_prompts_of_several_lengths_and_kinds_behind_texts_are_as_alone(any_model):
  model, vectors = any_model, vectors_of(any_model)
  prompts = [vectors, SavedPrompt(vectors[:1]), trained(LayerPrompts(2), model), trained(Prefix(2), model), None]
  inputs, targets, texts = ([*each, *each[:2]] for each in (INPUTS, TARGETS, [[16, 17, 18], [19], [20, 21]]))
  context = model.read(texts)
  found = model.logits(inputs, targets, prompts, context=context)
  for b, prompt in enumerate(prompts):
    alone = model.logits(inputs[b:b + 1], targets[b:b + 1], prompt, context=context.take(np.array([b])))[0]
    np.testing.assert_allclose(found[b, :len(alone)], alone, atol=1e-4, err_msg=str(b))


@pytest.mark.parametrize('behind', [False, True])
def test_a_prefix_of_delta_layers_is_the_state_before_the_rows(model, behind):
  own, delta = trained(Prefix(3, attentions=('delta',)), model), model.module.config.delta
  keys, values = (own.tensors[f'delta/prefix/{part}'] for part in ('keys', 'values'))
  assert keys.shape == (6, 3, delta.key_heads, delta.key_dim)
  assert values.shape == (6, 3, delta.value_heads, delta.value_dim)
  products = np.einsum('lphk,lphv->lhkv', np.repeat(keys, delta.sharing, axis=2), values)[:, None]
  context = jax.device_get(model.read([[16, 17], [18], [19, 20, 21]]))
  state = context.state if behind else jax.tree.map(lambda array: np.zeros_like(array[:, :1]), context.state)
  nothing = dataclasses.replace(context, **{name: getattr(context, name)[:, :1] for name in ('keys', 'values')},
                                seen=np.zeros_like(context.seen[:1]))
  same = dataclasses.replace(context if behind else nothing, state=dataclasses.replace(
    state, memory=state.memory + products))
  found = model.logits(INPUTS, TARGETS, own, context=context if behind else None)
  np.testing.assert_allclose(found, model.logits(INPUTS, TARGETS, context=same), atol=1e-4)
  assert np.abs(found - model.logits(INPUTS, TARGETS, context=context if behind else None)).max() > 1e-2


@pytest.mark.parametrize('kind', ['prompt', 'prefix', 'low rank', 'int8'])
def test_decoding_over_layers_apart_gives_what_the_scan_gives(any_model, monkeypatch, kind):
  model = any_model
  if kind == 'int8':
    model = loading.load_model(model.path, dtype='int8', vocabulary=model.vocabulary)
  given = {'prompt': vectors_of(model), 'prefix': trained(Prefix(2), model), 'int8': None, 'low rank': trained(
    LowRank(2, '.*layers_(2|3|5|7)/.*attention/(query|out)/kernel'), model)}[kind]
  ask = lambda model: [each.tolist() for each in model.predict(INPUTS, given, sampler=BeamSearch(3), max_length=6)]
  wanted, unrolled = ask(model), dataclasses.replace(model)
  monkeypatch.setattr(apart, 'LEAST', 0)
  assert any(isinstance(array, apart.Apart) for array in trees.flatten(unrolled.layers).values())
  assert ask(unrolled) == wanted


def test_the_language_model_of_a_multimodal_folder_is_read(model, tmp_path):
  config = json.loads((FOLDER / 'config.json').read_text())
  outer = {'model_type': 'qwen3_5', 'text_config': config, 'vision_config': {'depth': 2}, 'tie_word_embeddings': False}
  more = {'model.visual.patch_embed.proj.weight': np.ones((2, 3)), 'mtp.fc.weight': np.ones((2, 3))}
  require_read_from_multimodal(FOLDER, model, tmp_path, outer, more)


def test_the_program_is_as_long_for_24_layers_as_for_4(model):
  def size(groups):
    config = model.module.config
    module = loading.module_of(dataclasses.replace(config, layers=4 * groups, rotary=config.rotary[:4] * groups,
                                                   delta_layers=config.delta_layers[:4] * groups))
    batch = layouts.assemble([[module.layout(layouts.Layout()).example([5, 6], [7])]], {'decoder': 4})
    params = trees.unflatten(loading.parameter_shapes(module))
    return len(jax.jit(lambda params: module.apply({'params': params}, batch)).lower(params).as_text())

  assert size(6) < 1.1 * size(1)


def test_attention_weights_are_those_of_the_layers_with_attention(model):
  batch = layouts.assemble([[model.layout().example([5, 6, 7], [8])]], {'decoder': 4})
  found = attention_weights(model.module, model.params, batch, Conditioning())
  assert {name: weights.shape for name, weights in found.items()} == {'decoder/layers/self_attention': (2, 1, 4, 4, 4)}


def test_what_a_state_cannot_do_is_refused_by_name(model):
  assert set(trained(Prefix(2), model).tensors) == {
    f'{name}/prefix/{part}' for name in ('decoder', 'delta') for part in ('keys', 'values')}
  with pytest.raises(ValueError, match="attentions with 'delta' cannot be used with hidden, init_from or text"):
    Prefix(2, attentions=('delta',), hidden=3)
  with pytest.raises(ValueError, match=r'of a model with delta layers .* cannot become a prefix'):
    model.read([[3, 4]]).as_prefix()
  for visibility, placement, named in ((Visibility(True, False), layouts.before, 'prompt=False'),
                                       (Visibility(False, True), layouts.after_eos, 'input=False')):
    with pytest.raises(ValueError, match=f'A visibility of {named} cannot be used: this model has delta layers'):
      model.logits(INPUTS, TARGETS, SavedPrompt(WIDE, placement, visibility))
  assert np.isfinite(model.logits(INPUTS, TARGETS, SavedPrompt(WIDE, visibility=Visibility(False, True)))).all()
  config = model.module.config
  for changes, message in (
      ({'prefix_lm': True}, 'prefix_lm=True cannot be used with delta layers'),
      ({'delta_layers': (True,) * 8}, 'expected True or False for each, and at least one of both'),
      ({'delta': dataclasses.replace(config.delta, value_heads=3)}, 'value_heads=3 cannot be used with key_heads=2'),
      ({'delta': dataclasses.replace(config.delta, taps=0)}, 'taps=0 cannot be used')):
    with pytest.raises(ValueError, match=message):
      dataclasses.replace(config, **changes)


@pytest.mark.parametrize(('changes', 'message'), [
  ({'layer_types': ['linear_attention', 'sliding_attention'] * 4}, 'has layers of the types linear_attention, sliding'),
  ({'layer_types': ['full_attention'] * 8}, 'at least one of each'),
  ({'layer_types': ['linear_attention', 'full_attention']}, 'sets layer_types for 2 layers, but num_hidden_layers to'),
  ({'hidden_act': 'gelu'}, "sets hidden_act to 'gelu'; the supported value is 'silu'"),
  ({'linear_num_value_heads': 3}, 'sets linear_num_value_heads to 3, but linear_num_key_heads to 2'),
  ({'rope_parameters': {'rope_type': 'proportional'}}, "rotary positions by 'prop"),
])
def test_what_is_not_supported_is_refused_by_name(tmp_path, changes, message):
  config = json.loads((FOLDER / 'config.json').read_text())
  (tmp_path / 'config.json').write_text(json.dumps(config | changes))
  (tmp_path / 'model.safetensors').write_bytes((FOLDER / 'model.safetensors').read_bytes())
  with pytest.raises(ValueError, match=message):
    loading.load_model(str(tmp_path))
