"""Rows of one batch with prompts, prefixes, layer prompts or nothing give the same results as alone."""

import jax
import numpy as np
import pytest
from test_every_method import DECODER_ONLY

from prompt_tuning import trees
from prompt_tuning.decoding.samplers import BeamSearch, Greedy
from prompt_tuning.evaluation.saved import SavedPrompt, Trained
from prompt_tuning.models import loading
from prompt_tuning.models.decoder_config import DecoderConfig
from prompt_tuning.models.places import places_before
from prompt_tuning.models.row_prompts import collect_prompts
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Visibility
from prompt_tuning.tuning.layer_prompts import LayerPrompts
from prompt_tuning.tuning.prefix import Prefix
from prompt_tuning.tuning.scales import Scales

INPUTS = [[7, 8, 9, 4, 1], [10, 3, 1], [12, 13, 14, 1], [5, 1], [20, 21, 1], [9, 9, 1], [4, 1], [6, 8, 1], [2, 3, 1]]
TARGETS = [[5, 6, 1], [11, 1], [16, 17, 18, 1], [3, 1], [4, 4, 1], [8, 1], [7, 9, 1], [5, 1], [10, 1]]
LEARNED = loading.random_model(DecoderConfig(
  vocab_size=29, layers=2, width=12, heads=3, head_dim=4, mlp_dim=14, kv_heads=1, position_count=25), seed=2)


def trained(method, model, seed=0):
  """Returns the content of a file of this method."""
  about = {'mode': method.mode} if isinstance(method, LayerPrompts) else {}
  tensors = trees.flatten(method.initialise(jax.random.key(seed), model))
  if isinstance(method, Scales):
    random = np.random.default_rng(seed)
    tensors = {name: random.normal(1, 0.5, array.shape).astype(np.float32) for name, array in tensors.items()}
  return Trained(tensors, about)


def prompt(length, model, placement=layouts.before, **visibility):
  """Returns a prompt that was read from a file."""
  vectors = np.random.default_rng(length).normal(size=(length, 12)).astype(np.float32)
  name = f'{model.prompted}/prompt/prompt/prompt'
  return SavedPrompt(vectors, placement, Visibility(**visibility), path=name).as_trained()


def both(first, second):
  return Trained({**first.tensors, **second.tensors}, {**first.about, **second.about})


def mixed(model, placement):
  """Returns rows of every kind, of several lengths."""
  layers = LayerPrompts(3, mode='add' if model.prompted == 'encoder' else 'replace')
  return [prompt(2, model, placement), trained(Prefix(4), model), None, trained(layers, model, 1),
          both(trained(Prefix(2), model, 3), prompt(3, model)), trained(LayerPrompts(1, mode='add'), model, 2),
          trained(Scales(), model), both(trained(Scales('.*query/.*put'), model, 4), prompt(2, model, placement)),
          both(trained(Scales(), model, 5), trained(Prefix(2), model, 6))]


def assert_each_row_is_as_alone(model, chosen, *, samplers=(Greedy(),), context=None):
  inputs, targets = INPUTS[:len(chosen)], TARGETS[:len(chosen)]
  logits = model.logits(inputs, targets, chosen, context=context)
  found = [model.predict(inputs, chosen, sampler=each, max_length=5, context=context) for each in samplers]
  for b, each in enumerate(chosen):
    asked = {'prompt': each, 'context': context and context.take(np.array([b]))}
    alone = model.logits(inputs[b:b + 1], targets[b:b + 1], **asked)[0]
    np.testing.assert_allclose(logits[b, :len(alone)], alone, atol=1e-5)
    for sampler, answers in zip(samplers, found, strict=True):
      (answer,) = model.predict(inputs[b:b + 1], sampler=sampler, max_length=5, **asked)
      np.testing.assert_array_equal(answers[b], answer)


def test_rows_with_a_prompt_a_prefix_layer_prompts_and_nothing_equal_each_alone():
  assert_each_row_is_as_alone(DECODER_ONLY, mixed(DECODER_ONLY, layouts.before)[:4], samplers=())


def test_rows_of_t5_with_a_prefix_and_a_prompt_that_sees_nothing_equal_each_alone(tiny):
  assert_each_row_is_as_alone(tiny, [trained(Prefix(2), tiny), prompt(3, tiny, input=False)], samplers=())


def test_rows_with_a_prefix_and_rows_with_a_prompt_do_not_need_the_positions_of_both(causal):
  prefix, vectors, layers = trained(Prefix(4), causal), prompt(3, causal), trained(LayerPrompts(5), causal)
  places = lambda *chosen: places_before({'decoder': {}}, collect_prompts(chosen, len(chosen), causal)[1])
  assert (places(prefix, vectors, None), places(vectors, layers, prefix)) == (4, 5)
  assert places(both(prefix, vectors), layers, None) == 7


