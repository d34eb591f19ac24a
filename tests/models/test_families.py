"""Many members of the families against transformers, and their PEFT adapters against PEFT.

`make_family_goldens.py` made the folders.
"""

import json
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest
import tokenizers

from prompt_tuning.checkpoints.huggingface import read_arrays, write_arrays
from prompt_tuning.data.pipeline import Preprocessor
from prompt_tuning.data.vocabularies import PassThroughVocabulary
from prompt_tuning.decoding.samplers import BeamSearch, Greedy
from prompt_tuning.evaluation import saved
from prompt_tuning.models import loading
from prompt_tuning.models.compiled import apply_model
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families.registry import get_family
from prompt_tuning.models.generation import generate
from prompt_tuning.models.positions import Rotary
from prompt_tuning.models.text_rows import text_rows
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning

FAMILIES = pathlib.Path(os.environ.get('FAMILY_GOLDENS', pathlib.Path(__file__).parent / 'families'))
ENDS = (1, 5, 12, 23, 31)
SCALED = ('llama_dynamic', 'phi3_long')  # their rotary positions depend on how long rows may be
MEMBERS = sorted(path.name for path in FAMILIES.iterdir() if path.name not in SCALED)
# Each of these differs from another member of its family in a few values.
NEARLY_TESTED = ('gpt_neox_serial', 'llama_yarn_mscale', 'phi3_mini', 'opt_after')
ADAPTERS = sorted(str(path.parent.relative_to(FAMILIES)) for path in FAMILIES.glob('*/*/adapter_config.json'))


def golden_of(folder):
  golden = dict(np.load(folder / 'golden.npz'))
  base = golden if 'input_0' in golden else np.load(folder.parent / 'golden.npz')
  column = lambda name: [base[f'{name}_{b}'].astype(np.int32) for b in range(3)]
  return golden, column('input'), column('target') if 'target_0' in base else None


def require_read_from_multimodal(folder, model, path, outer, more):
  """Raises AssertionError unless the language model is read from a multimodal folder that is made of its own folder.

  Args:
    folder: of the language model.
    model: as read from it.
    path: of the folder that is written.
    outer: its config.
    more: its other arrays.
  """
  arrays = {name.replace('model.', 'model.language_model.', 1): array
            for name, array in read_arrays(str(folder / 'model.safetensors')).items()}
  write_arrays(str(path / 'model.safetensors'), {
    name: np.asarray(array, np.float32) for name, array in (arrays | more).items()})
  (path / 'config.json').write_text(json.dumps(outer))
  found = loading.load_model(str(path))
  assert found.module.config == model.module.config
  golden, inputs, _ = golden_of(folder)
  require_logits(found, golden, inputs, None)


def require_logits(model, golden, inputs, targets, *, trained=saved.Trained({})):
  """Compares logits of padded rows with transformers' of each row alone."""
  layout, given = model.layout(trained.layout()), trained.conditioning(model)
  rows = [layout.example(row, [5] if targets is None else targets[b]) for b, row in enumerate(inputs)]
  for side in ('right', 'left'):
    batch = layouts.assemble([[row] for row in rows], layout.row_lengths({'inputs': 14, 'targets': 7}), side=side)
    logits = np.asarray(apply_model(model.module, model.params, batch, given))
    for b, found in enumerate(logits):
      wanted = golden[f'logits_{b}']
      found = found[batch['decoder']['segments'][b] > 0][-len(wanted):]
      np.testing.assert_allclose(found, wanted, atol=2e-4 * np.abs(wanted).max(), err_msg=f'row {b}, padded {side}')


