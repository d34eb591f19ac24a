"""The frozen model for users: alignment, scores, predictions, mixed batches, and errors before compilation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning import trees
from prompt_tuning.data.vocabularies import PassThroughVocabulary
from prompt_tuning.decoding.samplers import BeamSearch, Greedy, Sampling
from prompt_tuning.evaluation.saved import SavedPrompt, Trained
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.models.row_prompts import collect_prompts
from prompt_tuning.models.text_rows import bucket
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Visibility
from prompt_tuning.tuning.prefix import Prefix

INPUTS = [[7, 8, 9, 4, 1], [10, 3, 1], [12, 13, 14, 1]]
TARGETS = [[5, 6, 1], [11, 1], [16, 17, 18, 1]]
RANDOM = np.random.default_rng(3)
SHORT = SavedPrompt(RANDOM.normal(size=(2, 12)).astype(np.float32), layouts.after_eos)
LONG = SavedPrompt(RANDOM.normal(size=(3, 12)).astype(np.float32))
MIXED = [LONG, None, SHORT]


def padded(rows, side, length=6):
  return np.array([[0] * (length - len(row)) + row if side == 'left' else row + [0] * (length - len(row))
                   for row in rows])


def log_softmax(logits):
  return np.asarray(jax.nn.log_softmax(jnp.asarray(logits)))


@pytest.fixture(scope='module')
def ragged(tiny):
  """Logits [B, 4, V] of the ragged lists."""
  return tiny.logits(INPUTS, TARGETS, LONG)


def test_logits_of_lists_are_aligned_with_the_longest_target_and_zero_behind_the_others(ragged):
  assert ragged.shape == (3, 4, 29) and ragged.dtype == np.float32
  assert not ragged[0, 3:].any() and not ragged[1, 2:].any()
  assert ragged[2].any(axis=-1).all()


@pytest.mark.parametrize('kind', [np.asarray, jnp.asarray])
@pytest.mark.parametrize('side', ['left', 'right'])
def test_logits_of_padded_arrays_stand_where_the_targets_stand(tiny, ragged, side, kind):
  found = tiny.logits(kind(padded(INPUTS, side)), kind(padded(TARGETS, side)), LONG)
  assert found.shape == (3, 6, 29)
  for b, target in enumerate(TARGETS):
    start = 6 - len(target) if side == 'left' else 0
    np.testing.assert_allclose(found[b, start:start + len(target)], ragged[b, :len(target)], atol=2e-5)
    assert found[b].any(axis=-1).sum() == len(target)


def test_a_mask_says_what_of_an_array_is_padding_and_lists_are_read_as_they_are(causal):
  rows, filled = [[0, 7, 0], [5]], np.array([[0, 7, 0, 9], [9, 5, 9, 9]])
  mask = np.array([[1, 1, 1, 0], [0, 1, 0, 0]])
  alone = causal.logits(rows, [[4, 0], [0]])
  np.testing.assert_array_equal(causal.logits(filled, [[4, 0], [0]], mask=mask), alone)
  moved = causal.logits(rows, np.array([[3, 4, 0], [0, 8, 8]]), target_mask=np.array([[0, 1, 1], [1, 0, 0]]))
  np.testing.assert_array_equal(moved[0, 1:], alone[0])
  np.testing.assert_array_equal(moved[1, 0], alone[1, 0])
  answers = causal.predict(filled, mask=mask, max_length=3)
  np.testing.assert_array_equal(answers[0], causal.predict(rows[:1], max_length=3)[0])
  assert np.abs(causal.logits([[7, 0]], [[4]]) - causal.logits([[7]], [[4]])).max() > 1e-3


def test_where_the_padding_token_ends_a_target_an_array_keeps_one(causal):
  vocabulary = PassThroughVocabulary(29, eos_id=6, pad_id=6)
  model = dataclasses.replace(causal, vocabulary=vocabulary)
  inputs, targets = np.array([[3, 4, 5], [6, 6, 2]]), np.array([[5, 6, 6], [7, 8, 9]])
  wanted = model.score([[3, 4, 5], [2]], [[5, 6], [7, 8, 9]])
  np.testing.assert_allclose(model.score(inputs, targets), wanted, rtol=1e-6)


@pytest.mark.parametrize('placement', [layouts.before, layouts.after_bos, layouts.after_eos])
def test_the_last_vector_of_a_prompt_answers_an_input_without_tokens(causal, placement):
  prompt = SavedPrompt(LONG.vectors, placement)
  wanted = causal.logits([[]], [[5, 7]], prompt)
  beside = causal.logits([[4, 4], []], [[3], [5, 7]], prompt)  # beside a row with tokens
  np.testing.assert_allclose(beside[1], wanted[0], atol=1e-5)
  np.testing.assert_allclose(beside[0, 0], causal.logits([[4, 4]], [[3]], prompt)[0, 0], atol=1e-5)
  (answer,) = causal.predict([[]], prompt, max_length=3)
  assert answer[0] == wanted[0, 0].argmax()


@pytest.mark.parametrize('call', [
  lambda m: m.predict([[], [3]]), lambda m: m.score([[]], [[5]]), lambda m: m.predict([''])])
def test_an_input_without_tokens_and_prompt_is_an_error(causal, call):
  with pytest.raises(ValueError, match='An input has no token, and neither a begin token nor a prompt'):
    call(causal)


def test_a_begin_token_stands_for_an_empty_input_behind_a_prefix(causal):
  prefix = Prefix(2)
  trained = Trained(trees.flatten(prefix.initialise(jax.random.key(0), causal)), prefix.describe())
  with_begin = dataclasses.replace(causal, vocabulary=PassThroughVocabulary(29))
  with_begin.vocabulary.bos_id = 3
  np.testing.assert_array_equal(with_begin.logits([[]], [[5]], trained), with_begin.logits([[3]], [[5]], trained))
  with pytest.raises(ValueError, match='An input has no token'):
    causal.logits([[]], [[5]], trained)


@pytest.mark.parametrize(('call', 'message'), [
  (lambda m: m.predict(np.array([[3, 4]]), mask=np.ones((1, 3))), r'mask has the shape \(1, 3\), but inputs has'),
  (lambda m: m.predict(np.array([[3, 4, 5]]), mask=np.array([[1, 0, 1]])), 'mask is 0 within row 0 of inputs'),
  (lambda m: m.predict([[3, 4], [5]], mask=np.ones((2, 2))), 'array of token ids .* rows of several lengths'),
  (lambda m: m.predict([[0.5, 1.5]]), 'expected texts, or rows of token ids'),
  (lambda m: dataclasses.replace(m, vocabulary=None).predict(np.array([[3, 0]])), 'nothing tells whether that is'),
])
def test_a_mask_that_does_not_fit_is_named(causal, call, message):
  with pytest.raises(ValueError, match=message):
    call(causal)


def test_texts_are_encoded_with_an_end_token(tiny, ragged):
  texts = [' '.join(map(str, row[:-1])) for row in INPUTS], [' '.join(map(str, row[:-1])) for row in TARGETS]
  np.testing.assert_array_equal(tiny.logits(*texts, LONG), ragged)


def test_a_score_is_the_sum_of_the_targets_log_probabilities(tiny, ragged):
  wanted = [log_softmax(logits)[range(len(target)), target].sum()
            for logits, target in zip(ragged, TARGETS, strict=True)]
  np.testing.assert_allclose(tiny.score(INPUTS, TARGETS, LONG), wanted, atol=1e-4)
  np.testing.assert_allclose(tiny.score(padded(INPUTS, 'left'), padded(TARGETS, 'left'), LONG), wanted, atol=1e-4)


def test_without_a_prompt_the_outputs_are_the_frozen_models_to_the_bit(tiny):
  batch = layouts.assemble([[layouts.Layout().example(*each)] for each in zip(INPUTS, TARGETS, strict=True)] + [[]],
                           {'encoder': 8, 'decoder': 8})
  wanted = np.asarray(jax.jit(tiny.module.apply)({'params': tiny.params}, batch))
  found = tiny.logits(INPUTS, TARGETS)
  for b, target in enumerate(TARGETS):
    np.testing.assert_array_equal(found[b, :len(target)], wanted[b, :len(target)])


def test_rows_with_different_prompts_and_none_give_the_logits_of_separate_runs(tiny):
  together = tiny.logits(INPUTS, TARGETS, MIXED)
  for b, prompt in enumerate(MIXED):
    alone = tiny.logits(INPUTS, TARGETS, prompt)[b]
    np.testing.assert_allclose(together[b], alone, atol=2e-5)


def test_rows_with_different_prompts_and_none_are_answered_as_in_separate_runs(tiny):
  together = tiny.predict(INPUTS, MIXED, max_length=5)
  for b, prompt in enumerate(MIXED):
    np.testing.assert_array_equal(together[b], tiny.predict(INPUTS, prompt, max_length=5)[b])
  assert len({tuple(answer) for answer in together}) == 3


def test_greedy_answers_are_the_likeliest_tokens_given_themselves(tiny):
  answers = tiny.predict(INPUTS, MIXED, max_length=5)
  for answer, logits in zip(answers, tiny.logits(INPUTS, answers, MIXED), strict=True):
    assert logits[:len(answer)].argmax(-1).tolist() == answer.tolist()


@pytest.mark.parametrize('sampler', [Sampling(temperature=2.0), BeamSearch(2, temperature=3.0)])
def test_answers_do_not_depend_on_the_batches_that_inputs_are_cut_into(tiny, sampler):
  inputs, prompts = [*INPUTS, [3, 1]], [LONG, SHORT, LONG, SHORT]  # both batches have the same number of prompts
  drawn = [tiny.predict(inputs, prompts, sampler=sampler, max_length=5, batch_size=size, seed=7)
           for size in (2, 4)]
  assert [each.tolist() for each in drawn[0]] == [each.tolist() for each in drawn[1]]


def test_texts_are_answered_with_texts(tiny):
  ids = tiny.predict(INPUTS, LONG, max_length=5)
  texts = tiny.predict([' '.join(map(str, row[:-1])) for row in INPUTS], LONG, max_length=5)
  assert texts == [' '.join(str(i) for i in answer if i) for answer in ids]
  assert tiny.predict([]) == []


def test_a_plain_array_is_a_prompt_too(tiny, ragged):
  np.testing.assert_array_equal(tiny.logits(INPUTS, TARGETS, LONG.vectors), ragged)


@pytest.mark.parametrize(('call', 'message'), [
  (lambda m: m.logits(None, TARGETS), r'inputs=None cannot be used: .* reads inputs with its encoder.* Give texts'),
  (lambda m: m.predict(None), r'inputs=None'),
  (lambda m: m.score(INPUTS, None), r'targets=None cannot be used here'),
  (lambda m: m.predict('3 4'), r'inputs is a single text, expected a list of texts. Write \[text\]'),
  (lambda m: m.predict([3, 4, 1]), r'inputs is a single row of token ids, expected a list of rows. Write \[ids'),
  (lambda m: m.logits([], []), r'targets is empty. Give at least one row'),
  (lambda m: m.score(INPUTS, TARGETS[:2]), r'Found 3 inputs and 2 targets. Give one target for each input'),
  (lambda m: m.predict([[5, 29, 1]]), r'Row 0 of inputs holds the token id 29, but the embedding .* has 29 rows'),
  (lambda m: m.logits(INPUTS, [[5], [-1, 28], [5]]), r'Row 1 of targets holds the token id -1, but'),
  (lambda m: m.predict(INPUTS, np.zeros((2, 7))), r'The prompt has shape \(2, 7\), but the model expects \[P, 12\]'),
  (lambda m: m.predict(INPUTS, np.zeros(12)), r'The prompt has shape \(12,\), but the model expects \[P, 12\]'),
  (lambda m: m.predict(INPUTS, [None, LONG]), r'Found 2 prompts for 3 rows. Give one for each row'),
  (lambda m: m.predict(INPUTS, sampler=Greedy(2)), r'Greedy decoding returns one sequence, but got num_decodes=2'),
])
def test_a_callers_mistake_is_named(tiny, call, message):
  with pytest.raises(ValueError, match=message):
    call(tiny)


def test_text_for_a_model_without_a_vocabulary_is_an_error(tiny):
  with pytest.raises(ValueError, match=r'loaded without a vocabulary, so it takes token ids, not text. Give load_'):
    LanguageModel(tiny.module, tiny.params).predict(['3 4'])


def test_prompts_that_see_different_things_cannot_share_a_batch(tiny):
  blind = SavedPrompt(SHORT.vectors, visibility=Visibility(input=False))
  with pytest.raises(ValueError, match=r'have different visibility: .*input=False.* and .*input=True.*. Run them in'):
    collect_prompts([LONG, blind], 2, tiny)


def test_prompts_of_a_batch_are_gathered_once_each(tiny):
  chosen, conditioning = collect_prompts([SHORT, None, LONG, SHORT], 4, tiny)
  assert conditioning.encoder.prompt.shape == (2, 3, 12)
  assert [(use.number, use.layout.prompt_length) for use in chosen] == [(0, 2), (0, 0), (1, 3), (0, 2)]
  assert chosen[0].layout.placement is layouts.after_eos


def test_lengths_are_rounded_up_to_few():
  assert [bucket(n) for n in (0, 8, 9, 1024, 1025, 1600)] == [8, 8, 16, 1024, 1536, 2048]


def test_beams_and_samples_have_as_many_sequences_as_asked_for():
  assert (BeamSearch(3).num_decodes, Sampling(num_decodes=2).num_decodes) == (3, 2)
