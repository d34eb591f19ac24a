"""From gin files and overrides to a run: errors for slips, and what the facade accepts and refuses."""

import re

import jax
import pytest

from prompt_tuning import trees
from prompt_tuning.runs import objects, training

FILES = ('--gin_file=models/t5_1_1_prompt.gin', '--gin_file=runs/prompt_finetune.gin')
SET = ("--gin.MODEL_DIR='run'", "--gin.INITIAL_CHECKPOINT_PATH='there'", '--gin.TRAIN_STEPS=80',
       "--gin.MIXTURE_OR_TASK_NAME='Add1'", "--gin.TASK_FEATURE_LENGTHS={'inputs': 9, 'targets': 5}")


def method_of(run, model):
  """Returns the method of a run, which determines its trained tensors."""
  method = objects.method(run.method, model)
  objects.require_trainable(run, model, trees.flatten(method.initialise(jax.random.key(0), model)))
  return method


@pytest.fixture
def train(build, toy_shape):
  """Returns a function `(*overrides) -> the run`."""
  return lambda *overrides: build('train', *FILES, *toy_shape, *SET, *overrides)


@pytest.mark.parametrize('override, answer', [
  ('--gin.TRAIN_STEP=5', r'sets nothing: no gin file of this run uses TRAIN_STEP\. Did you mean TRAIN_STEPS'),
  ('--gin.utils.SaveCheckpointConfig.kep=5', r'SaveCheckpointConfig has no parameter kep\. Did you mean keep\?'),
  ('--gin.utils.SaveChekpointConfig.keep=5', r'no utils\.SaveChekpointConfig\. Did you mean utils\.SaveCheck'),
  ('--gin.util.SaveCheckpointConfig.keep=5', r'no util\.SaveCheckpointConfig\. Did you mean utils\.SaveCheck'),
  ('--gin.MODEL=@models.EncoderDecodrModel()', r'Did you mean models\.EncoderDecoderModel'),
  ('--gin.trian/utils.DatasetConfig.pack=True', r'no gin file of this run uses the scope trian/\. Did you mean train'),
  ('--gin.MODEL_DIR=/tmp/x', r"""as in --gin\.MODEL_DIR="'/tmp/x'"\.$"""),
  ('--gin.MODEL_DIR=runs', r"""as in --gin\.MODEL_DIR="'runs'"\.$"""),
  ('--gin.TASK_FEATURE_LENGTHS={', r'--gin\.TASK_FEATURE_LENGTHS=\{ cannot be read'),
  ('--gin.Prompt.length=5', r"Prompt may mean .*train_prompts\.Prompt.*Write more of the name"),
])
def test_a_slip_in_an_override_names_the_flag_and_the_nearest_name(override, answer, train):
  with pytest.raises(ValueError, match=answer) as caught:
    train(override)
  assert str(caught.value).startswith(override.split('=')[0])


@pytest.mark.parametrize('text, answer', [
  ("utils.SaveCheckpointConfig:\n  period = 3\n  kep = 5\n", r':4: utils\.SaveCheckpointConfig has no parameter kep'),
  ("MODEL_DIR = /tmp\n", r":2: cannot be read as gin: .*'MODEL_DIR = /tmp'"),
  ("MODEL = @models.EncodrDecoderModel()\n", r':2: There is no models\.EncodrDecoderModel'),
  ("import no_such_module_here\n", r":2: No module named 'no_such_module_here'"),
])
def test_a_slip_in_a_file_names_its_line(text, answer, build, tmp_path):
  path = tmp_path / 'mine.gin'
  path.write_text(f'# mine\n{text}')
  with pytest.raises((ValueError, ImportError), match=re.escape(str(path)) + answer):
    build('train', f'--gin_file={path}')


