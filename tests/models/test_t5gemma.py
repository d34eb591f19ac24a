"""T5Gemma and T5Gemma 2: what no other family has. `test_families.py` compares both with transformers."""

import dataclasses
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_families import FAMILIES, golden_of

from prompt_tuning import trees
from prompt_tuning.checkpoints.huggingface import read_arrays, write_arrays
from prompt_tuning.data.vocabularies import PassThroughVocabulary
from prompt_tuning.evaluation.saved import SavedPrompt
from prompt_tuning.models import loading
from prompt_tuning.models.attention import HIDDEN
from prompt_tuning.models.compiled import apply_model, attention_weights
from prompt_tuning.models.families.registry import family_of_folder
from prompt_tuning.models.layer_positions import window_bias
from prompt_tuning.models.t5 import T5
from prompt_tuning.models.window import longest_row
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning, Visibility
from prompt_tuning.scripts._base_model import Base, read_base
from prompt_tuning.serving.engine import Engine
from prompt_tuning.serving.requests import Request

STORED = {name: json.loads((FAMILIES / name / 'config.json').read_text()) for name in ('t5gemma', 't5gemma2')}
both = pytest.mark.parametrize('name', STORED)


def config_of(name, **changes):
  """Returns the config of a member whose `config.json` has other fields, 'encoder__head_dim' and the like."""
  stored = json.loads(json.dumps(STORED[name]))
  for path, value in changes.items():
    *parts, last = path.split('__')
    inner = stored
    for part in parts:
      inner = inner[part]
    inner[last] = value
  return family_of_folder(stored, 'here').read_config(stored, (), 'here')


def load(name):
  return loading.load_model(str(FAMILIES / name), vocabulary=PassThroughVocabulary(40, eos_id=1))


def test_a_window_may_see_less_far_ahead_than_back():
  layer = {'window': jnp.asarray(2), 'window_ahead': jnp.asarray(3)}
  (bias,) = window_bias(layer, jnp.arange(5), jnp.arange(5))
  seen = [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [0, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 1, 1]]
  np.testing.assert_array_equal(bias[0, 0] == 0, np.array(seen, bool))
  assert bias.min() == HIDDEN


@pytest.mark.parametrize(('name', 'window', 'back', 'ahead'), [
  ('t5gemma', 4, 5, 5), ('t5gemma2', 4, 2, 3), ('t5gemma2', 5, 3, 3)])
def test_windows_of_the_encoder_see_as_far_as_those_of_transformers(name, window, back, ahead):
  path = 'encoder__sliding_window' if name == 't5gemma' else 'encoder__text_config__sliding_window'
  config = config_of(name, **{path: window})
  assert (config.encoder.windows, config.encoder.windows_ahead) == ((back, 0, back), (ahead, 0, ahead))
  assert config.decoder.windows == (STORED[name]['decoder']['sliding_window'], 0)


def test_stacks_have_their_own_sizes_and_the_decoder_reads_the_encoders_width():
  shapes = {path: array.shape for path, array in loading.parameter_shapes(T5(config_of('t5gemma'))).items()}
  assert shapes['token_embedder/embedding'] == (40, 12) and shapes['decoder_token_embedder/embedding'] == (40, 18)
  assert shapes['encoder/layers/attention/key/kernel'] == (3, 12, 2 * 6)
  assert shapes['decoder/layers/encoder_decoder_attention/query/kernel'] == (2, 18, 3 * 8)
  assert shapes['decoder/layers/encoder_decoder_attention/key/kernel'] == (2, 12, 1 * 8)
  assert 'encoder/layers/attention/value/bias' in shapes
  assert 'decoder/layers/encoder_decoder_attention/value/bias' not in shapes
  merged = loading.parameter_shapes(T5(config_of('t5gemma2')))
  assert not [path for path in merged if 'encoder_decoder_attention' in path or 'cross' in path]
  assert merged['image_end'].shape == (12,) and 'decoder_token_embedder/embedding' not in merged


