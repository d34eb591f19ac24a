"""Batches that are made ahead, by a thread."""

import pytest
from test_pipeline import assert_equal, numbered, train_batches

from prompt_tuning.data import prefetch, tasks


def test_batches_made_ahead_are_the_same_and_their_state_is_that_of_the_last_handed_out():
  plain, ahead = train_batches(numbered(11), block=5), prefetch.Prefetched(train_batches(numbered(11), block=5))
  for _ in range(5):
    assert_equal(next(ahead), next(plain))
    assert ahead.state() == plain.state()
  ahead.restore({'block': 0, 'row': 2, 'rows': 2})
  plain.restore({'block': 0, 'row': 2, 'rows': 2})
  assert_equal(next(ahead), next(plain))
  ahead.close()
  assert_equal(next(ahead), next(plain))
  ahead.close()


@pytest.mark.parametrize('error', [SystemExit(0), KeyboardInterrupt(), StopIteration()])
def test_a_reader_that_ends_the_program_is_an_error_and_no_end(error):
  class Batches:
    truncated, state, restore = {}, dict, lambda self, state: None

    def __next__(self):
      raise error

  ahead = prefetch.Prefetched(Batches())
  with pytest.raises(ValueError, match=rf'training data cannot be read: a reader ended with {type(error).__name__}'):
    next(ahead)


def test_an_error_made_ahead_is_raised_where_the_batch_is_asked_for():
  ahead = prefetch.Prefetched(train_batches(tasks.Task('bad', {'train': [{'inputs': '5'}]})))
  with pytest.raises(ValueError, match="no 'targets'"):
    next(ahead)
