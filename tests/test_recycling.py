"""Recycled prompts: exact where the models are equal but for a rotation; better than random ones between two seeds."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import prompt_tuning as pt
from prompt_tuning import trees
from prompt_tuning.data.vocabularies import ByteVocabulary, PassThroughVocabulary
from prompt_tuning.data.vocabulary_folders import load_vocabulary
from prompt_tuning.evaluation.recycling import shared_tokens
from prompt_tuning.evaluation.saved import SavedPrompt, Trained
from prompt_tuning.models.loading import find_model, random_model, save_model
from prompt_tuning.programs import command
from prompt_tuning.rows import layouts

PROMPT = np.random.default_rng(0).normal(size=(3, 12)).astype(np.float32)  # P=3, D=12; V=29
IDS = [[5, 6, 7, 1], [9, 3, 1]]


@pytest.fixture(scope='module')
def turned(tiny):
  """The model `tiny` in other coordinates: its residual stream is rotated, its functions are the same."""
  rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(12, 12)))
  flat = trees.flatten(tiny.params)
  for name, array in flat.items():
    if name.endswith('embedding') and 'token' in name:
      flat[name] = array @ rotation  # [V, D]
    elif 'kernel' in name:
      width_in = array.ndim >= 2 and array.shape[-2] == 12 and not name.endswith(('out/kernel', 'wo/kernel'))
      flat[name] = np.einsum('de,...df->...ef', rotation, array) if width_in else array @ rotation
  return dataclasses.replace(tiny, params=trees.unflatten({name: jnp.asarray(array, jnp.float32)
                                                           for name, array in flat.items()}))


def test_a_prompt_is_recycled_exactly_to_a_rotated_model(tiny, turned):
  wanted = tiny.logits(IDS, IDS, PROMPT)
  np.testing.assert_allclose(turned.logits(IDS, IDS), tiny.logits(IDS, IDS), atol=1e-4)
  found = pt.recycle(SavedPrompt(PROMPT, layouts.before), tiny, turned)
  np.testing.assert_allclose(turned.logits(IDS, IDS, found), wanted, atol=1e-4)
  assert np.abs(turned.logits(IDS, IDS, PROMPT) - wanted).max() > 0.1
  assert found.about['recycled_rows'] == 29 and found.about['recycled_share'] == 1
  fewer = pt.recycle(PROMPT, tiny, turned, rows=12)
  np.testing.assert_allclose(fewer.vectors, found.vectors, atol=1e-3)


def test_a_map_is_that_of_least_squares_and_keeps_where_the_prompt_stands(tiny, causal):
  found = pt.recycle(SavedPrompt(PROMPT, layouts.after_eos), tiny, causal, rows=20)
  a, b = (np.asarray(model.embeddings(), np.float64)[:20] for model in (tiny, causal))
  np.testing.assert_allclose(found.vectors, PROMPT @ np.linalg.pinv(a) @ b, atol=1e-5)
  assert found.placement is layouts.after_eos and found.path == 'decoder/prompt/prompt/prompt'
  assert causal.predict(IDS, found, max_length=2) and 'PassThrough' in repr(causal.vocabulary)


def test_tokens_are_compared_by_their_bytes(tiny):
  words = load_vocabulary(find_model('t5_integers'))
  as_words = dataclasses.replace(tiny, vocabulary=words)
  ours, theirs = shared_tokens(dataclasses.replace(tiny, vocabulary=PassThroughVocabulary(29)), as_words)
  pairs = dict(zip(ours.tolist(), theirs.tolist(), strict=True))
  assert pairs[7] == words.encode('7')[0] and pairs[20] == words.encode('20')[0]  # ' 7' and ' 20' are written alike
  with pytest.raises(ValueError, match='The models share 2 tokens, expected at least 12, the width'):
    pt.recycle(PROMPT, as_words, dataclasses.replace(tiny, vocabulary=ByteVocabulary()))
  with pytest.raises(ValueError, match='a model has no vocabulary and 29 tokens, random has a'):
    pt.recycle(PROMPT, dataclasses.replace(tiny, vocabulary=None, path=''), as_words)


def test_what_cannot_be_recycled_is_said(tiny):
  prefix = Trained({f'encoder/prefix/{name}': np.ones((2, 4, 3, 5), np.float32) for name in ('keys', 'values')})
  for call, message in (
      (lambda: pt.recycle(PROMPT, tiny, tiny, rows=11), 'rows=11 cannot be used: expected .* of at least 12'),
      (lambda: pt.recycle(PROMPT[:, 1:], tiny, tiny), r'has shape \(3, 11\)'),
      (lambda: pt.recycle(prefix, tiny, tiny), 'The trained tensors are encoder.prefix, but only vectors')):
    with pytest.raises(ValueError, match=message):
      call()


def test_the_command_writes_a_prompt_that_the_other_model_takes(tmp_path, capsys):
  words = load_vocabulary(find_model('t5_integers'))
  config = pt.T5Config(vocab_size=32, width=12, heads=2, head_dim=4, mlp_dim=8, encoder_layers=1, decoder_layers=1)
  for seed in (1, 2):
    save_model(random_model(config, seed=seed, vocabulary=words), str(tmp_path / f'model{seed}'))
  SavedPrompt(PROMPT).save(str(tmp_path / 'a.npy'))
  run = ['recycle', '--prompt', str(tmp_path / 'a.npy'), '--from', str(tmp_path / 'model1'), '--to',
         str(tmp_path / 'model2'), '--output', str(tmp_path / 'b.safetensors')]
  assert command.main(run) == 0
  assert '3 vectors of width 12, mapped by 32 shared tokens' in capsys.readouterr().out
  other = pt.load_model(str(tmp_path / 'model2'))
  assert pt.load_prompt(str(tmp_path / 'b.safetensors')).conditioning(other).encoder.prompt.shape == (1, 3, 12)
  for arguments, message in (([*run, '--rows', '5'], '--rows=5 cannot be used'),
                             ([*run[:-1], 'b.pt'], '--output=b.pt cannot be used'),
                             ([*run[:4], str(tmp_path / 'none'), *run[5:]], 'none')):
    assert command.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_recycled_prompts_beat_random_starts_between_two_seeds_of_a_pretrained_model(tmp_path, users_environment):
  script = pathlib.Path(__file__).with_name('recycle_between_seeds.py')
  done = subprocess.run([sys.executable, str(script), str(tmp_path)], env=users_environment, capture_output=True,
                        text=True, check=True)
  for recycled, starts in json.loads(done.stdout.splitlines()[-1]).values():
    assert recycled < min(starts)