def test_what_is_required_is_named_with_its_file_and_an_example(build, toy_shape):
  with pytest.raises(ValueError) as caught:
    build('train', *FILES, *toy_shape, *SET[1:], '--gin.MODEL_DR=5')
  first, line = str(caught.value).splitlines()
  assert first == 'MODEL_DIR is not set:'
  assert 'which prompt_tuning/configs/runs/finetune.gin needs' in line
  assert 'for example --gin.MODEL_DIR="\'runs/first\'"' in line
  assert 'MODEL_DR is set, but nothing uses it: a typo?' in line


def test_a_value_marked_as_required_in_a_users_file_must_be_set(build, toy_shape, tmp_path):
  (tmp_path / 'mine.gin').write_text('MODEL_DIR = %gin.REQUIRED\n')
  files = (*FILES, f'--gin_file={tmp_path}/mine.gin')
  with pytest.raises(ValueError, match='MODEL_DIR is not set'):
    build('train', *files, *toy_shape, *SET[1:])
  assert build('train', *files, *toy_shape, *SET).output == 'run'


def test_the_steps_of_the_run_itself_can_be_given_instead_of_global_ones(build, toy_shape):
  described = build('train', *FILES, *toy_shape, *SET[:2], *SET[3:], '--gin.TRAIN_STEPS_RELATIVE=7')
  assert objects.end(described, 1_100_000) == 1_100_007
  assert objects.end(build('train', *FILES, *toy_shape, *SET), 1_100_000) == 80


def test_files_of_another_program_are_answered_with_the_right_file(build, toy_shape):
  with pytest.raises(ValueError, match=r'how to eval\. They describe a run of train\. Add .*runs/prompt_eval\.gin'):
    build('eval', *FILES, *toy_shape, *SET)


def test_a_run_without_a_model_file_is_told_which_to_add(build):
  with pytest.raises(ValueError, match=r'MODEL, which .*finetune.gin needs, for example --gin_file=.*from_checkpoint'):
    build('train', FILES[1], *SET)


def test_later_files_and_overrides_win(train, build, toy_shape, tmp_path):
  (tmp_path / 'mine.gin').write_text('BATCH_SIZE = 6\nEVAL_PERIOD = 4\n')
  described = build('train', *FILES, f'--gin_file={tmp_path}/mine.gin', *toy_shape, *SET, '--gin.EVAL_PERIOD=5')
  assert (described.batch_size, described.evaluation_period) == (6, 5)


def test_defaults_are_those_of_prompt_tuning(train):
  described = train()
  assert (described.batch_size, described.split, described.packed) == (128, 'train', False)
  assert (described.evaluation_period, described.loss_steps, described.seed) == (1000, 20, None)
  assert (described.saving_period, described.keep) == (1000, 1)
  assert described.ignored == ('^.*prompt.*$',)
  adafactor = objects.optimizer(described, 1_100_000)
  assert adafactor.learning_rate(1_100_000) == pytest.approx(0.3)
  assert (adafactor.decay_rate, adafactor.step_offset, adafactor.multiply_by_parameter_scale) == (0.8, 0, False)
  assert (adafactor.weight_decay_rate, adafactor.min_dim_size_to_factor) == (1e-5, 128)
  assert objects.config(described).dropout_rate == 0.1
  assert described.method.options['length'] == 100
  loss = objects.loss(described, None)
  assert (loss.z_loss, loss.label_smoothing, loss.normalizing_factor) == (1e-4, 0.0, None)
  sampler = objects.sampler(described)
  assert (type(sampler).__name__, sampler.num_decodes, sampler.alpha, sampler.penalty) == ('BeamSearch', 1, 0.6, 't5x')


