"""The distillation loss, and the fields of an example that it reads, from the example to a step."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning import prompts
from prompt_tuning.data.pipeline import TrainBatches, eval_batches
from prompt_tuning.data.tasks import Task
from prompt_tuning.losses import Loss, averages, distillation
from prompt_tuning.losses.chunks import sum_at_targets
from prompt_tuning.rows.assembling import beside
from prompt_tuning.training import loop
from prompt_tuning.training.evaluations import Evaluations
from prompt_tuning.training.optimizers import Adafactor

B, S, V, K = 3, 4, 7, 3
LENGTHS = {'inputs': 5, 'targets': 4}
LOSS = Loss(function=distillation, normalizing_factor='tokens')


def log_softmax(logits):
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.fixture
def scored():
  """Logits of a model and log-probabilities of a teacher [B, S, V], targets and weights."""
  random = np.random.default_rng(0)
  logits, teacher = (3 * random.normal(size=(B, S, V)) for _ in range(2))
  return logits, log_softmax(teacher), random.integers(0, V, (B, S)), np.array([[1, 1, 1, 0], [1, .5, 0, 0], [0] * 4])


def likeliest(teacher, count):
  """Returns ids and log-probabilities of the teacher's likeliest tokens."""
  ids = np.argsort(-teacher, axis=-1)[..., :count]
  return ids, np.take_along_axis(teacher, ids, -1).astype(np.float32)


@functools.partial(jax.jit, static_argnames='most')
def chunked(hidden, targets, weights, ids, log_probs, *, most):
  project = lambda x: x
  return sum_at_targets(distillation, project, hidden, weights, targets, weights, ids, log_probs, most=most)


@pytest.mark.parametrize('most', [1 << 23, 2 * B * V])
def test_the_loss_is_the_formula_for_the_likeliest_tokens_and_the_rest(scored, most):
  logits, teacher, targets, weights = scored
  ids, log_probs = likeliest(teacher, K)
  wanted, entropy = 0.0, 0.0
  for b, s in np.ndindex(B, S):
    p, q = (np.exp(each[b, s][ids[b, s]]) for each in (teacher, log_softmax(logits)))
    p, q = np.append(p, 1 - p.sum()), np.append(q, 1 - q.sum())
    wanted -= weights[b, s] * (p * np.log(q)).sum()
    entropy -= weights[b, s] * (p * np.log(p)).sum()
  arguments = jnp.asarray(logits, jnp.float32), targets, weights, ids, log_probs
  total, sums = chunked(*arguments, most=most)
  np.testing.assert_allclose(total, wanted, rtol=1e-5)
  np.testing.assert_allclose(sums['entropy'], entropy, rtol=1e-4)
  np.testing.assert_allclose(averages(sums)['divergence'], (wanted - entropy) / 4.5, rtol=1e-4)
  np.testing.assert_allclose(sums['correct'], ((logits.argmax(-1) == targets) * weights).sum())
  gradient = jax.grad(lambda x: chunked(x, *arguments[1:], most=most)[0])(arguments[0])
  # Of K + 1 classes: q − p in the likeliest, and the rest's excess, shared in proportion, in all others.
  p, q = np.exp(log_probs), np.exp(log_softmax(logits))
  inside = np.take_along_axis(q, ids, -1)
  scale = (1 - p.sum(-1)) / (1 - inside.sum(-1))
  expected = q * (1 - scale[..., None])
  np.put_along_axis(expected, ids, inside - p, -1)
  np.testing.assert_allclose(gradient, expected * weights[..., None], atol=1e-5)


def test_with_the_whole_vocabulary_it_is_the_divergence_plus_the_teachers_entropy(scored):
  logits, teacher, targets, weights = scored
  divergence = (np.exp(teacher) * (teacher - log_softmax(logits))).sum(-1)
  entropy = -(np.exp(teacher) * teacher).sum(-1)
  total, sums = jax.jit(distillation)(jnp.asarray(logits, jnp.float32), targets, weights, *likeliest(teacher, V))
  np.testing.assert_allclose(total, ((divergence + entropy) * weights).sum(), rtol=1e-5)
  np.testing.assert_allclose(sums['loss'] - sums['entropy'], (divergence * weights).sum(), rtol=1e-4)


def test_a_sure_teacher_and_a_sure_model_stay_finite():
  logits = jnp.array([[[80.0, 0.0, -1.0], [0.0, 90.0, 0.0]]])
  ids, log_probs = np.array([[[0, 1], [0, 2]]]), np.array([[[0.0, -np.inf], [0.0, -60.0]]], np.float32)
  loss = lambda x: distillation(x, np.array([[0, 1]]), np.ones((1, 2)), ids, log_probs)[0]
  value, gradient = jax.jit(jax.value_and_grad(loss))(logits)
  np.testing.assert_allclose(value, 90, rtol=1e-5)
  assert np.isfinite(gradient).all()


# --- Fields of an example --------------------------------------------------------------------------------------------


def example(inputs, targets, top=K, **changes):
  """Returns an example whose teacher says of each target, end token included, the ids from it on."""
  ids = (np.array([*targets, 1])[:, None] + np.arange(top)) % 29
  return {'inputs': np.array(inputs), 'targets': np.array(targets), 'teacher_ids': ids,
          'teacher_log_probs': np.log(np.full(ids.shape, 0.25)).astype(np.float32), **changes}


