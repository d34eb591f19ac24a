"""Reading, sampling and comparing the arrays of checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_checkpoint import EMBEDDING, NAMED

from prompt_tuning import prompts
from prompt_tuning.checkpoints.huggingface import write_huggingface
from prompt_tuning.checkpoints.t5x import write_t5x


@pytest.mark.parametrize('name', ['token_embedder/embedding', 'target/token_embedder/embedding',
                                  'target.token_embedder.embedding'])
def test_an_array_is_extracted_by_each_form_of_its_name(script, checkpoint, tmp_path, name):
  file = tmp_path / 'embedding'  # without a suffix
  status, printed, _ = script('extract_variable', '--checkpoint_dir', checkpoint, f'--variable_path={name}',
                              '--output_path', file)
  assert (status, printed) == (0, f'Wrote {file}: (19, 4) float32\n')
  np.testing.assert_array_equal(np.load(file), EMBEDDING, strict=True)


@pytest.mark.parametrize('folder', ['ckpt_native', 'ckpt_orbax'])
def test_both_layouts_of_t5x_are_read_and_rounded(script, shared, tmp_path, folder):
  file = tmp_path / 'scale.npy'
  assert script('extract_variable', f'--checkpoint_dir={shared}/t5x/d_small/{folder}', f'--output_path={file}',
                '--variable_path=encoder/encoder_norm/scale', '--restore_dtype=bfloat16')[0] == 0
  wanted = np.load(shared / 't5x/d_small/params.npz')['encoder/encoder_norm/scale'].astype(jnp.bfloat16)
  np.testing.assert_array_equal(np.load(file), wanted.astype(np.float32), strict=True)


def test_the_embedding_of_a_hugging_face_folder_is_extracted(script, tmp_path):
  write_huggingface(str(tmp_path / 'hf'), {}, {'shared.weight': EMBEDDING})
  assert script('extract_variable', f'--checkpoint_dir={tmp_path}/hf', f'--output_path={tmp_path}/e.npy')[0] == 0
  np.testing.assert_array_equal(np.load(tmp_path / 'e.npy'), EMBEDDING)


def test_a_wrong_name_is_answered_with_the_nearest_and_writes_nothing(refused, checkpoint, tmp_path):
  message = refused('extract_variable', f'--checkpoint_dir={checkpoint}', f'--output_path={tmp_path}/e.npy',
                    '--variable_path=target/token_embeder/embedding')
  assert "has no array 'target/token_embeder/embedding'. Did you mean token_embedder/embedding" in message
  assert 'It holds 3, such as decoder/decoder_norm/scale' in refused(
    'extract_variable', f'--checkpoint_dir={checkpoint}', f'--output_path={tmp_path}/e.npy', '--variable_path=zz')
  assert not (tmp_path / 'e.npy').exists()


def test_sampled_rows_are_different_ones_of_the_first(script, checkpoint, tmp_path):
  assert script('subsample_vocab', f'--checkpoint_dir={checkpoint}', '--prompt_length=7', '--population_size=9',
                f'--output_path={tmp_path}/p.npy')[0] == 0
  rows = np.load(tmp_path / 'p.npy')
  places = [np.flatnonzero((EMBEDDING == row).all(axis=1)).item() for row in rows]
  assert len(set(places)) == len(places) == 7
  assert max(places) < 9


def test_sampled_rows_are_those_that_a_run_of_the_same_seed_starts_from(script, tmp_path):
  np.save(tmp_path / 'embedding.npy', EMBEDDING)
  for seed in (5, 6):
    assert script('subsample_vocab', f'--embeddings_path={tmp_path}/embedding.npy', '--prompt_length=6',
                  f'--seed={seed}', f'--output_path={tmp_path}/{seed}.npy')[0] == 0
  method = prompts.PromptTuning(prompts.Prompt(6, prompts.from_sample_of_embeddings(EMBEDDING, None)))
  start = method.initialise(jax.random.key(5), type('Model', (), {'width': 4, 'prompted': 'encoder'}))
  np.testing.assert_array_equal(np.load(tmp_path / '5.npy'), start['encoder']['prompt']['prompt']['prompt'])
  assert not np.array_equal(np.load(tmp_path / '5.npy'), np.load(tmp_path / '6.npy'))


@pytest.mark.parametrize('flags, message', [
  (['--prompt_length=20'], '20 distinct rows cannot be drawn from 19. Set --prompt_length to 1 to 19'),
  (['--population_size=5000'], 'population_size=5000 is out of range: the embedding has 19 rows'),
  (['--embeddings_path=decoder/decoder_norm/scale'], r'has shape (4,), expected an embedding [rows, width]'),
])
def test_rows_that_are_not_there_are_refused(refused, checkpoint, tmp_path, flags, message):
  assert message in refused('subsample_vocab', f'--checkpoint_dir={checkpoint}', f'--output_path={tmp_path}/p', *flags)


def test_sampling_from_nothing_is_refused(refused, tmp_path):
  assert 'nothing to draw from' in refused('subsample_vocab', f'--output_path={tmp_path}/p.npy')


def test_equal_checkpoints_of_different_layouts_end_with_0(script, shared):
  folder = shared / 't5x/d_small'
  status, printed, _ = script('diff_checkpoints', folder / 'ckpt_native', folder / 'ckpt_orbax')
  assert status == 0
  assert printed.endswith('equal: 52 arrays\n')


def test_every_difference_is_named_and_ends_with_1(script, checkpoint, tmp_path):
  kernel = NAMED['encoder/layers_0/mlp/wo/kernel'].copy()
  kernel[5, 2] += 0.25
  other = write_t5x(str(tmp_path / 'other'), 9, {
    'token_embedder/embedding': EMBEDDING[:-1], 'encoder/layers_0/mlp/wo/kernel': kernel,
    'decoder/decoder_norm/scale': np.ones(4, jnp.bfloat16), 'encoder/prompt/prompt/prompt': EMBEDDING[:2]})
  status, printed, _ = script('diff_checkpoints', f'--left={checkpoint}', f'--right={other}')
  assert status == 1
  assert printed.splitlines()[2:] == [
    'decoder/decoder_norm/scale: types differ; (4,) float32 on the left, (4,) bfloat16 on the right',
    'encoder/layers_0/mlp/wo/kernel: 1 of 24 values differ, by up to 0.25; '
    '(6, 4) float32 on the left, (6, 4) float32 on the right',
    'encoder/prompt/prompt/prompt: only in right, (2, 4) float32',
    'token_embedder/embedding: shapes differ; (19, 4) float32 on the left, (18, 4) float32 on the right',
    'different: 4 of 4 arrays']


def test_small_differences_and_types_are_equal_where_asked(script, checkpoint, tmp_path):
  other = write_t5x(str(tmp_path / 'other'), 70, {name: array.astype(jnp.bfloat16) for name, array in NAMED.items()})
  assert script('diff_checkpoints', checkpoint, other, '--ignore_dtype')[0] == 1
  assert script('diff_checkpoints', checkpoint, other, '--ignore_dtype', '--atol=0.01')[0] == 0


def test_one_checkpoint_or_an_absent_one_ends_with_2(refused, checkpoint, tmp_path):
  assert 'expected two checkpoints in total' in refused('diff_checkpoints', checkpoint)
  assert f'{tmp_path}/absent: there is no such folder' in refused('diff_checkpoints', checkpoint, tmp_path / 'absent')
