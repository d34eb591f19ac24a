"""`prompt-tuning convert`."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from prompt_tuning.checkpoints.peft import read_adapter, write_adapter
from prompt_tuning.checkpoints.prompt_files import write_numpy_prompt
from prompt_tuning.checkpoints.state import read_state, write_state
from prompt_tuning.evaluation.saved import SavedPrompt, load_prompt
from prompt_tuning.rows.conditioning import Visibility
from prompt_tuning.rows.layouts import after_bos

ENCODER, DECODER = 'encoder/prompt/prompt/prompt', 'decoder/prompt/prompt/prompt'
KEYS, VALUES = 'decoder/prefix/keys', 'decoder/prefix/values'
PROMPT = np.arange(12, dtype=np.float32).reshape(3, 4)
PREFIX = {KEYS: np.arange(120, dtype=np.float32).reshape(3, 2, 4, 5),  # L=3, P=2, H=4, K=5
          VALUES: -np.arange(120, dtype=np.float32).reshape(3, 2, 4, 5)}
T5 = {'model_type': 't5', 'is_encoder_decoder': True, 'd_model': 4, 'd_kv': 5, 'num_heads': 4, 'num_layers': 7,
      'num_decoder_layers': 3}
LLAMA = {'model_type': 'llama', 'hidden_size': 4, 'num_attention_heads': 8, 'num_key_value_heads': 4, 'head_dim': 5,
         'num_hidden_layers': 3}
GPT2 = {'model_type': 'gpt2', 'n_embd': 20, 'n_head': 4, 'n_layer': 3}


SMALL_GPT = {'model_type': 'gpt2', 'n_embd': 4, 'n_head': 2, 'n_layer': 2}


@pytest.fixture
def refused(script):
  """Runs the command with invalid input and returns its message."""

  def run(*arguments):
    status, printed, message = script(*arguments)
    assert (status, printed) == (2, '')
    assert message.startswith('prompt-tuning convert: ')
    return message

  return run


@pytest.fixture
def base(tmp_path):
  """Makes the folder of a base model."""

  def make(config):
    (tmp_path / 'base').mkdir()
    (tmp_path / 'base' / 'config.json').write_text(json.dumps(config))
    return tmp_path / 'base'

  return make


@pytest.fixture
def numpy_prompt(tmp_path):
  write_numpy_prompt(str(tmp_path / 'prompt'), PROMPT)  # a name without a suffix, as in earlier tools
  return tmp_path / 'prompt'


@pytest.fixture
def saved_prefix(tmp_path):
  write_state(str(tmp_path / 'prefix.safetensors'), PREFIX, {'step': 7})
  return tmp_path / 'prefix.safetensors'


def adapter(folder):
  return read_adapter(folder).trained()


def test_help_loads_nothing_heavy():
  code = ('import sys\nfrom prompt_tuning.programs.command import main\n'
          'try:\n  main(["convert", "--help"])\n'
          'finally:\n  print([m for m in ("jax", "numpy", "gin", "absl") if m in sys.modules])')
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert done.stdout.splitlines()[-1] == '[]'
  assert all(flag in done.stdout for flag in ('--model', '--stack', '--task', '--base_model'))


@pytest.mark.parametrize(('stack', 'name', 'task_type'), [('encoder', ENCODER, 'SEQ_2_SEQ_LM'),
                                                          ('decoder', DECODER, 'CAUSAL_LM')])
def test_a_prompt_goes_from_numpy_to_peft_and_back(script, tmp_path, numpy_prompt, base, stack, name, task_type):
  model = base(SMALL_GPT) if stack == 'decoder' else None  # the encoder's needs no scale
  status, printed, _ = script('convert', numpy_prompt, tmp_path / 'peft', f'--stack={stack}',
                              *([f'--model={model}'] if model else []))
  assert status == 0
  assert printed == f'Wrote {tmp_path}/peft (PEFT, PROMPT_TUNING for {task_type}):\n  {name} [3, 4]\n'
  card = (tmp_path / 'peft/README.md').read_text()
  assert 'library_name: peft' in card and ('AutoModelForSeq2SeqLM' in card) == (stack == 'encoder')
  np.testing.assert_array_equal(adapter(tmp_path / 'peft')[name], PROMPT)
  assert script('convert', tmp_path / 'peft', tmp_path / 'a.safetensors')[0] == 0
  arrays, about = read_state(str(tmp_path / 'a.safetensors'))
  np.testing.assert_array_equal(arrays[name], PROMPT)
  assert about == {'peft_type': 'PROMPT_TUNING', 'task_type': task_type, 'base_model': model and str(model)}
  assert script('convert', tmp_path / 'a.safetensors', tmp_path / 'b.npy')[0] == 0
  np.testing.assert_array_equal(np.load(tmp_path / 'b.npy'), PROMPT, strict=True)


def test_a_prompt_may_be_an_adapter_of_p_tuning(script, tmp_path, numpy_prompt, base):
  status, printed = script('convert', numpy_prompt, f'{tmp_path}/peft', f'--model={base(SMALL_GPT)}',
                           '--kind=P_TUNING')[:2]
  assert status == 0 and 'P_TUNING for CAUSAL_LM' in printed
  config = json.loads((tmp_path / 'peft/adapter_config.json').read_text())
  assert config['peft_type'] == 'P_TUNING'
  assert script('convert', f'{tmp_path}/peft', f'{tmp_path}/back.npy')[0] == 0
  np.testing.assert_array_equal(np.load(tmp_path / 'back.npy'), np.load(numpy_prompt))


def test_a_numpy_prompt_needs_its_stack_unless_it_stays_numpy(script, refused, tmp_path, numpy_prompt, base):
  message = refused('convert', numpy_prompt, tmp_path / 'a.safetensors')
  assert 'holds a prompt, but does not say which stack reads it. Add --stack=encoder' in message
  assert script('convert', numpy_prompt, tmp_path / 'a.npy')[0] == 0
  assert script('convert', numpy_prompt, tmp_path / 'a.safetensors', f'--model={base(LLAMA)}')[0] == 0
  assert list(read_state(str(tmp_path / 'a.safetensors'))[0]) == [DECODER]


def test_the_best_prompt_of_a_run_goes_to_peft(script, tmp_path, base):
  SavedPrompt(PROMPT).save(str(tmp_path / 'run' / 'best.safetensors'))
  SavedPrompt(PROMPT + 1).save(str(tmp_path / 'run' / 'last.safetensors'))
  folder = base(T5)
  assert script('convert', tmp_path / 'run', tmp_path / 'peft', f'--model={folder}')[0] == 0
  np.testing.assert_array_equal(adapter(tmp_path / 'peft')[ENCODER], PROMPT)
  assert read_adapter(tmp_path / 'peft').config['base_model_name_or_path'] == str(folder)
  assert script('convert', tmp_path / 'run', tmp_path / 'named', '--base_model=t5-small')[0] == 0
  assert read_adapter(tmp_path / 'named').config['base_model_name_or_path'] == 't5-small'


def test_a_prompt_of_a_verbaliser_stays_here(script, refused, tmp_path, base):
  write_state(str(tmp_path / 'prompt.safetensors'), {DECODER: PROMPT}, {'head': {'words': ['great', 'bad']}})
  assert 'was trained with a verbaliser' in refused('convert', tmp_path / 'prompt.safetensors', tmp_path / 'peft')


def test_a_prompt_of_peft_is_ready_for_eval(script, shared, tmp_path):
  source = shared / 'hf' / 'peft_t5_v11_ptuning_mlp' / 'adapter'
  assert script('convert', source, tmp_path / 'a.safetensors', f'--model={shared}/hf/t5_v11')[0] == 0
  prompt = load_prompt(str(tmp_path / 'a.safetensors'))
  np.testing.assert_array_equal(prompt.vectors, read_adapter(source).arrays['prompt_embeddings'][:5])
  assert prompt.about['peft_type'] == 'P_TUNING'


def test_gemma_scales_a_prompt_that_peft_does_not(script, tmp_path, base):
  write_numpy_prompt(tmp_path / 'a.npy', PROMPT)
  folder = base(LLAMA | {'model_type': 'gemma2'})
  assert script('convert', tmp_path / 'a.npy', tmp_path / 'peft', f'--model={folder}')[0] == 0
  stored = read_adapter(tmp_path / 'peft').arrays['prompt_embeddings']
  np.testing.assert_allclose(stored, PROMPT * PROMPT.shape[1]**0.5, rtol=1e-6)
  assert script('convert', tmp_path / 'peft', tmp_path / 'b.npy', f'--model={folder}')[0] == 0
  np.testing.assert_allclose(np.load(tmp_path / 'b.npy'), PROMPT, rtol=1e-6)


@pytest.mark.parametrize(('config', 'task_type'), [(T5, 'SEQ_2_SEQ_LM'), (LLAMA, 'CAUSAL_LM'), (GPT2, 'CAUSAL_LM')])
def test_a_prefix_goes_to_peft_and_back(script, tmp_path, saved_prefix, base, config, task_type):
  assert script('convert', saved_prefix, tmp_path / 'peft', f'--model={base(config)}')[0] == 0
  found = read_adapter(tmp_path / 'peft')
  assert (found.kind, found.config['task_type']) == ('PREFIX_TUNING', task_type)
  status, printed, _ = script('convert', tmp_path / 'peft', tmp_path / 'b.safetensors', f'--model={tmp_path}/base')
  assert (status, f'{KEYS} [3, 2, 4, 5]' in printed) == (0, True)
  arrays, _ = read_state(str(tmp_path / 'b.safetensors'))
  for name, array in PREFIX.items():
    np.testing.assert_array_equal(arrays[name], array)


def test_a_prefix_that_came_from_peft_goes_back_without_the_model(script, shared, tmp_path):
  source = shared / 'hf' / 'peft_t5_v10_prefix_tuning' / 'adapter'
  assert script('convert', source, tmp_path / 'a.safetensors')[0] == 0
  assert script('convert', tmp_path / 'a.safetensors', tmp_path / 'peft')[0] == 0
  assert read_adapter(tmp_path / 'peft').config['base_model_name_or_path'] == 't5_v10'
  for name, array in adapter(source).items():
    np.testing.assert_array_equal(adapter(tmp_path / 'peft')[name], array)


def test_a_lora_goes_from_peft_to_this_package_and_back_with_its_model(script, refused, shared, tmp_path):
  source, model = shared / 'hf' / 'peft_llama_lora' / 'adapter', f'--model={shared}/hf/llama'
  assert 'names the model llama, but there is no such folder. Give --model=FOLDER' in refused(
    'convert', source, tmp_path / 'a.safetensors')
  status, printed, _ = script('convert', source, tmp_path / 'a.safetensors', model)
  assert status == 0 and '  decoder/layers_1/self_attention/value/kernel/up [4, 16]\n' in printed
  status, printed, _ = script('convert', tmp_path / 'a.safetensors', tmp_path / 'peft', model)
  assert status == 0 and printed.startswith(f'Wrote {tmp_path}/peft (PEFT, LORA for CAUSAL_LM)')
  found, wanted = (read_adapter(each).arrays for each in (tmp_path / 'peft', source))
  assert found.keys() == wanted.keys()
  assert 'holds one prompt only' in refused('convert', tmp_path / 'a.safetensors', tmp_path / 'a.npy')


def test_one_prompt_of_a_multitask_adapter_is_taken(script, refused, shared, tmp_path):
  source = shared / 'hf' / 'peft_gpt2_multitask' / 'adapter'
  model = f'--model={shared}/hf/gpt2'
  assert 'but a .npy file holds one prompt only' in refused('convert', source, tmp_path / 'a.npy', model)
  assert '(--task of' in refused('convert', source, tmp_path / 'a.npy', '--task=3', model)
  assert script('convert', source, tmp_path / 'all.safetensors', model)[0] == 0
  assert script('convert', tmp_path / 'all.safetensors', tmp_path / 'peft', model)[0] == 0
  for name, array in adapter(source).items():
    np.testing.assert_array_equal(adapter(tmp_path / 'peft')[name], array)
  assert script('convert', source, tmp_path / 'a.npy', '--task=1', model)[0] == 0
  np.testing.assert_array_equal(np.load(tmp_path / 'a.npy'), read_adapter(source).trained(task=1)[DECODER])


def test_a_decoders_prompt_is_converted_with_its_model_alone(script, refused, base, tmp_path, numpy_prompt):
  """Gemma multiplies embedded tokens by 2 in this width, and a prompt of PEFT is not multiplied."""
  about = {'made_for': {'family': 'gemma2', 'width': 4, 'layers': [2], 'vocabulary': 9}}
  write_state(str(tmp_path / 'run.safetensors'), {DECODER: PROMPT}, about)
  assert script('convert', tmp_path / 'run.safetensors', tmp_path / 'peft')[0] == 0  # the file knows its model
  np.testing.assert_array_equal(read_adapter(tmp_path / 'peft').arrays['prompt_embeddings'], 2 * PROMPT)
  assert 'does not say which model' in refused('convert', tmp_path / 'peft', tmp_path / 'back.npy')
  gemma = base(SMALL_GPT | {'model_type': 'gemma2', 'hidden_size': 4})
  assert script('convert', tmp_path / 'peft', tmp_path / 'back.npy', f'--model={gemma}')[0] == 0
  np.testing.assert_array_equal(np.load(tmp_path / 'back.npy'), PROMPT)
  assert 'does not say which model' in refused('convert', numpy_prompt, tmp_path / 'other', '--stack=decoder')


def test_a_prefix_of_layers_of_several_shapes_has_no_form_of_peft(refused, tmp_path):
  tensors = {KEYS: np.ones((3, 2, 4, 5), np.float32), KEYS.replace('keys', 'values'): np.ones((3, 2, 4, 5), np.float32)}
  about = {'made_for': {'family': 'gemma4', 'width': 4, 'layers': [5], 'vocabulary': 9}}
  write_state(str(tmp_path / 'run.safetensors'), tensors, about)
  assert 'PEFT leaves out some of them' in refused('convert', tmp_path / 'run.safetensors', tmp_path / 'peft')


def test_a_prefix_needs_its_model_for_peft(refused, tmp_path, saved_prefix):
  assert 'does not say whether its model has an encoder too' in refused('convert', saved_prefix, tmp_path / 'peft')
  assert 'holds one prompt only' in refused('convert', saved_prefix, tmp_path / 'a.npy')
  assert os.listdir(tmp_path) == ['prefix.safetensors']


@pytest.mark.parametrize(('changes', 'message'), [
  ({'num_decoder_layers': 5}, f'{KEYS} [3, 2, 4, 5], but the base model needs [5, any, 4, 5]'),
  ({'d_kv': 6}, f'{KEYS} [3, 2, 4, 5], but the base model needs [3, any, 4, 6]')])
def test_a_prefix_of_another_model_is_refused(refused, tmp_path, saved_prefix, base, changes, message):
  assert message in refused('convert', saved_prefix, tmp_path / 'peft', f'--model={base(T5 | changes)}')


def test_a_prompt_of_another_model_is_refused(refused, tmp_path, numpy_prompt, base):
  folder = base(GPT2)
  message = refused('convert', numpy_prompt, tmp_path / 'peft', f'--model={folder}')
  assert f'{DECODER} [3, 4], but the base model needs [any, 20]' in message
  message = refused('convert', numpy_prompt, tmp_path / 'peft', f'--model={folder}', '--stack=encoder')
  assert f'--stack=encoder does not fit {folder}, which is a decoder-only model' in message
  SavedPrompt(PROMPT).save(str(tmp_path / 'a.safetensors'))
  message = refused('convert', tmp_path / 'a.safetensors', tmp_path / 'peft', '--stack=decoder')
  assert f'holds {ENCODER}, but the given base model has no encoder' in message


@pytest.mark.parametrize('prompt', [SavedPrompt(PROMPT, placement=after_bos),
                                    SavedPrompt(PROMPT, visibility=Visibility(input=False))])
def test_a_prompt_that_peft_would_read_otherwise_is_refused(refused, script, tmp_path, prompt):
  prompt.save(str(tmp_path / 'a.safetensors'))
  message = refused('convert', tmp_path / 'a.safetensors', tmp_path / 'peft')
  assert 'PEFT puts every prompt before the input' in message
  assert script('convert', tmp_path / 'a.safetensors', tmp_path / 'b.safetensors')[0] == 0
  assert load_prompt(str(tmp_path / 'b.safetensors')).placement == prompt.placement


def test_what_is_not_there_is_named(refused, tmp_path, numpy_prompt):
  assert f'{tmp_path}/none does not exist' in refused('convert', tmp_path / 'none', tmp_path / 'a.npy')
  write_adapter(str(tmp_path / 'both' / 'default'), {ENCODER: PROMPT}, task_type='SEQ_2_SEQ_LM')
  message = refused('convert', tmp_path / 'both', tmp_path / 'a.npy')
  assert 'both is a folder without best.safetensors, last.safetensors (of a run) and adapter_config.json' in message
  assert message.endswith(f'Give {tmp_path}/both/default.\n')
  message = refused('convert', numpy_prompt, tmp_path / 'peft', f'--model={tmp_path}')
  assert f'{tmp_path}/config.json does not exist; expected the Hugging Face folder of a base model' in message


def test_a_config_that_tells_no_shape_is_refused(refused, tmp_path, numpy_prompt, base):
  message = refused('convert', numpy_prompt, tmp_path / 'peft', f'--model={base({"model_type": "clip"})}')
  assert 'config.json needs one of d_model, hidden_size, n_embd, a whole number above 0, but has None' in message
