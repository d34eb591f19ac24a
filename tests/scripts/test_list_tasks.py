"""`prompt-tuning tasks`."""

import pytest

from prompt_tuning.programs import command


def test_tasks_are_listed_by_pattern_without_their_variants(capsys):
  pytest.importorskip('seqio', reason="SeqIO is not installed: pip install '.[seqio]'")
  assert command.main(['tasks', 'glue_sst2_v200|^SortAsc']) == 0
  assert capsys.readouterr().out.split() == ['SortAscending', 'glue_sst2_v200', 'task_index_glue_sst2_v200',
                                             'taskless_glue_sst2_v200']
  command.main(['tasks', '^mt5_glue_sst2_v200_examples', '--all'])
  assert capsys.readouterr().out.split() == ['mt5_glue_sst2_v200_examples']


def test_examples_are_shown_as_the_model_will_see_them(capsys, tmp_path):
  (tmp_path / 'mine.tsv').write_text('inputs\ttargets\n3 1 2\t1 2 3\n')
  assert command.main(['tasks', str(tmp_path / 'mine.tsv'), '--show=2', '--split=all']) == 0
  assert capsys.readouterr().out.endswith("all: 1 examples\n  0 inputs   '3 1 2'\n  0 targets  '1 2 3'\n")
  command.main(['tasks', str(tmp_path / 'mine.tsv'), '--show=1', '--split=all', '--vocabulary=t5_integers',
                '--lengths=3,9'])
  assert capsys.readouterr().out.endswith(
    "  0 inputs   '3 1 2'  3 tokens: 6 4 1\n  0 targets  '1 2 3'  4 tokens: 4 5 6 1\n")


@pytest.mark.parametrize('argv, message', [
  (['nothing', '--show=1'], "There is no task 'nothing'"),
  (['SortAscending', '--show=1', '--split=tset'], 'SortAscending has no split'),
  (['--module=no.such.module'], "does not exist"),
])
def test_a_wrong_name_is_one_message(capsys, argv, message):
  assert command.main(['tasks', *argv]) == 2
  assert message in capsys.readouterr().err
