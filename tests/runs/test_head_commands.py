"""A classification head from the command line: train, resume, eval and infer on a folder of a BERT."""

import json
import pathlib
import re
import shutil

import numpy as np
import pytest
import tokenizers

import prompt_tuning as pt
from prompt_tuning import trees
from prompt_tuning.checkpoints.huggingface import read_arrays, write_arrays
from prompt_tuning.programs.command import main
from prompt_tuning.runs import run_file
from prompt_tuning.runs.train_run import TrainRun

BERT = pathlib.Path(__file__).parents[1] / 'models' / 'encoders' / 'bert'
MASKED = BERT.parents[1] / 'masked_encoders' / 'bert'
WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *'abcdefghijklmnopqrstuvwxyz.']


@pytest.fixture
def bert(tmp_path):
  """A folder of a BERT without a head, with a tokenizer of letters."""
  return folder_of(BERT, tmp_path / 'bert')


@pytest.fixture
def masked(tmp_path):
  """A folder of a BERT with a head of masked words, with a tokenizer of letters."""
  return folder_of(MASKED, tmp_path / 'masked')


def folder_of(member, folder):
  folder.mkdir()
  shutil.copy(member / 'config.json', folder)
  arrays = read_arrays(str(member / 'model.safetensors'))
  write_arrays(str(folder / 'model.safetensors'), {
    name: array for name, array in arrays.items() if not name.startswith('classifier')})
  tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, '[UNK]'))
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  tokenizer.add_special_tokens(['[MASK]'])
  tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
    single='[CLS] $A [SEP]', special_tokens=[('[CLS]', 2), ('[SEP]', 3)])
  tokenizer.save(str(folder / 'tokenizer.json'))
  (folder / 'tokenizer_config.json').write_text('{"tokenizer_class": "BertTokenizer"}')
  return str(folder)


def table(path, label, count=40):
  numbers = np.random.default_rng(0)
  with open(path, 'w') as file:
    for number in range(count):
      has = number % 2 == 0
      text = ' '.join(['a' if has else 'b', *numbers.choice(list('cdefgh'), 6)])
      file.write(json.dumps({'text': text, 'label': label(has)}) + '\n')
  return str(path)


@pytest.mark.parametrize(('problem', 'label', 'metric'), [
  ('single', lambda has: 'yes' if has else 'no', 'accuracy'), ('multi', lambda has: 'yes,big' if has else '', 'f1'),
  ('regression', lambda has: 2.5 if has else 1, 'pearson')])
def test_a_head_is_trained_evaluated_and_used(bert, tmp_path, capsys, problem, label, metric):
  data, run = table(tmp_path / 'rows.jsonl', label), str(tmp_path / 'run')
  assert not main(['train', '--model', bert, '--data', data, '--template', '{text}', '--label_column', 'label',
                   '--head', 'mean', '--problem', problem, '--method', 'prefix', '--length', '2', '--steps', '4',
                   '--output', run])
  assert metric in capsys.readouterr().out
  written = run_file.read_beside(run)
  assert written.get('head_labels') == {'single': ['no', 'yes'], 'multi': ['big', 'yes']}.get(problem)
  assert not main(['train', '--config', f'{run}/run.toml', '--steps', '6', '--extend', '--output', run])
  assert not main(['eval', '--prompt', run])
  assert f'{metric} ' in capsys.readouterr().out
  assert not main(['infer', '--prompt', run, '--data', data, '--output', str(tmp_path / 'out.jsonl')])
  lines = [json.loads(line) for line in (tmp_path / 'out.jsonl').read_text().splitlines()]
  assert len(lines) == 40 and {'text', 'label', 'prediction', 'scores'} == {*lines[0]}
  wanted = {'single': {'no', 'yes'}, 'multi': {'big', 'yes'}, 'regression': {'score'}}[problem]
  assert {*lines[0]['scores']} == wanted


@pytest.mark.parametrize(('flags', 'message'), [
  ([], 'is an encoder-only model without a classification head. Give --head=cls or --head=mean'),
  (['--problem', 'multi'], 'cannot be used without --head'),
  (['--head', 'cls', '--loss', 'pairwise_cosine'], 'cannot be used with a classification head'),
  (['--head', 'cls', '--problem', 'regression'], "rows.jsonl:1: The score 'yes' is not a number"),
  (['--head', 'cls', '--head_labels', 'yes,maybe'], "rows.jsonl:2: The head has no label 'no'")])
def test_what_does_not_fit_is_an_error(bert, tmp_path, capsys, flags, message):
  data = table(tmp_path / 'rows.jsonl', lambda has: 'yes' if has else 'no')
  assert main(['train', '--model', bert, '--data', data, '--template', '{text}', '--label_column', 'label', '--steps',
               '1', '--output', str(tmp_path / 'run'), *flags]) == 2
  assert message in ''.join(capsys.readouterr())


def test_a_label_column_is_the_column_of_targets():
  run = TrainRun(model='m', data='rows.jsonl', output='o', label_column='label')
  assert run.columns == {'targets': 'label'} and TrainRun.of(run.given()) == run
  with pytest.raises(ValueError, match='label_column=label and columns=targets=other cannot be used together'):
    TrainRun(model='m', data='rows.jsonl', output='o', label_column='label', columns={'targets': 'other'})


TEMPLATE = ['--template', '{text} h [MASK].', '--label_column', 'label']


