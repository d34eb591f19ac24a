"""Learning rates against their formulas."""

import math

import numpy as np
import pytest

from prompt_tuning.training.schedules import create_schedule

STEPS = (0, 1, 3, 4, 5, 9, 12, 20, 30)


@pytest.mark.parametrize(('factors', 'wanted'), [
  ('constant', lambda step: 1.0),
  ('linear_warmup', lambda step: min(1.0, step / 4)),
  ('constant * linear_warmup * rsqrt_decay', lambda step: min(1.0, step / 4) / math.sqrt(max(step, 4))),
  ('linear_decay', lambda step: 1 - min(max(step - 4, 0) / 16, 1)),
  ('constant*linear_warmup*cosine_decay',
   lambda step: min(1.0, step / 4) * (1 + math.cos(math.pi * min(max(step - 4, 0) / 16, 1))) / 2),
])
def test_a_schedule_is_the_product_of_its_factors(factors, wanted):
  schedule = create_schedule(factors, 0.3, warmup_steps=4, total_steps=20)
  np.testing.assert_allclose([schedule(step) for step in STEPS], [0.3 * wanted(step) for step in STEPS], atol=1e-7)


def test_the_default_is_prompt_tunings_constant_rate():
  assert [float(create_schedule()(step)) for step in (0, 1_100_000)] == pytest.approx([0.3, 0.3])


def test_no_warm_up_is_no_division_by_zero():
  schedule = create_schedule('linear_warmup * rsqrt_decay', 1.0, warmup_steps=0)
  np.testing.assert_allclose([schedule(0), schedule(4)], [0.0, 0.5])


def test_an_unknown_factor_is_named_with_the_nearest():
  with pytest.raises(ValueError, match=r"unknown factor 'linear_warm_up'. Did you mean linear_warmup"):
    create_schedule('constant * linear_warm_up')


@pytest.mark.parametrize('total_steps', [None, 1000])
def test_a_decay_without_an_end_is_an_error(total_steps):
  with pytest.raises(ValueError, match=r'cosine_decay needs total_steps above warmup_steps, but found total_steps='):
    create_schedule('cosine_decay', warmup_steps=1000, total_steps=total_steps)
