"""The engine: answers are those of `predict`, whatever runs beside them; what goes wrong stays with its own answer."""

import chat_toys
import jax
import numpy as np
import pytest
from absl import logging

import prompt_tuning as pt
from prompt_tuning import trees
from prompt_tuning.decoding.samplers import Sampling
from prompt_tuning.evaluation.saved import SavedPrompt, Trained
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Visibility
from prompt_tuning.serving import engine as engines
from prompt_tuning.serving import groups
from prompt_tuning.serving.engine import Engine
from prompt_tuning.serving.requests import Draining, EngineFailed, QueueFull, Request, UnknownPrompt
from prompt_tuning.tuning.scales import Scales

random = np.random.default_rng(0)


def normal(*shape):
  return random.normal(size=shape).astype(np.float32)


def trained_for(model):
  """Returns prompts of every kind that rows may mix: name -> what `predict` takes."""
  prefix = {f'{name}/prefix/{part}': normal(layers, 5, heads, head_dim) for part in ('keys', 'values')
            for name, (layers, heads, head_dim) in model.prefix_shapes().items()}
  found = {f'vectors{length}': normal(length, model.width) for length in (3, 9)}
  if model.prompted == 'decoder':
    found['after_bos'] = SavedPrompt(normal(4, model.width), layouts.after_bos)
    found['at_the_end'] = SavedPrompt(normal(2, model.width), layouts.after_eos)
  else:
    found['before_eos'] = SavedPrompt(normal(4, model.width), layouts.before_eos)
    found['isolated'] = SavedPrompt(normal(5, model.width), layouts.before, Visibility(input=False))
  tensors = trees.flatten(Scales().initialise(jax.random.key(0), model))
  scales = [{name: 1 + 0.5 * normal(*array.shape) for name, array in tensors.items()} for _ in range(2)]
  return {**found, 'prefix': Trained(prefix), 'scales': Trained(scales[0]), 'both': Trained({**prefix, **scales[1]})}


@pytest.fixture(scope='module', params=['decoder-only', 'T5'])
def served(request, tmp_path_factory):
  """An engine, its model and its prompts."""
  if request.param == 'T5':
    import toy_run
    model = toy_run.model()
  else:
    model = pt.load_model(chat_toys.write_model(tmp_path_factory.mktemp('toy') / 'llama'))
  prompts = trained_for(model)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(groups, 'PACK', 16)
    # One size of everything, so that few programs are compiled.
    patch.setattr(groups, 'pack_length', lambda count: 64)
    patch.setattr(groups, 'front_length', lambda count: count and 128)
    patch.setattr(groups, 'row_sizes', lambda slots: [slots])
    with Engine(model, slots=8, max_length=120, queue=40) as engine:
      for name, prompt in prompts.items():
        engine.prompts.load(name, prompt)
      yield engine, model, prompts


def requests_of(prompts, count, **settings):
  """Returns requests of mixed lengths, prompts and settings."""
  names = [None, *prompts]
  return [Request(random.integers(5, 25, random.integers(2, 40)).tolist(), names[i % len(names)], max_tokens=3 + i % 9,
                  temperature=(i % 2) * 0.8, topk=i % 3 * 7, topp=i % 5 * 0.2, minp=0.01 * (i % 4), seed=i, **settings)
          for i in range(count)]


def predicted(model, prompts, requests):
  """Returns what `predict` gives for requests, those with an isolated prompt apart."""
  found = {}
  for isolated in (False, True):
    own = [request for request in requests if (request.prompt == 'isolated') == isolated]
    of = lambda name, own=own: [getattr(request, name) for request in own]
    if own:
      sampler = Sampling(*(of(name) for name in ('temperature', 'topk', 'topp', 'minp')))
      answers = model.predict(of('ids'), [prompts.get(name) for name in of('prompt')], sampler=sampler, seed=of('seed'),
                              max_length=of('max_tokens'), return_scores=True, top=3)
      found |= dict(zip(map(id, own), answers, strict=True))
  return [found[id(request)] for request in requests]


def test_answers_are_those_of_predict_with_any_prompt_and_settings_beside_any_others(served):
  engine, model, prompts = served
  asked = requests_of(prompts, 24, top=3)
  answers = [engine.submit(request) for request in asked]
  for request, answer, expected in zip(asked, answers, predicted(model, prompts, asked), strict=True):
    found = answer.result()
    assert [token.id for token in found.tokens] == expected.ids.tolist(), request
    assert found.text == expected.text and found.ended == expected.ended
    np.testing.assert_allclose([token.log_prob for token in found.tokens], expected.log_probs, atol=1e-4)
    np.testing.assert_allclose([[p for _, p in token.top] for token in found.tokens], expected.top_log_probs, atol=1e-4)
    assert answer.input_length == len(request.ids)
  assert engine.stats().running == engine.stats().waiting == 0