def require_answers(model, golden, inputs, trained=saved.Trained({}), kinds=('greedy', 'beams'), ends=(1,)):
  """Compares generations with transformers', best beam first; tokens after an end token are padding."""
  layout, given = model.layout(trained.layout()), trained.conditioning(model)
  batch = layouts.assemble([[layout.question(row)] for row in inputs],
                           layout.question_lengths({'inputs': 14, 'targets': 1}), side=layout.question_side)
  for kind in golden.keys() & set(kinds):
    sampler = Greedy() if 'greedy' in kind else BeamSearch(4, 1.0, 'transformers')
    tokens, _ = generate(model.module, model.params, batch, given, jax.random.key(0), sampler=sampler, max_length=6,
                         end_ids=ends)
    for found, wanted in zip(np.asarray(tokens)[:, ::-1].reshape(-1, 6), golden[kind].reshape(-1, 6), strict=True):
      until = min((i + 1 for i in np.flatnonzero(np.isin(wanted, ends))), default=6)
      assert found[:until].tolist() == wanted[:until].tolist(), kind


def mostly_slow(names, quick):
  return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize('name', mostly_slow(MEMBERS, {*MEMBERS} - {*NEARLY_TESTED}))
def test_logits_are_those_of_transformers(name):
  require_logits(loading.load_model(str(FAMILIES / name)), *golden_of(FAMILIES / name))


@pytest.mark.parametrize('name', mostly_slow(SCALED, ('phi3_long',)))
def test_rotary_positions_are_scaled_for_the_length_that_rows_may_have(name):
  golden, inputs, _ = golden_of(FAMILIES / name)
  for b, row in enumerate(inputs[:2]):
    model = loading.load_model(str(FAMILIES / name), **({'rotary_length': len(row)} if len(row) > 8 else {}))
    batch = layouts.assemble([[model.layout().example(row, [5])]], {'decoder': len(row)})
    found = np.asarray(apply_model(model.module, model.params, batch, Conditioning()))[0]
    np.testing.assert_allclose(found, golden[f'logits_{b}'], atol=2e-4 * np.abs(found).max())


def test_rows_longer_than_rotary_positions_are_scaled_for_are_an_error_that_names_the_setting():
  folder = str(FAMILIES / 'phi3_long')
  with pytest.raises(ValueError, match=r'need 11 positions .*scales its rotary positions for rows of 8.*or set '
                                       r'rotary_length=11 or more'):
    loading.load_model(folder).logits([[5] * 11], [[1]])
  with pytest.raises(ValueError, match='rotary_length=-1 cannot be used: expected a number of positions'):
    loading.load_model(folder, rotary_length=-1)
  with pytest.raises(ValueError, match='rotary_length=9 cannot be used: the scaling of this model'):
    loading.load_model(str(FAMILIES / 'llama_yarn'), rotary_length=9)
  with pytest.raises(ValueError, match=r'rotary_length=9 cannot be used: .*t5_v10 is an encoder-decoder'):
    loading.load_model(str(FAMILIES / 't5_v10'), rotary_length=9)


# Each decodes by rules of its own: absolute positions, caps and alternating windows, a KV head for all, T5 1.0.
@pytest.mark.parametrize('name', mostly_slow(MEMBERS, ('gpt2_bare', 'gemma2_odd', 'llama_mqa_llama3', 't5_v10')))
def test_answers_are_those_of_transformers(name):
  golden, inputs, _ = golden_of(FAMILIES / name)
  require_answers(loading.load_model(str(FAMILIES / name)), golden, inputs)


@pytest.mark.parametrize('name', mostly_slow(MEMBERS, ('qwen2_window', 't5_silu')))
def test_answers_that_several_tokens_end_are_those_of_transformers(name):
  golden, inputs, _ = golden_of(FAMILIES / name)
  model = loading.load_model(str(FAMILIES / name))
  require_answers(model, golden, inputs, kinds=('greedy_ends', 'beams_ends'), ends=ENDS)


@pytest.mark.parametrize('name', MEMBERS)
def test_a_member_that_is_written_is_read_as_the_same(name, tmp_path):
  model = loading.load_model(str(FAMILIES / name))
  loading.save_model(model, str(tmp_path / 'written'))
  again = loading.load_model(str(tmp_path / 'written'))
  assert again.module.config == model.module.config
  jax.tree.map(np.testing.assert_array_equal, again.params, model.params)