@pytest.mark.parametrize('override, answer', [
  ('--gin.partitioning.PjitPartitioner.num_partitions=0', "mesh={'model': 0} cannot be used: expected"),
  ("--gin.partitioning.PjitPartitioner.mesh_shape={'modell': 2}", "mesh has no setting 'modell'. Did you mean model"),
  ('--gin.ACTIVATION_PARTITIONING_DIMS=2', 'ACTIVATION_PARTITIONING_DIMS is 2'),
  ('--gin.SCALE=0.5', 'SCALE is 0.5'),
  ("--gin.LAYER_REMAT='some'", "LAYER_REMAT is 'some'. Give one of none, minimal"),
  ('--gin.USE_HARDWARE_RNG=True', 'USE_HARDWARE_RNG is True'),
  ("--gin.utils.SaveCheckpointConfig.dtype='bfloat16'", 'a resumed run has the same bits'),
  ('--gin.utils.SaveCheckpointConfig.keep=0', 'keep=0 cannot be used: expected a whole number of at least 1'),
  ("--gin.utils.RestoreCheckpointConfig.mode='all'", "mode is 'all'"),
  ("--gin.utils.RestoreCheckpointConfig.dtype='int4'", "dtype='int4' cannot be used: expected one of float32"),
  ("--gin.utils.RestoreCheckpointConfig.assignment_map=(('a', 'b'),)", 'names are not mapped to others'),
  ('--gin.train/utils.DatasetConfig.shuffle=False', 'training always shuffles'),
  ('--gin.BATCH_SIZE=0', 'batch_size=0 cannot be used: expected a whole number of at least 1'),
  ('--gin.TASK_FEATURE_LENGTHS=None', 'Training needs the lengths'),
  ("--gin.TASK_FEATURE_LENGTHS={'inputs': 9}", 'Give both lengths'),
  ('--gin.train/utils.DatasetConfig.buckets=(64, 32)', 'buckets=(64, 32) is not valid. Give input lengths in'),
  ("--gin.utils.create_learning_rate_scheduler.factors='constnat'", "unknown factor 'constnat'. Did you mean constant"),
])
def test_what_is_not_supported_is_a_clear_error(override, answer, train):
  with pytest.raises(ValueError, match=re.escape(answer)) as caught:
    train(override)
  assert 'configurable' not in str(caught.value)  # gin's jargon


@pytest.mark.parametrize('override, answer', [
  ('--gin.infer_eval/utils.DatasetConfig.batch_size=3', 'evaluations during training use that of training'),
  ("--gin.infer_eval/utils.DatasetConfig.split='test'", 'evaluated on one task and split'),
  ("--gin.utils.DatasetConfig.mixture_or_task_name='Ad1'", 'There is no task'),
  ("--gin.MIXTURE_OR_TASK_MODULE='no_such_module_here'", 'does not exist. Start the program in the folder'),
])
def test_what_cannot_be_evaluated_or_found_is_a_clear_error(override, answer, train):
  with pytest.raises((ValueError, ImportError), match=re.escape(answer)):
    described = train(override)
    described.executing()
    training.evaluations(described, objects.task(described))


def test_one_seed_decides_all(train):
  assert train('--gin.RANDOM_SEED=3').seed == 3
  assert train('--gin.train/utils.DatasetConfig.seed=4').seed == 4
  with pytest.raises(ValueError, match=r'RANDOM_SEED is 3 and train/utils\.DatasetConfig\.seed 4'):
    train('--gin.RANDOM_SEED=3', '--gin.train/utils.DatasetConfig.seed=4').seed  # noqa: B018


@pytest.mark.parametrize('patterns, answer', [
  (['.*'], 'matches'), (['.*layer_norm.*', '.*/prompt/.*'], 'matches'), (['.*bias.*'], 'matches'),
  (['promt'], 'does not match encoder/prompt/prompt/prompt')])
def test_a_pattern_that_means_more_or_less_than_the_prompt_is_an_error(patterns, answer, train, toy_model):
  with pytest.raises(ValueError, match=rf"trainable=.* {answer}.*method='retrained'"):
    method_of(train(f'--gin.PROMPT_REGEX={patterns}'), toy_model)


def test_parameters_can_be_retrained_instead_of_a_prompt(train, toy_model):
  run = train('--gin.PROMPT=@retrained.Retrained', "--gin.retrained.Retrained.patterns=['.*layer_norm.*']")
  method = method_of(run, toy_model)
  assert type(method).__name__ == 'Retrained'
  assert method.patterns == ('.*layer_norm.*',)


