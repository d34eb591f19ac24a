"""A classification head, trained with every kind of method, kept in a file, and used."""

import functools
import pathlib

import numpy as np
import pytest

import prompt_tuning as pt
from prompt_tuning import trees
from prompt_tuning.data.vocabularies import PassThroughVocabulary
from prompt_tuning.losses.label_values import several_labels, squared_error
from prompt_tuning.models import heads, loading
from prompt_tuning.tuning.factored import Factored
from prompt_tuning.tuning.layer_prompts import LayerPrompts
from prompt_tuning.tuning.low_rank import LowRank
from prompt_tuning.tuning.residual import Residual
from prompt_tuning.tuning.retrained import Retrained
from prompt_tuning.tuning.scales import Scales
from prompt_tuning.tuning.together import Together

ENCODERS = pathlib.Path(__file__).parents[1] / 'models' / 'encoders'


def encoder(name, **head):
  model = loading.load_model(ENCODERS / name, vocabulary=PassThroughVocabulary(40, eos_id=1, pad_id=0))
  return pt.with_head(model, **head)


bert = functools.partial(encoder, 'bert')


def rows(label, count=48, seed=0):
  """Texts of which two tokens decide; `label` makes a target of whether each occurs."""
  numbers = np.random.default_rng(seed)
  found = []
  for _ in range(count):
    has = numbers.integers(0, 2, 2)
    ids = [7 if has[0] else 8, *numbers.integers(10, 20, 3), 30 if has[1] else 31]
    found.append({'inputs': list(map(int, ids)), 'targets': label(*has)})
  return found


METHODS = {'head': None, 'prefix': pt.Prefix(3), 'layer_prompts': LayerPrompts(2), 'low_rank': LowRank(2),
           'prompt': pt.PromptTuning(pt.Prompt(2)), 'added': LayerPrompts(2, mode='add'), 'scales': Scales(),
           'residual': Residual(pt.Prompt(3), hidden=2), 'factored': Factored(pt.Prompt(3), rank=2),
           'retrained': Retrained('.*/mlp/.*/kernel'), 'together': Together(pt.Prefix(2), LowRank(1, '.*/wo/kernel'))}
OFTEN = ('head', 'prefix', 'layer_prompts', 'low_rank')  # with BERT; all others are slow


@pytest.mark.parametrize(('problem', 'label', 'labels', 'metric', 'least'), [
  ('single', lambda a, b: 'yes' if a else 'no', ['no', 'yes'], 'accuracy', 95),
  ('multi', lambda a, b: ','.join(['x'] * a + ['y'] * b), ['x', 'y'], 'f1', 85),
  ('regression', lambda a, b: f'{a + 0.5 * b}', [], 'pearson', 85)])
def test_a_prompt_and_a_head_learn_each_problem(problem, label, labels, metric, least, tmp_path):
  model = bert(labels=labels, pooling='mean', problem=problem)
  run = pt.tune(model, rows(label), steps=400, prompt_length=3, validation=rows(label, seed=1), quiet=True,
                model_dir=str(tmp_path / 'run'))
  found = pt.evaluate(model, rows(label, seed=2), run)
  assert found[metric] >= least, found
  assert found != pt.evaluate(model, rows(label, seed=2))


@pytest.mark.parametrize(('name', 'kind'), [
  pytest.param(name, kind, marks=[] if name == 'bert' and kind in OFTEN else [pytest.mark.slow])
  for name in ('bert', 'modernbert') for kind in METHODS])
