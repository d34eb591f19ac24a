"""New input and output heads around a frozen decoder-only model: new and unchanged parameters, labels, real vectors."""

import dataclasses

import jax
import numpy as np
import pytest
from toy_run import model as tiny_t5

from prompt_tuning import trees
from prompt_tuning.data.tasks import Task
from prompt_tuning.evaluation.evaluate import evaluate_loss
from prompt_tuning.evaluation.saved import load_trained
from prompt_tuning.models import new_layers
from prompt_tuning.models.compiled import apply_model
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.loading import load_model, random_model, save_model
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning
from prompt_tuning.training import loop
from prompt_tuning.training.optimizers import AdamW
from prompt_tuning.tuning.retrained import Retrained

GPT = random_model(DecoderConfig(
  vocab_size=23, layers=2, width=12, heads=3, head_dim=4, mlp_dim=20, mlp_activations=('gelu',), norm='layer',
  bias=True, query_scale=0.5, position_count=9, tied=True, family='gpt2', initial_scale=0.2), seed=3)
PATTERNS = ('.*norm/.*', 'position_embedder/.*', '(token_embedder|input_layer)/.*', 'decoder/logits_dense/.*')


def labels(count, width):
  """Returns a task: which of two real vectors has the larger first component."""
  random = np.random.default_rng(count)
  examples = []
  for _ in range(count):
    x = random.normal(size=(2, width)).astype(np.float32)
    examples.append({'inputs': x, 'targets': np.array([x[1, 0] > x[0, 0]], np.int32), 'targets_ends': False})
  return examples


def test_new_layers_have_their_shapes_and_the_rest_is_the_models():
  model = new_layers.with_new_layers(GPT, tokens=3, classes=5)
  flat = trees.flatten(model.params)
  assert flat['token_embedder/embedding'].shape == (3, 12)
  assert (flat['decoder/logits_dense/kernel'].shape, flat['decoder/logits_dense/bias'].shape) == ((12, 5), (5,))
  count, changed = new_layers.changed(model, GPT)
  assert (count, changed) == (len(flat) - 3, [])
  linear = trees.flatten(new_layers.with_new_layers(GPT, features=4, classes=2).params)
  assert linear['input_layer/kernel'].shape == (4, 12) and 'token_embedder/embedding' not in linear


def test_a_changed_bit_is_found():
  params = trees.flatten(GPT.params)
  params['decoder/decoder_norm/scale'] = params['decoder/decoder_norm/scale'].at[3].add(1e-7)
  changed = dataclasses.replace(GPT, params=trees.unflatten(params))
  assert new_layers.changed(changed, GPT) == (len(params), ['decoder/decoder_norm/scale'])


def test_random_weights_have_the_shape_of_the_checkpoint_and_nothing_else_of_it():
  other = new_layers.untrained(GPT, seed=1)
  assert jax.tree.map(np.shape, other.params) == jax.tree.map(np.shape, GPT.params)
  assert 'decoder/layers/mlp/wo/kernel' in new_layers.changed(other, GPT)[1]


def test_labels_stand_at_the_last_positions_of_the_input_and_none_is_read():
  model = new_layers.with_new_layers(GPT, tokens=2, classes=2)
  layout = model.layout()
  decoder = layout.example([1, 0, 1, 1], [0, 1])['decoder']
  assert decoder['tokens'].tolist() == [1, 0, 1, 1]
  assert (decoder['targets'].tolist(), decoder['loss_weights'].tolist()) == ([0, 0, 0, 1], [0, 0, 1, 1])
  batches = [layouts.assemble([[layout.example([1, 0, 1, 1], each)]], {'decoder': 4}) for each in ([0, 1], [1, 0])]
  np.testing.assert_array_equal(*(apply_model(model.module, model.params, each, Conditioning()) for each in batches))


@pytest.mark.parametrize(('given', 'inputs', 'targets', 'message'), [
  ({'tokens': 2}, [1, 0], [0, 1, 1], '3 labels for an input of 2 positions'),
  ({'tokens': 2}, [1, 0], [2], r'labels \[2\], but the output layer has 2 classes, 0 to 1'),
  ({'tokens': 2}, [1, 2], [1], 'the token 2, but the input layer has 2 tokens'),
  ({'features': 3}, np.ones((2, 4)), [1], 'vectors of width 4, but the input layer reads width 3')])
def test_an_example_that_does_not_fit_the_ends(given, inputs, targets, message):
  with pytest.raises(ValueError, match=message):
    new_layers.with_new_layers(GPT, classes=2, **given).layout().example(inputs, targets)


def test_a_prompt_may_stand_before_real_vectors():
  model = new_layers.with_new_layers(GPT, features=3, classes=2)
  layout = dataclasses.replace(model.layout(), prompt_length=2, placement=layouts.after_bos)
  decoder = layout.example(np.ones((2, 3)), [1])['decoder']
  assert decoder['prompt_slots'].tolist() == [-1, 0, 1, -1]
  assert decoder['features'][:, 0].tolist() == [1, 0, 0, 1]
  assert decoder['loss_weights'].tolist() == [0, 0, 0, 1]


def test_only_the_chosen_is_trained_and_saved_and_it_loads_back_onto_the_frozen_model(tmp_path):
  save_model(GPT, str(tmp_path / 'gpt'))
  frozen = load_model(str(tmp_path / 'gpt'))
  model = new_layers.with_new_layers(frozen, features=4, classes=2)
  task = Task('larger', {'train': labels(64, 4), 'validation': labels(32, 4)})
  run = loop.train(
    model=model, method=Retrained(PATTERNS), task=task, lengths={'inputs': 2, 'targets': 1}, train_steps=200,
    model_dir=str(tmp_path / 'run'), optimizer=AdamW(0.02), batch_size=16, seed=0, quiet=True,
    loss=loop.Loss(0.0, normalizing_factor='tokens'), stop=loop.Stop(0.95, 64),
    evaluations=loop.Evaluations(period=1000, loss_steps=2, examples=0))
  assert run.step < 200 and run.step % 10 == 0
  assert new_layers.changed(model, load_model(str(tmp_path / 'gpt')))[1] == []
  saved = load_trained(str(tmp_path / 'run/last.safetensors'))
  assert all(trees.matches(name, PATTERNS) for name in saved.tensors)
  fresh = new_layers.with_new_layers(load_model(str(tmp_path / 'gpt')), features=4, classes=2, seed=9)
  found = evaluate_loss(fresh, saved.conditioning(fresh), fresh.layout(), task, lengths={'inputs': 2, 'targets': 1})
  assert found['loss'] == pytest.approx(run.metrics['larger/loss'], rel=1e-6) and found['token_accuracy'] > 0.7


def test_what_cannot_be_is_a_clear_error():
  with pytest.raises(ValueError, match='encoder-decoder, but new input and output heads'):
    new_layers.with_new_layers(tiny_t5(), tokens=2, classes=2)
  for wrong in ({'tokens': 2, 'classes': 1}, {'classes': 2}, {'tokens': 2, 'features': 2, 'classes': 2}):
    with pytest.raises(ValueError, match='Give at least 2 classes, and either tokens or features'):
      new_layers.with_new_layers(GPT, **wrong)
