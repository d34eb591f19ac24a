"""Rows of one batch with different prefixes, layer prompts or prompts from files give the same results as alone."""

import jax
import numpy as np
import pytest
from test_every_method import DECODER_ONLY

from prompt_tuning import trees
from prompt_tuning.evaluation.saved import SavedPrompt, Trained
from prompt_tuning.tuning.layer_prompts import LayerPrompts
from prompt_tuning.tuning.prefix import Prefix

INPUTS = [[7, 8, 9, 4, 1], [10, 3, 1], [12, 13, 14, 1]]
TARGETS = [[5, 6, 1], [11, 1], [16, 17, 18, 1]]


def trained(method, model, seed=0):
  """Returns the content of a file of this method."""
  about = {'mode': method.mode} if isinstance(method, LayerPrompts) else {}
  return Trained(trees.flatten(method.initialise(jax.random.key(seed), model)), about)


@pytest.mark.parametrize(('name', 'method'), [
  ('decoder', Prefix), pytest.param('decoder', LayerPrompts, marks=pytest.mark.slow),
  ('decoder', lambda length: LayerPrompts(length, mode='add')), ('encoder', Prefix),
  *(pytest.param('encoder', method, marks=pytest.mark.slow) for method in (
    lambda length: Prefix(length, attentions=('cross',)), lambda length: LayerPrompts(length, mode='add'))),
], ids=['prefix', 'layer prompts', 'added', 'T5 prefix', 'T5 cross prefix', 'T5 added'])
def test_rows_with_things_of_several_lengths_and_none_equal_each_alone(tiny, name, method):
  model = tiny if name == 'encoder' else DECODER_ONLY
  chosen = [trained(method(2), model), trained(method(3), model, 1), None]
  together = model.logits(INPUTS, TARGETS, chosen)
  answers = model.predict(INPUTS, chosen, max_length=5)
  for b, each in enumerate(chosen):
    alone = model.logits(INPUTS[b:b + 1], TARGETS[b:b + 1], each)
    np.testing.assert_allclose(together[b, :alone.shape[1]], alone[0], atol=2e-5)
    np.testing.assert_array_equal(answers[b], model.predict(INPUTS[b:b + 1], each, max_length=5)[0])
  assert not np.allclose(together[0, :3], model.logits(INPUTS[:1], TARGETS[:1])[0], atol=1e-3)


def test_a_prompt_from_a_file_is_the_same_as_one_that_was_saved(tiny):
  saved = SavedPrompt(np.random.default_rng(0).normal(size=(3, 12)).astype(np.float32))
  np.testing.assert_array_equal(tiny.logits(INPUTS, TARGETS, [saved.as_trained(), None, saved]),
                                tiny.logits(INPUTS, TARGETS, [saved, None, saved]))


def test_what_cannot_stand_in_one_batch_is_a_clear_error(tiny):
  prefix, prompt = trained(Prefix(2), tiny), SavedPrompt(np.zeros((2, 12), np.float32))
  with pytest.raises(ValueError, match=r'kinds of conditioning .*encoder.prefix, .*; encoder.prompt.*. Run each'):
    tiny.logits(INPUTS, TARGETS, [prefix, prompt, None])
  retrained = Trained({'decoder/decoder_norm/scale': np.full(12, 2.0, np.float32)})
  with pytest.raises(ValueError, match=r'retrained parameters for one row, but all rows of a batch share them'):
    tiny.logits(INPUTS, TARGETS, [retrained, None, retrained])
  assert not np.allclose(tiny.logits(INPUTS, TARGETS, retrained), tiny.logits(INPUTS, TARGETS))
  uneven = Trained({**trained(Prefix(2, attentions=('decoder',)), tiny).tensors,
                    **trained(Prefix(3, attentions=('cross',)), tiny).tensors})
  with pytest.raises(ValueError, match=r'has the lengths \[2, 3\] in one stack'):
    tiny.logits(INPUTS, TARGETS, [uneven, None, uneven])
