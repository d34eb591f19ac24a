"""A prompt before a decoder-only model in Flaxformer, against T5X's golden data."""

import functools

import numpy as np
import pytest


@pytest.fixture(params=['prefixlm', 'causal'])
def case(request, shared, shape_file):
  """The model, its parameters, the batch, and the golden arrays for one visibility of the input."""
  import golden_t5x

  folder = shared / 't5x/e_decoder_only'
  golden = np.load(folder / 'golden.npz')
  model = golden_t5x.make('decoder_only_prompt.gin', shape_file('small'),
                          f'models.DecoderOnlyModel.inputs_bidirectional_attention = {request.param == "prefixlm"}')
  prefix = f'{request.param}_prompt_'
  wanted = {name.removeprefix(prefix): golden[name] for name in golden.files if name.startswith(prefix)}
  return model, golden_t5x.tree_of(np.load(folder / 'params.npz')), golden_t5x.batch_of(golden), wanted


def test_logits_loss_and_scores_are_t5xs(case):
  model, params, batch, wanted = case
  np.testing.assert_allclose(model._compute_logits(params, batch), wanted['logits'], atol=5e-5)
  np.testing.assert_allclose(model.loss_fn(params, batch, None)[0], wanted['loss'], rtol=1e-5)
  np.testing.assert_allclose(model.score_batch(params, batch), wanted['score_batch'], rtol=1e-5)


def test_parameters_have_the_checkpoints_names(case):
  import golden_t5x

  model, params, batch, _ = case
  made = golden_t5x.variables(model, batch)
  assert golden_t5x.names_of(made['params']) == golden_t5x.names_of(params)
  assert made['params_axes']['decoder']['prompt']['prompt']['prompt_axes'].names == ('prompt', 'embed')


def test_greedy_decoding_is_t5xs(case):
  from t5x import decoding

  model, params, batch, wanted = case
  model._decode_fn = functools.partial(decoding.temperature_sample, temperature=0.0)
  tokens, _ = model.predict_batch_with_aux(params, batch, return_all_decodes=True)
  np.testing.assert_array_equal(tokens, wanted['greedy_tokens'])


def test_a_beam_searchs_scores_are_those_of_its_answers(case):
  from t5x import decoding

  model, params, batch, _ = case
  model._decode_fn = functools.partial(decoding.beam_search, alpha=0.0)
  tokens, aux = model.predict_batch_with_aux(params, batch, num_decodes=4, return_all_decodes=True)
  best, scores = np.asarray(tokens)[:, -1], np.asarray(aux['scores'])[:, -1]
  rows = batch['decoder_causal_attention'].sum(1) - 1  # of the inputs
  checked = 0
  for row, (length, answer, score) in enumerate(zip(rows, best, scores, strict=True)):
    count = int((answer > 0).sum())
    if answer[count - 1] != 1:
      continue  # truncated by the longest row: such a search may have no finished sequence
    targets = np.zeros_like(batch['decoder_target_tokens'][:1])
    targets[0, :length] = batch['decoder_target_tokens'][row, :length]
    targets[0, length:length + count] = answer[:count]
    inputs = np.pad(targets[:, :-1], ((0, 0), (1, 0)))
    weights = np.zeros_like(targets)
    weights[0, length:length + count] = 1
    again = {'decoder_target_tokens': targets, 'decoder_input_tokens': inputs, 'decoder_loss_weights': weights,
             'decoder_causal_attention': batch['decoder_causal_attention'][row:row + 1]}
    np.testing.assert_allclose(model.score_batch(params, again), [score], rtol=1e-4)
    checked += 1
  assert checked
