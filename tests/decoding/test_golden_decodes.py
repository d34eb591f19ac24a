"""Decodes of tiny T5 models with the reference formulas equal those of T5X and transformers."""

import functools

import golden_models
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_t5

from prompt_tuning import decoding

MAX_LENGTH = 12  # of transformers' generations


@functools.partial(jax.jit, static_argnames=('shape', 'decode', 'num_decodes', 'settings', 'max_length'))
def run(params, memory, visible, eos_id, alpha, *, shape, decode, num_decodes, settings, max_length):
  """Decodes with the tokens so far as the cache, [1, B, N, S]: every step reruns the whole decoder."""
  rows = len(memory)
  memory, visible = (jnp.repeat(x, num_decodes, axis=0) for x in (memory, visible))

  def step(ids, index, tokens):
    tokens = tokens.at[0, :, :, index].set(ids)
    logits = reference_t5.decode_logits(params, shape, memory, visible, tokens.reshape(-1, max_length), xp=jnp)
    return logits[:, index].reshape(rows, num_decodes, -1), tokens

  settings = dict(settings) | ({'alpha': alpha} if decode is decoding.beam_search else {})
  return decode(
    step, jnp.zeros((1, rows, num_decodes, max_length), jnp.int32), batch_size=rows, max_length=max_length,
    end_ids=(eos_id,), **settings)


def beams(number, **settings):
  return {
    'decode': decoding.beam_search, 'num_decodes': number, 'settings': (('num_decodes', number), *settings.items())}


GREEDY = {'decode': decoding.greedy, 'num_decodes': 1, 'settings': ()}


def topk_one(step, cache, **settings):
  return decoding.temperature_sample(step, cache, jax.random.key(0), topk=1, **settings)


@pytest.mark.parametrize('source', ['own', 'small'])
@pytest.mark.parametrize('kind', ['plain', 'prompt'])
@pytest.mark.parametrize(('name', 'how', 'alpha'), [
  ('beam4_a06', beams(4), 0.6),
  ('beam4_a00', beams(4), 0.0),
  ('beam1_a06', beams(1), 0.6),
  ('greedy_temp0', GREEDY, 0.0),
  ('greedy_topk1', GREEDY | {'decode': topk_one}, 0.0),
])
def test_decodes_equal_t5x(source, kind, name, how, alpha):
  files, config = golden_models.t5x_files(source), golden_models.CONFIGS[source]
  golden, params = np.load(files.golden), dict(np.load(files.params))
  shape = reference_t5.Shape(config.heads, config.relative_max_distance, zero_padding=True)
  prompt = golden['prompt'] if kind == 'prompt' else None
  memory, visible = reference_t5.encode(params, shape, golden['encoder_input_tokens'], prompt)
  # with masked memory, both kinds use the same program
  room = golden['encoder_input_tokens'].shape[1] + len(golden['prompt']) - memory.shape[1]
  memory, visible = np.pad(memory, ((0, 0), (0, room), (0, 0))), np.pad(visible, ((0, 0), (0, room)))
  tokens, scores = run(params, memory, visible, 1, alpha, shape=shape,
                       max_length=golden['plain_greedy_temp0_tokens'].shape[-1], **how)
  np.testing.assert_array_equal(tokens, golden[f'{kind}_{name}_tokens'])
  np.testing.assert_allclose(scores, golden[f'{kind}_{name}_scores'], atol=1e-4)


@pytest.mark.parametrize('model', ['own_t5_v11', 't5_v10', 't5_v11'])
@pytest.mark.parametrize(('name', 'how', 'alpha'), [
  ('greedy', GREEDY, 0.0),
  ('greedy_eos2', GREEDY, 0.0),
  ('beam4', beams(4, penalty='transformers'), 1.0),
  ('beam4_eos2', beams(4, penalty='transformers'), 1.0),
  ('beam4_eos2_lp2', beams(4, penalty='transformers'), 2.0),
  ('beam4_lp06_es', beams(4, penalty='transformers', early_stopping=True), 0.6),
  ('beam4_eos2_lp0_es', beams(4, penalty='transformers', early_stopping=True), 0.0),
])
def test_decodes_equal_transformers(model, name, how, alpha):
  folder, golden = golden_models.hugging_face_files(model)
  golden = np.load(golden)
  params = {name: value.astype(np.float32) for name, value in
            reference_t5.read_hugging_face(folder / 'model.safetensors').items()}
  sizes = {'heads': 3, 'max_distance': 10} if model.startswith('own') else {}
  shape = reference_t5.Shape(**sizes, tied='t5_v10' in model)
  memory, visible = reference_t5.encode(params, shape, golden['input_ids'])
  eos_id = int(golden['eos2']) if 'eos2' in name else 1
  tokens, scores = run(params, memory, visible, eos_id, alpha, shape=shape, max_length=MAX_LENGTH, **how)
  lengths = golden[f'{name}_lens'].reshape(3, -1)
  wanted = golden[f'{name}_ids'].reshape(3, -1, 1 + MAX_LENGTH)[:, :, 1:]  # without the start token
  wanted = np.where(np.arange(MAX_LENGTH) < lengths[:, :, None], wanted, 0)  # transformers pads with EOS
  np.testing.assert_array_equal(tokens, wanted[:, ::-1])  # ours: best last
  if 'beam' in name:
    wanted = golden[f'{name}_sequences_scores'].reshape(3, -1)[:, ::-1]
    np.testing.assert_allclose(scores, wanted, atol=1e-4)
