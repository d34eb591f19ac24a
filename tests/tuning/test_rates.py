"""Learning rates in the scale of a model's embedding."""

import numpy as np
import pytest

from prompt_tuning import prompts
from prompt_tuning.tuning import rates
from prompt_tuning.tuning.prefix import Prefix


@pytest.mark.parametrize('scale,expected', [(0.122, 0.04), (0.02, 0.006), (0.99, 0.3), (7.0, 0.3), (0.0, 0.3)])
def test_the_rate_follows_the_embedding_up_to_that_of_t5(scale, expected):
  signs = np.where(np.arange(24).reshape(6, 4) % 3 == 0, -1, 1)
  assert rates.in_scale(0.3, scale * signs) == expected


def test_the_rate_of_prompts_and_prefixes_is_in_the_scale_of_the_models_embedding(causal):
  for method in (prompts.PromptTuning(prompts.Prompt(3)), Prefix()):
    assert method.rate(causal) == rates.in_scale(0.3, causal.embeddings()) < 0.3
  assert Prefix(hidden=4).rate(causal) == 0.3


@pytest.mark.parametrize('given,words', [(0.5, 'more than ten times 0.04'), (0.003, 'less than a tenth of 0.04'),
                                         (0.3, None), (0.01, None)])
def test_a_rate_that_is_far_off_is_a_warning(given, words):
  found = rates.warning(given, 0.04)
  assert found is None if words is None else f'learning_rate={given} is {words}, which suits' in found
