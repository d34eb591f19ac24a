"""Evaluation compared with the model's predictions and logits, one text at a time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning.data import metrics
from prompt_tuning.data.tasks import Mixture, Task
from prompt_tuning.decoding.samplers import Greedy
from prompt_tuning.evaluation.evaluate import evaluate, evaluate_loss
from prompt_tuning.rows.conditioning import Conditioning
from prompt_tuning.rows.layouts import Layout

EXAMPLES = [{'inputs': '7 8 9', 'targets': '5 6'}, {'inputs': '3', 'targets': '4'},
            {'inputs': '10 11', 'targets': '12'}]
LENGTHS = {'inputs': 7, 'targets': 7}  # not a multiple of 8, as users may give


def words(targets, predictions):
  return {'words': float(sum(len(text.split()) for text in predictions)), 'count': float(len(targets))}


def first_is_right(targets, predictions):
  return {'first': float(targets[0] == predictions[0])}


TASK = Task('three', {'validation': EXAMPLES}, (words, first_is_right))


def judged(model, task=TASK, **settings):
  return evaluate(model, Conditioning(), Layout(), task, sampler=Greedy(), lengths=LENGTHS, batch_size=2, **settings)


def test_metrics_are_those_of_the_models_answers_to_every_example(tiny):
  found = judged(tiny, max_length=4)
  wanted = tiny.predict([example['inputs'] for example in EXAMPLES], max_length=4)
  assert [line['prediction'] for line in found.lines] == wanted
  assert [(line['input']['inputs_pretokenized'], line['target']) for line in found.lines] == [
    (e['inputs'], e['targets']) for e in EXAMPLES]
  assert dict(found.metrics) == {**words(['a'] * 3, wanted), 'first': 0.0}
  assert found.task == 'three'


def test_ids_are_judged_as_texts_and_as_many_examples_as_asked_for(tiny):
  ids = [{name: [int(i) for i in text.split()] for name, text in example.items()} for example in EXAMPLES]
  found = judged(tiny, dataclasses.replace(TASK, splits={'validation': ids}), num_examples=2, max_length=4)
  assert [line['input']['inputs_pretokenized'] for line in found.lines] == ['7 8 9', '3']
  assert [line['target'] for line in found.lines] == ['5 6', '4']
  assert found.metrics['count'] == 2


def test_a_task_without_metrics_or_the_split_is_an_error(tiny):
  with pytest.raises(ValueError, match=r'The task three has no metrics. Give some'):
    judged(tiny, dataclasses.replace(TASK, metrics=()))
  with pytest.raises(ValueError, match=r"has no split 'test'"):
    judged(tiny, split='test')


def test_an_example_without_target_cannot_be_evaluated(tiny):
  task = dataclasses.replace(TASK, splits={'validation': [*EXAMPLES, {'inputs': '3'}]})
  for evaluation in (judged, lambda *of: evaluate_loss(of[0], Conditioning(), Layout(), of[1], lengths=LENGTHS)):
    with pytest.raises(ValueError, match=r"1 of 4 examples in the split 'validation' of three have no targets, first "):
      evaluation(tiny, task)


@pytest.mark.parametrize(('metric', 'message'), [
  (words, r"The metric words of the task three returns 'words', which another metric returns too"),
  (lambda targets, predictions: {'a': None}, r"returns None for 'a', expected a number"),
  (lambda targets, predictions: {'a': 'high'}, r"returns 'high' for 'a', expected a number"),
  (lambda targets, predictions: {'a': {'b': 1}}, r"returns \{'b': 1\} for 'a', expected a number"),
  (lambda targets, predictions: {1: 2}, r'returns \{1: 2\}, expected a number, or numbers by name'),
  (lambda targets, predictions: {}, r'returns \{\}, expected a number, or numbers by name')])
def test_metrics_return_numbers_under_names_of_their_own(tiny, metric, message):
  with pytest.raises(ValueError, match=message):
    judged(tiny, dataclasses.replace(TASK, metrics=(words, metric)), max_length=4)


def test_metrics_may_change_their_arguments_and_return_arrays_without_axes(tiny):
  def emptied(targets, predictions):
    targets.clear()
    return np.array(1.5)

  found = judged(tiny, dataclasses.replace(TASK, metrics=(emptied, *metrics.functions('accuracy, sequence_match'))),
                 max_length=4).metrics
  assert found['emptied'] == 1.5 and set(found) == {'emptied', 'accuracy', 'sequence_match'}


def of_targets(model, examples):
  """Returns the summed cross-entropy, the number of right tokens and of all tokens, from the model's logits."""
  loss = right = count = 0
  for example in examples:
    target = [*map(int, example['targets'].split()), 1]
    logits = model.logits([example['inputs']], [example['targets']])[0]
    loss -= np.asarray(jax.nn.log_softmax(jnp.asarray(logits)))[range(len(target)), target].sum()
    right += (logits.argmax(-1) == target).sum()
    count += len(target)
  return loss, right, count


@pytest.mark.parametrize(('steps', 'seen'), [(None, 3), (1, 2)])
def test_the_loss_is_the_mean_over_the_targets_tokens(tiny, steps, seen):
  found = evaluate_loss(tiny, Conditioning(), Layout(), TASK, lengths=LENGTHS, batch_size=2, steps=steps)
  loss, right, count = of_targets(tiny, EXAMPLES[:seen])
  np.testing.assert_allclose([found['loss'], found['token_accuracy']], [loss / count, right / count], rtol=1e-5)


def test_the_loss_weighs_examples_as_training_does(tiny):
  def loss(*weighted):
    task = Task('weighted', {'validation': [example | {'loss_weight': weight} for example, weight in weighted]})
    return evaluate_loss(tiny, Conditioning(), Layout(), task, lengths=LENGTHS, batch_size=2)

  first, last = EXAMPLES[1], EXAMPLES[2]  # of two tokens each
  alone = [loss((first, 0.125)), loss((last, 0.5))]
  together = loss((first, 0.125), (last, 0.375))
  for name, value in together.items():
    np.testing.assert_allclose(value, 0.25 * alone[0][name] + 0.75 * alone[1][name], rtol=1e-5)
  np.testing.assert_allclose(alone[0]['loss'], loss((first, 1.0))['loss'], rtol=1e-6)


def test_a_mixtures_loss_counts_every_token_of_its_tasks(tiny):
  parts = [dataclasses.replace(TASK, splits={'validation': part}) for part in (EXAMPLES[:1], EXAMPLES[1:])]
  found = evaluate_loss(tiny, Conditioning(), Layout(), Mixture('both', tuple(parts)), lengths=LENGTHS, batch_size=2)
  loss, _, count = of_targets(tiny, EXAMPLES)
  np.testing.assert_allclose(found['loss'], loss / count, rtol=1e-5)
