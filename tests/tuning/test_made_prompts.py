"""Prompts that a network or two matrices make in training: their formulas, first values, files and rates."""


import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prompt_tuning import prompts, trees
from prompt_tuning.checkpoints.state import write_state
from prompt_tuning.evaluation.saved import Trained, load_prompt
from prompt_tuning.rows import layouts
from prompt_tuning.runs import objects
from prompt_tuning.runs.choice import Choice
from prompt_tuning.training import run_files
from prompt_tuning.training.step import TrainState, make_step
from prompt_tuning.tuning.factored import Factored
from prompt_tuning.tuning.low_rank import LowRank
from prompt_tuning.tuning.prompt import PATH, Prompt, PromptTuning
from prompt_tuning.tuning.residual import Residual
from prompt_tuning.tuning.together import Together


def moved(trained, seed=0):
  random = np.random.default_rng(seed)
  return jax.tree.map(lambda leaf: leaf + random.normal(size=leaf.shape).astype(np.float32), trained)


@pytest.mark.parametrize('separate', [False, True])
def test_a_residual_prompt_is_the_papers_equation_for_each_vector(tiny, separate):
  method = Residual(Prompt(3), hidden=5, separate=separate)
  trained = moved(method.initialise(jax.random.key(0), tiny))
  network = trained['encoder']['prompt']['network']
  rows = []
  for i, p in enumerate(trained['encoder']['prompt']['prompt']['prompt']):
    own = {name: np.float64(array[i] if separate else array) for name, array in network.items()}
    x = own['output_kernel'].T @ np.maximum(own['hidden_kernel'].T @ np.float64(p), 0)
    rows.append(p + own['norm_scale'] * (x - np.mean(x)) / np.std(x) + own['norm_bias'])
  np.testing.assert_allclose(method.export(trained, tiny)[PATH], rows, rtol=1e-4, atol=1e-5)
  assert trees.count(network) == (3 if separate else 1) * (2 * 5 * 12 + 2 * 12)


def test_a_residual_prompt_starts_as_the_prompt_it_starts_from(tiny):
  start = prompts.from_sample_of_embeddings(tiny.embeddings(), 29)
  method, key = Residual(Prompt(3, start)), jax.random.key(2)
  found = method.export(method.initialise(key, tiny), tiny)[PATH]
  np.testing.assert_array_equal(found, PromptTuning(Prompt(3, start)).initialise(key, tiny)['encoder']['prompt'][
    'prompt']['prompt'])


def test_a_superposed_prompt_mixes_rows_of_the_embedding_and_is_as_large_as_they_are(causal):
  method = objects.method(Choice('factored', {'length': 50, 'rank': 6}), causal)
  trained = method.initialise(jax.random.key(0), causal)
  factors, embedding = trained['decoder']['prompt']['factors'], np.asarray(causal.embeddings())
  assert all((row == embedding).all(axis=1).any() for row in factors['rows'])
  found = np.asarray(method.export(trained, causal)['decoder/prompt/prompt/prompt'])
  np.testing.assert_allclose(found, np.float64(factors['mixture']) @ factors['rows'], rtol=1e-4, atol=1e-5)
  assert np.linalg.matrix_rank(found, tol=1e-4) == 6
  assert 0.5 < np.std(found) / np.std(factors['rows']) < 2


@pytest.mark.parametrize(('rank', 'rest'), [(5, 0.0), (3, 0.0), (2, None)])
def test_factors_start_from_the_nearest_prompt_of_their_rank(tiny, rank, rest, caplog):
  prompt = np.random.default_rng(1).normal(size=(3, 12)).astype(np.float32)
  method = Factored(Prompt(3), rank=rank)
  first = run_files.started_from(Trained({PATH: prompt}), method, method.initialise(jax.random.key(0), tiny), tiny)
  found = np.asarray(method.export(first, tiny)[PATH])
  left, sizes, right = np.linalg.svd(prompt)
  np.testing.assert_allclose(found, (left[:, :rank] * sizes[:rank]) @ right[:min(rank, 3)], rtol=1e-4, atol=1e-5)
  lost = f'Of the prompt to start from, {100 * sizes[2]**2 / np.sum(sizes**2):.1f} %'
  assert (lost in caplog.text) == (rest is None)