@pytest.mark.parametrize('overrides, placement', [
  ([], 'before'), (['--gin.train_prompts.Prompt.combine=@train_prompts.prefix_prompt_after_bos'], 'after_bos'),
  (['--gin.train_prompts.Prompt.combine=@train_prompts.suffix_prompt'], 'after_eos'),
  (['--gin.train_prompts.Prompt.combine=@train_prompts.suffix_prompt',
    '--gin.train_prompts.suffix_prompt.before_eos=True'], 'before_eos')])
def test_the_prompt_stands_where_it_is_told(overrides, placement, train, toy_model):
  method = method_of(train(*overrides, '--gin.train_prompts.Prompt.see_input=False'), toy_model)
  assert method.layout().placement.__name__ == placement
  assert (method.visibility.input, method.visibility.prompt) == (False, True)


def test_the_scale_of_uniform_first_values_can_be_set(train, toy_model):
  import numpy as np

  method = method_of(train('--gin.prompt_init/linen.initializers.uniform.scale=0.01'), toy_model)
  values = np.asarray(method.initialise(jax.random.key(0), toy_model)['encoder']['prompt']['prompt']['prompt'])
  assert 0 <= values.min() < values.max() < 0.01


def test_the_resolved_configuration_builds_the_same_run(build, toy_shape, tmp_path):
  from prompt_tuning.programs import command, launch

  flags = command.parse_flags('train', [*FILES, *toy_shape, *SET, '--gin.PROMPT_LENGTH=6', '--gin.RANDOM_SEED=3'])
  first, text = launch.build('train', flags)
  (tmp_path / 'config.gin').write_text(text)
  again = build('train', f'--gin_file={tmp_path}/config.gin')
  assert (again.seed, again.output, again.method.options['length']) == (3, 'run', 6)
  assert again == first


@pytest.mark.parametrize(('overrides', 'answer'), [
  (['--gin.PROMPT_LENGTH=4'], r'--gin\.PROMPT_LENGTH sets nothing: PROMPT is @prefix\.Prefix, which does not read it'),
  (["--gin.PROMPT_FILE='p.npy'"], r'--gin\.PROMPT_FILE sets nothing'),
  (['--gin.train_prompts.Prompt.see_input=False'], r'--gin\.train_prompts\.Prompt\.see_input sets nothing: nothing in'),
  (['--gin_file=prompts/from_sampled_vocab.gin'], r'--gin_file=.*_vocab\.gin sets nothing: PROMPT is @prefix\.Prefix'),
])
def test_what_the_chosen_method_does_not_read_is_named(overrides, answer, train):
  with pytest.raises(ValueError, match=answer):
    train('--gin.PROMPT=@prefix.Prefix', *overrides)


@pytest.mark.parametrize(('override', 'answer'), [
  ("--gin.EVAL_PERIOD='100'", r"EVAL_PERIOD='100' cannot be used: expected a whole number"),
  ('--gin.PROMPT_LENGTH=True', r'PROMPT_LENGTH=True cannot be used: expected a whole number'),
  ("--gin.PROMPT='prompt'", r"PROMPT='prompt' cannot be used: expected a method such as @train_prompts\.Prompt"),
  ('--gin.RANDOM_SEED=[1]', r'RANDOM_SEED=\[1\] cannot be used'),
  ('--gin.PROMPT_REGEX=5', r'PROMPT_REGEX=5 cannot be used: expected Sequence\[str\]'),
  ('--gin.MODEL=5', r'MODEL=5 cannot be used: expected EncoderDecoderModel'),
  ("--gin.train_prompts.Prompt.see_input='no'", r"train_prompts\.Prompt\.see_input='no' cannot be used: expected True"),
  ('--gin.partitioning.PjitPartitioner.mesh_shape=5', r'mesh_shape=5 cannot be used: expected Mapping'),
])
def test_a_value_of_another_type_is_named_by_what_sets_it(override, answer, train):
  with pytest.raises(ValueError, match=answer):
    train(override)
