"""A prefix initialised from a text, or from another prefix."""

import dataclasses

import jax
import numpy as np
import pytest
from test_every_method import DECODER_ONLY

from prompt_tuning import trees
from prompt_tuning.evaluation.saved import Trained
from prompt_tuning.models import loading
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.tuning.prefix import Prefix

LEARNED = DecoderConfig(
  vocab_size=29, layers=2, width=12, heads=3, head_dim=5, mlp_dim=14, mlp_activations=('gelu',), norm='layer',
  bias=True, query_scale=5**-0.5, position_count=40, tied=True, family='gpt2')
KEY = jax.random.key(0)


@pytest.mark.parametrize('config', [LEARNED, DECODER_ONLY.module.config],
                         ids=['learned', 'rotary'])
def test_a_prefix_that_starts_from_a_text_begins_as_that_text(config):
  model = loading.random_model(config, seed=3)
  method = Prefix(4, init_from=model.read([[5, 6, 7, 8]]).as_prefix())
  prefix = Trained(trees.flatten(method.initialise(KEY, model)))
  np.testing.assert_allclose(model.logits([[9, 4], [3]], [[11], [12, 13]], prefix),
                             model.logits([[5, 6, 7, 8, 9, 4], [5, 6, 7, 8, 3]], [[11], [12, 13]]), atol=1e-5)


def test_padding_around_the_text_is_left_out():
  alone, among = DECODER_ONLY.read([[5, 6]]), DECODER_ONLY.read([[3, 4, 7], [5, 6]]).take(np.array([1]))
  for found, wanted in zip(among.as_prefix(), alone.as_prefix(), strict=True):
    assert found.shape == (2, 2, 2, 6)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_the_attention_of_t5_that_is_named_may_start_from_given_arrays(tiny):
  layers, heads, head_dim = tiny.prefix_shapes()['cross']
  pair = tuple(np.random.default_rng(i).normal(size=(layers, 3, heads, head_dim)) for i in range(2))
  made = Prefix(3, attentions=('cross',), init_from=pair).initialise(KEY, tiny)['cross']['prefix']
  np.testing.assert_allclose(made['keys'], pair[0], rtol=1e-6)
  np.testing.assert_allclose(made['values'], pair[1], rtol=1e-6)


def test_a_text_of_gin_files_is_read_by_the_model():
  class Numbers:
    eos_id, start = 1, ()
    encode = staticmethod(lambda text: [int(each) for each in text.split()])

  model = dataclasses.replace(DECODER_ONLY, vocabulary=Numbers())
  built = Prefix(2, text='5 6').build(model)
  np.testing.assert_array_equal(built.initialise(KEY, model)['decoder']['prefix']['keys'],
                                model.read([[5, 6]]).as_prefix()[0])
  assert Prefix(2, text='5 6').build(object()).init_from is None  # a dry run knows shapes only


PAIR = tuple(np.zeros((2, 3, 2, 6)) for _ in range(2))


@pytest.mark.parametrize(('call', 'message'), [
  (lambda tiny: Prefix(3, hidden=4, init_from=PAIR), 'hidden=4 cannot be used together: .* Leave out hidden or'),
  (lambda tiny: Prefix(2, init_from=PAIR).initialise(KEY, DECODER_ONLY),
   r'of shapes \[\(2, 3, 2, 6\), \(2, 3, 2, 6\)\], .* need \(2, 2, 2, 6\) .* Set the length to the number of tokens'),
  (lambda tiny: Prefix(3, init_from=PAIR).initialise(KEY, tiny), 'keys and values of one attention, .* Set'),
  (lambda tiny: DECODER_ONLY.read([[3, 4], [5]]).as_prefix(), 'starts from one text, but the context has 2. Choose'),
  (lambda tiny: Prefix(2, text='5 6').build(tiny), 'Only a decoder-only model can read a text as a context'),
])
def test_what_does_not_fit_is_a_clear_error(tiny, call, message):
  with pytest.raises(ValueError, match=message):
    call(tiny)