def test_configs_are_written_as_transformers_wants_them():
  written = lambda family='mistral', **changes: get_family(family).write_config(DecoderConfig(
    **{'layers': 2, 'width': 12, 'heads': 2, 'head_dim': 6, 'mlp_dim': 5, 'query_scale': 10**-0.5,
       'mlp_activations': ('silu', 'linear'), 'rotary': (Rotary(),) * 2} | changes))
  assert type(written('gemma2', windows=(3, 0))['query_pre_attn_scalar']) is int  # a float is refused
  assert written(windows=(3, 0))['layer_types'] == ['sliding_attention', 'full_attention']
  for window in (3, 0):  # with layer types it would be a Ministral, which requires a window
    assert 'layer_types' not in written(windows=(window, window))
    assert written(windows=(window, window))['sliding_window'] == (window or None)


@pytest.mark.parametrize(('name', 'changes', 'message'), [
  ('llama_biases', {'tie_word_embeddings': False, 'arrays': 'lm_head.weight'}, 'holds no lm_head.weight, although its'),
  ('qwen2_window', {'mlp_bias': True}, 'sets mlp_bias to True; the supported value is False'),
  ('llama_yarn', {'rope_parameters': {'rope_type': 'proportional', 'rope_theta': 5.0}}, "rotary positions by 'prop"),
  ('bloom', {'apply_residual_connection_post_layernorm': True}, 'sets apply_residual_connection_post_layernorm to'),
  ('phi2', {'qk_layernorm': True}, 'sets qk_layernorm to True; the supported value is False'),
  ('opt', {'layer_norm_elementwise_affine': False}, 'sets layer_norm_elementwise_affine to False; the supported'),
  ('gpt_neo', {'attention_layers': None, 'attention_types': [[['global'], 2]]}, "expected 'global' or 'local' for"),
  ('gptj', {'rotary_dim': 7}, 'sets rotary_dim to 7 for heads of width 10: expected an even number'),
  ('phi4_mini', {'partial_rotary_factor': 0.5, 'rope_parameters': {'rope_type': 'longrope', 'short_factor': [1.0],
    'long_factor': [2.0, 3.0]}}, 'sets short_factor to 1 numbers; expected 2, one for each rotated pair'),
  ('llama_yarn', {'partial_rotary_factor': 0.4}, 'sets partial_rotary_factor to 0.4; the supported value is 1.0'),
  ('smollm3', {'no_rope_layers': [1, 0]}, 'sets no_rope_layers for 2 layers, but num_hidden_layers to 4'),
  ('gemma2_odd', {'use_bidirectional_attention': True}, 'sets use_bidirectional_attention to True'),
  ('gemma3_linear', {'layer_types': ['full_attention', 'chunked_attention']}, "layer of the type 'chunked_attention'"),
  ('qwen2_window', {'num_hidden_layers': None}, 'lacks .num_hidden_layers., which a model of type .qwen2. needs'),
  ('t5_gelu', {'layer_norm_epsilon': 1e-3}, 'sets layer_norm_epsilon to 0.001; the supported value is 1e-06'),
])
def test_what_a_family_does_not_have_here_is_a_clear_error(name, changes, message, tmp_path):
  shutil.copytree(FAMILIES / name, tmp_path, dirs_exist_ok=True)
  config = json.loads((tmp_path / 'config.json').read_text())
  dropped = changes.get('arrays')
  (tmp_path / 'config.json').write_text(json.dumps(
    {key: value for key, value in (config | changes).items() if value is not None}))
  arrays = read_arrays(str(tmp_path / 'model.safetensors'))
  write_arrays(str(tmp_path / 'model.safetensors'), {key: arrays[key] for key in arrays if key != dropped})
  with pytest.raises(ValueError, match=message):
    loading.load_model(str(tmp_path))


@pytest.mark.parametrize(('outer', 'member', 'prefix', 'extra'), [
  ('gemma3', 'gemma3_sparse', 'language_model.model.', 'vision_tower.embeddings.weight'),
  ('gemma3', 'gemma3_sparse', 'model.language_model.', 'model.vision_tower.weight'),
  ('mistral3', 'ministral3', 'model.language_model.', 'model.multi_modal_projector.norm.weight')])
