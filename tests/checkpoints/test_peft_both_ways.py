"""PEFT reads the adapters that this package writes, and its own are read: equal logits on T5, GPT-2 and Llama."""

import importlib.util
import logging

import jax
import numpy as np
import pytest

from prompt_tuning import trees
from prompt_tuning.checkpoints.peft import read_adapter, write_adapter
from prompt_tuning.checkpoints.peft_modules import modules_of
from prompt_tuning.evaluation.saved import Trained, load_for
from prompt_tuning.models.families.registry import get_family
from prompt_tuning.models.loading import load_model
from prompt_tuning.tuning.low_rank import LowRank
from prompt_tuning.tuning.retrained import Retrained
from prompt_tuning.tuning.scales import Scales

pytestmark = [pytest.mark.slow, pytest.mark.skipif(
  not all(map(importlib.util.find_spec, ('torch', 'transformers', 'peft'))), reason='needs torch, transformers, peft'),
  pytest.mark.filterwarnings('ignore')]
INPUTS, TARGETS = [5, 9, 7, 3], [12, 10, 5]
ATTENTION = '.*attention/(query|value)/kernel'
OURS = {
  'scales': Scales(),
  'scales of every output': Scales('.*/output'),
  'scales of every input': Scales('.*/input'),
  'scales of one attention': Scales('decoder/self_attention/(query|value)/output'),
  'low rank': LowRank(2, ATTENTION),
  'low rank everywhere': LowRank(3, '.*layers.*/kernel'),
  'low rank of some layers': LowRank(2, ('.*layers_1/.*(wo|out)/kernel', 'decoder/layers_0/.*key/kernel')),
  'norms': Retrained('.*norm/.*'),
  'norms of the decoder': Retrained('decoder/.*pre_mlp_layer_norm/.*'),
}


@pytest.fixture(scope='module', params=['t5', 'gpt2', 'llama'])
def base(request, tmp_path_factory):
  """The folder of a toy model with random weights, and a function that returns it as transformers reads it."""
  import torch
  import transformers

  torch.manual_seed(0)
  shape = {
    't5': lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(
      vocab_size=29, d_model=12, d_kv=5, d_ff=14, num_heads=3, num_layers=2, num_decoder_layers=3,
      feed_forward_proj='gated-gelu', tie_word_embeddings=False)),
    'gpt2': lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(
      vocab_size=29, n_embd=12, n_head=3, n_layer=2, n_positions=20)),
    'llama': lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(
      vocab_size=29, hidden_size=12, num_attention_heads=3, num_key_value_heads=1, head_dim=6, num_hidden_layers=2,
      intermediate_size=14))}[request.param]()
  for parameter in shape.parameters():
    parameter.data.add_(0.3 * torch.randn(parameter.shape))
  folder = str(tmp_path_factory.mktemp(request.param))
  shape.save_pretrained(folder)
  return folder, lambda: type(shape).from_pretrained(folder)


@pytest.fixture(scope='module')
def model(base):
  return load_model(base[0])


def logits_of(torch_model):
  import torch

  with torch.no_grad():
    if torch_model.config.is_encoder_decoder:
      row = torch_model(input_ids=torch.tensor([INPUTS]), decoder_input_ids=torch.tensor([[0, *TARGETS[:-1]]])).logits
      return row[0].numpy()
    return torch_model(input_ids=torch.tensor([INPUTS + TARGETS])).logits[0, len(INPUTS) - 1:-1].numpy()


def assert_same(model, trained, adapted):
  found, plain = (model.logits([INPUTS], [TARGETS], each)[0] for each in (trained, None))
  wanted = logits_of(adapted)
  np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max())  # 1.1e-5 on some processors
  assert np.abs(found - plain).max() > 1e-2


@pytest.mark.parametrize('case', OURS)
def test_peft_reads_what_is_written(base, model, tmp_path, case, caplog):
  import peft

  method, random = OURS[case], np.random.default_rng(3)
  tensors = {name: np.asarray(array) + random.normal(0, 0.4, array.shape).astype(np.float32) for name, array in
             trees.flatten(method.initialise(jax.random.key(1), model)).items()}
  if case == 'scales of every input' and model.facts.family == 'gpt2':  # one module has one input
    for name in tensors:
      if name.endswith(('key/input', 'value/input')):
        tensors[name] = tensors['decoder/scales/self_attention/query/input']
  modules = modules_of(get_family(model.facts.family).rules(), trees.flatten(model.params))
  task_type = 'SEQ_2_SEQ_LM' if model.prompted == 'encoder' else 'CAUSAL_LM'
  config = write_adapter(str(tmp_path / 'a'), tensors, task_type=task_type, modules=modules)
  assert 'everywhere' not in case or max(map(len, config['target_modules'])) < 20  # ends, not all whole names
  with caplog.at_level(logging.WARNING):
    adapted = peft.PeftModel.from_pretrained(base[1](), str(tmp_path / 'a'))
  assert 'missing' not in caplog.text
  assert_same(model, Trained(tensors), adapted)
  again = load_for(model, str(tmp_path / 'a')).tensors
  assert again.keys() >= tensors.keys()
  assert_same(model, Trained(again), adapted)


