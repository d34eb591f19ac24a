"""What is due at each step, compared with tables written by hand."""

import pytest

from prompt_tuning.training.due import Due, due

PERIODS = {'log_period': 2, 'evaluation_period': 3, 'saving_period': 4}


@pytest.mark.parametrize(('passed', 'wanted'), [
  (1, ''), (2, 'log'), (3, 'log evaluate'), (4, 'log save'), (5, ''), (6, 'log evaluate'), (7, ''), (8, 'log save'),
  (9, 'log evaluate'), (12, 'log evaluate save')])
def test_each_period_is_counted_from_the_runs_own_first_step(passed, wanted):
  found = due(passed, last=False, preempted=False, **PERIODS)
  assert [name for name in Due._fields if getattr(found, name)] == wanted.split()


def test_at_the_last_step_everything_is_due():
  assert due(5, last=True, preempted=False, **PERIODS) == Due(log=True, evaluate=True, save=True)


def test_a_preempted_run_saves_out_of_turn_and_evaluates_only_in_turn():
  assert due(5, last=False, preempted=True, **PERIODS) == Due(log=True, evaluate=False, save=True)
