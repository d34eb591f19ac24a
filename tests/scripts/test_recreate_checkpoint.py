"""Merges a trained prompt and its frozen checkpoint."""

import numpy as np
import pytest
from toy_checkpoint import EMBEDDING, NAMED

from prompt_tuning.checkpoints.t5x import T5XCheckpoint
from prompt_tuning.models.loading import save_model
from prompt_tuning.prompts import PATH
from prompt_tuning.training import run_files

ABOUT = {'model': 'checkpoint_70', 'placement': 'before'}


@pytest.fixture
def run(tmp_path, checkpoint):
  """A run's folder with prompts of tens at step 80, twenties at step 90 and thirties, the best, at step 85."""
  folder = tmp_path / 'run'
  for step, number in ((80, 10), (90, 20)):
    run_files.save(str(folder), step, trained={PATH: np.full((3, 4), number, np.float32)}, optimizer={}, about=ABOUT,
                   metadata={'run': ABOUT}, keep=None)
  run_files.save_best(str(folder), {PATH: np.full((3, 4), 30, np.float32)}, {**ABOUT, 'step': 85})
  # A long value, as gin writes it.
  (folder / 'config.gin').write_text(f"# Macros:\nINITIAL_CHECKPOINT_PATH = \\\n    ('{checkpoint.parent}/'\n"
                                     f"     '{checkpoint.name}')\nMODEL_DIR = 'elsewhere'\n")
  return folder


def assert_holds(path, step, number):
  written = T5XCheckpoint(str(path))
  assert written.step == step
  assert written.names().keys() == NAMED.keys() | {PATH}
  for name, array in NAMED.items():
    np.testing.assert_array_equal(written.read(name), array, strict=True)
  np.testing.assert_array_equal(written.read(PATH), np.full((3, 4), number, np.float32), strict=True)


def test_the_best_prompt_is_put_into_the_checkpoint_of_the_run(script, run, tmp_path):
  status, printed, message = script('recreate_checkpoint', f'--model_dir={run}', f'--output_dir={tmp_path}/out')
  assert (status, message) == (0, '')
  assert printed == f'Wrote {tmp_path}/out/checkpoint_85: 4 arrays, of which trained: {PATH}\n'
  assert_holds(tmp_path / 'out/checkpoint_85', 85, 30)


@pytest.mark.parametrize('lost', ['state', 'numpy'])
def test_the_prompt_of_a_step_is_taken_from_its_state_or_numpy_file(script, run, tmp_path, lost):
  where = {'state': 'checkpoint_80/state.safetensors',
           'numpy': 'numpy_checkpoints/checkpoint_80/encoder.prompt.prompt.prompt'}
  (run / where[lost]).unlink()
  assert script('recreate_checkpoint', '--model_dir', run, '--step', 80, '--output_dir', tmp_path / 'out')[0] == 0
  assert_holds(tmp_path / 'out', 80, 10)


def test_flags_are_understood_as_gin_writes_them(script, run, tmp_path):
  assert script('recreate_checkpoint', f"--gin.MODEL_DIR='{run}'", '--gin.recreate_checkpoint.step=90',
                '--gin_bindings=main/recreate_checkpoint.output_dir="' + f'{tmp_path}/out"')[0] == 0
  assert_holds(tmp_path / 'out', 90, 20)


def test_a_prompt_file_is_put_into_a_given_checkpoint_at_its_step(script, checkpoint, tmp_path):
  np.save(tmp_path / 'prompt.npy', np.full((3, 4), 40, np.float32))
  arguments = [f'--prompt={tmp_path}/prompt.npy', f'--model={checkpoint}', f'--output_dir={tmp_path}/out']
  assert script('recreate_checkpoint', *arguments)[0] == 0
  assert_holds(tmp_path / 'out', 70, 40)
  assert script('recreate_checkpoint', *arguments, '--step=1234')[0] == 0
  assert_holds(tmp_path / 'out', 1234, 40)


def test_old_checkpoints_of_t5x_are_written_anew_with_the_prompt(script, shared, tmp_path):
  golden = shared / 't5x'
  assert script('recreate_checkpoint', f'--prompt={golden}/b_prompt_tiny/prompt_5x4.npy',
                f'--model={shared}/t5x_native/checkpoint_3', f'--output_dir={tmp_path}')[0] == 0
  written = T5XCheckpoint(str(tmp_path / 'checkpoint_3'))
  wanted = {**np.load(golden / 'a_plain_tiny/params_checkpoint_3.npz'),
            PATH: np.load(golden / 'b_prompt_tiny/prompt_5x4.npy')}
  assert written.names().keys() == wanted.keys()
  for name, array in wanted.items():
    np.testing.assert_array_equal(written.read(name), array)


def test_a_hugging_face_folder_becomes_a_checkpoint_under_the_names_of_t5x(script, tiny, tmp_path):
  save_model(tiny, str(tmp_path / 'hf'))
  np.save(tmp_path / 'prompt.npy', np.ones((3, tiny.width), np.float32))
  assert script('recreate_checkpoint', f'--prompt={tmp_path}/prompt.npy', f'--model={tmp_path}/hf', '--step=7',
                f'--output_dir={tmp_path}/out')[0] == 0
  written = T5XCheckpoint(str(tmp_path / 'out/checkpoint_7'))
  assert written.read(PATH).shape == (3, tiny.width)
  np.testing.assert_array_equal(written.read('token_embedder/embedding'), tiny.params['token_embedder']['embedding'])


def test_retrained_parameters_replace_the_frozen_ones(script, checkpoint, tmp_path):
  scale = 'decoder/decoder_norm/scale'
  run_files.save_best(str(tmp_path / 'run'), {scale: np.full(4, 5, np.float32)}, {'step': 71})
  assert script('recreate_checkpoint', f'--model_dir={tmp_path}/run', f'--model={checkpoint}',
                f'--output_dir={tmp_path}/out')[0] == 0
  written = T5XCheckpoint(str(tmp_path / 'out'))
  np.testing.assert_array_equal(written.read(scale), np.full(4, 5, np.float32))
  np.testing.assert_array_equal(written.read('token_embedder/embedding'), EMBEDDING)


def test_a_prompt_that_does_not_stand_before_the_input_is_warned_of(script, checkpoint, tmp_path):
  about = {'step': 71, 'placement': 'after_eos'}
  run_files.save_best(str(tmp_path / 'run'), {PATH: np.ones((3, 4), np.float32)}, about)
  status, _, message = script('recreate_checkpoint', f'--model_dir={tmp_path}/run', f'--model={checkpoint}',
                              f'--output_dir={tmp_path}/out')
  assert status == 0
  assert 'trained with the placement after_eos' in message


@pytest.mark.parametrize('flags, message', [
  (['--model_dir={run}', '--step=81'], 'does not hold anything of step 81; found 80, 90. Set --step'),
  (['--model_dir={run}/none'], 'does not hold best.safetensors or last.safetensors; found no state'),
  (['--prompt={run}/best.safetensors'], 'does not say which frozen checkpoint it belongs to. Give it with --model'),
  (['--prompt={run}/../wide.npy', '--model_dir={run}'], 'was trained with shape (3, 5), but'),
  ([], 'Neither --model_dir nor --prompt is given'),
])
def test_what_does_not_fit_is_refused(refused, run, tmp_path, flags, message):
  np.save(tmp_path / 'wide.npy', np.ones((3, 5), np.float32))
  flags = [flag.format(run=run) for flag in flags]
  assert message in refused('recreate_checkpoint', *flags, f'--output_dir={tmp_path}/out')
  assert not (tmp_path / 'out').exists()
