"""PEFT folders: those written by PEFT are read, and those written by this package follow its format."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from prompt_tuning.checkpoints.peft import read_adapter, write_adapter

ENCODER, DECODER = 'encoder/prompt/prompt/prompt', 'decoder/prompt/prompt/prompt'
KEYS, VALUES = 'decoder/prefix/keys', 'decoder/prefix/values'
SHAPES = {'gpt2': dict(encoder_decoder=False, layers=2, kv_heads=4, head_dim=8, width=32),
          'llama': dict(encoder_decoder=False, layers=2, kv_heads=2, head_dim=8, width=32),
          't5_v10': dict(encoder_decoder=True, layers=2, kv_heads=4, head_dim=8, width=32),
          't5_v11': dict(encoder_decoder=True, layers=2, kv_heads=4, head_dim=8, width=32)}
PROMPTS = [('gpt2', 'prompt_tuning'), ('gpt2', 'ptuning_mlp'), ('gpt2', 'ptuning_lstm'), ('gpt2', 'cpt'),
           ('gpt2', 'train_prompt'), ('llama', 'prompt_tuning'), ('t5_v10', 'prompt_tuning'),
           ('t5_v11', 'prompt_tuning'), ('t5_v11', 'prompt_tuning_enc'), ('t5_v11', 'ptuning_mlp'),
           ('t5_v11', 'train_prompt')]
PREFIXES = [('gpt2', 'prefix_tuning'), ('gpt2', 'prefix_tuning_proj'), ('gpt2', 'cartridge'),
            ('llama', 'prefix_tuning'), ('llama', 'prefix_tuning_proj'), ('t5_v10', 'prefix_tuning'),
            ('t5_v10', 'prefix_tuning_proj'), ('t5_v11', 'prefix_tuning'), ('t5_v11', 'prefix_tuning_proj')]
MULTITASK = [('gpt2', 'multitask'), ('t5_v11', 'multitask_enc')]
# All sizes differ: L=3, P=2, H=4, K=5.
PREFIX = {KEYS: np.arange(120, dtype=np.float32).reshape(3, 2, 4, 5),
          VALUES: -np.arange(120, dtype=np.float32).reshape(3, 2, 4, 5)}
PROMPT = np.arange(12, dtype=np.float32).reshape(3, 4)


def folder_of(shared, model, method):
  return shared / 'hf' / f'peft_{model}_{method}' / 'adapter'


def stored(folder):
  return load_file(os.path.join(folder, 'adapter_model.safetensors'))['prompt_embeddings']


def change(folder, *, arrays=None, **config):
  """Changes the config of an adapter (None removes a field) and its arrays."""
  path = folder / 'adapter_config.json'
  merged = json.loads(path.read_text()) | config
  path.write_text(json.dumps({name: value for name, value in merged.items() if value is not None}))
  if arrays is not None:
    save_file(arrays, folder / 'adapter_model.safetensors')
  return str(folder)


@pytest.fixture
def prompt_folder(tmp_path):
  write_adapter(str(tmp_path / 'prompt'), {ENCODER: PROMPT}, task_type='SEQ_2_SEQ_LM')
  return tmp_path / 'prompt'


@pytest.fixture
def prefix_folder(tmp_path):
  write_adapter(str(tmp_path / 'prefix'), PREFIX, task_type='CAUSAL_LM')
  return tmp_path / 'prefix'


@pytest.mark.parametrize(('model', 'method'), PROMPTS)
def test_prompts_that_peft_wrote_are_read(shared, model, method):
  folder = folder_of(shared, model, method)
  trained = read_adapter(folder).trained(**SHAPES[model])
  wanted = stored(folder)[:5]  # the other rows of an encoder-decoder are unused
  assert list(trained) == [ENCODER if model.startswith('t5') else DECODER]
  np.testing.assert_array_equal(*trained.values(), wanted, strict=True)


@pytest.mark.parametrize('model', ['gpt2', 't5_v11'])
def test_a_trained_prompt_is_that_of_the_last_step(shared, model):
  folder = folder_of(shared, model, 'train_prompt')
  (prompt,) = read_adapter(folder).trained().values()
  np.testing.assert_array_equal(prompt, np.load(folder.parent / 'golden.npz')['prompts'][-1])


@pytest.mark.parametrize('model', ['gpt2', 't5_v11'])
def test_a_p_tuning_file_holds_what_its_network_gives(shared, model):
  folder = folder_of(shared, model, 'ptuning_mlp')
  golden = np.load(folder.parent / 'golden.npz')
  hidden = golden['encoder.embedding.weight']
  for i in (0, 2, 4):
    hidden = np.maximum(hidden, 0) if i else hidden
    hidden = hidden @ golden[f'encoder.mlp_head.{i}.weight'].T + golden[f'encoder.mlp_head.{i}.bias']
  (prompt,) = read_adapter(folder).trained().values()
  np.testing.assert_allclose(prompt, hidden[:5], atol=1e-5)


@pytest.mark.parametrize(('model', 'method'), PREFIXES)
def test_prefixes_that_peft_wrote_are_read(shared, model, method):
  folder = folder_of(shared, model, method)
  shapes = SHAPES[model]
  trained = read_adapter(folder).trained(**shapes)
  heads, size, file = shapes['kv_heads'], shapes['head_dim'], stored(folder)
  assert set(trained) == {KEYS, VALUES}
  for layer in range(2):
    slot = 0 if model.startswith('t5') else layer  # T5 reads only the first of two slots
    for name, row in ((KEYS, 2 * slot), (VALUES, 2 * slot + 1)):
      assert trained[name].shape == (2, 5, heads, size)
      for head in range(heads):
        start = (row * heads + head) * size
        np.testing.assert_array_equal(trained[name][layer, :, head], file[:, start:start + size])


@pytest.mark.parametrize('model', ['gpt2', 'llama', 't5_v10', 't5_v11'])
def test_a_projected_prefix_holds_what_its_network_gives(shared, model):
  folder = folder_of(shared, model, 'prefix_tuning_proj')
  golden = np.load(folder.parent / 'golden.npz')
  weight, bias = ([golden[f'encoder.transform.{i}.{name}'] for i in (0, 2)] for name in ('weight', 'bias'))
  projected = np.tanh(golden['encoder.embedding.weight'] @ weight[0].T + bias[0]) @ weight[1].T + bias[1]
  heads = SHAPES[model]['kv_heads']
  trained = read_adapter(folder).trained()
  np.testing.assert_allclose(trained[KEYS][0], projected[:, :8 * heads].reshape(5, heads, 8), atol=1e-5)
  np.testing.assert_allclose(trained[VALUES][0], projected[:, 8 * heads:16 * heads].reshape(5, heads, 8), atol=1e-5)


@pytest.mark.parametrize(('model', 'method'), MULTITASK)
def test_a_multitask_adapter_gives_the_prompt_of_one_task(shared, model, method):
  folder = folder_of(shared, model, method)
  arrays = load_file(folder / 'adapter_model.safetensors')
  (prompt,) = read_adapter(folder).trained(task=2).values()
  factor = sum(np.outer(arrays['prefix_task_cols'][2][:, r], arrays['prefix_task_rows'][2][r]) for r in range(2))
  np.testing.assert_allclose(prompt, arrays['prompt_embeddings'] * factor, rtol=1e-5)
  with pytest.raises(ValueError, match=r'holds the prompts of 3 tasks, but .* Choose 0 to 2'):
    read_adapter(folder).trained(task=3)


@pytest.mark.parametrize(('model', 'method'), MULTITASK)
def test_the_prompts_of_all_tasks_are_read_and_written(shared, tmp_path, model, method):
  folder = folder_of(shared, model, method)
  trained = read_adapter(folder).trained()
  stack = 'encoder' if model.startswith('t5') else 'decoder'
  assert list(trained) == [f'{stack}/prompt/multitask/{part}' for part in ('shared', 'columns', 'rows')]
  for task in range(3):
    (wanted,) = read_adapter(folder).trained(task=task).values()
    shared_prompt, columns, rows = trained.values()
    np.testing.assert_allclose(shared_prompt * (columns[task] @ rows[task]), wanted, rtol=1e-6)
  config = write_adapter(str(tmp_path / 'a'), trained, embedding_scale=2.0,
                         task_type='SEQ_2_SEQ_LM' if stack == 'encoder' else 'CAUSAL_LM')
  assert (config['num_tasks'], config['num_ranks'], config['num_virtual_tokens']) == (3, 2, 5)
  again = read_adapter(tmp_path / 'a').trained(embedding_scale=2.0)
  for name, array in trained.items():
    np.testing.assert_array_equal(again[name], array)
  trained[f'{stack}/prompt/multitask/rows'] = trained[f'{stack}/prompt/multitask/rows'][:2]
  with pytest.raises(ValueError, match=r'holds prefix_task_cols \(3, 5, 2\) and prefix_task_rows \(2, 2, 32\); exp'):
    write_adapter(str(tmp_path / 'b'), trained, task_type='SEQ_2_SEQ_LM' if stack == 'encoder' else 'CAUSAL_LM')


def test_a_multitask_prompt_that_also_stands_before_the_targets_is_refused(shared):
  with pytest.raises(ValueError, match=r'multitask prompt of 10 rows: .* train it with num_transformer_submodules=1'):
    read_adapter(folder_of(shared, 't5_v11', 'multitask')).trained(task=0)


def test_a_written_prompt_is_as_peft_wants_it(tmp_path):
  write_adapter(str(tmp_path / 'a'), {ENCODER: PROMPT}, task_type='SEQ_2_SEQ_LM', base_model_name_or_path='t5')
  assert sorted(os.listdir(tmp_path / 'a')) == ['adapter_config.json', 'adapter_model.safetensors']
  text = (tmp_path / 'a' / 'adapter_config.json').read_text()
  config = {'peft_type': 'PROMPT_TUNING', 'task_type': 'SEQ_2_SEQ_LM', 'num_virtual_tokens': 3, 'token_dim': 4,
            'num_transformer_submodules': 1, 'base_model_name_or_path': 't5', 'inference_mode': True}
  assert text == json.dumps(config, indent=2, sort_keys=True) + '\n'
  np.testing.assert_array_equal(stored(tmp_path / 'a'), PROMPT, strict=True)
  assert b'"format":"pt"' in (tmp_path / 'a' / 'adapter_model.safetensors').read_bytes()[:100]


def test_a_prompt_may_be_written_as_what_p_tuning_has_made(tmp_path):
  config = write_adapter(str(tmp_path / 'a'), {DECODER: PROMPT}, task_type='CAUSAL_LM', kind='P_TUNING')
  assert config == {'peft_type': 'P_TUNING', 'task_type': 'CAUSAL_LM', 'num_virtual_tokens': 3, 'token_dim': 4,
                    'num_transformer_submodules': 1, 'base_model_name_or_path': None, 'inference_mode': True}
  np.testing.assert_array_equal(read_adapter(tmp_path / 'a').trained()[DECODER], PROMPT)
  with pytest.raises(ValueError, match=r"kind='LORA' is not valid for a prompt; expected PROMPT_TUNING or P_TUNING"):
    write_adapter(str(tmp_path / 'b'), {DECODER: PROMPT}, task_type='CAUSAL_LM', kind='LORA')


@pytest.mark.parametrize(('task_type', 'submodules', 'slots'), [('CAUSAL_LM', 1, [0, 1, 2]),
                                                                ('SEQ_2_SEQ_LM', 2, [0, 2, 1])])
def test_a_written_prefix_is_as_peft_wants_it(tmp_path, task_type, submodules, slots):
  config = write_adapter(str(tmp_path / 'a'), PREFIX, task_type=task_type)
  assert config == json.loads((tmp_path / 'a' / 'adapter_config.json').read_text()) == {
    'peft_type': 'PREFIX_TUNING', 'task_type': task_type, 'num_virtual_tokens': 2, 'num_layers': 3,
    'num_attention_heads': 4, 'token_dim': 20, 'num_transformer_submodules': submodules, 'prefix_projection': False,
    'base_model_name_or_path': None, 'inference_mode': True}
  file = stored(tmp_path / 'a').reshape(2, 3, 2, 20)  # token, slot, keys and values
  for layer, slot in enumerate(slots):  # layer i of an encoder-decoder reads slot (2 i) mod 3
    np.testing.assert_array_equal(file[:, slot, 0], PREFIX[KEYS][layer].reshape(2, 20))
    np.testing.assert_array_equal(file[:, slot, 1], PREFIX[VALUES][layer].reshape(2, 20))


@pytest.mark.parametrize(('trained', 'task_type'), [
  ({ENCODER: PROMPT}, 'SEQ_2_SEQ_LM'), ({DECODER: PROMPT}, 'CAUSAL_LM'), (PREFIX, 'SEQ_2_SEQ_LM'),
  (PREFIX, 'CAUSAL_LM')])
def test_what_is_written_is_read_back(tmp_path, trained, task_type):
  write_adapter(str(tmp_path / 'a'), trained, task_type=task_type)
  found = read_adapter(tmp_path / 'a').trained()
  assert found.keys() == trained.keys()
  for name, array in trained.items():
    np.testing.assert_array_equal(found[name], array, strict=True)


def test_layers_that_share_a_slot_of_an_encoder_decoder_cannot_differ(tmp_path):
  prefix = {name: array[[0, 1, 2, 0]] for name, array in PREFIX.items()}
  with pytest.raises(ValueError, match=r'has 4 layers: .* layers i and i \+ 2 cannot differ.* Expected an odd number'):
    write_adapter(str(tmp_path / 'a'), prefix, task_type='SEQ_2_SEQ_LM')
  assert os.listdir(tmp_path) == []
  write_adapter(str(tmp_path / 'a'), prefix, task_type='CAUSAL_LM')


@pytest.mark.parametrize('method', ['prefix_tuning', 'prefix_tuning_proj'])
def test_a_prefix_that_peft_trained_for_t5_is_written_back(shared, tmp_path, method):
  folder = folder_of(shared, 't5_v11', method)
  write_adapter(str(tmp_path / 'a'), read_adapter(folder).trained(), task_type='SEQ_2_SEQ_LM')
  file = stored(tmp_path / 'a')
  np.testing.assert_array_equal(file[:, :64], stored(folder)[:, :64])
  assert not file[:, 64:].any()  # the unused slot


def test_a_full_disk_leaves_no_folder(tmp_path, full_disk):
  with full_disk(100), pytest.raises(OSError, match=r'a cannot be written: File too large'):
    write_adapter(str(tmp_path / 'a'), {ENCODER: PROMPT}, task_type='SEQ_2_SEQ_LM')
  assert os.listdir(tmp_path) == []


def test_a_folder_that_holds_something_is_never_overwritten(prompt_folder):
  with pytest.raises(FileExistsError, match=r'prompt already exists and is never overwritten'):
    write_adapter(str(prompt_folder), {ENCODER: PROMPT}, task_type='SEQ_2_SEQ_LM')


@pytest.mark.parametrize(('trained', 'task_type', 'message'), [
  ({ENCODER: PROMPT}, 'CAUSAL_LM', rf'Found the tensors {ENCODER}; a PEFT adapter for CAUSAL_LM holds {DECODER}'),
  ({KEYS: PREFIX[KEYS]}, 'CAUSAL_LM', rf'Found the tensors {KEYS}; .* holds {DECODER}, or {KEYS} and {VALUES}'),
  (PREFIX | {ENCODER: PROMPT}, 'SEQ_2_SEQ_LM', r"and nothing else. Keep this package's file"),
  ({ENCODER: PROMPT}, 'SEQ_CLS', r"task_type='SEQ_CLS' is not valid; expected SEQ_2_SEQ_LM or CAUSAL_LM"),
  ({ENCODER: PROMPT[None]}, 'SEQ_2_SEQ_LM', r'The prompt has shape \[1, 3, 4\]; expected \[P, D\]'),
  (PREFIX | {KEYS: PREFIX[KEYS][:2]}, 'CAUSAL_LM', r'keys \[2, 2, 4, 5\] and values \[3, 2, 4, 5\]; expected \[L, P')])
def test_what_peft_has_no_form_for_is_not_written(tmp_path, trained, task_type, message):
  with pytest.raises(ValueError, match=message):
    write_adapter(str(tmp_path / 'a'), trained, task_type=task_type)
  assert os.listdir(tmp_path) == []


def test_a_folder_without_an_adapter_is_refused_and_one_inside_is_named(tmp_path, prompt_folder):
  with pytest.raises(FileNotFoundError, match=r'b/adapter_config.json does not exist; expected the folder of a PEFT'):
    read_adapter(tmp_path / 'b')
  with pytest.raises(FileNotFoundError, match=rf'the folder of a PEFT adapter, such as {prompt_folder}'):
    read_adapter(tmp_path)
  with pytest.raises(OSError, match=r'gs://bucket/a: adapters are read only from a local disk'):
    read_adapter('gs://bucket/a')


def test_pickled_arrays_are_never_loaded(prompt_folder):
  os.rename(prompt_folder / 'adapter_model.safetensors', prompt_folder / 'adapter_model.bin')
  with pytest.raises(ValueError, match=r'as adapter_model.bin: a Python pickle, which is never loaded'):
    read_adapter(prompt_folder)
  os.remove(prompt_folder / 'adapter_model.bin')
  with pytest.raises(FileNotFoundError, match=r'holds adapter_config.json, but no adapter_model.safetensors'):
    read_adapter(prompt_folder)


def test_damaged_files_are_refused(prompt_folder):
  (prompt_folder / 'adapter_model.safetensors').write_bytes(b'x' * 20)
  with pytest.raises(ValueError, match=r'truncated or not a safetensors file'):
    read_adapter(prompt_folder)
  with pytest.raises(ValueError, match=r"adapter_config.json lacks 'peft_type'"):
    read_adapter(change(prompt_folder, peft_type=None))
  (prompt_folder / 'adapter_config.json').write_text('{')
  with pytest.raises(ValueError, match=r'adapter_config.json is not JSON'):
    read_adapter(prompt_folder)


@pytest.mark.parametrize(('model', 'method'), [('llama', 'adaption_prompt'), ('gpt2', 'trainable_tokens')])
def test_adapters_of_other_types_are_refused_by_name(shared, model, method):
  adapter = read_adapter(folder_of(shared, model, method))
  with pytest.raises(ValueError, match=rf'is an adapter of type {method.upper()}, .* PROMPT_TUNING, P_TUNING'):
    adapter.trained(**SHAPES[model])


def test_an_adapter_of_modules_needs_the_model(shared):
  with pytest.raises(ValueError, match=r'is an adapter of type LORA, which changes modules .* Specify it \(--model of'):
    read_adapter(folder_of(shared, 't5_v11', 'lora')).trained(**SHAPES['t5_v11'])


@pytest.mark.parametrize(('change_of', 'asked', 'message'), [
  ({'peft_type': 'HYPNOSIS'}, {}, r'of type HYPNOSIS, which cannot be read. Give an adapter of one of these'),
  ({'arrays': {'embeddings': PROMPT}}, {}, r'holds embeddings; for an adapter of type PROMPT_TUNING, expected prompt'),
  ({'arrays': {'prompt_embeddings': PROMPT, 'base_model.score.weight': PROMPT}}, {},
   r'holds base_model.score.weight, prompt_embeddings; .* and nothing else'),
  ({'arrays': {'prompt_embeddings': PROMPT[0]}}, {}, r'prompt_embeddings \[4\] and num_virtual_tokens 3'),
  ({'num_virtual_tokens': 2}, {}, r'a prompt of 3 rows; expected 2, the num_virtual_tokens .* or twice as many'),
  ({'num_virtual_tokens': None}, {}, r'num_virtual_tokens None; expected one row for each'),
  ({}, {'width': 6}, r'vectors of width 4, but the base model has width 6'),
  ({}, {'encoder_decoder': False}, r'task_type SEQ_2_SEQ_LM, but the base model has no encoder'),
  ({'task_type': 'CAUSAL_LM'}, {'encoder_decoder': True}, r'task_type CAUSAL_LM, but the base model is an enc'),
  ({'task_type': None}, {}, r'task_type None, which does not say whether the base model is an encoder-decoder'),
  ({'peft_type': 'CPT'}, {}, r'a CPT adapter, which needs a decoder-only model')])
def test_a_prompt_that_does_not_fit_is_refused(prompt_folder, change_of, asked, message):
  folder = change(prompt_folder, **change_of)
  with pytest.raises(ValueError, match=message):
    read_adapter(folder).trained(**asked)


@pytest.mark.parametrize(('change_of', 'asked', 'message'), [
  ({}, {'layers': 4}, r'gives 3 as the number of layers, but the base model has 4'),
  ({}, {'kv_heads': 2}, r'gives 4 as the number of KV heads, but the base model has 2'),
  ({}, {'head_dim': 6}, r'gives 5 as the head width, but the base model has 6'),
  ({'num_layers': None}, {}, r'lacks the number of layers of its base model'),
  ({'num_layers': None}, {'layers': 4}, r'a prefix \[2, 120\]; expected \[2, 160\] for 2 virtual tokens and 4 layers'),
  ({'num_virtual_tokens': 3}, {}, r'a prefix \[2, 120\]; expected \[3, 120\]'),
  ({'task_type': 'SEQ_2_SEQ_LM'}, {}, r'num_transformer_submodules 1, with which PEFT cannot run')])
def test_a_prefix_that_does_not_fit_is_refused(prefix_folder, change_of, asked, message):
  folder = change(prefix_folder, **change_of)
  with pytest.raises(ValueError, match=message):
    read_adapter(folder).trained(**asked)


@pytest.mark.parametrize('model', ['t5_v11', 'llama'])
def test_the_least_config_that_peft_accepts_is_enough_with_the_model(shared, writable_copy, model):
  source = folder_of(shared, model, 'prefix_tuning')
  folder = writable_copy(source)
  config = json.loads((source / 'adapter_config.json').read_text())
  least = {name: config[name] for name in ('peft_type', 'task_type', 'num_virtual_tokens')}
  (folder / 'adapter_config.json').write_text(json.dumps(least))
  wanted = read_adapter(source).trained()
  found = read_adapter(folder).trained(**SHAPES[model])
  for name in (KEYS, VALUES):
    np.testing.assert_array_equal(found[name], wanted[name])


def test_a_prefix_with_frozen_rows_is_a_cartridge(tmp_path):
  config = write_adapter(str(tmp_path / 'a'), PREFIX, task_type='CAUSAL_LM', frozen=1)
  assert config['peft_type'] == 'CARTRIDGE' and config['num_frozen_tokens'] == 1 and 'prefix_projection' not in config
  adapter = read_adapter(tmp_path / 'a')
  assert adapter.about == {'peft_type': 'CARTRIDGE', 'frozen': 1}
  for name, array in adapter.trained().items():
    np.testing.assert_array_equal(array, PREFIX[name])
  assert read_adapter(change(tmp_path / 'a', num_frozen_tokens=None)).about['frozen'] == 1  # PEFT's default
  assert 'frozen' not in read_adapter(change(tmp_path / 'a', num_frozen_tokens=0)).about
  with pytest.raises(ValueError, match='num_frozen_tokens'):
    read_adapter(change(tmp_path / 'a', num_frozen_tokens=-1))
  with pytest.raises(ValueError, match='frozen=3 cannot be used: expected a whole number of at least 0 and of at most'):
    write_adapter(str(tmp_path / 'b'), PREFIX, task_type='CAUSAL_LM', frozen=3)
