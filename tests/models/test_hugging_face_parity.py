"""The model against outputs of transformers and PEFT, from the folders that they saved."""

import functools

import golden_models
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from prompt_tuning.decoding.samplers import BeamSearch, Greedy
from prompt_tuning.models.compiled import apply_model
from prompt_tuning.models.generation import generate

MAX_LENGTH = 12
PEFT = 'hf/peft_t5_v11_prompt_tuning_enc'
transformers_beams = functools.partial(BeamSearch, 4, penalty='transformers')


def logits_of(model, golden, prompt=None):
  """Returns logits of the labels, and which of them are not padding."""
  targets = np.maximum(golden['labels'], 0)
  batch = golden_models.make_batch(golden['input_ids'], targets, 0 if prompt is None else len(prompt))
  logits = apply_model(model.module, model.params, batch, golden_models.conditioning_of(prompt))
  return np.asarray(logits), golden['labels'] >= 0


def decode(model, inputs, sampler, end_ids=(1,), prompt=None):
  """Returns tokens [B, N, S], best first, and scores."""
  batch, conditioning = golden_models.make_generation_batch(inputs, [prompt] * len(inputs), model)
  tokens, scores = generate(model.module, model.params, batch, conditioning, jax.random.key(0), sampler=sampler,
                            max_length=MAX_LENGTH, end_ids=end_ids)
  return np.asarray(tokens)[:, ::-1], np.asarray(scores)[:, ::-1]


@pytest.mark.parametrize('name', ['own_t5_v11', 't5_v10', 't5_v11'])
def test_logits_and_loss_equal_transformers(name):
  golden = np.load(golden_models.hugging_face_files(name)[1])
  logits, real = logits_of(golden_models.hugging_face_model(name), golden)
  np.testing.assert_allclose(logits[real], golden['logits'][real], atol=2e-4)
  log_probs = np.asarray(jax.nn.log_softmax(jnp.asarray(logits)))
  of_labels = np.take_along_axis(log_probs, np.maximum(golden['labels'], 0)[..., None], -1)[..., 0]
  np.testing.assert_allclose(-of_labels[real].mean(), golden['loss'], rtol=1e-5)


@pytest.mark.parametrize(('model', 'name', 'sampler'), [
  ('own_t5_v11', 'greedy_eos2', Greedy()),
  ('own_t5_v11', 'beam4_eos2_lp2', transformers_beams(alpha=2.0)),
  ('own_t5_v10', 'beam4_eos2_lp0_es', transformers_beams(alpha=0.0, early_stopping=True)),
  ('t5_v10', 'greedy', Greedy()),
  ('t5_v11', 'greedy_eos2', Greedy()),
  ('t5_v10', 'beam4', transformers_beams(alpha=1.0)),
  ('t5_v11', 'beam4_eos2_lp2', transformers_beams(alpha=2.0)),
  ('t5_v10', 'beam4_eos2_lp0_es', transformers_beams(alpha=0.0, early_stopping=True)),
])
def test_decodes_equal_transformers(model, name, sampler):
  golden = np.load(golden_models.hugging_face_files(model)[1])
  tokens, scores = decode(golden_models.hugging_face_model(model), golden['input_ids'], sampler,
                          end_ids=(int(golden['eos2']) if 'eos2' in name else 1,))
  lengths = golden[f'{name}_lens'].reshape(3, -1, 1)
  wanted = golden[f'{name}_ids'].reshape(3, -1, 1 + MAX_LENGTH)[:, :, 1:]  # without the start token
  # After the end token, transformers writes EOS and T5X padding.
  np.testing.assert_array_equal(tokens, np.where(np.arange(MAX_LENGTH) < lengths, wanted, 0))
  if 'beam' in name:
    np.testing.assert_allclose(scores, golden[f'{name}_sequences_scores'].reshape(3, -1), atol=1e-4)


def test_a_prompt_that_peft_trained_gives_pefts_logits(shared):
  model = golden_models.hugging_face_model('t5_v11')
  golden = np.load(shared / PEFT / 'golden.npz')
  prompt = load_file(shared / PEFT / 'adapter/adapter_model.safetensors')['prompt_embeddings']
  for vectors, field in ((prompt, 'logits'), (None, 'base_logits')):
    logits, real = logits_of(model, golden, vectors)
    np.testing.assert_allclose(logits[real], golden[field][real], atol=2e-4)


@pytest.mark.parametrize(('name', 'sampler'), [('greedy', Greedy()), ('beam4', transformers_beams(alpha=1.0))])
def test_a_prompt_that_peft_trained_gives_pefts_answers(shared, name, sampler):
  model = golden_models.hugging_face_model('t5_v11')
  golden = np.load(shared / PEFT / 'golden.npz')
  prompt = load_file(shared / PEFT / 'adapter/adapter_model.safetensors')['prompt_embeddings']
  tokens, _ = decode(model, golden['input_ids'], sampler, prompt=prompt)
  for found, wanted in zip(tokens[:, 0].tolist(), golden[f'{name}_ids'][:, 1:].tolist(), strict=True):
    until = wanted.index(1) + 1 if 1 in wanted else len(wanted)
    assert found[:until] == wanted[:until]
