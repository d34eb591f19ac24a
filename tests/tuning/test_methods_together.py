"""Files and methods: owners of tensors, several methods at once, user-defined methods, and mismatching models."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_run

import prompt_tuning as pt
from prompt_tuning import trees
from prompt_tuning.evaluation.saved import Trained, load_prompt, load_trained
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning, StackConditioning, Visibility
from prompt_tuning.tuning import registry
from prompt_tuning.tuning.layer_prompts import LayerPrompts
from prompt_tuning.tuning.low_rank import LowRank
from prompt_tuning.tuning.prefix import Prefix
from prompt_tuning.tuning.prompt import PATH, Prompt, PromptTuning
from prompt_tuning.tuning.retrained import Retrained
from prompt_tuning.tuning.together import Together

TEXT, PROMPT_IDS, INPUT, TARGET = [5, 9, 7, 3], [8, 2, 6], [11, 4], [12, 10, 5]


@pytest.fixture(scope='module')
def long_text(causal):
  """A prompt from a text's tokens and a prefix from a text's keys and values, as in one file."""
  keys, values = causal.read([TEXT]).as_prefix()
  prompt = np.asarray(causal.embeddings())[np.array(PROMPT_IDS)]
  return Trained({'decoder/prefix/keys': np.asarray(keys), 'decoder/prefix/values': np.asarray(values),
                  'decoder/prompt/prompt/prompt': prompt})


@pytest.mark.parametrize('placement', ['before', 'after_eos'])
def test_a_prefix_takes_the_first_positions_and_a_prompt_of_the_same_stack_sees_it(causal, long_text, placement):
  trained = dataclasses.replace(long_text, about={'placement': placement})
  row = [*PROMPT_IDS, *INPUT] if placement == 'before' else [*INPUT, *PROMPT_IDS]
  wanted = causal.logits([[*TEXT, *row]], [TARGET])
  np.testing.assert_allclose(causal.logits([INPUT], [TARGET], trained), wanted, rtol=1e-4, atol=1e-5)


def test_answers_of_a_prefix_with_a_prompt_are_those_of_the_whole_text(causal, long_text):
  wanted = causal.predict([[*TEXT, *PROMPT_IDS, *INPUT]], max_length=6)[0]
  np.testing.assert_array_equal(causal.predict([INPUT], long_text, max_length=6)[0], wanted)


def test_rows_of_one_batch_have_prefixes_with_prompts_of_their_own(causal):
  random = np.random.default_rng(3)
  layers, heads, width = causal.prefix_shapes()['decoder']
  made = lambda: Trained({
    **{f'decoder/prefix/{part}': random.normal(size=(layers, 2, heads, width)).astype(np.float32)
       for part in ('keys', 'values')},
    'decoder/prompt/prompt/prompt': random.normal(size=(2, causal.width)).astype(np.float32)})
  rows = [made(), made()]
  alone = [causal.logits([INPUT], [TARGET], each)[0] for each in rows]
  np.testing.assert_allclose(causal.logits([INPUT, INPUT], [TARGET, TARGET], rows), alone, rtol=1e-4, atol=1e-5)
  context = causal.read([TEXT, TEXT[:2]])
  alone = [causal.logits([INPUT], [TARGET], each, context=context.take(np.array([b])))[0] for b, each in
           enumerate(rows)]
  np.testing.assert_allclose(causal.logits([INPUT, INPUT], [TARGET, TARGET], rows, context=context), alone,
                             rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('parts', [(PromptTuning(Prompt(2)), Prefix(2)), (LowRank(), LowRank())])
def test_together_is_of_a_prompt_or_prefix_with_a_low_rank_update(parts):
  with pytest.raises(ValueError, match='with a low-rank update'):
    Together(*parts)


def test_two_methods_that_fill_one_field_are_named(tiny):
  random = np.random.default_rng(0)
  trained = Trained({PATH: random.normal(size=(2, tiny.width)), 'encoder/layer_prompts/vectors':
                     random.normal(size=(2, 2, tiny.width))})
  with pytest.raises(ValueError, match=r'PromptTuning and LayerPrompts both set encoder\.prompt, .* Use one of them'):
    trained.conditioning(tiny)
  with pytest.raises(ValueError, match='PromptTuning and LayerPrompts both need positions in the rows'):
    trained.layout()


@pytest.mark.parametrize(('method', 'wanted'), [
  (PromptTuning(Prompt(3), layouts.after_eos, Visibility(False, True)), {'placement': layouts.after_eos}),
  (LayerPrompts(2, mode='add'), {'mode': 'add', 'length': 2}),
  (Prefix(4, attentions=('decoder', 'cross'), hidden=2), {'attentions': ('decoder', 'cross'), 'hidden': 0}),
  (LowRank(2, '.*/query/kernel'), {'rank': 2}), (Retrained('.*norm/scale'), {})])
def test_a_method_reads_what_it_has_exported(tiny, method, wanted):
  trained = method.initialise(jax.random.key(0), tiny)
  exported = jax.device_get(method.export(trained, tiny))
  ((read, own),) = registry.read_methods(exported, method.describe())
  assert type(read) is type(method) and read.layout() == method.layout()
  assert {name: getattr(read, name) for name in wanted} == wanted
  given, again = method.condition(trained, tiny), read.condition(trees.unflatten(own), tiny)
  assert jax.tree.structure(given) == jax.tree.structure(again)
  jax.tree.map(np.testing.assert_array_equal, given, again)


@dataclasses.dataclass(frozen=True)
class Shift(pt.Method):
  """A user-defined method: one vector that is added to every vector of a prompt of zeros."""

  length: int = 2

  def layout(self) -> layouts.Layout:
    return layouts.Layout(self.length)

  def initialise(self, key: jax.Array, model: Any) -> dict[str, Any]:
    return {'shift': {'vector': 0.5 * jax.random.normal(key, (model.width,))}}

  def condition(self, trained: Mapping[str, Any], model: Any) -> Conditioning:
    vectors = jnp.broadcast_to(jnp.asarray(trained['shift']['vector']), (1, self.length, model.width))
    return Conditioning(**{model.prompted: StackConditioning(prompt=vectors)})

  @classmethod
  def owns(cls, name: str) -> bool:
    return name == 'shift/vector'

  @classmethod
  def read(cls, tensors: Mapping[str, Any], about: Mapping[str, Any]) -> 'Shift':
    return cls(about['prompt_length'])


@pytest.fixture
def registered():
  yield pt.register_method('shift', Shift)
  del registry.METHODS['shift']


def test_a_method_of_a_users_is_registered_by_one_call_trained_saved_and_evaluated(registered, tiny, tmp_path):
  run = toy_run.train(tmp_path, method=registered(3), packed=False, optimizer=optax.sgd(0.1))
  saved = load_trained(tmp_path)
  ((method, _),) = saved.parts()
  assert method == Shift(3) and registry.get_method('shift') is Shift
  figures = pt.evaluate(tiny, toy_run.TASK, saved)
  assert figures == {'accuracy': run.metrics['turn/accuracy']}
  assert (saved.tensors['shift/vector'] != Shift(3).initialise(jax.random.key(5), tiny)['shift']['vector']).any()


def test_names_of_methods_are_their_own(registered):
  with pytest.raises(ValueError, match=r"already a method 'prompt' \(PromptTuning\)"):
    pt.register_method('prompt', Shift)
  with pytest.raises(ValueError, match=r"no method 'prefiks'. Did you mean prefix"):
    registry.get_method('prefiks')


def test_what_was_made_for_another_model_is_refused_unless_that_is_asked_for(tiny, causal, tmp_path):
  toy_run.train(tmp_path, train_steps=102)
  message = (r"made for a model of family t5, width 12, layers \[2, 3\], vocabulary 29, but this model is of "
             r"family llama, width 12, layers \[2\], vocabulary 29.* any_model=True")
  for found in (load_trained(tmp_path), load_prompt(str(tmp_path))):
    with pytest.raises(ValueError, match=message):
      found.conditioning(causal)
    assert found.conditioning(tiny).encoder.given() == ['prompt']
  assert load_prompt(str(tmp_path), any_model=True).conditioning(causal).decoder.given() == ['prompt']