def test_new_settings_and_prompts_compile_nothing(served):
  engine, model, _ = served
  ask = lambda name, temperature: engine.submit(
    Request([7, 8, 9], name, max_tokens=4, temperature=temperature)).result()
  ask('vectors9', 0.5)
  before = engine.stats().programs
  engine.prompts.load('new', normal(9, model.width))
  ask('new', 0.7)
  ask('vectors9', 1.3)
  engine.prompts.drop('new')
  assert engine.stats().programs == before


def test_an_echo_has_the_scores_of_the_input(served):
  engine, model, prompts = served
  ids = random.integers(5, 25, 30).tolist()
  if model.prompted == 'encoder':
    with pytest.raises(ValueError, match='echo=True'):
      engine.submit(Request(ids, echo=True))
    return
  for name in ('after_bos', 'prefix'):
    answer = engine.submit(Request(ids, name, max_tokens=0, echo=True, top=2))
    assert answer.result().tokens == ()
    first, *others = answer.input_tokens
    assert [token.id for token in answer.input_tokens] == ids and first.log_prob is None
    scores = model.score([ids[:1]], [ids[1:]], [prompts.get(name)], per_token=True, top=2)[0]
    np.testing.assert_allclose([token.log_prob for token in others], scores.log_probs, atol=1e-4)
    assert [token.top[0][0] for token in others] == scores.top_ids[:, 0].tolist()
    assert [len(token.top) for token in others] == [2] * 29
  together = [engine.submit(Request(ids, max_tokens=0, echo=True, top=top)) for top in (1, 5)]  # some share a pack
  for answer, top in zip(together, (1, 5), strict=True):
    answer.result()
    assert [len(token.top) for token in answer.input_tokens[1:]] == [top] * 29


def test_a_stop_text_ends_an_answer_and_no_part_of_it_gets_out(served):
  engine, *_ = served
  whole = engine.submit(Request([7, 8, 9], max_tokens=12, temperature=1.5, seed=3)).result().text
  stop = whole[5:8]
  pieces = list(engine.submit(Request([7, 8, 9], max_tokens=12, temperature=1.5, seed=3, stop=(stop,))))
  text = ''.join(piece.text for piece in pieces)
  assert text == whole[:whole.index(stop)] and pieces[-1].ended == 'stop'
  assert not any(piece.ended for piece in pieces[:-1])


def test_several_answers_under_one_seed_differ_and_are_repeated(served):
  engine, *_ = served
  ask = lambda number: engine.submit(Request([7, 8], max_tokens=8, temperature=1.5, seed=5, number=number)).result()
  first, second = ask(0), ask(1)
  assert first.tokens != second.tokens and ask(1).tokens == second.tokens


def test_prompts_are_replaced_and_dropped_while_answers_run(served):
  engine, model, _ = served
  old, new = normal(3, model.width), normal(6, model.width)
  expected = [model.predict([[7, 8, 9]], each, max_length=20, return_scores=True)[0].ids.tolist()
              for each in (old, new)]
  engine.prompts.load('changing', old)
  request = Request([7, 8, 9], 'changing', max_tokens=20)
  before = engine.submit(request)
  engine.prompts.load('changing', new)
  after = engine.submit(request)
  engine.prompts.drop('changing')
  assert [[token.id for token in each.result().tokens] for each in (before, after)] == expected
  with pytest.raises(UnknownPrompt, match=r"'vectors'.* Did you mean vectors"):
    engine.submit(Request([7], 'vectors'))
  with pytest.raises(UnknownPrompt):
    engine.prompts.drop('changing')


def test_what_cannot_be_served_is_refused_when_it_is_loaded_or_asked(served):
  engine, model, _ = served
  with pytest.raises(ValueError, match='expects'):
    engine.prompts.load('wide', normal(3, model.width + 1))
  with pytest.raises(OSError):
    engine.prompts.load('absent', '/nowhere/prompt.npy')
  name = f'{model.prompted}/layers_0/mlp/wo/kernel'
  with pytest.raises(ValueError, match=f'changes parameters of the model \\({name}'):
    engine.prompts.load('retrained', Trained({name: normal(14, 12)}, {}))
  with pytest.raises(ValueError, match='max_length is 120'):
    engine.submit(Request([7] * 121, max_tokens=100))
  with pytest.raises(ValueError, match='1000000'):
    engine.submit(Request([10**6]))
  for wrong in ({'temperature': float('nan')}, {'topp': 1.5}, {'max_tokens': 0}, {'stop': ('',)}, {'top': 21}):
    with pytest.raises(ValueError, match=next(iter(wrong))):
      Request([7], **wrong)