def test_the_language_model_of_one_that_reads_images_is_read(outer, member, prefix, extra, tmp_path):
  source = FAMILIES / member
  config = json.loads((source / 'config.json').read_text())
  (tmp_path / 'config.json').write_text(json.dumps({'model_type': outer, 'text_config': config}))
  arrays = {name.replace('model.', prefix, 1): array
            for name, array in read_arrays(str(source / 'model.safetensors')).items()}
  write_arrays(str(tmp_path / 'model.safetensors'), arrays | {extra: np.ones(3, np.float32)})
  plain, found = loading.load_model(str(source)), loading.load_model(str(tmp_path))
  assert found.module.config == plain.module.config
  jax.tree.map(np.testing.assert_array_equal, found.params, plain.params)


def test_quantised_arrays_are_refused_by_name_and_floating_ones_beside_a_note_of_it_are_read(tmp_path):
  shutil.copytree(FAMILIES / 'llama_yarn', tmp_path, dirs_exist_ok=True)
  config = json.loads((tmp_path / 'config.json').read_text())
  (tmp_path / 'config.json').write_text(json.dumps({**config, 'quantization_config': {'quant_method': 'fp8'}}))
  assert loading.load_model(str(tmp_path)).facts.family == 'llama'
  arrays = read_arrays(str(tmp_path / 'model.safetensors'))
  arrays['model.layers.0.mlp.up_proj.weight_scale_inv'] = np.ones(1, np.float32)
  write_arrays(str(tmp_path / 'model.safetensors'), arrays)
  with pytest.raises(ValueError, match=r"to \{'quant_method': 'fp8'\}, and the folder holds model.layers.0"):
    loading.load_model(str(tmp_path))


def test_the_position_biases_of_t5s_cross_attention_that_nothing_reads_are_left_out(tmp_path):
  shutil.copytree(FAMILIES / 't5_gelu', tmp_path, dirs_exist_ok=True)
  arrays = read_arrays(str(tmp_path / 'model.safetensors'))
  arrays['decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight'] = np.ones((8, 3), np.float32)
  write_arrays(str(tmp_path / 'model.safetensors'), arrays)
  jax.tree.map(np.testing.assert_array_equal, loading.load_model(str(tmp_path)).params,
               loading.load_model(str(FAMILIES / 't5_gelu')).params)


def write_tokenizer(folder, count):
  """Writes a tokenizer of `count` words whose template puts <s> before a text, like Llama's and Gemma's."""
  names = ['<pad>', '</s>', '<s>', *(f'w{i}' for i in range(3, count))]
  tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({name: i for i, name in enumerate(names)}, 'w3'))
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single='<s> $A', special_tokens=[('<s>', 2)])
  tokenizer.save(str(folder / 'tokenizer.json'))


def test_texts_begin_with_the_tokenizers_begin_token_but_ids_and_targets_do_not(tmp_path):
  shutil.copytree(FAMILIES / 'llama_biases', tmp_path, dirs_exist_ok=True)
  write_tokenizer(tmp_path, 40)
  model = loading.load_model(str(tmp_path))
  np.testing.assert_array_equal(model.logits(['w5 w6'], ['w7']), model.logits([[2, 5, 6]], [[7, 1]]))
  assert np.abs(model.logits(['w5 w6'], ['w7']) - model.logits([[5, 6]], [[7, 1]])).max() > 0.1
  laid_out = Preprocessor(model.vocabulary, model.layout(), {'inputs': 9, 'targets': 9})
  assert laid_out.ids({'inputs': 'w5 w6', 'targets': 'w7'}) == ([2, 5, 6], [7, 1])
  assert laid_out.ids({'inputs': [5, 6], 'targets': [7]}) == ([5, 6], [7, 1])
  answer = model.predict([[2, 5, 6]], max_length=4)[0]
  assert model.predict(['w5 w6'], max_length=4) == [model.vocabulary.decode(answer)]