def test_a_head_is_trained_with_any_method_and_used_from_its_file(name, kind, tmp_path):
  own = {'head': {'labels': ['no', 'yes'], 'pooling': 'cls', 'problem': 'single'}}
  model, data = encoder(name, labels=['no', 'yes']), rows(lambda a, b: 'yes' if a else 'no', 16)
  method, folder = pt.Headed(METHODS[kind], **own), str(tmp_path / 'run')
  run = pt.tune(model, data, method=method, steps=3, batch_size=4, validation=data, quiet=True, model_dir=folder)
  saved = pt.load_trained(folder)
  head = {each for each in saved.tensors if 'logits_dense' in each}
  assert head == {'decoder/logits_dense/kernel', 'decoder/logits_dense/bias'} and saved.about['head'] == own['head']
  again = encoder(name, **saved.about['head'], seed=5)
  texts = [' '.join(map(str, row['inputs'])) for row in data]
  used, direct = pt.classify(again, texts, folder), pt.classify(model, texts, run)
  assert used == direct and used != pt.classify(model, texts)
  before, after = (trees.flatten(each.params) for each in (encoder(name, labels=['no', 'yes']), model))
  assert all(np.array_equal(before[each], after[each]) for each in before)


def test_the_loss_of_several_labels_is_that_of_its_formula():
  logits, values = np.array([[[0.5, -2.0, 3.0], [9.0, 9.0, 9.0]]]), np.array([[[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
  share = 1 / (1 + np.exp(-logits[0, 0]))
  wanted = -(np.log(share[0]) + np.log(1 - share[1]) + np.log(1 - share[2])) / 3
  weights, targets = np.array([[2.0, 0.0]]), np.zeros((1, 2), int)
  np.testing.assert_allclose(several_labels(logits, targets, weights, values)[0], 2 * wanted, rtol=1e-6)
  np.testing.assert_allclose(squared_error(logits[..., :1], targets, weights, values[..., :1])[0], 2 * 0.5**2)


def test_scores_are_probabilities_by_label():
  single, multi = bert(labels=['a', 'b']), bert(labels=['a', 'b', 'c'], problem='multi')
  label, scores = heads.predicted(single, np.log([1.0, 3.0]))
  assert label == 'b' and scores['b'] == pytest.approx(0.75)
  assert heads.predicted(multi, np.array([1.0, -1.0, 2.0]))[0] == 'a,c'
  number = heads.predicted(bert(problem='regression'), np.array([2.5]))
  assert number == ('2.5', {'score': 2.5})


@pytest.mark.parametrize(('problem', 'target', 'message'), [
  ('single', 'ye', r"example 1 of the split 'validation': The head has no label 'ye'.*Did you mean"),
  ('multi', 'yes, maybe', r"has no label 'maybe'"), ('regression', 'high', "The score 'high' is not a number")])
def test_a_target_that_is_no_label_is_an_error_that_says_where(problem, target, message):
  model = bert(labels=[] if problem == 'regression' else ['no', 'yes'], problem=problem)
  data = [('3 4', '1.5' if problem == 'regression' else 'no'), ('5', target)]
  with pytest.raises(ValueError, match=message):
    pt.evaluate(model, data)
  with pytest.raises(ValueError, match=message.replace('validation', 'train')):
    pt.tune(model, data, steps=1, quiet=True)


def test_heads_that_do_not_fit_are_refused(tmp_path):
  plain = loading.load_model('t5_integers')
  with pytest.raises(ValueError, match='is an encoder-decoder, and a classification head needs an encoder-only model'):
    pt.with_head(plain, ['a', 'b'])
  for head in ({'labels': ['a']}, {'labels': ['a', 'a']}, {'labels': ['a', 'b'], 'problem': 'regression'}):
    with pytest.raises(ValueError, match='cannot be used with problem='):
      bert(**head)
  with pytest.raises(ValueError, match=r'pooling=.last. cannot be used: expected one of cls, mean'):
    bert(labels=['a', 'b'], pooling='last')
  data = [('3 4', 'a'), ('5', 'b')]
  run = pt.tune(bert(labels=['a', 'b']), data, steps=1, quiet=True, model_dir=str(tmp_path))
  with pytest.raises(ValueError, match=r'belong to a head .*, but the model.s is'):
    pt.classify(bert(labels=['b', 'a']), ['3 4'], run)
  with pytest.raises(ValueError, match=r't5_integers.* has no classification head'):
    pt.classify(plain, ['3 4'])
