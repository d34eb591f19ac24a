"""Recycled prompts: exact where the models are equal but for a rotation; better than random ones between two seeds."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import prompt_tuning as pt
from prompt_tuning import trees
from prompt_tuning.data import integers
from prompt_tuning.data.vocabularies import ByteVocabulary, PassThroughVocabulary
from prompt_tuning.data.vocabulary_folders import load_vocabulary
from prompt_tuning.evaluation.evaluate import evaluate_loss
from prompt_tuning.evaluation.recycling import shared_tokens
from prompt_tuning.evaluation.saved import SavedPrompt, Trained
from prompt_tuning.models.loading import find_model, random_model, save_model
from prompt_tuning.models.parameters import merge
from prompt_tuning.programs import command
from prompt_tuning.rows import layouts
from prompt_tuning.training.evaluations import Evaluations
from prompt_tuning.training.optimizers import AdamW
from prompt_tuning.training.schedules import create_schedule

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
@pytest.mark.timeout(1500)
def test_recycled_prompts_beat_random_starts_between_two_seeds_of_a_pretrained_model(tmp_path):
  """Prompts that sort, for models whose width of 24 is below the 26 numbers that occur; 1500 steps each."""
  config = pt.T5Config(vocab_size=32, width=24, heads=4, head_dim=8, mlp_dim=96, encoder_layers=2, decoder_layers=2)
  words, lengths = load_vocabulary(find_model('t5_integers')), {'inputs': 5, 'targets': 5}
  shape = {'length': 3, 'largest': 24}
  optimizer = AdamW(create_schedule('constant * linear_warmup', 0.004, warmup_steps=200), b2=0.98, clip=1.0)
  models = []
  for seed in (1, 2):
    start = random_model(config, vocabulary=words, seed=seed)
    run = pt.tune(start, integers.mixture(**shape), method=pt.Retrained(), steps=1500, batch_size=128, seed=seed,
                  lengths=lengths, quiet=True, evaluations=Evaluations(examples=0, loss_steps=0),
                  optimizer=optimizer, model_dir=str(tmp_path / str(seed)))
    models.append(dataclasses.replace(start, params=merge(start.params, run.trained)))
  first, second = models
  random = np.random.default_rng(0)
  for name in ('SortAscending', 'SortDescending'):
    task = integers.task(name, **shape)
    run = pt.tune(first, task, prompt_length=5, steps=100, batch_size=64, lengths=lengths, quiet=True,
                  learning_rate=0.1, model_dir=str(tmp_path / name))

    def loss(prompt, task=task):
      return evaluate_loss(second, prompt.conditioning(second), second.layout(prompt.layout()), task, lengths=lengths,
                           batch_size=64, steps=4)['loss']

    starts = [SavedPrompt(np.asarray(second.embeddings())[random.choice(28, 5)]) for _ in range(4)]
    recycled = pt.recycle(run.prompt, first, second, rows=28)
    assert loss(recycled) < min(map(loss, starts))