def test_a_verbaliser_predicts_without_training_is_trained_and_used(masked, tmp_path, capsys):
  data, run = table(tmp_path / 'rows.jsonl', lambda has: 'yes' if has else 'no'), str(tmp_path / 'run')
  words = ['--verbaliser', 'yes=y,no=n']
  assert not main(['eval', '--model', masked, '--data', data, *TEMPLATE, *words])
  alone = capsys.readouterr().out
  assert '40 examples: accuracy ' in alone
  assert not main(['train', '--model', masked, '--data', data, *TEMPLATE, *words, '--method', 'prefix', '--length', '2',
                   '--steps', '4', '--max_input_length', '9', '--output', run])  # columns are cut, masks are not
  assert run_file.read_beside(run)['verbaliser'] == {'yes': 'y', 'no': 'n'}
  assert not main(['train', '--config', f'{run}/run.toml', '--steps', '6', '--extend', '--output', run])
  assert not main(['eval', '--prompt', run])
  assert 'accuracy ' in capsys.readouterr().out
  assert not main(['infer', '--prompt', run, '--data', data, '--output', str(tmp_path / 'out.jsonl')])
  lines = [json.loads(line) for line in (tmp_path / 'out.jsonl').read_text().splitlines()]
  assert len(lines) == 40 and {*lines[0]['scores']} == {'yes', 'no'} and lines[0]['prediction'] in ('yes', 'no')


@pytest.mark.slow
def test_runs_with_a_verbaliser_are_swept_reported_and_joined(masked, tmp_path):
  data, sweep = table(tmp_path / 'rows.jsonl', lambda has: 'yes' if has else 'no'), tmp_path / 'sweep'
  assert not main(['sweep', '--model', masked, '--data', data, *TEMPLATE, '--verbaliser', 'yes=y,no=n', '--length', '1',
                   '2', '--steps', '3', '--output', str(sweep)])
  runs = sorted(str(path.parent) for path in sweep.glob('*/run.toml'))
  assert len(runs) == 2
  assert not main(['report', runs[0], '--output', str(tmp_path / 'report.html')])
  scores = []
  for given in ([runs[0]], [runs[1]], runs):
    assert not main(['infer', '--prompt', *given, '--data', data, '--output', str(tmp_path / 'out.jsonl')])
    lines = (tmp_path / 'out.jsonl').read_text().splitlines()
    scores.append([json.loads(line)['scores']['yes'] for line in lines])
  np.testing.assert_allclose(scores[2], np.mean(scores[:2], axis=0), atol=1e-5)


@pytest.mark.parametrize(('flags', 'message'), [
  (['--verbaliser', 'yes=y,no=n', '--head', 'cls'], 'cannot be used together: the verbaliser is a head'),
  (['--verbaliser', 'yes=y,no=great'], "The word 'great' of the label 'no' is unknown"),
  (['--verbaliser', 'yes=y,maybe=n'], "rows.jsonl:2: The head has no label 'no'"),
  (['--verbaliser', 'yes'], "'yes' is not a pair with an equals sign"),
  (['--verbaliser', 'yes=y h,no=n h'], 'has 1 mask tokens (id 4), but the words of the verbaliser have 2 tokens'),
  (['--verbaliser', 'yes=y,no=n', '--max_input_length', '4'], 'keep them within --max_input_length')])
def test_a_verbaliser_that_does_not_fit_is_an_error(masked, tmp_path, capsys, flags, message):
  data = table(tmp_path / 'rows.jsonl', lambda has: 'yes' if has else 'no')
  assert main(['train', '--model', masked, '--data', data, *TEMPLATE, '--steps', '1', '--output',
               str(tmp_path / 'run'), *flags]) == 2
  assert message in ''.join(capsys.readouterr())


def test_a_model_without_a_head_of_masked_words_is_refused(bert, tmp_path, capsys):
  data = table(tmp_path / 'rows.jsonl', lambda has: 'yes' if has else 'no')
  assert main(['eval', '--model', bert, '--data', data, *TEMPLATE, '--verbaliser', 'yes=y,no=n']) == 2
  assert 'has no head of masked words' in ''.join(capsys.readouterr())


def test_a_report_shows_how_far_a_head_moved_from_what_its_seed_drew(bert, tmp_path, caplog):
  data, run = table(tmp_path / 'rows.jsonl', lambda has: 'yes' if has else 'no'), str(tmp_path / 'run')
  assert not main(['train', '--model', bert, '--data', data, '--template', '{text}', '--label_column', 'label',
                   '--head', 'mean', '--method', 'prompt', '--length', '2', '--steps', '3', '--seed', '5',
                   '--output', run])
  assert not main(['report', run, '--examples', '4'])
  assert 'other weights' not in caplog.text  # before training the head had other values: that says nothing
  text = (tmp_path / 'run/report.html').read_text()
  shown = dict(re.findall(r'<td class="text">(\S+)<td class="number">([\d.e+-]+) ', text))
  first = trees.flatten(pt.with_head(pt.load_model(bert), ('no', 'yes'), pooling='mean', seed=5).params)
  (name,) = [name for name in shown if name.endswith('kernel')]
  moved = np.linalg.norm(pt.load_trained(run).tensors[name] - np.asarray(first[name]))
  assert float(shown[name]) == pytest.approx(moved, rel=2e-3) and moved > 0
  assert '<th class="number">moved' in text.partition('<th>tensor')[0]  # of the prompt's vectors