@pytest.mark.parametrize(('name', 'changes', 'message'), [
  ('t5gemma', {'encoder__vocab_size': 41}, 'sets encoder.vocab_size to 41, but decoder.vocab_size to 40; supported is'),
  ('t5gemma', {'is_encoder_decoder': False}, 'sets is_encoder_decoder to False; the supported value is True'),
  ('t5gemma', {'decoder_start_token_id': 0}, 'sets decoder_start_token_id to 0, but decoder.bos_token_id to 2'),
  ('t5gemma', {'decoder__bos_token_id': None}, "lacks 'decoder_start_token_id'"),
  ('t5gemma', {'decoder__cross_attention_hidden_size': 18}, 'to 18, but encoder.hidden_size to 12'),
  ('t5gemma', {'encoder__num_hidden_layers': None}, "lacks 'encoder.num_hidden_layers', which a model of type 't5ge"),
  ('t5gemma', {'encoder__head_dim': 7}, "has a part 'encoder' that has heads of width 7, but rotary positions need an"),
  ('t5gemma', {'encoder__use_bidirectional_attention': True}, 'sets encoder.use_bidirectional_attention to True; the'),
  ('t5gemma', {'decoder__rope_parameters': {'rope_type': 'dynamic', 'factor': 2.0, 'rope_theta': 5.0}},
   "has a part 'decoder' whose rotary positions are scaled by the length of rows"),
  ('t5gemma2', {'tie_word_embeddings': False}, 'the output layer is missing'),
  ('t5gemma2', {'decoder__attn_logit_softcapping': 5.0}, "'decoder' that sets attn_logit_softcapping to 5.0; the sup"),
  ('t5gemma2', {'decoder__hidden_size': 24}, 'hidden_size to 12, but decoder.hidden_size to 24: both read one'),
  ('t5gemma2', {'encoder__text_config': None}, "lacks 'text_config'"),
  ('t5gemma2', {'encoder__text_config__layer_types': ['full_attention']}, "'encoder.text_config' that sets layer_ty"),
])
def test_what_is_not_supported_is_an_error_that_names_part_and_field(name, changes, message):
  with pytest.raises(ValueError, match=r'^here') as found:
    config_of(name, **changes)
  assert message in str(found.value)


def test_fields_that_a_folder_leaves_out_are_those_of_transformers():
  for name in STORED:
    config, default = config_of(name), family_of_folder({'model_type': name}, 'here').read_config(
      {'model_type': name, 'encoder': {'text_config': {}}, 'decoder': {}}, (), 'here')
    assert default.decoder.layers == 26 and default.decoder.heads == 2 * default.decoder.kv_heads == 8
    assert default.start_id == config.start_id == 2
    assert default.decoder.attention_cap == (50.0 if name == 't5gemma' else 0.0)
    assert default.image_end == (-1 if name == 't5gemma' else 256000)


def test_each_kind_of_layers_has_a_default_rotary_base():
  config = config_of('t5gemma2', decoder__rope_parameters={
    'full_attention': {'rope_type': 'linear', 'factor': 8.0}, 'sliding_attention': {'rope_type': 'default'}})
  assert [(rotary.base, rotary.factor) for rotary in config.decoder.rotary] == [(1e4, 1.0), (1e6, 8.0)]
  assert config_of('t5gemma2', encoder__eoi_token_index=None).image_end == 40


@pytest.mark.slow
def test_programs_do_not_grow_with_depth():
  for name in STORED:
    sizes = []
    for layers in (2, 7):
      config = config_of(name)
      deeper = lambda stack, layers=layers: dataclasses.replace(
        stack, layers=layers, rotary=stack.rotary[:1] * layers, windows=(3, 0, 3, 0, 3, 0, 3)[:layers],
        windows_ahead=stack.windows_ahead and (2,) * layers)
      module = T5(dataclasses.replace(config, encoder=deeper(config.encoder), decoder=deeper(config.decoder)))
      shapes = trees.unflatten(loading.parameter_shapes(module))
      example = module.layout(layouts.Layout()).example([5, 6], [7, 1])
      batch = layouts.assemble([[example]], {'encoder': 4, 'decoder': 2})
      sizes.append(str(jax.make_jaxpr(lambda params, module=module, batch=batch: module.apply(
        {'params': params}, batch))(shapes)).count('\n'))
    assert sizes[0] == sizes[1], name


