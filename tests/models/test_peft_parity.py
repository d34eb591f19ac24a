"""Adapters that PEFT trained, used with our models: PEFT's logits and generations."""

import jax
import numpy as np
import pytest

from prompt_tuning.checkpoints.peft import read_adapter
from prompt_tuning.decoding.samplers import BeamSearch, Greedy
from prompt_tuning.evaluation import saved
from prompt_tuning.models import loading
from prompt_tuning.models.compiled import apply_model
from prompt_tuning.models.generation import generate
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning

ADAPTERS = [f'{model}_{kind}' for model, kinds in {
  'gpt2': ('prompt_tuning', 'ptuning_mlp', 'ptuning_lstm', 'prefix_tuning', 'prefix_tuning_proj', 'cartridge', 'cpt',
           'ia3', 'lora', 'ln_tuning'),
  'llama': ('prompt_tuning', 'prefix_tuning', 'prefix_tuning_proj', 'ia3', 'lora', 'ln_tuning'),
  't5_v10': ('prompt_tuning', 'prefix_tuning', 'prefix_tuning_proj', 'ia3'),
  't5_v11': ('prompt_tuning', 'prompt_tuning_enc', 'ptuning_mlp', 'prefix_tuning', 'prefix_tuning_proj', 'ia3', 'lora',
             'ln_tuning'),
}.items() for kind in kinds]


ANSWERED = ('gpt2_cartridge', 'llama_prompt_tuning', 't5_v10_prefix_tuning', 't5_v11_prompt_tuning_enc')


@pytest.fixture(scope='module', params=ADAPTERS)
def adapted(request, shared):
  """A frozen model, the conditioning of an adapter, and PEFT's outputs."""
  name = request.param
  base = '_'.join(name.split('_')[:2]) if name.startswith('t5') else name.split('_')[0]
  model = loading.load_model(str(shared / 'hf' / base))
  trained = saved.load_for(model, str(shared / 'hf' / f'peft_{name}' / 'adapter'))
  return model, trained, dict(np.load(shared / 'hf' / f'peft_{name}' / 'golden.npz'))


def logits(model, trained, golden):
  """Returns our logits, and where PEFT's logits of the same tokens are."""
  layout, given = model.layout(trained.layout()), trained.conditioning(model)
  inputs = [row[mask > 0] for row, mask in zip(golden['input_ids'], golden['attention_mask'], strict=True)]
  if model.prompted == 'decoder':
    batch = layouts.assemble([[layout.example(row, [5])] for row in inputs], {'decoder': golden['input_ids'].shape[1]})
    real = golden['attention_mask'] > 0
  else:
    real = golden['labels'] >= 0
    targets = [row[row >= 0] for row in golden['labels']]
    lengths = layout.row_lengths({'inputs': golden['input_ids'].shape[1], 'targets': golden['labels'].shape[1]})
    batch = layouts.assemble([[layout.example(*each)] for each in zip(inputs, targets, strict=True)], lengths)
  return np.asarray(apply_model(model.module, model.params, batch, given)), real


def test_logits_are_pefts(adapted):
  model, trained, golden = adapted
  for handed, field in ((trained, 'logits'), (saved.Trained({}), 'base_logits')):
    found, real = logits(model, handed, golden)
    wanted = golden[field][:, golden[field].shape[1] - real.shape[1]:]  # PEFT's include the prompt's positions
    np.testing.assert_allclose(found[real], wanted[real], atol=2e-4)


@pytest.mark.parametrize('adapted', [
  pytest.param(name, marks=[pytest.mark.slow] * (name not in ANSWERED)) for name in ADAPTERS], indirect=True)
def test_answers_are_pefts(adapted):
  model, trained, golden = adapted
  layout, given = model.layout(trained.layout()), trained.conditioning(model)
  rows = [row[mask > 0] for row, mask in zip(golden['input_ids'], golden['attention_mask'], strict=True)]

  def answers(sampler, rows, length):
    lengths = layout.question_lengths({'inputs': max(map(len, rows)), 'targets': 1})
    batch = layouts.assemble([[layout.question(row)] for row in rows], lengths, side=layout.question_side)
    tokens, _ = generate(model.module, model.params, batch, given, jax.random.key(0), sampler=sampler,
                         max_length=length, end_ids=(1,))
    return np.asarray(tokens)[:, ::-1]

  def require_equal(found, wanted):
    until = wanted.index(1) + 1 if 1 in wanted else len(wanted)
    assert found[:until] == wanted[:until]

  if model.prompted == 'encoder':
    for name, sampler in (('greedy', Greedy()), ('beam4', BeamSearch(4, 1.0, 'transformers'))):
      wanted = golden.get(f'{name}_ids')
      if wanted is not None:
        found = answers(sampler, rows, wanted.shape[1] - 1)
        for b in range(len(rows)):
          require_equal(found[b, 0].tolist(), wanted[b, 1:].tolist())
    return
  together = answers(Greedy(), rows, 12)
  for b, row in enumerate(rows):
    if f'greedy_ids_row{b}' in golden:
      require_equal(together[b, 0].tolist(), golden[f'greedy_ids_row{b}'][0, len(row):].tolist())
  if 'beam5_ids_row0' in golden:
    beams = answers(BeamSearch(5, 1.0, 'transformers'), rows[:1], 12)
    for k in range(5):
      require_equal(beams[0, k].tolist(), golden['beam5_ids_row0'][k, len(rows[0]):].tolist())


def test_an_adapter_of_another_model_is_a_clear_error(shared):
  llama = loading.load_model(str(shared / 'hf/llama'))
  prefix = saved.Trained(read_adapter(shared / 'hf/peft_gpt2_prefix_tuning/adapter').trained())
  with pytest.raises(ValueError, match=r'keys has shape \(2, 5, 4, 8\), but the model needs \[2, P, 2, 8\]'):
    prefix.conditioning(llama)
  with pytest.raises(ValueError, match=r'The prompt has shape \(5, 7\), but the model expects \[P, 32\]'):
    saved.Trained({'decoder/prompt/prompt/prompt': np.zeros((5, 7))}).conditioning(llama)
  assert llama.prefix_shapes() == {'decoder': (2, 2, 8)} and Conditioning().decoder.given() == []
