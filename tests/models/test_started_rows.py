"""T5X's decoder-only models: rows begin with the token 0, which users do not write, and inputs have an end token."""

import dataclasses

import jax
import numpy as np
import pytest

from prompt_tuning.data.pipeline import TrainBatches, eval_batches
from prompt_tuning.data.tasks import Task
from prompt_tuning.data.vocabularies import PassThroughVocabulary
from prompt_tuning.models import loading
from prompt_tuning.models.cached_texts import CachedTexts
from prompt_tuning.models.compiled import apply_model
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning

SHAPE = DecoderConfig(vocab_size=29, layers=2, width=12, heads=3, head_dim=5, mlp_dim=14, relative_buckets=8,
                      relative_max_distance=12, family='t5x')
INPUTS, TARGETS = ['5 6 7', '11'], ['4 9', '12 13 14']


@pytest.fixture(scope='module')
def plain():
  return loading.random_model(SHAPE, vocabulary=PassThroughVocabulary(29), seed=3)


@pytest.fixture(scope='module')
def started(plain):
  """The same parameters in a model that adds the begin token."""
  return dataclasses.replace(plain, module=loading.module_of(dataclasses.replace(SHAPE, started=True)))


def logits(model, inputs, targets):
  """Returns the logits at the targets of one example, laid out only from the given tokens."""
  layout = layouts.CausalLayout()
  batch = layouts.assemble([[layout.example(inputs, targets)]], {'decoder': len(inputs) + len(targets) - 1})
  return np.asarray(apply_model(model.module, model.params, batch, Conditioning()))[0, len(inputs) - 1:]


def test_a_text_is_read_behind_the_token_0_and_with_its_end(plain, started):
  found = started.logits(INPUTS, TARGETS)
  np.testing.assert_allclose(found[0, :3], logits(plain, [0, 5, 6, 7, 1], [4, 9, 1]), atol=1e-5)
  np.testing.assert_allclose(found[1], logits(plain, [0, 11, 1], [12, 13, 14, 1]), atol=1e-5)
  ids = started.logits([[5, 6, 7, 1]], [[4, 9, 1]])  # token ids are used unchanged, after the begin token
  np.testing.assert_allclose(ids[0], found[0, :3], atol=1e-5)


def test_without_inputs_every_token_is_predicted(plain, started):
  np.testing.assert_allclose(started.logits(None, ['4 9'])[0], logits(plain, [0], [4, 9, 1]), atol=1e-5)
  assert started.score(None, ['4 9']).shape == (1,)


def test_what_goes_on_from_a_text_does_not_start_again(plain, started):
  found = started.logits(INPUTS, TARGETS, context=started.read(['20 3']))
  np.testing.assert_allclose(found[0, :3], logits(plain, [0, 20, 3, 5, 6, 7, 1], [4, 9, 1]), atol=1e-5)
  answers = started.predict([[20, 3, 5, 1]], max_length=4), started.predict([[5, 1]], max_length=4,
                                                                           context=started.read(['20 3']))
  np.testing.assert_array_equal(*answers)


def test_batches_begin_and_end_as_t5x_makes_them(started):
  rows = [{'inputs': inputs, 'targets': targets} for inputs, targets in zip(INPUTS, TARGETS, strict=True)]
  batches = eval_batches(rows, started.vocabulary, started.layout(), batch_size=2, lengths={'inputs': 4, 'targets': 4})
  decoder = next(iter(batches))[0]['decoder']
  np.testing.assert_array_equal(decoder['tokens'], [[0, 5, 6, 7, 1, 4, 9, 0], [0, 11, 1, 12, 13, 14, 0, 0]])
  np.testing.assert_array_equal(decoder['segments'], [[1] * 7 + [0], [1] * 6 + [0] * 2])
  np.testing.assert_array_equal(decoder['targets'], [[0, 0, 0, 0, 4, 9, 1, 0], [0, 0, 12, 13, 14, 1, 0, 0]])
  question = next(iter(batches.questions()))[0]['decoder']
  np.testing.assert_array_equal(question['tokens'], [[0, 5, 6, 7, 1], [0, 0, 0, 11, 1]])
  np.testing.assert_array_equal(question['segments'], [[1] * 5, [0, 0, 1, 1, 1]])


def test_a_cached_text_holds_the_token_0(started, tmp_path):
  layout = started.layout(layouts.Layout(prompt_length=2, placement=layouts.after_eos, cached=True))
  task = Task('one', splits={'train': [{'inputs': INPUTS[0], 'targets': TARGETS[0]}]})
  batch = next(TrainBatches(task, started.vocabulary, layout, lengths={'inputs': 4, 'targets': 3}, batch_size=1))
  np.testing.assert_array_equal(batch['context']['tokens'], [[0, 5, 6, 7, 1]])
  np.testing.assert_array_equal(batch['decoder']['prompt_slots'], [[0, 1, -1, -1]])
  kept = CachedTexts(started, str(tmp_path), memory_limit=10**6).of(batch['context'])
  wanted = jax.device_get(started.read(['5 6 7 1']).keys)
  np.testing.assert_allclose(kept['keys'][0], wanted[:, 0], atol=1e-5)
