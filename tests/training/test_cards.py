"""The card of a run: the same for a resumed one, with the frozen model's metrics, and never over a user's own."""

import json
import pathlib

import toy_run

from prompt_tuning.evaluation import cards


def test_a_resumed_run_has_the_card_of_an_uninterrupted_one(tmp_path, monkeypatch):
  found = []
  for name, stops in (('whole', [6]), ('parts', [3, 6])):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    pathlib.Path('run').mkdir()
    pathlib.Path('run/before.json').write_text(json.dumps({'turn/loss': 9.5}))
    for stop in stops:
      toy_run.train('run', train_steps=toy_run.START + stop, extend=True,
                    evaluations={'objective': 'loss', 'examples': 0})
    found.append(pathlib.Path('run/README.md').read_text())
  assert found[0] == found[1]
  assert '# run' in found[0] and '| turn/loss | 9.5 |' in found[0] and "pt.load_trained('run')" in found[0]
  assert '| data | turn, split train |' in found[0] and 'Adafactor, rate 0.3' in found[0]


def test_a_readme_of_users_is_kept_and_a_license_too(tmp_path):
  path = tmp_path / 'run/README.md'
  path.parent.mkdir()
  path.write_text('Mine.\n')
  toy_run.train(path.parent, train_steps=toy_run.START + 1, evaluations={'examples': 0})
  assert path.read_text() == 'Mine.\n'
  path.unlink()
  toy_run.train(path.parent, train_steps=toy_run.START + 2, extend=True, evaluations={'examples': 0})
  path.write_text(path.read_text().replace('# license: choose one, for example apache-2.0', 'license: mit'))
  toy_run.train(path.parent, train_steps=toy_run.START + 3, extend=True, evaluations={'examples': 0})
  assert 'license: mit\n' in path.read_text() and cards.is_own(path.read_text())


def test_a_readme_that_is_kept_is_told(tmp_path, capsys):
  path = tmp_path / 'README.md'
  cards.write_or_say(str(tmp_path), lambda earlier: f'{cards.MARK} {len(earlier)}')
  cards.write_or_say(str(tmp_path), lambda earlier: f'{cards.MARK} {len(earlier)}')
  assert path.read_text() == f'{cards.MARK} {len(cards.MARK) + 2}' and capsys.readouterr().err == ''
  path.write_text('Mine.')
  cards.write_or_say(str(tmp_path), lambda earlier: 'Theirs.')
  assert path.read_text() == 'Mine.' and f'{path} was not written by prompt-tuning' in capsys.readouterr().err
