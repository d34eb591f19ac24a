"""The shipped model and prompts reproduce the scores in their table."""

import os
import pathlib
import re

import pytest

import prompt_tuning as pt
from prompt_tuning.data import integers

PACKAGE = pathlib.Path(pt.__file__).parent
PROMPTS = PACKAGE / 'pretrained_prompts' / 't5_integers'
ROW = re.compile(r'\| (\w+) \| `(\S+)` \| (\d+) \| \d+ \| \d+ \| accuracy \| ([\d.]+) % \| ([\d.]+) % \|')


@pytest.fixture(scope='module')
def table() -> dict[str, tuple[str, ...]]:
  return {match[1]: match.groups() for match in ROW.finditer((PROMPTS / 'README.md').read_text())}


@pytest.fixture(scope='module')
def model() -> pt.LanguageModel:
  return pt.load_model('t5_integers')


def test_every_pretraining_task_has_a_prompt_and_a_row(table):
  assert sorted(table) == sorted(integers.PRETRAINED)
  for name, path, length, *_ in table.values():
    assert len(pt.load_prompt(str(PROMPTS / path)).vectors) == int(length), name


def test_the_model_takes_at_most_ten_megabytes():
  folder = PACKAGE / 'pretrained_models' / 't5_integers'
  assert sum(os.path.getsize(folder / name) for name in os.listdir(folder)) <= 10e6


@pytest.mark.parametrize('task', [
  'Add1', *(pytest.param(name, marks=pytest.mark.slow) for name in integers.PRETRAINED if name != 'Add1')])
def test_a_prompt_scores_what_the_table_says(model, table, task):
  _, path, _, without, wanted = table[task]
  scores = [pt.evaluate(model, task, prompt, sampler=pt.BeamSearch())['accuracy']
            for prompt in (None, pt.load_prompt(str(PROMPTS / path)))]
  assert [f'{score:.2f}' for score in scores] == [without, wanted]


def test_a_prompt_answers(model):
  prompt = pt.load_prompt(str(PROMPTS / 'SortDescending.npy'))
  assert model.predict(['3 1 2 6 5 4', '6 6 1 2 2 5'], prompt=prompt, max_length=8) == ['6 5 4 3 2 1', '6 6 5 2 2 1']