def test_a_begin_token_that_a_text_has_already_is_not_added_again(tmp_path):
  shutil.copytree(FAMILIES / 'llama_biases', tmp_path, dirs_exist_ok=True)
  write_tokenizer(tmp_path, 40)
  model = loading.load_model(str(tmp_path))
  read = lambda text, what: text_rows([text], what, vocabulary=model.vocabulary, layout=model.layout(), size=40)[0].ids
  assert (read('<s> w5', 'inputs'), read('w5', 'inputs'), read('<s> w7', 'targets')) == ([2, 5], [2, 5], [2, 7, 1])
  laid_out = Preprocessor(model.vocabulary, model.layout(), {'inputs': 9, 'targets': 9})
  assert laid_out.ids({'inputs': '<s> w5', 'targets': '<s> w7'}) == ([2, 5], [2, 7, 1])


def test_a_folder_without_a_tokenizer_says_how_generations_end(tmp_path):
  shutil.copytree(FAMILIES / 'llama_biases', tmp_path, dirs_exist_ok=True)
  (tmp_path / 'generation_config.json').write_text(json.dumps({'eos_token_id': [39, 7]}))
  model = loading.load_model(str(tmp_path))
  assert (model.vocabulary, model.eos_id, model.end_ids) == (None, 39, (39, 7))
  loading.save_model(model, str(tmp_path / 'written'))
  assert loading.load_model(str(tmp_path / 'written')).end_ids == (39, 7)


def test_a_family_that_is_not_supported_is_refused_before_its_pickles(tmp_path):
  (tmp_path / 'config.json').write_text('{"model_type": "rwkv"}')
  (tmp_path / 'pytorch_model.bin').write_bytes(b'')
  with pytest.raises(ValueError, match=r"config\.json describes a model of type 'rwkv'"):
    loading.load_model(str(tmp_path))


def test_an_answer_ends_with_the_first_of_a_folders_end_tokens(tmp_path):
  shutil.copytree(FAMILIES / 'llama_biases', tmp_path, dirs_exist_ok=True)
  write_tokenizer(tmp_path, 40)
  whole = loading.load_model(str(tmp_path)).predict([[5, 6]], max_length=6)[0]
  assert len(whole) > 2 and whole[2] not in whole[:2]
  (tmp_path / 'generation_config.json').write_text(json.dumps({'eos_token_id': [1, int(whole[2])]}))
  model = loading.load_model(str(tmp_path))
  assert model.predict([[5, 6]], max_length=6)[0].tolist() == whole[:2].tolist()
  loading.save_model(model, str(tmp_path / 'written'))
  assert loading.load_model(str(tmp_path / 'written')).end_ids == (1, whole[2])


def test_a_vocabulary_larger_than_the_embedding_is_a_clear_error(tmp_path):
  shutil.copytree(FAMILIES / 'llama_biases', tmp_path, dirs_exist_ok=True)
  write_tokenizer(tmp_path, 41)
  with pytest.raises(ValueError, match=r'tokenizer.json.* has 41 tokens, but the embedding of the model has 40'):
    loading.load_model(str(tmp_path))


def test_a_written_model_names_the_tokens_of_its_vocabulary(tmp_path):
  model = loading.load_model(str(FAMILIES / 'gpt2_bare'), vocabulary=PassThroughVocabulary(40, eos_id=7))
  loading.save_model(model, str(tmp_path / 'written'))
  config = json.loads((tmp_path / 'written/config.json').read_text())
  assert (config['eos_token_id'], config['pad_token_id'], config['bos_token_id']) == (7, 0, None)


def adapted(folder):
  """Returns a frozen model, and what an adapter for it holds."""
  model = loading.load_model(str(folder.parent))
  return model, saved.load_for(model, str(folder))


@pytest.mark.parametrize('name', ADAPTERS)
def test_logits_with_an_adapter_are_those_of_peft(name):
  model, trained = adapted(FAMILIES / name)
  require_logits(model, *golden_of(FAMILIES / name), trained=trained)


@pytest.mark.parametrize('name', mostly_slow(ADAPTERS, ('t5_v11/prompt',)))
def test_answers_with_an_adapter_are_those_of_peft(name):
  model, trained = adapted(FAMILIES / name)
  golden, inputs, _ = golden_of(FAMILIES / name)
  require_answers(model, golden, inputs, trained)
