import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning import trees
from prompt_tuning.checkpoints.huggingface import HuggingFaceFolder, write_huggingface
from prompt_tuning.checkpoints.loading import Rule, load, save
from prompt_tuning.checkpoints.t5x import T5XCheckpoint, write_t5x

L, D, F, V = 3, 4, 6, 7
SHAPES = {
  'token_embedder/embedding': (V, D),
  'encoder/layers/mlp/wo/kernel': (L, F, D),
  'encoder/layers/mlp/gate': (L,),
  'encoder/encoder_norm/scale': (D,),
}
RULES = [
  Rule('token_embedder/embedding', 'shared.weight'),
  Rule('token_embedder/embedding', 'encoder.embed_tokens.weight'),
  Rule('encoder/layers_{i}/mlp/wo/kernel', 'encoder.block.{i}.layer.1.wo.weight', transpose=True),
  Rule('encoder/layers_{i}/mlp/gate', 'encoder.block.{i}.layer.1.gate'),
  Rule('encoder/encoder_norm/scale', 'encoder.final_layer_norm.weight'),
]


def structs(**changes):
  return {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in (SHAPES | changes).items()}


@pytest.fixture
def params():
  random = np.random.default_rng(5)
  return trees.unflatten({path: random.normal(size=shape).astype(np.float32) for path, shape in SHAPES.items()})


def t5x_reader(tmp_path, named):
  return T5XCheckpoint(write_t5x(str(tmp_path), 3, named))


def hugging_face_reader(tmp_path, named):
  write_huggingface(str(tmp_path / 'model'), {}, named)
  return HuggingFaceFolder(str(tmp_path / 'model'))


def assert_same_tree(found, wanted):
  found, wanted = trees.flatten(found), trees.flatten(wanted)
  assert found.keys() == wanted.keys()
  for path in wanted:
    np.testing.assert_array_equal(np.asarray(found[path]), wanted[path], strict=True)


def test_saving_gives_the_checkpoints_names_and_orientation(params):
  named = save(params, RULES)
  assert {name: array.shape for name, array in named.items()} == {
    'shared.weight': (V, D), 'encoder.final_layer_norm.weight': (D,),
    **{f'encoder.block.{i}.layer.1.wo.weight': (D, F) for i in range(L)},
    **{f'encoder.block.{i}.layer.1.gate': () for i in range(L)}}
  np.testing.assert_array_equal(
    named['encoder.block.2.layer.1.wo.weight'], params['encoder']['layers']['mlp']['wo']['kernel'][2].T)


def test_without_rules_the_names_are_ours_layer_by_layer(params):
  assert set(save(params)) == {
    'token_embedder/embedding', 'encoder/encoder_norm/scale',
    'encoder/layers_0/mlp/wo/kernel', 'encoder/layers_1/mlp/wo/kernel', 'encoder/layers_2/mlp/wo/kernel',
    'encoder/layers_0/mlp/gate', 'encoder/layers_1/mlp/gate', 'encoder/layers_2/mlp/gate'}


def test_saved_parameters_load_to_the_same_tree_in_both_formats(tmp_path, params):
  assert_same_tree(load(hugging_face_reader(tmp_path, save(params, RULES)), structs(), RULES), params)
  assert_same_tree(load(t5x_reader(tmp_path, save(params)), structs()), params)


def test_loaded_arrays_are_jax_arrays_that_are_saved_again(tmp_path, params):
  loaded = load(t5x_reader(tmp_path, save(params)), structs())
  assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded))
  for name, array in save(loaded, RULES).items():
    np.testing.assert_array_equal(array, save(params, RULES)[name])


def test_the_golden_checkpoint_loads_stacked(shared):
  golden = np.load(shared / 't5x/d_small/params.npz')
  stacked = trees.stack(golden)
  shapes = {path: jax.ShapeDtypeStruct(array.shape, array.dtype) for path, array in stacked.items()}
  reader = T5XCheckpoint(str(shared / 't5x/d_small/ckpt_native_prompt'))
  assert_same_tree(load(reader, shapes, ignore=['.*/prompt/.*']), trees.unflatten(stacked))


@pytest.mark.parametrize('stored, wanted', [(jnp.bfloat16, jnp.float32), (jnp.float32, jnp.bfloat16)])
def test_the_type_asked_for_is_what_is_made(tmp_path, params, stored, wanted):
  named = {name: array.astype(stored) for name, array in save(params).items()}
  loaded = load(t5x_reader(tmp_path, named), structs(), dtype=wanted)
  assert_same_tree(loaded, trees.map_named(lambda _, array: array.astype(stored).astype(wanted), params))