def test_a_residual_prompt_and_a_part_of_two_together_start_from_a_prompt(tiny):
  prompt = np.random.default_rng(1).normal(size=(3, 12)).astype(np.float32)
  for method in (Residual(Prompt(3)), Together(PromptTuning(Prompt(3)), LowRank(1, '.*/wo/kernel'))):
    own = method.initialise(jax.random.key(0), tiny)
    first = run_files.started_from(Trained({PATH: prompt}), method, own, tiny)
    assert jax.tree.map(jnp.shape, first) == jax.tree.map(jnp.shape, own)
    np.testing.assert_array_equal(method.export(first, tiny)[PATH], prompt)


@pytest.mark.parametrize('method', [Residual(Prompt(4)), Factored(Prompt(4)),
                                    Together(PromptTuning(Prompt(4)), LowRank(1, '.*/wo/kernel'))])
def test_a_prompt_of_another_length_is_refused(tiny, method):
  with pytest.raises(ValueError, match=r'prompt \(3, 12\)[^.]*, but the method trains .* Choose the method and its'):
    run_files.started_from(Trained({PATH: np.zeros((3, 12), np.float32)}), method,
                           method.initialise(jax.random.key(0), tiny), tiny)


def test_each_part_has_a_rate_of_its_own(causal):
  method = Together(PromptTuning(Prompt(2)), LowRank(1, '.*/wo/kernel'), low_rank_rate=0.25)
  optimizer = optax.sign_sgd(1.0)  # a step moves every number by its rate
  first = moved(method.initialise(jax.random.key(5), causal))
  batch = layouts.assemble([[causal.layout(method.layout()).example([3, 4], [5, 6])]], {'decoder': 5})
  step = jax.jit(make_step(causal.module, method, optimizer))
  after, _ = step(causal.params, TrainState(jnp.int32(0), first, optimizer.init(first)), batch)
  moves = trees.flatten(jax.tree.map(lambda new, old: np.abs(new - old), after.trained, first))
  for name, move in moves.items():
    np.testing.assert_allclose(move, 1.0 if name.endswith('prompt/prompt/prompt') else 0.25, rtol=1e-3)


def test_a_prompt_of_a_file_is_not_read_without_the_update_that_belongs_to_it(tiny, tmp_path):
  method = Together(PromptTuning(Prompt(2)), LowRank(1, '.*/wo/kernel'))
  write_state(tmp_path / 'both.safetensors', method.export(method.initialise(jax.random.key(0), tiny), tiny),
              method.describe())
  with pytest.raises(ValueError, match=r'holds other trained tensors than a prompt: decoder/layers_0/mlp/wo/kernel/do'):
    load_prompt(str(tmp_path / 'both.safetensors'))


@pytest.mark.parametrize(('method', 'options', 'message'), [
  ('residual', {'hidden': 0}, 'hidden=0 cannot be used'),
  ('residual', {'network_rate': 0}, 'network_rate=0 cannot be used'),
  ('residual', {'rank': 3}, "The method residual has no setting 'rank'|no .*'rank'"),
  ('factored', {'rank': 0}, 'rank=0 cannot be used'),
  ('together', {'joined': 'low_rank'}, "joined='low_rank' is unknown. Choose one of prompt, prefix"),
  ('together', {'joined': 'prefix', 'placement': 'after_bos'},
   'placement=after_bos cannot be used with joined=prefix: it is a setting of a prompt'),
  ('together', {'hidden': 8}, 'hidden=8 cannot be used with joined=prompt: it is a setting of a prefix'),
  ('together', {'low_rank_rate': -1.0}, 'low_rank_rate=-1.0 cannot be used'),
])
def test_settings_that_cannot_be_used(tiny, method, options, message):
  with pytest.raises(ValueError, match=message):
    objects.method(Choice(method, options), tiny)