def test_cancelled_and_late_answers_free_their_slots(served):
  engine, *_ = served
  held = [engine.submit(Request([7, 8], max_tokens=100, temperature=1.0, seed=i)) for i in range(12)]
  late = engine.submit(Request([7, 8], max_tokens=100, timeout=0.0))
  for answer in held:
    answer.cancel()
  with pytest.raises(TimeoutError, match=r'timeout=0\.0'):
    late.result()
  assert {answer.result().ended for answer in held} <= {'cancelled', 'end'}
  assert engine.stats().running == 0


def test_a_full_queue_refuses_and_recovers(served):
  engine, *_ = served
  answers = []
  with pytest.raises(QueueFull, match='40 requests wait'):
    for _ in range(100):
      answers.append(engine.submit(Request([7, 8], max_tokens=30)))
  assert all(answer.result().ended in ('end', 'length') for answer in answers)
  assert engine.submit(Request([7, 8], max_tokens=3)).result().tokens


def test_an_engine_that_fails_fails_what_runs_and_comes_back_or_gives_up(served, monkeypatch):
  engine, model, _ = served
  monkeypatch.setattr(logging, 'exception', lambda *_: None)

  def fails(self, *args):
    raise RuntimeError('the device is gone')

  with monkeypatch.context() as patch:
    patch.setattr(groups.Bank, 'step', fails)
    with pytest.raises(EngineFailed) as found:
      engine.submit(Request([7, 8])).result()
    assert 'the device is gone' in str(found.value.__cause__)
  assert engine.submit(Request([7, 8], max_tokens=3)).result().tokens, 'it comes back'
  other = Engine(model, slots=1)
  other.start()
  with monkeypatch.context() as patch:
    patch.setattr(groups.Bank, 'step', fails)
    for _ in range(3):
      with pytest.raises(EngineFailed):
        other.submit(Request([7, 8])).result()
    assert other.wait_failed.wait(10)
  with pytest.raises(EngineFailed):
    other.submit(Request([7, 8]))


def test_keys_and_values_of_prompts_are_kept_up_to_a_limit(served):
  engine, model, prompts = served
  kept = engine.prompts
  small = type(kept)(model, memory=1)
  for name in prompts:
    small.load(name, prompts[name])
    small.before(small.get(name))
  sizes = [sum(array.nbytes for array in jax.tree.leaves(kept.before(kept.get(name)))) for name in prompts]
  assert 0 < small.bytes <= max(sizes) < kept.bytes
  assert len(small) == len(prompts) and sorted(prompts) == small.names()


def test_draining_answers_what_it_has_and_takes_no_more():
  import toy_run

  engine = Engine(toy_run.model(), slots=2).start()
  answers = [engine.submit(Request([7, 8], max_tokens=20)) for _ in range(5)]
  assert engine.drain(60)
  assert all(answer.result().ended in ('end', 'length') for answer in answers)
  with pytest.raises(Draining):
    engine.submit(Request([7]))
  engine.close()


def test_answers_of_very_different_lengths_run_in_banks_of_their_own(served, monkeypatch):
  engine, *_ = served
  monkeypatch.setattr(engines, 'class_of', lambda needs: int(max(needs.values()) > 40))
  short = [engine.submit(Request([7, 8], max_tokens=8, temperature=1.0, seed=i)) for i in range(3)]
  long = engine.submit(Request([7] * 50, max_tokens=8))
  assert all(answer.result().tokens for answer in [*short, long])


def test_free_slots_take_requests_beside_the_queue():
  import toy_run

  engine = Engine(toy_run.model(), slots=3, queue=1)  # not started: nothing leaves the queue
  answers = [engine.submit(Request([7, 8], max_tokens=3)) for _ in range(4)]
  with pytest.raises(QueueFull):
    engine.submit(Request([7, 8]))
  with engine:
    assert all(answer.result().tokens for answer in answers)


def test_a_prompt_without_room_for_an_answer_is_refused_and_messages_add_up(served):
  engine, model, _ = served
  with pytest.raises(ValueError, match='119 positions, which leaves no room'):
    engine.prompts.load('long', normal(119, model.width))
  engine.prompts.load('half', normal(60, model.width))
  with pytest.raises(ValueError, match='60 of the prompt, 70 of the input'):
    engine.submit(Request([7] * 70, 'half', max_tokens=2))
  with pytest.raises(ValueError, match='cache_memory=1 '):
    Engine(model, cache_memory=1)