def test_a_duplicate_that_a_rule_knows_is_accepted_and_stands_in_for_the_first(tmp_path, params):
  named = save(params, RULES)
  both = named | {'encoder.embed_tokens.weight': named['shared.weight']}
  assert_same_tree(load(hugging_face_reader(tmp_path / 'both', both), structs(), RULES), params)
  both.pop('shared.weight')
  assert_same_tree(load(hugging_face_reader(tmp_path / 'second', both), structs(), RULES), params)


def test_a_duplicate_with_other_numbers_is_an_error(tmp_path, params):
  named = save(params, RULES)
  named['encoder.embed_tokens.weight'] = named['shared.weight'] + 1
  with pytest.raises(ValueError, match=r'encoder.embed_tokens.weight differs from shared.weight, but the model'):
    load(hugging_face_reader(tmp_path, named), structs(), RULES)


def test_unknown_missing_and_misshapen_arrays_are_listed_in_one_error(tmp_path, params):
  named = save(params, RULES)
  named |= {'decoder.weight': np.ones(2, np.float32), 'encoder.final_layer_norm.weight': np.ones(5, np.float32),
            **{f'encoder.block.{i}.extra': np.ones(1, np.float32) for i in (3, 4, 5)}}
  del named['encoder.block.1.layer.1.gate'], named['encoder.block.0.layer.1.gate'], named['shared.weight']
  with pytest.raises(ValueError) as caught:
    load(hugging_face_reader(tmp_path, named), structs(), RULES)
  assert str(caught.value).splitlines() == [
    f'{tmp_path}/model does not fit the model.',
    'Arrays that the model lacks: decoder.weight, encoder.block.{3..5}.extra.',
    'Parameters that the checkpoint lacks: shared.weight, encoder.block.{0..1}.layer.1.gate.',
    'Arrays of another shape or type: encoder.final_layer_norm.weight: found (5,), expected (4,).',
    'Use the model configuration of the checkpoint, or ignore names that are not needed.']


def test_a_transposed_array_of_another_shape_is_reported_as_the_file_has_it(tmp_path, params):
  named = save(params, RULES) | {'encoder.block.1.layer.1.wo.weight': np.ones((F, D), np.float32)}
  with pytest.raises(ValueError, match=r'block.1.layer.1.wo.weight: found \(6, 4\), expected \(4, 6\)'):
    load(hugging_face_reader(tmp_path, named), structs(), RULES)


def test_a_checkpoint_of_a_deeper_model_names_the_layers_too_many(tmp_path, params):
  shapes = structs(**{'encoder/layers/mlp/wo/kernel': (1, F, D), 'encoder/layers/mlp/gate': (1,)})
  with pytest.raises(ValueError, match=r'model lacks: encoder/layers_{1..2}/mlp/gate, encoder/layers_{1..2}/mlp/wo'):
    load(t5x_reader(tmp_path, save(params)), shapes)


def test_long_lists_are_cut(tmp_path):
  named = {f'{chr(97 + i)}/scale': np.ones(2, np.float32) for i in range(26)}
  named |= {f'{chr(97 + i)}/bias': np.ones(2, np.float32) for i in range(26)}
  with pytest.raises(ValueError, match=r'a/bias, a/scale, .* and 22 more\.'):
    load(t5x_reader(tmp_path, named), {})


def test_ignored_names_are_neither_read_nor_reported(tmp_path, params):
  named = save(params) | {'encoder/prompt/prompt/prompt': np.ones((5, D), np.float32)}
  reader = t5x_reader(tmp_path, named)
  assert_same_tree(load(reader, structs(), ignore=['.*/prompt/.*']), params)
  with pytest.raises(ValueError, match='the model lacks: encoder/prompt/prompt/prompt'):
    load(reader, structs(), ignore=['prompt'])


def test_numbers_that_are_not_floating_point_are_an_error(tmp_path, params):
  named = save(params) | {'encoder/encoder_norm/scale': np.ones(D, np.int8)}
  with pytest.raises(ValueError, match='encoder/encoder_norm/scale: found type int8, expected floating point'):
    load(t5x_reader(tmp_path, named), structs())


def test_a_parameter_that_no_rule_names_is_an_error_both_ways(tmp_path, params):
  with pytest.raises(ValueError, match=r'has no rule for encoder/layers/mlp/gate. Add a rule'):
    save(params, RULES[:3] + RULES[4:])
  with pytest.raises(ValueError, match=r'checkpoint lacks: encoder/layers_{0..2}/mlp/gate \(no rule for it\)'):
    load(hugging_face_reader(tmp_path, save(params, RULES)), structs(), RULES[:3] + RULES[4:])
