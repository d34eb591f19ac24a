"""Steps that are recorded with JAX's profiler."""

import jax.numpy as jnp
import pytest

from prompt_tuning.training.profiler import Profiler


@pytest.mark.parametrize(('last', 'said'), [
  (9, 'Recorded 2 steps: '), (4, 'Recorded the steps until the run ended, fewer than 2'),
  (2, 'profile=2 recorded nothing: the run ended before step 3')])
def test_the_steps_asked_for_are_recorded_or_it_is_said_why_not(last, said, tmp_path):
  lines = []
  with Profiler(str(tmp_path), first=3, steps=2, say=lines.append) as profiler:
    for step in range(1, last + 1):
      profiler.after(step, jnp.zeros(1))
  assert [line[:len(said)] for line in lines] == [said]
  assert bool(list(tmp_path.rglob('*.xplane.pb'))) == ('nothing' not in said)


def test_nothing_is_recorded_unless_asked_for(tmp_path):
  with Profiler(str(tmp_path), first=1, steps=None, say=pytest.fail) as profiler:
    profiler.after(1, jnp.zeros(1))
  assert not list(tmp_path.iterdir())
