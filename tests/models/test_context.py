"""Rows after a cached context give the results of whole rows."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_decoder_only import LEARNED, MIXED

from prompt_tuning.data.vocabularies import PassThroughVocabulary
from prompt_tuning.decoding.samplers import BeamSearch
from prompt_tuning.evaluation.saved import SavedPrompt
from prompt_tuning.models import loading
from prompt_tuning.models.compiled import apply_model
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning, Context, StackConditioning

RELATIVE = DecoderConfig(vocab_size=29, layers=2, width=12, heads=3, head_dim=5, mlp_dim=14, relative_buckets=8,
                         relative_max_distance=12, family='t5x')
TEXTS = [[5, 6, 7, 8, 9, 4], [11, 3], [20, 3, 4, 12, 13]]
INPUTS = [[14, 15], [16, 17, 18, 19], [21]]
TARGETS = [[4, 9], [12], [5, 6, 7]]
VECTORS = jnp.asarray(np.random.default_rng(0).normal(0, 1, (2, 3, 12)), jnp.float32)


FAMILIES = {'rotary': MIXED, 'learned': LEARNED, 'relative': RELATIVE}


@functools.cache
def family(name):
  return loading.random_model(FAMILIES[name], vocabulary=PassThroughVocabulary(29), seed=3)


@pytest.fixture
def model(request):
  return family(request.param)


@pytest.fixture
def rotary():
  return family('rotary')


def behind(count):
  """A placement after the first `count` tokens: the position of the prompt in one row with the text."""
  def place(tokens, length):
    slots = np.full(tokens + length, -1, np.int32)
    slots[count:count + length] = np.arange(length)
    return slots
  return place


def run(model, rows, conditioning):
  """Returns the logits at the targets of rows (layout, inputs, targets, prompt id)."""
  examples = [[layout.example(inputs, targets, prompt_id=number)] for layout, inputs, targets, number in rows]
  batch = layouts.assemble(examples, {'decoder': max(len(each[0]['decoder']['tokens']) for each in examples) + 1})
  logits = apply_model(model.module, model.params, batch, conditioning)
  return logits[batch['decoder']['loss_weights'] > 0]


def in_one_row(model, texts, vectors, **given):
  plain = model.layout(layouts.Layout(vectors.shape[1]))
  rows = [(dataclasses.replace(plain, placement=behind(len(text))), text + inputs, targets, b % len(vectors))
          for b, (text, inputs, targets) in enumerate(zip(texts, INPUTS, TARGETS, strict=True))]
  return run(model, rows, Conditioning(decoder=StackConditioning(prompt=vectors, **given)))


def behind_context(model, context, vectors, placement, **given):
  layout = dataclasses.replace(model.layout(layouts.Layout(vectors.shape[1])), placement=placement)
  rows = [(layout, inputs, targets, b % len(vectors))
          for b, (inputs, targets) in enumerate(zip(INPUTS, TARGETS, strict=True))]
  return run(model, rows, Conditioning(decoder=StackConditioning(prompt=vectors, **given)).behind(context))


FRONT, ROWS = layouts.before, behind(0)
placed = pytest.mark.parametrize(('model', 'placement'), [
  pytest.param('rotary', FRONT, id='rotary-in front'), pytest.param('relative', ROWS, id='relative-in the rows'),
  *(pytest.param(name, placement, id=f'{name}-{where}', marks=pytest.mark.slow) for name, placement, where in (
    ('rotary', ROWS, 'in the rows'), ('relative', FRONT, 'in front'), ('learned', FRONT, 'in front'),
    ('learned', ROWS, 'in the rows')))], indirect=['model'])


def right_padded(context):
  """The same context with its padding on the other side."""
  turn = lambda row: np.argsort(~np.asarray(row), kind='stable')
  order = np.stack([turn(row) for row in context.seen])
  moved = lambda array: np.stack([np.asarray(array)[:, b][:, :, order[b]] for b in range(len(order))], axis=1)
  return Context(moved(context.keys), moved(context.values), np.take_along_axis(np.asarray(context.seen), order, 1))


@placed
def test_a_prompt_behind_a_text_of_each_row_equals_one_row_with_both(model, placement):
  vectors = VECTORS[:2 if placement is layouts.before else 1]
  context = model.read(TEXTS)
  assert context.keys.shape[1::2] == (3, 6)

  def with_gradient(run):
    def loss(vectors, *context):
      logits = run(vectors, *context)
      return jnp.sum(logits**2), logits
    return jax.jit(jax.grad(loss, has_aux=True))

  gradient, wanted = with_gradient(lambda v: in_one_row(model, TEXTS, v))(vectors)
  behind_one = with_gradient(lambda v, context: behind_context(model, context, v, placement))
  for each in (jax.device_get(context), right_padded(jax.device_get(context))):
    found, logits = behind_one(vectors, each)
    np.testing.assert_allclose(logits, wanted, atol=1e-5)
    np.testing.assert_allclose(found, gradient, rtol=1e-4, atol=1e-4)


@placed
def test_a_text_that_all_rows_share_is_read_once(model, placement):
  context = model.read(TEXTS[:1])
  assert context.keys.shape[1::2] == (1, 6)
  added = VECTORS[None, :, ::-1].repeat(model.module.config.layers - 1, axis=0)
  wanted = in_one_row(model, TEXTS[:1] * 3, VECTORS, added=added)
  np.testing.assert_allclose(behind_context(model, context, VECTORS, placement, added=added), wanted, atol=1e-5)


def test_layer_prompts_behind_a_text_stand_at_their_positions(rotary):
  layers = rotary.module.config.layers
  vectors = jnp.asarray(np.random.default_rng(1).normal(0, 1, (layers, 1, 2, 12)), jnp.float32)
  context = rotary.read(TEXTS)
  given = Conditioning(decoder=StackConditioning(layer_prompts=vectors))
  rows = [(rotary.layout(), *each, 0) for each in zip(INPUTS, TARGETS, strict=True)]
  together = run(rotary, rows, given.behind(context))
  alone = [run(rotary, rows[b:b + 1], given.behind(rotary.read(TEXTS[b:b + 1]))) for b in range(3)]
  np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-5)


@pytest.mark.parametrize(('name', 'placement'), [
  ('relative', layouts.before), ('rotary', layouts.after_eos),
  *(pytest.param(name, placement, marks=pytest.mark.slow) for name, placement in (
    ('learned', layouts.before), ('rotary', layouts.before), ('rotary', None)))])
def test_answers_logits_and_scores_behind_a_text_are_those_of_one_row_with_both(name, placement):
  toy, prompt = family(name), placement and SavedPrompt(VECTORS[0], placement)
  whole, plain = [text + inputs for text, inputs in zip(TEXTS, INPUTS, strict=True)], prompt
  if placement is layouts.before:
    plain = [dataclasses.replace(prompt, placement=behind(len(text))) for text in TEXTS]
  context = jax.device_get(toy.read(TEXTS))
  np.testing.assert_allclose(toy.logits(INPUTS, TARGETS, prompt, context=context), toy.logits(whole, TARGETS, plain),
                             atol=1e-5)
  np.testing.assert_allclose(toy.score(INPUTS, TARGETS, prompt, context=context), toy.score(whole, TARGETS, plain),
                             atol=1e-4)
  answers = {'sampler': BeamSearch(3), 'max_length': 5}
  found = toy.predict(INPUTS, prompt, context=context, batch_size=2, **answers)
  assert [each.tolist() for each in found] == [each.tolist() for each in toy.predict(whole, plain, **answers)]


def test_what_does_not_fit_is_a_clear_error(tiny, rotary):
  with pytest.raises(ValueError, match=r'Only a decoder-only model .*, but this one has an encoder. Put the text into'):
    tiny.read([[3, 4]])
  context = rotary.read(TEXTS)
  with pytest.raises(ValueError, match=r'conditioning.decoder.context, which it cannot use'):
    tiny.logits([[3, 4]], [[5]], context=context.take(np.array([0])))
  for call in (lambda: rotary.logits(INPUTS[:2], TARGETS[:2], context=context),
               lambda: rotary.predict([[3]] * 5, context=context, batch_size=3)):
    with pytest.raises(ValueError, match=r'Found a context of 3 texts for \d rows. Read one text for each row'):
      call()
  with pytest.raises(ValueError, match='context has 3 rows, expected 1'):
    run(rotary, [(rotary.layout(), [3], [4], 0)], Conditioning().behind(context))


def test_texts_behind_a_text_have_no_begin_token(rotary):
  class Beginning(PassThroughVocabulary):
    start = (2,)

  begins = dataclasses.replace(rotary, vocabulary=Beginning(29))
  assert begins.read(['5 6']).seen.sum() == 3
  found = begins.logits(['7 8'], [[4]], context=begins.read(['5 6']))
  np.testing.assert_allclose(found, rotary.logits([[2, 5, 6, 7, 8]], [[4]]), atol=1e-5)