@pytest.mark.slow
@both
@pytest.mark.parametrize('among', [True, False])
def test_a_prompt_that_sees_nothing_of_the_input_is_run_once_for_all_rows(name, among):
  model, random = load(name), np.random.default_rng(2)
  vectors = 0.3 * random.normal(size=(3, model.width)).astype(np.float32)
  hidden = Visibility(input=False, prompt=among)
  inputs, targets = [[5, 6, 7, 9, 3, 20], [11, 8]], [[4, 30, 5], [9]]
  once = SavedPrompt(vectors, visibility=hidden)
  layout = layouts.Layout(3, start_id=2)  # with slots for the prompt in every row
  batch = layouts.assemble([[layout.example(*each)] for each in zip(inputs, targets, strict=True)],
                           {'encoder': 9, 'decoder': 3}, side='left')
  wanted = np.asarray(apply_model(model.module, model.params, batch, once.conditioning(model)))
  for b, found in enumerate(model.logits(inputs, targets, once)):
    own = wanted[b][batch['decoder']['segments'][b] > 0]
    np.testing.assert_allclose(found[:len(own)], own, atol=1e-5 * np.abs(own).max())
  answers = model.predict(inputs, once, max_length=5)
  with Engine(model, slots=2, max_length=30) as engine:
    engine.prompts.load('once', once)
    served = [engine.submit(Request(ids, 'once', max_tokens=5)).result().tokens for ids in inputs]
  for found, answer in zip(served, answers, strict=True):
    assert [token.id for token in found] == [*answer, 1][:len(found)]


@pytest.mark.slow
@both
def test_attention_weights_are_those_of_transformers_for_targets_and_inputs_apart(name):
  transformers, torch = pytest.importorskip('transformers'), pytest.importorskip('torch')
  model, (_, inputs, targets) = load(name), golden_of(FAMILIES / name)
  layout = model.layout()
  batch = layouts.assemble([[layout.example(inputs[0], targets[0])]], {'encoder': len(inputs[0]),
                                                                      'decoder': len(targets[0])})
  found = attention_weights(model.module, model.params, batch, Conditioning())
  theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(FAMILIES / name, dtype=torch.float32,
                                                              attn_implementation='eager').eval()
  with torch.no_grad():
    given = {'input_ids': torch.tensor(inputs[0][None].astype(np.int64)),
             'decoder_input_ids': torch.tensor([[2, *targets[0][:-1]]])}
    wanted = theirs(**given, output_attentions=True)
  for ours, parts in (('encoder/layers/attention', wanted.encoder_attentions),
                      ('decoder/layers/self_attention', wanted.decoder_attentions),
                      ('decoder/layers/encoder_decoder_attention', wanted.cross_attentions)):
    np.testing.assert_allclose(found[ours], np.stack([part.numpy() for part in parts]), atol=2e-5, err_msg=ours)


@pytest.mark.slow
def test_texts_have_no_end_token_but_targets_have():
  model = load('t5gemma')
  np.testing.assert_array_equal(model.logits(['5 6'], ['7']), model.logits([[5, 6]], [[7, 1]]))


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'rename'), [
  ('t5gemma', lambda array: array.removeprefix('model.')),
  ('t5gemma2', lambda array: array.replace('model.encoder.', 'model.encoder.text_model.') if
   'vision' not in array and 'projector' not in array else array)])
def test_folders_with_other_names_and_a_copy_of_the_output_layer_are_the_same(name, rename, tmp_path):
  shutil.copytree(FAMILIES / name, tmp_path, dirs_exist_ok=True)
  arrays = {rename(key): array for key, array in read_arrays(str(tmp_path / 'model.safetensors')).items()}
  copied = next(array for key, array in arrays.items() if key.endswith(
    'decoder.embed_tokens.weight' if name == 't5gemma' else 'encoder.text_model.embed_tokens.weight'))
  write_arrays(str(tmp_path / 'model.safetensors'), arrays | {'lm_head.out_proj.weight': copied.copy()})
  plain, found = load(name), loading.load_model(str(tmp_path))
  assert found.module.config == plain.module.config and found.module.config.tied
  jax.tree.map(np.testing.assert_array_equal, found.params, plain.params)


def test_tools_that_read_only_the_config_know_both_stacks():
  folder = lambda name: str(pathlib.Path(FAMILIES) / name)
  assert read_base(folder('t5gemma')) == Base(True, width=12, layers=2, kv_heads=1, head_dim=8, embedding_scale=1.0)
  assert read_base(folder('t5gemma2')) == Base(True, width=12, layers=2, kv_heads=3, head_dim=4,
                                               embedding_scale=12**0.5)


@pytest.mark.slow
@both
def test_the_longest_row_is_the_encoders(name):
  assert longest_row(load(name)) == 64
