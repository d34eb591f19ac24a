"""Training with cached texts gives the results of training on whole rows."""

import dataclasses
import functools
import gc
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_run
from test_decoder_only import LEARNED, MIXED

from prompt_tuning.data.pipeline import TrainBatches
from prompt_tuning.data.tasks import Task
from prompt_tuning.data.vocabularies import PassThroughVocabulary
from prompt_tuning.models import loading
from prompt_tuning.models.cached_texts import BehindCachedTexts, CachedTexts
from prompt_tuning.prompts import Prompt, PromptTuning
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Visibility
from prompt_tuning.training.step import TrainState, make_step

FAMILIES = {'rotary': MIXED, 'learned': LEARNED}
LENGTHS = {'inputs': 9, 'targets': 4}
CACHED = PromptTuning(Prompt(3), layouts.after_eos, cached=True)


def _task():
  random = np.random.default_rng(0)
  ids = lambda longest: ' '.join(map(str, random.integers(3, 29, random.integers(1, longest + 1))))
  return Task('toy', {split: [{'inputs': ids(9), 'targets': ids(3)} for _ in range(count)]
                      for split, count in (('train', 7), ('validation', 3))}, toy_run.TASK.metrics)


TASK = _task()


@functools.cache
def family(name):
  return loading.random_model(FAMILIES[name], vocabulary=PassThroughVocabulary(29), seed=3)


def batches_of(model, method, **settings):
  return TrainBatches(TASK, model.vocabulary, model.layout(method.layout()), lengths=LENGTHS, batch_size=4, **settings)


def step_of(model, method, microbatches=None):
  """Returns a training step without optimizer state, and the state before the first step."""
  trained = method.initialise(jax.random.key(1), model)
  optimizer = optax.sgd(0.02)
  step = jax.jit(make_step(model.module, method, optimizer, microbatches=microbatches))
  return step, TrainState(jnp.int32(0), trained, optimizer.init(trained))


@pytest.mark.parametrize(('name', 'side', 'visibility', 'microbatches'), [
  ('rotary', 'right', Visibility(), None), ('learned', 'left', Visibility(prompt=False), 2)])
def test_steps_behind_cached_texts_equal_those_of_whole_rows(name, side, visibility, microbatches, tmp_path):
  model = family(name)
  method = dataclasses.replace(CACHED, visibility=visibility)
  whole = dataclasses.replace(method, cached=False)
  texts = CachedTexts(model, str(tmp_path), memory_limit=1 << 20)
  batches = BehindCachedTexts(batches_of(model, method, side=side), texts)
  step, state = step_of(model, method, microbatches)
  step_of_whole, _ = step_of(model, whole)
  first = state.trained['decoder']['prompt']['prompt']['prompt']
  for batch, in_one_row in itertools.islice(zip(batches, batches_of(model, whole), strict=True), 4):
    assert batch['decoder']['tokens'].shape == (4, 3 + 4 - 1)
    wanted, wanted_sums = step_of_whole(model.params, state, in_one_row)
    state, sums = step(model.params, state, batch)
    np.testing.assert_allclose(sums['loss'], wanted_sums['loss'], rtol=1e-5)
    np.testing.assert_allclose(sums['gradient_norm'], wanted_sums['gradient_norm'], rtol=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), state.trained, wanted.trained)
  assert np.abs(state.trained['decoder']['prompt']['prompt']['prompt'] - first).max() > 0.01
  assert texts.read == len(TASK.split('train'))  # 16 rows: more than two epochs


def stacked(rows, length):
  """Returns texts as the stack 'context' of a batch."""
  tokens, segments = np.zeros((len(rows), length), np.int32), np.zeros((len(rows), length), np.int32)
  for b, row in enumerate(rows):
    tokens[b, :len(row)], segments[b, :len(row)] = row, 1
  return {'tokens': tokens, 'segments': segments}


ROWS = [[5, 6, 7], [8], [], list(range(3, 14)), [5, 6, 7]]


@pytest.fixture
def cache(tmp_path):
  return functools.partial(CachedTexts, family('rotary'), str(tmp_path))


def test_what_goes_beyond_the_limit_is_kept_on_disk_and_is_the_same(cache, tmp_path):
  in_memory, on_disk, both = (cache(memory_limit=limit) for limit in (1 << 20, 0, 1000))
  wanted = in_memory.of(stacked(ROWS, 12))
  assert wanted['keys'].shape == wanted['values'].shape == (5, 3, 2, 12, 6)
  assert wanted['seen'].sum(axis=1).tolist() == [3, 1, 0, 11, 3]
  for texts in (on_disk, both):
    jax.tree.map(np.testing.assert_array_equal, texts.of(stacked(ROWS, 12)), wanted)
  token = 2 * 3 * 2 * 6 * 4  # bytes: keys and values, layers, heads, width, float32
  assert (in_memory.in_memory, in_memory.on_disk) == (15 * token, 0)
  assert (on_disk.in_memory, on_disk.on_disk) == (0, 15 * token)
  assert (both.in_memory, both.on_disk) == (3 * token, 12 * token)
  assert [texts.read for texts in (in_memory, on_disk, both)] == [4] * 3
  assert not list(tmp_path.iterdir())  # the file is unnamed


