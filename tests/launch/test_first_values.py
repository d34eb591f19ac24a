"""The initial values of a prompt, and the vocabulary for its texts, as overrides choose them."""

import jax
import numpy as np
import pytest

from prompt_tuning import trees
from prompt_tuning.prompts import PATH
from prompt_tuning.runs import objects

INIT, UNIFORM = 'prompt_init/prompts', 'prompt_init/linen.initializers.uniform'


def first_values(run, model):
  trained = objects.method(run.method, model).initialise(jax.random.key(0), model)
  return np.asarray(trees.flatten(trained)[PATH])


def test_uniform_first_values_lie_below_the_scale(described, toy_model):
  values = first_values(described('train', f'--gin.{UNIFORM}.scale=0.3'), toy_model)
  assert 0 <= values.min() < 0.01 and 0.29 < values.max() < 0.3


@pytest.mark.parametrize('name', ['from_sample_of_embeddings', 'from_samples_of_embeddings'])
def test_sampled_first_values_are_rows_of_the_population(name, described, toy_model, tmp_path):
  np.save(tmp_path / 'embedding.npy', np.arange(3000, dtype=np.float32)[:, None] * np.ones(8, np.float32))
  run = described('train', f"--gin.EMBEDDING_FILE='{tmp_path}/embedding.npy'",
                  f'--gin.{INIT}.{name}.population_size=100', files=['prompts/from_sampled_vocab.gin'])
  assert sorted(first_values(run, toy_model)[:, 0]) == list(range(100))


def test_first_values_of_texts_are_their_embeddings(described, toy_model, tmp_path):
  rows = np.arange(320, dtype=np.float32).reshape(40, 8)
  np.save(tmp_path / 'embedding.npy', rows)
  more = [f"--gin.EMBEDDING_FILE='{tmp_path}/embedding.npy'", "--gin.CLASS_LABELS=['7']"]
  listed = described('train', *more, f"--gin.{INIT}.from_embedded_list.texts=['9', '4 6']",
                     files=['prompts/from_class_labels.gin'])
  np.testing.assert_allclose(first_values(listed, toy_model)[:2], [rows[9], rows[5]])
  words = described(
    'train', more[0], f'--gin.prompts.Prompt.prompt_init=@{INIT}.from_embedded_string()',
    f'--gin.{INIT}.from_embedded_string.embeddings=@{INIT}.t5x_load()',
    f'--gin.{INIT}.from_embedded_string.vocab=%VOCABULARY', f"--gin.{INIT}.from_embedded_string.text='9 4 6'",
    files=['prompts/from_sampled_vocab.gin'])
  np.testing.assert_allclose(first_values(words, toy_model)[:3], rows[[9, 4, 6]])


def test_first_values_are_read_from_what_is_named(described, toy_model, toy_t5x, tmp_path):
  files = ['prompts/from_sampled_vocab.gin']
  where = [f'--gin.prompts.Prompt.prompt_init=@{INIT}.from_array()',
           f'--gin.{INIT}.from_array.prompt=@{INIT}.t5x_load()',
           f"--gin.{INIT}.t5x_load.checkpoint_path='{toy_t5x}'", '--gin.PROMPT_LENGTH=12',
           f"--gin.{INIT}.t5x_load.variable_path='encoder/layers_1/mlp/wo/kernel'"]
  np.testing.assert_array_equal(first_values(described('train', *where, files=files), toy_model),
                                toy_model.params['encoder']['layers']['mlp']['wo']['kernel'][1])


def test_a_vocabulary_is_the_file_that_is_named(described, shared):
  owner = 'seqio.SentencePieceVocabulary'
  arguments = [f'--gin.VOCABULARY=@{owner}()',
               f"--gin.{owner}.sentencepiece_model_file='{shared}/t5x_native/sentencepiece.model'"]
  assert objects.vocabulary(described('train', *arguments)).size == 32_100
  assert objects.vocabulary(described('train', *arguments, f'--gin.{owner}.extra_ids=7')).size == 32_007