TASK = Task('taught', {'train': [example([5, 6], [7]), example([8], [9, 10, 11]), example([3, 4, 5], [12, 13])] * 2,
                       'validation': [example([5], [7, 9])]})


@pytest.mark.parametrize('kind', [{}, {'packed': True}, {'buckets': (2,)}, {'side': 'left'}])
@pytest.mark.parametrize('encoder', [False, True])
def test_fields_stand_beside_their_targets(causal, tiny, kind, encoder):
  model = tiny if encoder else causal
  batches = TrainBatches(TASK, model.vocabulary, model.layout(prompts.PromptTuning(prompts.Prompt(2)).layout()),
                         lengths={'inputs': 9, 'targets': 5}, batch_size=2, fields=LOSS.fields, **kind)
  for _ in range(3):
    rows = next(batches)['decoder']
    real = rows['loss_weights'] > 0
    assert rows['teacher_ids'].shape == (*real.shape, K) and rows['teacher_log_probs'].dtype == np.float32
    np.testing.assert_array_equal(rows['teacher_ids'][real], (rows['targets'][real][:, None] + np.arange(K)) % 29)
    assert not rows['teacher_ids'][~real].any()


def test_batches_of_several_runs_have_the_fields():
  batch = lambda length: {'decoder': {'tokens': np.ones((2, length), int), 'teacher_ids': np.ones((2, length, K), int)},
                          'prompt_ids': np.zeros((2, 1), int)}
  assert beside([batch(3), batch(4)])['decoder']['teacher_ids'].shape == (4, 4, K)
  other = batch(4)
  other['decoder']['teacher_ids'] = np.ones((2, 4, 5), int)
  with pytest.raises(ValueError, match=r'different shapes: \(3,\) and \(5,\) for each target. Use data'):
    beside([batch(3), other])


@pytest.mark.parametrize('settings', [pytest.param({'microbatches': 2}, marks=pytest.mark.slow), {'packed': True}])
def test_a_run_learns_from_a_teacher(causal, tmp_path, settings):
  train = lambda folder, **how: loop.train(
    model=causal, method=prompts.PromptTuning(prompts.Prompt(2)), task=TASK, lengths=LENGTHS, train_steps=3, seed=1,
    batch_size=4, model_dir=str(tmp_path / folder), loss=LOSS, optimizer=Adafactor(0.1), quiet=True,
    evaluations=Evaluations(period=3, loss_steps=1, examples=0), **how)
  found = train('run', **settings)
  assert found.metrics['taught/loss'] > np.log(4) - 1e-4  # the teacher's entropy
  if 'microbatches' in settings:
    np.testing.assert_allclose(found.trained['decoder/prompt/prompt/prompt'],
                               train('plain').trained['decoder/prompt/prompt/prompt'], atol=1e-5)


@pytest.mark.parametrize(('examples', 'message'), [
  ([{'inputs': [5], 'targets': [6]}], "An example has no 'teacher_ids', which the loss reads"),
  ([example([5], [6, 7, 8, 9, 10])], 'has teacher_ids for 6 targets, but the loss counts 4 .* Increase max_target_len'),
  ([example([5], [6], teacher_ids=np.full((2, K), 29))], 'teacher_ids holds the token id 29, but .* 29 rows'),
  ([example([5], [6], teacher_ids='many')], "teacher_ids='many', expected numbers for each target"),
  ([example([5], [6]), example([5], [6], top=2)], r"different shapes .*teacher_ids': \(2,\).*one kind"),
  ([example([5], [6], teacher_ids=np.zeros((2, K), int))], 'hold the token 0 twice. Give the likeliest'),
  ([example([5], [6], teacher_log_probs=np.zeros((2, K)))], 'add up to 3, expected at most 1. Give natural log'),
  ([example([5], [6], teacher_log_probs=np.full((2, K), np.nan))], 'add up to nan, expected at most 1'),
])
def test_what_no_teacher_says_is_a_clear_error(causal, examples, message):
  with pytest.raises(ValueError, match=message):
    for batch, _ in eval_batches(examples, causal.vocabulary, causal.layout(), batch_size=2, lengths=LENGTHS,
                                 fields=LOSS.fields).weighted():
      LOSS.check(batch)


def test_batches_without_the_fields_are_a_clear_error(causal):
  (batch, _), = eval_batches([example([5], [6])], causal.vocabulary, causal.layout(), batch_size=1).weighted()
  with pytest.raises(ValueError, match='reads teacher_ids, teacher_log_probs of every example, but the batch has no'):
    LOSS.check(batch)


def test_the_teacher_decides_the_digest():
  from prompt_tuning.data.digest import digest

  other = dataclasses.replace(TASK, splits={'train': [
    {**each, 'teacher_log_probs': each['teacher_log_probs'] - 1} for each in TASK.split('train')]})
  assert digest(TASK, 'train', LOSS.fields) != digest(other, 'train', LOSS.fields)
  assert digest(TASK, 'train') == digest(other, 'train')
