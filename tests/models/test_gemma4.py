"""Gemma 4: layers of two shapes, shared keys and values, and what layers read of tokens and prompts."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_families import FAMILIES, require_read_from_multimodal

from prompt_tuning import trees
from prompt_tuning.checkpoints.huggingface import write_arrays
from prompt_tuning.checkpoints.peft import write_adapter
from prompt_tuning.checkpoints.peft_modules import modules_of
from prompt_tuning.data.vocabularies import PassThroughVocabulary
from prompt_tuning.evaluation.saved import load_for
from prompt_tuning.models import loading
from prompt_tuning.models.attention_shape import AttentionShape
from prompt_tuning.models.compiled import apply_model, attention_weights
from prompt_tuning.models.families.registry import family_of_folder, get_family
from prompt_tuning.models.layer_kinds import Kind, parts_of, stored_shape
from prompt_tuning.models.new_layers import with_new_layers
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning, StackConditioning

FOLDER = FAMILIES / 'gemma4'
STORED = json.loads((FOLDER / 'config.json').read_text())
EQUAL = json.loads((FAMILIES / 'gemma4_equal/config.json').read_text())
S, F = 'sliding_attention', 'full_attention'


def read(config):
  names = [] if config['tie_word_embeddings'] else ['lm_head.weight']
  return family_of_folder(config, 'here').read_config(config, names, 'here')


@pytest.fixture(scope='module')
def model():
  return loading.load_model(str(FOLDER), vocabulary=PassThroughVocabulary(40, eos_id=1))


@pytest.mark.parametrize(('layers', 'every', 'shared', 'groups'), [  # E2B, E4B, 31B, and two without a common period
  (35, 5, 20, ([5, 3], [5, 4])), (42, 6, 18, ([6, 4], [6, 3])), (60, 6, 0, ([6, 10],)), (9, 3, 4, ([5, 1], [4, 1])),
  (7, 2, 0, ([7, 1],))])
def test_a_stack_is_cut_into_the_shortest_groups_of_both_parts(layers, every, shared, groups):
  kinds = [F if (i + 1) % every == 0 else S for i in range(layers)]
  config = read(STORED | {'num_hidden_layers': layers, 'layer_types': kinds, 'num_kv_shared_layers': shared,
                          'per_layer_config': None, 'global_head_dim': 8})
  parts = parts_of(config)
  assert [[len(part.group), len(part.kinds) // len(part.group)] for part in parts] == list(groups)
  assert config.stored_layers == layers - shared == len(parts[0].kinds)
  assert [kind for part in parts for kind in part.kinds] == [
    Kind(wide=kind == F or i == layers - 1, shared=i >= layers - shared) for i, kind in enumerate(kinds)]


def test_both_forms_of_the_config_are_read_and_the_shape_of_stored_keys_is_the_larger_one():
  for stored in (STORED, EQUAL):
    heads = stored['per_layer_config']['1']
    older = {name: value for name, value in stored.items() if name != 'per_layer_config'} | {
      'global_head_dim': heads['head_dim'], 'num_global_key_value_heads': heads.get('num_key_value_heads')}
    assert read(older) == read(stored)
  assert read(EQUAL).wide == AttentionShape(6, 1, keys_are_values=True)
  assert stored_shape(read(EQUAL)) == AttentionShape(6, 2)
  real = read({**STORED, 'per_layer_config': None, 'head_dim': 256})
  assert real.wide == AttentionShape(512, 2)
  assert real.rotary[1].frequencies(512).tolist() == pytest.approx(
    [1e6**(-2 * i / 512) for i in range(64)] + [0.0] * 192, rel=1e-5)
  for kinds in ({'layer_types': None}, {'layer_types': [S] * 6}):  # the last layer sees all positions
    found = read({**STORED, 'per_layer_config': None, 'num_kv_shared_layers': None, **kinds})
    assert found.wide_layers == (False,) * 5 + (True,) and found.windows == (4,) * 5 + (0,)


@pytest.mark.parametrize(('changes', 'message'), [
  ({'enable_moe_block': True}, 'sets enable_moe_block to True; the supported value is False'),
  ({'num_experts': 4}, 'sets num_experts to 4; the supported value is None'),
  ({'use_bidirectional_attention': 'all'}, "attention to 'all'; the supported value is 'vision'"),
  ({'num_kv_shared_layers': 5}, 'to 5 of 6 layers; expected fewer, with a layer of each type'),
  ({'num_kv_shared_layers': 6}, 'sets num_kv_shared_layers to 6 of 6 layers'),
  ({'per_layer_config': {'1': {'head_dim': 8}}}, 'expected the same head_dim and num_key_value_heads for every layer'),
  ({'per_layer_config': {i: {'head_dim': 8, 'sliding_window': 3} for i in '135'}}, 'and nothing for others'),
  ({'per_layer_config': {i: {'num_key_value_heads': 3} for i in '135'}}, 'to 4, but num_key_value_heads to 3'),
  ({'vocab_size_per_layer_input': 39}, 'sets vocab_size_per_layer_input to 39, but vocab_size to 40'),
  ({'layer_types': ['linear_attention', F] * 3}, "has a layer of the type 'linear_attention'"),
  ({'rope_parameters': {S: {'rope_theta': 9.0}}}, "lacks 'full_attention'"),
  ({'rope_parameters': {S: {'rope_theta': 9.0}, F: {'rope_theta': 9.0, 'partial_rotary_factor': 0.5}}},
   'sets partial_rotary_factor to 0.5 for full_attention'),
])
def test_what_is_not_supported_is_refused_by_name(changes, message):
  with pytest.raises(ValueError, match=message):
    read(STORED | changes)


@pytest.mark.slow
def test_a_shape_that_no_model_has_is_refused_by_name():
  config = read(STORED)
  for changes, message in (({'wide': AttentionShape(8, 3)}, 'which kv_heads does not divide'),
                           ({'wide_layers': (True,)}, 'expected True or False for each'),
                           ({'shared_layers': 5}, 'shared_layers=5 cannot be used: it leaves 1 layers'),
                           ({'shared_layers': 6}, 'shared_layers=6 cannot be used')):
    with pytest.raises(ValueError, match=message):
      dataclasses.replace(config, **changes)


@pytest.mark.slow
@pytest.mark.parametrize('rematerialise', ['none', 'full'])
def test_a_prompt_and_its_gradient_are_those_of_vectors_without_a_token(model, rematerialise):
  transformers, torch = pytest.importorskip('transformers'), pytest.importorskip('torch')
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    FOLDER, dtype=torch.float32, attn_implementation='eager').eval()
  vectors = np.random.default_rng(1).normal(size=(3, model.width)).astype(np.float32)
  text, ids = [5, 6, 7, 8, 9, 10, 11], torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
  prompt = torch.tensor(vectors, requires_grad=True)
  embedded = torch.cat([prompt[None] * model.width**0.5, theirs.get_input_embeddings()(ids)], 1)
  of_tokens = theirs.model.get_per_layer_inputs(ids)
  of_tokens = torch.cat([torch.zeros(1, 3, *of_tokens.shape[2:]), of_tokens], 1)
  wanted = theirs(inputs_embeds=embedded, per_layer_inputs=of_tokens).logits[0, 5:-1]
  torch.nn.functional.cross_entropy(wanted, ids[0, 3:], reduction='sum').backward()
  module = loading.module_of(dataclasses.replace(model.module.config, rematerialise=rematerialise))

  def loss(prompt, batch):
    logits = module.apply({'params': model.params}, batch, Conditioning(decoder=StackConditioning(prompt=prompt[None])))
    each = optax.softmax_cross_entropy_with_integer_labels(logits, batch['decoder']['targets'])
    return jnp.sum(each * batch['decoder']['loss_weights']), logits

  among = lambda tokens, length: np.r_[:length, [-1] * tokens].astype(np.int32)
  for placement in (layouts.before, among):  # shared keys and values, or the vectors in the row
    layout = module.layout(layouts.Layout(3, placement))
    batch = layouts.assemble([[layout.example(text[:3], text[3:])]], {'decoder': 12})
    (_, logits), gradient = jax.value_and_grad(loss, has_aux=True)(vectors, batch)
    of_targets = logits[0][batch['decoder']['loss_weights'][0] > 0]
    for found, expected in ((of_targets, wanted.detach().numpy()), (gradient, prompt.grad.numpy())):
      np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())


@pytest.mark.slow
def test_the_language_model_of_a_multimodal_folder_is_read_without_projections_that_nothing_uses(model, tmp_path):
  outer = {'model_type': 'gemma4', 'text_config': STORED, 'vision_config': {'depth': 2}, 'audio_config': {'depth': 2}}
  layer = 'model.language_model.layers.4.self_attn.'
  more = {f'{layer}{name}.weight': np.ones((12, 10)) for name in ('k_proj', 'v_proj', 'k_norm')}
  more |= {f'model.{name}.weight': np.ones((2, 3)) for name in (
    'vision_tower.patch', 'audio_tower.layers.4.self_attn.q_proj', 'embed_vision.proj', 'embed_audio.proj')}
  require_read_from_multimodal(FOLDER, model, tmp_path, outer, more)


@pytest.mark.slow
def test_the_program_is_as_long_for_24_layers_as_for_6(model):
  def size(times):
    config = model.module.config
    module = loading.module_of(dataclasses.replace(
      config, layers=6 * times, rotary=config.rotary * times, windows=config.windows * times,
      wide_layers=config.wide_layers * times, shared_layers=2 * times))
    batch = layouts.assemble([[module.layout(layouts.Layout()).example([5, 6], [7])]], {'decoder': 4})
    params = trees.unflatten(loading.parameter_shapes(module))
    return len(jax.jit(lambda params: module.apply({'params': params}, batch)).lower(params).as_text())

  assert size(4) < 1.1 * size(1)


@pytest.mark.slow
def test_attention_weights_are_those_of_all_layers_in_their_order(model):
  batch = layouts.assemble([[model.layout().example([5, 6, 7, 8, 9], [3])]], {'decoder': 5})
  ((name, found),) = attention_weights(model.module, model.params, batch, Conditioning()).items()
  assert name == 'decoder/layers/self_attention' and found.shape == (6, 1, 4, 5, 5)
  hidden = np.asarray(found[:, 0, :, 4, 0] == 0).all(1)  # four positions back, beyond the window of 4
  assert hidden.tolist() == [True, False] * 3


@pytest.mark.slow
def test_a_prefix_of_peft_is_refused(model, tmp_path):
  config = {'peft_type': 'PREFIX_TUNING', 'task_type': 'CAUSAL_LM', 'num_virtual_tokens': 3, 'num_layers': 4}
  write_arrays(str(tmp_path / 'adapter_model.safetensors'), {'prompt_embeddings': np.zeros((3, 128), np.float32)})
  (tmp_path / 'adapter_config.json').write_text(json.dumps(config))
  with pytest.raises(ValueError, match=r'leaves out layers of .*gemma4 whose heads have another shape'):
    load_for(model, str(tmp_path))


@pytest.mark.slow
def test_new_heads_read_the_layers_without_their_embeddings_of_tokens(model):
  for kind in ({'tokens': 7}, {'features': 5}):
    changed = with_new_layers(model, classes=3, **kind)
    inputs = [1, 2, 3] if 'tokens' in kind else np.ones((3, 5))
    batch = layouts.assemble([[changed.layout().example(inputs, [1])]], {'decoder': 3})
    without = trees.map_named(
      lambda name, array: 0 * array if name.startswith('layer_embeddings/token') else array, changed.params)
    found, wanted = (np.asarray(apply_model(changed.module, params, batch, Conditioning()))
                     for params in (changed.params, without))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', ['gemma4', 'gemma4_equal'])
@pytest.mark.parametrize('kind', ['lora', 'ia3'])
def test_adapters_of_layers_of_several_widths_are_pefts_both_ways(name, kind, tmp_path):
  peft, torch = pytest.importorskip('peft'), pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  base = lambda: transformers.AutoModelForCausalLM.from_pretrained(
    FAMILIES / name, dtype=torch.float32, attn_implementation='eager').eval()
  modules = ['q_proj', 'k_proj', 'v_proj', 'down_proj']
  config = {'lora': lambda: peft.LoraConfig(r=2, lora_alpha=3, target_modules=modules),
            'ia3': lambda: peft.IA3Config(target_modules=modules, feedforward_modules=['down_proj'])}[kind]()
  adapted = peft.get_peft_model(base(), config).eval()
  torch.manual_seed(0)
  for each, parameter in adapted.named_parameters():
    if 'lora_' in each or 'ia3_' in each:
      parameter.data.copy_(1 + 0.3 * torch.randn(parameter.shape) if kind == 'ia3' else torch.randn(parameter.shape))
  adapted.save_pretrained(tmp_path / 'theirs')
  model = loading.load_model(str(FAMILIES / name), vocabulary=PassThroughVocabulary(40, eos_id=1))
  trained = load_for(model, str(tmp_path / 'theirs'))
  written = modules_of(get_family('gemma4').rules(), trees.flatten(model.params), model.module.config)
  write_adapter(str(tmp_path / 'ours'), trained.tensors, task_type='CAUSAL_LM', modules=written)
  again = peft.PeftModel.from_pretrained(base(), tmp_path / 'ours').eval()
  found, plain = (model.logits([[5, 9, 7, 3]], [[21, 4, 8]], each)[0] for each in (trained, None))
  for theirs in (adapted, again):
    with torch.no_grad():
      wanted = theirs(input_ids=torch.tensor([[5, 9, 7, 3, 21, 4, 8]])).logits[0, 3:-1].numpy()
    np.testing.assert_allclose(found, wanted, atol=2e-4 * np.abs(wanted).max())
  assert np.abs(found - plain).max() > 1e-2