def configs(family):
  """Returns PEFT's configs of unusual settings: name -> config."""
  import peft

  attention = {'t5': ['q', 'v'], 'gpt2': ['c_attn', 'mlp.c_proj'], 'llama': ['q_proj', 'v_proj']}[family]
  layer = {'t5': 'block', 'gpt2': 'h', 'llama': 'layers'}[family]
  task_type = 'SEQ_2_SEQ_LM' if family == 't5' else 'CAUSAL_LM'
  one = {'t5': r'decoder\.block\.1\..*\.(q|wo)', 'gpt2': r'.*h\.1\..*c_attn', 'llama': r'.*layers\.1\..*down_proj'}
  return {
    'rslora': peft.LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=attention, task_type=task_type),
    'patterns': peft.LoraConfig(r=2, lora_alpha=3, target_modules=attention, rank_pattern={attention[0]: 3},
                                alpha_pattern={f'.*1.*{attention[1]}': 5}, task_type=task_type),
    'regex': peft.LoraConfig(r=2, lora_alpha=5, target_modules=one[family]),
    'layers': peft.LoraConfig(r=2, target_modules=attention, layers_to_transform=[1], layers_pattern=layer),
    'all linear': peft.LoraConfig(r=2, target_modules='all-linear', task_type=task_type),
    'ia3': peft.IA3Config(task_type=task_type),
    'ia3 regex': peft.IA3Config(target_modules=one[family], feedforward_modules=r'.*wo|.*down_proj'),
    'norms': peft.LNTuningConfig(task_type=task_type)}


@pytest.mark.parametrize('name', ['rslora', 'patterns', 'regex', 'layers', 'all linear', 'ia3', 'ia3 regex', 'norms'])
def test_what_peft_writes_is_read_and_written_back(base, model, tmp_path, name):
  import peft
  import torch

  adapted = peft.get_peft_model(base[1](), configs(model.facts.family)[name])
  torch.manual_seed(1)
  for parameter in adapted.parameters():
    if parameter.requires_grad:
      parameter.data.add_(0.3 * torch.randn(parameter.shape))
  adapted.save_pretrained(str(tmp_path / 'a'))
  trained = load_for(model, str(tmp_path / 'a'))
  assert_same(model, trained, adapted.eval())
  modules = modules_of(get_family(model.facts.family).rules(), trees.flatten(model.params))
  write_adapter(str(tmp_path / 'b'), trained.tensors, task_type='CAUSAL_LM', modules=modules)
  assert_same(model, trained, peft.PeftModel.from_pretrained(base[1](), str(tmp_path / 'b')))


def test_what_changes_the_computation_is_refused_by_name(base, model, tmp_path):
  import peft

  target = {'t5': 'q', 'gpt2': 'c_attn', 'llama': 'q_proj'}[model.facts.family]
  for name, settings in {
      'use_dora': {'use_dora': True}, 'bias': {'bias': 'lora_only'}, 'lora_bias': {'lora_bias': True},
      'init_lora_weights': {'init_lora_weights': 'pissa'},
      'modules_to_save': {'modules_to_save': ['lm_head']}}.items():
    peft.get_peft_model(base[1](), peft.LoraConfig(r=2, target_modules=[target], **settings)).save_pretrained(
      str(tmp_path / name))
    with pytest.raises(ValueError, match=rf'adapter_config.json sets {name}'):
      load_for(model, str(tmp_path / name))
  assert read_adapter(tmp_path / 'bias').kind == 'LORA'


def test_peft_reads_a_cartridge_and_its_own_is_read(base, model, tmp_path, caplog):
  import peft

  if model.prompted == 'encoder':
    pytest.skip('a document is distilled for decoder-only models')
  random = np.random.default_rng(5)
  layers, heads, width = model.prefix_shapes()['decoder']
  tensors = {f'decoder/prefix/{part}': random.normal(size=(layers, 4, heads, width)).astype(np.float32)
             for part in ('keys', 'values')}
  config = write_adapter(str(tmp_path / 'a'), tensors, task_type='CAUSAL_LM', frozen=2)
  assert (config['peft_type'], config['num_virtual_tokens'], config['num_frozen_tokens']) == ('CARTRIDGE', 4, 2)
  with caplog.at_level(logging.WARNING):
    adapted = peft.PeftModel.from_pretrained(base[1](), str(tmp_path / 'a'))
  assert 'missing' not in caplog.text
  encoder = adapted.prompt_encoder['default']
  assert encoder.num_frozen_tokens == 2 and len(encoder.frozen_embedding) == 2
  assert_same(model, Trained(tensors), adapted.eval())
  adapted.save_pretrained(str(tmp_path / 'b'))
  again = load_for(model, str(tmp_path / 'b'))
  assert again.about['frozen'] == 2
  for name, array in tensors.items():
    np.testing.assert_array_equal(again.tensors[name], array)
