"""Flaxformer's scanned layers with a prompt, against T5X's golden data for separate layers."""

import functools
import re

import numpy as np
import pytest

CONFIGS = 'prompt_tuning/t5x_plugin/configs'
FILES = {'t5_1_1_prompt.gin': ('d_small', 'encoder', 'prompt_'),
         'decoder_only_prompt.gin': ('e_decoder_only', 'decoder', 'causal_prompt_')}


def scanned(arrays):
  """Returns the parameters of separate layers as those of scanned layers, with separate biases for each layer."""
  layers, found = {}, {}
  for name, array in arrays.items():
    match = re.fullmatch(r'(\w+)/layers_(\d+)/(.+)', name)
    stack, number, rest = match.groups() if match else (name.split('/')[0], 0, '/'.join(name.split('/')[1:]))
    if match or rest == 'relpos_bias/rel_embedding':
      layers.setdefault(f'{stack}/{stack}/{rest}', {})[int(number)] = array
    else:
      found[name] = array
  count = max(len(each) for each in layers.values())
  return found | {name: np.stack([each.get(i, each[0]) for i in range(count)], 1) for name, each in layers.items()}


@pytest.fixture(params=FILES)
def case(request, shared, shape_file):
  """A model with scanned layers, its parameters, the batch, and the golden arrays."""
  import golden_t5x

  folder, stack, prefix = FILES[request.param]
  golden, arrays = np.load(shared / f't5x/{folder}/golden.npz'), dict(np.load(shared / f't5x/{folder}/params.npz'))
  if stack == 'encoder':
    arrays['encoder/prompt/prompt/prompt'] = np.load(shared / f't5x/{folder}/prompt_5x32.npy')
  model = golden_t5x.make(request.param, shape_file('small'),
                          golden_t5x.ROOT / f'{CONFIGS}/architectures/scan_layers.gin')
  wanted = {name.removeprefix(prefix): golden[name] for name in golden.files if name.startswith(prefix)}
  return model, golden_t5x.tree_of(scanned(arrays)), golden_t5x.batch_of(golden), wanted


def test_names_logits_loss_and_greedy_answers_are_those_of_layers_one_by_one(case):
  import golden_t5x
  from t5x import decoding

  model, params, batch, wanted = case
  assert golden_t5x.names_of(golden_t5x.variables(model, batch)['params']) == golden_t5x.names_of(params)
  np.testing.assert_allclose(model._compute_logits(params, batch), wanted['logits'], atol=5e-5)
  np.testing.assert_allclose(model.loss_fn(params, batch, None)[0], wanted['loss'], rtol=1e-5)
  model._decode_fn = functools.partial(decoding.temperature_sample, temperature=0.0)
  tokens, _ = model.predict_batch_with_aux(params, batch, return_all_decodes=True)
  (answers,) = (array for name, array in wanted.items() if name in ('greedy_tokens', 'greedy_temp0_tokens'))
  np.testing.assert_array_equal(tokens, answers)


def test_a_prompt_trains_as_with_layers_one_by_one(program, shared, tmp_path):
  from test_t5x_programs import START, prompt_of, train_flags

  from prompt_tuning.checkpoints.t5x import write_t5x

  write_t5x(str(tmp_path / 'frozen'), START, scanned(dict(np.load(shared / 't5x/d_small/params.npz'))))
  scan = [f'--gin_file={CONFIGS}/architectures/scan_layers.gin',
          f"--gin.INITIAL_CHECKPOINT_PATH='{tmp_path}/frozen/checkpoint_{START}'"]
  for name, more in (('scanned', scan), ('plain', [])):
    program('t5x.train', *train_flags(shared, tmp_path / name, 2, 'ckpt_native'), *more,
            '--gin.train/utils.DatasetConfig.shuffle=False')
  found, wanted = (prompt_of(tmp_path / name, 2) for name in ('scanned', 'plain'))
  np.testing.assert_array_equal(prompt_of(tmp_path / 'scanned', 0), prompt_of(tmp_path / 'plain', 0))
  assert np.abs(wanted - prompt_of(tmp_path / 'plain', 0)).max() > 0.1
  np.testing.assert_allclose(found, wanted, atol=1e-3)