@pytest.mark.slow
@pytest.mark.parametrize('placement', [layouts.before, layouts.after_eos])
@pytest.mark.parametrize('name', ['T5', 'rotary', 'learned positions', 'learned positions behind texts'])
def test_rows_of_every_kind_equal_each_alone(tiny, name, placement):
  model = {'T5': tiny, 'rotary': DECODER_ONLY}.get(name, LEARNED)
  texts = [[5, 6, 7], [11], [20, 3], [4], [6], [8, 9, 8], [3], [7, 2], [5]]
  context = model.read(texts) if name.endswith('texts') else None
  chosen = mixed(model, placement)
  assert_each_row_is_as_alone(model, chosen, samplers=(Greedy(), BeamSearch(3)), context=context)
  alone = [model.score(INPUTS[b:b + 1], TARGETS[b:b + 1], each, context=context and context.take(np.array([b])))[0]
           for b, each in enumerate(chosen)]
  np.testing.assert_allclose(model.score(INPUTS, TARGETS, chosen, context=context), alone, atol=1e-4)


@pytest.mark.parametrize('name', [pytest.param('T5', marks=pytest.mark.slow), 'decoder-only'])
def test_rows_with_scales_of_their_own_and_none_equal_each_alone(tiny, name):
  model = tiny if name == 'T5' else DECODER_ONLY
  chosen = [trained(Scales(), model), None, both(trained(Scales('.*/mlp/.*'), model, 1), prompt(2, model))]
  assert_each_row_is_as_alone(model, chosen, samplers=(BeamSearch(2),) if name == 'T5' else ())


@pytest.mark.slow
def test_rows_of_t5_with_prompts_that_see_nothing_and_prefixes_equal_each_alone(tiny):
  blind = [prompt(length, tiny, input=False) for length in (2, 3)]
  assert_each_row_is_as_alone(tiny, [blind[0], trained(Prefix(4), tiny), None, blind[1], trained(Prefix(1), tiny, 1),
                                     both(blind[1], trained(Scales(), tiny))],
                              samplers=(Greedy(), BeamSearch(2)))


@pytest.mark.parametrize(('name', 'method'), [
  ('decoder', Prefix), ('decoder', LayerPrompts), ('decoder', lambda length: LayerPrompts(length, mode='add')),
  ('encoder', Prefix), ('encoder', lambda length: Prefix(length, attentions=('cross',))),
  ('encoder', lambda length: LayerPrompts(length, mode='add')),
], ids=['prefix', 'layer prompts', 'added', 'T5 prefix', 'T5 cross prefix', 'T5 added'])
def test_rows_with_things_of_several_lengths_and_none_equal_each_alone(tiny, name, method):
  model = tiny if name == 'encoder' else DECODER_ONLY
  assert_each_row_is_as_alone(model, [trained(method(2), model), trained(method(3), model, 1), None])


@pytest.mark.slow
def test_prefixes_of_one_row_may_have_several_lengths(tiny):
  uneven = both(trained(Prefix(2, attentions=('decoder',)), tiny), trained(Prefix(3, attentions=('cross',)), tiny))
  assert_each_row_is_as_alone(tiny, [uneven, None, prompt(2, tiny)])


def test_a_prompt_from_a_file_is_the_same_as_one_that_was_saved(tiny):
  saved = SavedPrompt(np.random.default_rng(0).normal(size=(3, 12)).astype(np.float32))
  np.testing.assert_array_equal(tiny.logits(INPUTS[:3], TARGETS[:3], [saved.as_trained(), None, saved]),
                                tiny.logits(INPUTS[:3], TARGETS[:3], [saved, None, saved]))


def test_what_cannot_stand_in_one_batch_is_a_clear_error(tiny):
  retrained = Trained({'decoder/decoder_norm/scale': np.full(12, 2.0, np.float32)})
  with pytest.raises(ValueError, match=r'Found decoder/decoder_norm/scale for some rows, but all rows .* Give them'):
    tiny.logits(INPUTS[:3], TARGETS[:3], [retrained, None, retrained])
  assert not np.allclose(tiny.score(INPUTS[:1], TARGETS[:1], retrained), tiny.score(INPUTS[:1], TARGETS[:1]))
  clash = both(trained(LayerPrompts(2), DECODER_ONLY), prompt(2, DECODER_ONLY))
  with pytest.raises(ValueError, match=r'A decoder-only model got decoder.prompt, decoder.layer_prompts. Use'):
    DECODER_ONLY.logits(INPUTS[:2], TARGETS[:2], [clash, prompt(1, DECODER_ONLY)])
