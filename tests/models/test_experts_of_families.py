"""Mixtral, Qwen 3 MoE and gpt-oss: gradients of a prompt against transformers, adapters against PEFT, and depth."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_models import FAMILIES

from prompt_tuning import prompts, trees
from prompt_tuning.checkpoints.peft import write_adapter
from prompt_tuning.checkpoints.peft_modules import modules_of
from prompt_tuning.evaluation.saved import Trained, load_for
from prompt_tuning.models import loading
from prompt_tuning.models.families.registry import get_family
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning, StackConditioning
from prompt_tuning.training.step import TrainState, make_step
from prompt_tuning.tuning.low_rank import LowRank
from prompt_tuning.tuning.scales import Scales

each = pytest.mark.parametrize('name', ['mixtral', 'qwen3_moe', 'gpt_oss'])
INPUTS, TARGETS = [[5, 9, 7, 3, 21], [8, 30]], [[12, 10, 5], [33, 6, 9, 2]]


def theirs_of(name):
  transformers, torch = pytest.importorskip('transformers'), pytest.importorskip('torch')
  return transformers.AutoModelForCausalLM.from_pretrained(
    FAMILIES / name, dtype=torch.float32, attn_implementation='eager', experts_implementation='eager').eval()


@pytest.mark.slow
@each
@pytest.mark.parametrize('rematerialise', ['none', 'full'])
def test_the_gradient_of_a_prompt_is_that_of_transformers(name, rematerialise):
  model, theirs = loading.load_model(str(FAMILIES / name), rematerialise=rematerialise), theirs_of(name)
  import torch

  vectors = np.random.default_rng(0).normal(size=(4, model.width)).astype(np.float32)
  layout = model.layout(layouts.Layout(4))
  batch = layouts.assemble([[layout.example(*row)] for row in zip(INPUTS, TARGETS, strict=True)], {'decoder': 9})

  def loss(prompt):
    logits = model.module.apply({'params': model.params}, batch, Conditioning(decoder=StackConditioning(prompt=prompt)))
    each = optax.softmax_cross_entropy_with_integer_labels(logits, batch['decoder']['targets'])
    return jnp.sum(each * batch['decoder']['loss_weights'])

  found, gradient = jax.jit(jax.value_and_grad(loss))(vectors[None])
  prompt, wanted = torch.tensor(vectors, requires_grad=True), 0
  for inputs, targets in zip(INPUTS, TARGETS, strict=True):
    embedded = torch.cat([prompt, theirs.get_input_embeddings()(torch.tensor(inputs + targets))])
    logits = theirs(inputs_embeds=embedded[None]).logits[0, 3 + len(inputs):-1]
    wanted = wanted + torch.nn.functional.cross_entropy(logits, torch.tensor(targets), reduction='sum')
  wanted.backward()
  np.testing.assert_allclose(found, wanted.item(), rtol=1e-5)
  theirs_gradient = prompt.grad.numpy()
  np.testing.assert_allclose(gradient[0], theirs_gradient, atol=1e-4 * np.abs(theirs_gradient).max())


@each
def test_a_training_step_of_24_layers_is_the_program_of_4(name):
  config = loading.load_model(str(FAMILIES / name)).module.config
  optimizer, method = optax.adam(0.1), prompts.PromptTuning(prompts.Prompt(3))

  def lines(layers):
    module = loading.random_model(dataclasses.replace(
      config, layers=layers, rotary=config.rotary[:1] * layers, windows=(config.windows or (0,))[:1] * layers)).module
    layout = module.layout(method.layout())
    batch = layouts.assemble([[layout.example(*row)] for row in zip(INPUTS, TARGETS, strict=True)], {'decoder': 9})
    params = jax.eval_shape(module.init, jax.random.key(0), batch)['params']
    trained = method.initialise(jax.random.key(1), LanguageModel(module, params))
    state = TrainState(jnp.int32(0), trained, optimizer.init(trained))
    return len(jax.jit(make_step(module, method, optimizer)).lower(params, state, batch).as_text().splitlines())

  assert lines(24) == lines(4)


def assert_same(model, trained, adapted):
  import torch

  found, plain = (model.logits(INPUTS[:1], TARGETS[:1], each)[0] for each in (trained, None))
  with torch.no_grad():
    wanted = adapted(input_ids=torch.tensor([INPUTS[0] + TARGETS[0]])).logits[0, len(INPUTS[0]) - 1:-1].numpy()
  np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())
  assert np.abs(found - plain).max() > 1e-2


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
@each
@pytest.mark.parametrize('kind', ['lora', 'ia3'])
def test_an_adapter_of_attention_gives_pefts_logits(name, kind, tmp_path):
  peft, torch = pytest.importorskip('peft'), pytest.importorskip('torch')
  config = {'lora': lambda: peft.LoraConfig(r=2, lora_alpha=3, target_modules=['q_proj', 'v_proj', 'o_proj']),
            'ia3': lambda: peft.IA3Config(target_modules=['k_proj', 'v_proj'], feedforward_modules=[])}[kind]()
  adapted = peft.get_peft_model(theirs_of(name), config).eval()
  torch.manual_seed(0)
  for each, parameter in adapted.named_parameters():
    if 'lora_' in each or 'ia3_' in each:
      parameter.data.copy_(0.5 * torch.randn(parameter.shape))
  adapted.save_pretrained(tmp_path / 'adapter')
  model = loading.load_model(str(FAMILIES / name))
  assert_same(model, load_for(model, str(tmp_path / 'adapter')), adapted)


def written(model, method, folder):
  random = np.random.default_rng(3)
  tensors = {name: np.asarray(array) + random.normal(0, 0.4, array.shape).astype(np.float32) for name, array in
             trees.flatten(method.initialise(jax.random.key(1), model)).items()}
  modules = modules_of(get_family(model.facts.family).rules(), trees.flatten(model.params), model.module.config)
  write_adapter(str(folder), tensors, task_type='CAUSAL_LM', modules=modules)
  return Trained(tensors)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
@each
@pytest.mark.parametrize('method', [LowRank(2), Scales('decoder/self_attention/(query|value)/output')])
def test_peft_reads_what_is_written_of_attention(name, method, tmp_path):
  peft = pytest.importorskip('peft')
  model = loading.load_model(str(FAMILIES / name))
  trained = written(model, method, tmp_path / 'a')
  assert_same(model, trained, peft.PeftModel.from_pretrained(theirs_of(name), str(tmp_path / 'a')))


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(('name', 'targets', 'found'), [
  *((name, {'target_parameters': [target]}, target) for name, router in (
    ('mixtral', 'gate.weight'), ('qwen3_moe', 'gate.weight'), ('gpt_oss', 'router.weight'))
    for target in ('mlp.experts.gate_up_proj', router)),
  ('mixtral', {'target_modules': 'all-linear', 'task_type': 'CAUSAL_LM'}, 'gate_up_proj')])  # PEFT adds the experts
def test_an_adapter_of_experts_or_router_is_refused_by_name(name, targets, found, tmp_path):
  peft = pytest.importorskip('peft')
  adapted = peft.get_peft_model(theirs_of(name), peft.LoraConfig(**{'target_modules': ['q_proj'], **targets}))
  adapted.save_pretrained(tmp_path / 'adapter')
  with pytest.raises(ValueError, match=rf'sets target_parameters to .*{found}.*, which is not supported'):
    load_for(loading.load_model(str(FAMILIES / name)), str(tmp_path / 'adapter'))


@each
@pytest.mark.parametrize(('method', 'message'), [
  (Scales('.*wo/input'), r'decoder/layers_0/mlp/wo is not a module of the base model, so PEFT cannot change it'),
  (LowRank(2, '.*router/kernel'), r'decoder/layers_0/mlp/router is not a module of the base model')])
def test_what_peft_has_no_form_for_is_refused_by_name(name, method, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    written(loading.load_model(str(FAMILIES / name)), method, tmp_path / 'a')