def test_the_keys_and_values_are_the_models_own_whatever_is_read_with_them(cache):
  together = cache(memory_limit=1 << 20).of(stacked(ROWS, 12))
  for b in (0, 1, 3):
    alone = cache(memory_limit=1 << 20).of(stacked([[3, 4], ROWS[b]], 12))
    for name in ('keys', 'values'):
      np.testing.assert_array_equal(alone[name][1], together[name][b])
    read = family('rotary').read([ROWS[b]])
    np.testing.assert_allclose(together['keys'][b, :, :, :len(ROWS[b])], read.keys[:, 0], atol=1e-5)
    np.testing.assert_allclose(together['values'][b, :, :, :len(ROWS[b])], read.values[:, 0], atol=1e-5)


def test_a_text_as_long_as_the_position_table_can_be_read(tmp_path):
  found = CachedTexts(family('learned'), str(tmp_path), memory_limit=0).of(stacked([[4] * 40, [5] * 33], 40))
  assert np.isfinite(found['keys']).all()


def test_a_full_disk_is_a_clear_error(cache, full_disk):
  texts = cache(memory_limit=0)
  with full_disk(500), pytest.raises(OSError, match=r'cached texts .* Free space, increase cache_limit='):
    texts.of(stacked(ROWS, 12))
  del texts
  gc.collect()


def train(folder, **settings):
  model = family('learned')
  defaults = {'method': CACHED, 'task': TASK, 'lengths': LENGTHS, 'packed': False}
  return toy_run.train(folder, changes={'module': model.module, 'params': model.params}, **(defaults | settings))


def test_a_run_behind_cached_texts_that_was_resumed_ends_with_the_same_bits(tmp_path, capsys):
  straight = train(tmp_path / 'straight', quiet=False)
  assert re.search(r'7 texts were read once: [\d,]+ bytes in memory, 0 on disk', capsys.readouterr().err)
  train(tmp_path / 'resumed', train_steps=103)
  resumed = train(tmp_path / 'resumed')
  on_disk = train(tmp_path / 'on disk', cache_limit=0)
  (wanted,) = straight.trained.values()
  for run in (resumed, on_disk):
    (found,) = run.trained.values()
    np.testing.assert_array_equal(found, wanted)
    assert run.metrics == straight.metrics
  whole = train(tmp_path / 'whole', method=dataclasses.replace(CACHED, cached=False), train_steps=103)
  assert whole.metrics['toy/loss'] == pytest.approx(train(tmp_path / 'short', train_steps=103).metrics['toy/loss'],
                                                    rel=1e-4)


class Endless(list):
  def draw(self, seed):
    raise NotImplementedError


@pytest.mark.parametrize(('model', 'method', 'settings', 'message'), [
  ('t5', CACHED, {}, 'this model has an encoder, in which the text before the prompt sees the prompt. Choose a dec'),
  ('learned', dataclasses.replace(CACHED, placement=layouts.before), {}, 'is before. Use placement=after_eos'),
  ('learned', dataclasses.replace(CACHED, visibility=Visibility(input=False)), {}, 'does not see the input. Use'),
  ('prefix_lm', CACHED, {}, 'in a prefix-LM the input sees the prompt. Use placement='),
  ('learned', CACHED, {'packed': True}, 'packed=True cannot be used: .* Leave out packed=True, or cached=True'),
  ('learned', CACHED, {'task': dataclasses.replace(TASK, splits=dict.fromkeys(TASK.splits, Endless([{}])))},
   'cached=True cannot be used: toy draws examples without end'),
  ('learned', CACHED, {'cache_limit': -1}, 'cache_limit=-1 cannot be used: expected a whole number of at least 0'),
])
def test_what_cannot_be_cached_is_a_clear_error(model, method, settings, message, tmp_path):
  changes = {}
  if model != 't5':
    config = dataclasses.replace(LEARNED, prefix_lm=model == 'prefix_lm')
    changes = {'changes': {'module': loading.module_of(config), 'params': family('learned').params}}
  with pytest.raises(ValueError, match=message):
    toy_run.train(tmp_path, method=method, lengths=LENGTHS, **({'task': TASK, 'packed': False} | changes | settings))
