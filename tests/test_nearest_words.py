"""The words nearest to a prompt's vectors, compared with cosines in NumPy; `prompt-tuning words`."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import prompt_tuning as pt
from prompt_tuning import trees
from prompt_tuning.evaluation import nearest_words as module
from prompt_tuning.evaluation.saved import SavedPrompt, Trained
from prompt_tuning.models.new_layers import with_new_layers
from prompt_tuning.programs import command
from prompt_tuning.runs import run_file

PROMPT = np.random.default_rng(0).normal(size=(3, 12)).astype(np.float32)  # P=3, D=12; V=29
PREFIX = Trained({f'decoder/prefix/{name}': np.ones((2, 5, 1, 4), np.float32) for name in ('keys', 'values')})


def cosines(vectors, embedding):
  unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)
  return unit(np.asarray(vectors, np.float64)) @ unit(np.asarray(embedding, np.float64)).T


@pytest.mark.parametrize('size', [29, 8, 1])
def test_the_words_are_those_of_the_largest_cosines_however_the_vocabulary_is_cut(causal, size, monkeypatch):
  monkeypatch.setattr(module, '_CHUNK', size)
  found = pt.nearest_words(causal, PROMPT, top=4)
  wanted = cosines(PROMPT, causal.embeddings())
  assert [len(row) for row in found] == [4, 4, 4]
  for row, own in zip(found, wanted, strict=True):
    best = np.argsort(-own, kind='stable')[:4]
    assert [text for text, _ in row] == [str(i) if i < 2 else f' {i}' for i in best]
    np.testing.assert_allclose([similarity for _, similarity in row], own[best], atol=1e-6)


def test_equal_tokens_come_in_the_order_of_ids_and_rows_beyond_the_vocabulary_never(causal, monkeypatch):
  monkeypatch.setattr(module, '_CHUNK', 4)
  rows = np.zeros((31, 12), np.float32)
  rows[[2, 9, 10, 30]] = PROMPT[0]  # two tokens of the vocabulary's 29 more than there are
  params = trees.unflatten(trees.flatten(causal.params) | {'token_embedder/embedding': jnp.asarray(rows, jnp.bfloat16)})
  model = dataclasses.replace(causal, params=params)
  (row, zero) = pt.nearest_words(model, np.stack([1e30 * PROMPT[0], 0 * PROMPT[0]]), top=4)
  assert [text for text, _ in row] == [' 2', ' 9', ' 10', '0']
  np.testing.assert_allclose([similarity for _, similarity in row], [1, 1, 1, 0], atol=1e-4)
  assert zero[0] == ('0', 0.0)


def test_a_saved_prompt_and_added_layer_prompts_have_words_and_other_tensors_none(tiny, causal):
  wanted = pt.nearest_words(causal, PROMPT, top=1)
  assert pt.nearest_words(causal, SavedPrompt(PROMPT, path='decoder/prompt/prompt/prompt'), top=1) == wanted
  layers = Trained({'decoder/layer_prompts/vectors': np.stack([PROMPT, PROMPT + 1])}, {'mode': 'add'})
  assert pt.nearest_words(causal, layers, top=1) == wanted
  assert len(pt.nearest_words(tiny, SavedPrompt(PROMPT))) == 3
  with pytest.raises(ValueError, match=r'The trained tensors are decoder.prefix: they have no vectors among embedded'):
    pt.nearest_words(causal, PREFIX)


def test_what_has_no_words_is_a_clear_error(causal):
  for top in (0, 30, 2.0):
    with pytest.raises(ValueError, match=rf'top={top} cannot be used: expected'):
      pt.nearest_words(causal, PROMPT, top=top)
  with pytest.raises(ValueError, match=r'has shape \(3, 11\), but the model expects \[P, 12\]'):
    pt.nearest_words(causal, PROMPT[:, 1:])
  with pytest.raises(ValueError, match='prompt=None cannot be used'):
    pt.nearest_words(causal, None)
  with pytest.raises(ValueError, match='random has no vocabulary, so its tokens have no texts'):
    pt.nearest_words(dataclasses.replace(causal, vocabulary=None), PROMPT)
  with pytest.raises(ValueError, match='reads real vectors instead of tokens'):
    pt.nearest_words(with_new_layers(causal, classes=3, features=2), PROMPT)


def test_the_command_prints_a_line_for_each_vector_of_a_runs_model(tmp_path, capsys):
  model = pt.load_model('t5_integers')
  embedding = np.asarray(model.embeddings())
  SavedPrompt(embedding[[4, 20]]).save(str(tmp_path / 'best.safetensors'))
  run_file.write(str(tmp_path / 'run.toml'), {'model': 't5_integers', 'data': 'Add1', 'steps': 3}, program='train')
  assert command.main(['words', str(tmp_path), '--top=1']) == 0
  assert capsys.readouterr().out == "0  ' 1' 1.00\n1  ' 17' 1.00\n"


@pytest.mark.parametrize(('arguments', 'message'), [
  (['--model=t5_integers', '--top=0'], '--top=0 cannot be used: expected a whole number of at least 1'),
  (['--model=none'], 'none: there is no such folder.'),
  ([], 'a.npy does not name its model. Give --model=FOLDER'),
  (['--model=t5_integers', '--tip=3'], 'There is no argument --tip=3. Did you mean --top?')])
def test_the_command_says_what_to_change(tmp_path, capsys, arguments, message):
  SavedPrompt(np.ones((2, 96), np.float32)).save(str(tmp_path / 'a.npy'))
  assert command.main(['words', str(tmp_path / 'a.npy'), *arguments]) == 2
  printed = capsys.readouterr()
  assert printed.out == '' and message in printed.err
