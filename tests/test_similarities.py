"""Similarities among prompts, compared with NumPy; `prompt-tuning similarities`."""

import pathlib

import numpy as np
import pytest

import prompt_tuning as pt
from prompt_tuning.evaluation.saved import SavedPrompt, Trained
from prompt_tuning.programs import command

RANDOM = np.random.default_rng(0)
A, B = RANDOM.normal(size=(3, 5)).astype(np.float32), RANDOM.normal(size=(4, 5)).astype(np.float32)
SHIPPED = pathlib.Path(pt.__file__).parent / 'pretrained_prompts/t5_integers'


def cosine(a, b):
  return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_similarities_are_cosines_of_means_and_of_the_nearest_vectors():
  turned = Trained({'encoder/prompt/prompt/prompt': 2 * A[::-1]})
  found = pt.similarities({'a': A, 'b': SavedPrompt(B), 'turned': turned})
  all_pairs = np.array([[cosine(a, b) for b in B] for a in A])
  best = (all_pairs.max(1).mean() + all_pairs.max(0).mean()) / 2
  mean = cosine(A.mean(0), B.mean(0))
  np.testing.assert_allclose(found['mean'], [[1, mean, 1], [mean, 1, mean], [1, mean, 1]], atol=1e-6)
  np.testing.assert_allclose(found['best'], [[1, best, 1], [best, 1, best], [1, best, 1]], atol=1e-6)


def test_what_has_no_vectors_or_another_width_is_named():
  prefix = Trained({f'decoder/prefix/{name}': np.ones((2, 3, 1, 4)) for name in ('keys', 'values')})
  for prompts, message in (
      ({}, 'There are no prompts to compare'),
      ({'a': A, 'b': B[:, 1:]}, 'b has vectors of width 4, but a of 5'),
      ({'a': A[0]}, r'a has the shape \(5,\), expected \[P, D\]'),
      ({'a': None}, 'a has no vectors among embedded tokens'),
      ({'p': prefix}, 'p has no vectors among .* it holds decoder/prefix/keys')):
    with pytest.raises(ValueError, match=message):
      pt.similarities(prompts)


def test_the_command_prints_two_tables_and_draws_them(tmp_path, capsys):
  paths = [str(SHIPPED / f'{name}.npy') for name in ('SortAscending', 'SortDescending', 'Add1')]
  picture = tmp_path / 'heat.png'
  assert command.main(['similarities', *paths, '--picture', str(picture)]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 11 and picture.read_bytes().startswith(b'\x89PNG')
  rows = {line.split()[1]: [float(value) for value in line.split()[2:]] for line in lines[2:5]}
  sorting, add = rows['SortAscending.npy'], rows['Add1.npy']
  assert sorting[0] == 1 and sorting[1] > 0.5 > max(add[:2])  # the tasks that sort are alike
  assert command.main(['similarities', paths[0], paths[0]]) == 2
  assert 'is given twice' in capsys.readouterr().err
