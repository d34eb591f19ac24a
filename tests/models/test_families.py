"""Many members of the families against transformers, and adapters that PEFT wrote for them against PEFT.

`make_family_goldens.py` made the folders.
"""

import os
import pathlib

import jax
import numpy as np
import pytest

from prompt_tuning import inference, layouts
from prompt_tuning.checkpoints.peft import read_adapter
from prompt_tuning.models import loading
from prompt_tuning.models.generation import BeamSearch, Greedy, generate
from prompt_tuning.models.language_model import apply_model

FAMILIES = pathlib.Path(os.environ.get('FAMILY_GOLDENS', pathlib.Path(__file__).parent / 'families'))
MEMBERS = sorted(path.name for path in FAMILIES.iterdir())
ADAPTERS = sorted(str(path.parent.relative_to(FAMILIES)) for path in FAMILIES.glob('*/*/adapter_config.json'))


def golden_of(folder):
  golden = dict(np.load(folder / 'golden.npz'))
  base = golden if 'input_0' in golden else np.load(folder.parent / 'golden.npz')
  column = lambda name: [base[f'{name}_{b}'].astype(np.int32) for b in range(3)]
  return golden, column('input'), column('target') if 'target_0' in base else None


def require_equal(model, golden, inputs, targets, *, trained=inference.Trained({})):
  """Compares logits of padded rows with transformers' of each row alone, then greedy answers and beams."""
  layout, given = model.layout(trained.layout()), trained.conditioning(model)
  rows = [layout.example(row, [5] if targets is None else targets[b]) for b, row in enumerate(inputs)]
  for side in ('right', 'left'):
    batch = layouts.assemble([[row] for row in rows], layout.rows({'inputs': 14, 'targets': 7}), side=side)
    logits = np.asarray(apply_model(model.module, model.params, batch, given))
    for b, found in enumerate(logits):
      wanted = golden[f'logits_{b}']
      found = found[batch['decoder']['segments'][b] > 0][-len(wanted):]
      np.testing.assert_allclose(found, wanted, atol=2e-4 * np.abs(wanted).max(), err_msg=f'row {b}, padded {side}')
  for kind, sampler in (('greedy', Greedy()), ('beams', BeamSearch(4, 1.0, 'transformers'))):
    if kind not in golden:
      continue
    batch = layouts.assemble([[layout.question(row)] for row in inputs],
                             layout.question_rows({'inputs': 14, 'targets': 1}), side=layout.question_side)
    tokens, _ = generate(model.module, model.params, batch, given, jax.random.key(0), sampler=sampler, max_length=6)
    for found, wanted in zip(np.asarray(tokens)[:, ::-1].reshape(-1, 6), golden[kind].reshape(-1, 6), strict=True):
      until = wanted.tolist().index(1) + 1 if 1 in wanted else 6  # what follows the end is filler
      assert found[:until].tolist() == wanted[:until].tolist(), kind


@pytest.mark.parametrize('name', MEMBERS)
def test_outputs_are_those_of_transformers(name):
  require_equal(loading.load_model(str(FAMILIES / name)), *golden_of(FAMILIES / name))


@pytest.mark.parametrize('name', ADAPTERS)
def test_outputs_with_an_adapter_are_those_of_peft(name):
  folder = FAMILIES / name
  model = loading.load_model(str(folder.parent))
  layers, kv_heads, head_dim = model.prefix_shapes()['decoder']
  tensors = read_adapter(folder).trained(
    encoder_decoder=model.prompted == 'encoder', width=model.width, layers=layers, kv_heads=kv_heads,
    head_dim=head_dim, embedding_scale=getattr(model.module.config, 'embedding_scale', 1.0))
  require_equal(model, *golden_of(folder), trained=inference.Trained(tensors))
