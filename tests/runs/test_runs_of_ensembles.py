"""`eval` and `infer` with several prompts: an ensemble, with the figures of its members beside it."""

import json
import pathlib

import numpy as np
import pytest

import prompt_tuning as pt
from prompt_tuning.evaluation.ensembles import infer_trained
from prompt_tuning.evaluation.saved import SavedPrompt, Trained
from prompt_tuning.programs import command
from prompt_tuning.runs import run_file

SHIPPED = pathlib.Path(pt.__file__).parent / 'pretrained_prompts/t5_integers'


@pytest.fixture(scope='module')
def five(tmp_path_factory):
  """Five spoilt copies of a prompt that sorts downwards."""
  folder, random = tmp_path_factory.mktemp('five'), np.random.default_rng(0)
  vectors = np.load(SHIPPED / 'SortDescending.npy')
  for number in range(5):
    noise = 0.9 * np.std(vectors) * random.normal(size=vectors.shape)
    SavedPrompt((vectors + noise).astype(np.float32)).save(str(folder / f'{number}.npy'))
  return [str(folder / f'{number}.npy') for number in range(5)]


def test_rows_of_a_task_give_what_texts_give(causal):
  random = np.random.default_rng(0)
  prompts = [Trained({'decoder/prompt/prompt/prompt': random.normal(size=(length, 12)).astype(np.float32)}, about)
             for length, about in ((3, {'placement': 'after_eos'}), (5, {}), (2, {'placement': 'after_bos'}))]
  rows = [{'inputs': a, 'targets': b} for a, b in (('5 6 7 8', '6 7'), ('9', '8 9 10'), ('3 4', '5'))]
  inputs, targets = [row['inputs'] for row in rows], [row['targets'] for row in rows]
  for ensemble in (pt.Ensemble(prompts), pt.Ensemble([*prompts[1:2], None])):
    lines = infer_trained(causal, ensemble, rows, sampler=pt.Greedy(), batch_size=2, mode='score')
    np.testing.assert_allclose([line['score'] for line in lines], causal.score(inputs, targets, ensemble), atol=1e-5)
  lines = infer_trained(causal, ensemble, rows, sampler=pt.Greedy(), batch_size=2, max_length=4)
  assert [line['prediction'] for line in lines] == causal.predict(inputs, ensemble, max_length=4)


def test_eval_prints_the_members_their_mean_the_best_and_the_ensemble(five, tmp_path, capsys):
  run = ['eval', '--model', 't5_integers', '--data', 'SortDescending', '--examples', '40', '--prompt', *five]
  assert command.main([*run, '--output', str(tmp_path / 'eval')]) == 0
  lines = dict(line.split(': accuracy ') for line in capsys.readouterr().out.splitlines() if ': accuracy ' in line)
  alone = [float(lines[f'SortDescending, {path}']) for path in five]
  best = five[int(np.argmax(alone))]
  assert float(lines['SortDescending, mean of 5']) == pytest.approx(np.mean(alone), abs=0.01)
  assert float(lines[f'SortDescending, best ({best})']) == max(alone)
  together = float(lines['SortDescending, 40 examples, ensemble (mean)'])
  assert together > np.mean(alone)
  (written,) = map(json.loads, (tmp_path / 'eval/inference_eval/SortDescending-metrics.jsonl').read_text().splitlines())
  assert written['accuracy'] == together and written[f'accuracy, {five[2]}'] == alone[2]
  assert run_file.read(str(tmp_path / 'eval'))['prompt'] == five
  found = pt.evaluate(pt.load_model('t5_integers'), 'SortDescending', pt.Ensemble(five), num_examples=40)
  assert found == {'accuracy': together}


def test_infer_writes_what_an_ensemble_or_a_vote_predicts(five, tmp_path, capsys):
  rows = [{'inputs': '3 1 2 6 5 4', 'targets': '6 5 4 3 2 1'}, {'inputs': '6 6 1 2', 'targets': '6 6 2 1'}]
  (tmp_path / 'rows.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  model, inputs = pt.load_model('t5_integers'), [row['inputs'] for row in rows]
  read = lambda name, field: [json.loads(line)[field] for line in (tmp_path / name).read_text().splitlines()]
  run = ['infer', '--model', 't5_integers', '--data', str(tmp_path / 'rows.jsonl'), '--prompt', *five[:3]]
  members = [pt.load_prompt(path) for path in five[:3]]
  assert command.main([*run, '--ensemble=vote', '--output', str(tmp_path / 'vote.jsonl')]) == 0
  assert read('vote.jsonl', 'prediction') == model.predict(inputs, pt.Ensemble(members, kind='vote'), batch_size=2)
  assert command.main([*run, '--mode=score', '--output', str(tmp_path / 'score.jsonl')]) == 0
  np.testing.assert_allclose(read('score.jsonl', 'score'), model.score(
    inputs, [row['targets'] for row in rows], pt.Ensemble(members)), atol=1e-5)
  capsys.readouterr()
  assert command.main([*run, '--mode=score', '--ensemble=vote', '--output', str(tmp_path / 'no.jsonl')]) == 2
  assert "--ensemble='vote' cannot be used with --mode='score'" in capsys.readouterr().err


def test_what_cannot_be_used_names_the_prompt(five, tmp_path, capsys):
  for number, template in enumerate(('{inputs}', '{inputs} =')):
    folder = tmp_path / str(number)
    folder.mkdir()
    SavedPrompt(np.ones((2, 96), np.float32)).save(str(folder / 'best.safetensors'))
    run_file.write(str(folder / 'run.toml'), {'model': 't5_integers', 'data': 'rows.jsonl', 'template': template},
                   program='train')
  SavedPrompt(np.ones((2, 95), np.float32)).save(str(tmp_path / 'narrow.npy'))
  task = ['--model', 't5_integers', '--data', 'Add1', '--examples', '4']
  for arguments, message in (
      ([*task, '--prompt', five[0], five[0]], 'is given twice. Give each once'),
      ([*task, '--prompt', five[0], '--prompt', five[1]], f'Give it once, as --prompt {five[0]} {five[1]}.'),
      ([*task, '--prompt', five[0], '--ensemble', 'vote'], '--ensemble vote cannot be used with fewer than two'),
      ([*task, '--prompt', five[0], str(tmp_path / 'narrow.npy')], 'narrow.npy cannot be used. The prompt has shape'),
      (['--prompt', str(tmp_path / '0'), str(tmp_path / '1')], 'have different values of template: ')):
    assert command.main(['eval', *arguments]) == 2
    assert message in capsys.readouterr().err.replace('--ensemble=', '--ensemble ')
