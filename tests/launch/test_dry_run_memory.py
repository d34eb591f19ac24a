"""A dry run's bytes on each device, compared with bytes counted by hand and by the compiler for the same step."""

import importlib.util
import re

import pytest

MODEL = ('--gin_file=models/t5_1_1_prompt.gin', '--gin_file=runs/prompt_finetune.gin')
EIGHT = "--gin.partitioning.PjitPartitioner.mesh_shape={'data': 2, 'fsdp': 2, 'model': 2}"
FROZEN = {'float32': 5280, 'bfloat16': 2640, 'int8': 2572}  # see below


@pytest.fixture
def plan(run, toy_shape, toy_t5x, tmp_path):
  """Returns a function `(*arguments) -> exit status, plan of a toy run, errors`."""

  def call(*arguments, dry_run='--dry_run', program='train', files=MODEL):
    return run(program, *files, *toy_shape, f"--gin.INITIAL_CHECKPOINT_PATH='{toy_t5x}'", '--gin.TRAIN_STEPS=80',
               "--gin.MIXTURE_OR_TASK_NAME='Add1'", "--gin.TASK_FEATURE_LENGTHS={'inputs': 9, 'targets': 5}",
               '--gin.BATCH_SIZE=8', '--gin.PROMPT_LENGTH=3', f"--gin.MODEL_DIR='{tmp_path}/run'", *arguments, dry_run)

  return call


def counted(printed: str) -> dict[str, int]:
  """Returns the counts of a plan for each device: name -> bytes."""
  lines = [line.split(maxsplit=1) for line in printed.partition('Bytes on each device')[2].splitlines()]
  return {line[1]: int(line[0].replace(',', '')) for line in lines
          if len(line) == 2 and line[0].replace(',', '').isdigit()}


@pytest.mark.parametrize('dtype', FROZEN)
def test_bytes_on_each_of_eight_devices_are_those_counted_by_hand(plan, dtype):
  """Vocabulary 40, width 8, 2 heads of 5, MLP 12, 3 + 2 layers; matrices are split into four.

  Parameters per device: 80 · 4 / 4 of an attention's matrices, 96 · 3 / 4 of an MLP's, 320 / 4 each of embedding and
  output layer; norms (8) and position biases (32 · 2) are whole. In 8 bits, a matrix has a scale for each output, and a
  device has half of them.
  """
  attentions, mlps = 3 + 2 * 2, 3 + 2
  matrices = 80 * attentions + 72 * mlps
  others = 80 + 80 + 8 * (3 * 2 + 2 * 3 + 2) + 64 * 2
  scales = (3 * 5 + 4) * attentions + (2 * 6 + 4) * mlps
  assert FROZEN == {'float32': 4 * (matrices + others), 'bfloat16': 2 * (matrices + others),
                    'int8': matrices + 4 * scales + 2 * others}

  status, printed, errors = plan(EIGHT, f"--gin.utils.RestoreCheckpointConfig.dtype='{dtype}'")
  assert status == 0, errors
  found = counted(printed)
  assert found[f'frozen, {dtype}'] == FROZEN[dtype]
  assert found['trained'] == found['gradient'] == 4 * 3 * 8
  # 12 positions of the encoder with 4 values each, 5 of the decoder with 6, and 2 of each of two rows
  assert found['batch'] == 2 * 4 * (12 * 4 + 5 * 6 + 2)
  assert found['together'] == sum(found.values()) - found['together']
  assert 'Mesh: data=2 x fsdp=2 x model=2: 8 devices (this machine has ' in printed
  assert 'The run can start on 8 devices' in printed
  assert '--dry_run=compile estimates them' in printed


def test_copies_are_as_many_as_fill_the_machine_or_one(plan):
  assert 'Mesh: data=1 x fsdp=1 x model=1: one device (this machine has 1)' in plan()[1]
  printed = plan('--gin.partitioning.PjitPartitioner.num_partitions=2')[1]
  assert 'Mesh: data=1 x fsdp=1 x model=2: 2 devices (this machine has 1, which do not fill it, so data is ' in printed


@pytest.mark.parametrize('arguments, said', [
  (["--gin.partitioning.PjitPartitioner.mesh_shape={'model': 4}"], 'The model has 2 heads.*model=4 does not divide'),
  (["--gin.partitioning.PjitPartitioner.mesh_shape={'data': 3}"], r'BATCH_SIZE=8 cannot be used: .* = 3 devices'),
  (['--gin.trainer.Trainer.num_microbatches=4', "--gin.partitioning.PjitPartitioner.mesh_shape={'data': 4}"],
   'num_microbatches=4, of 2 rows each.* = 4 devices')])
def test_a_mesh_that_does_not_fit_is_an_error_before_anything_runs(plan, arguments, said):
  status, printed, errors = plan(*arguments)
  assert status == 2
  assert re.search(said, errors)
  assert 'The run can start' not in printed


def test_the_compiler_counts_the_same_and_its_estimate_is_called_one(plan):
  status, printed, errors = plan(EIGHT, "--gin.utils.RestoreCheckpointConfig.dtype='int8'",
                                 dry_run='--dry_run=compile')
  assert status == 0, errors
  assert 'Estimated by compiling the step for 8 simulated CPU devices' in printed
  found = counted(printed)
  held = ('frozen, int8', 'trained', 'state of Adafactor', 'batch')
  assert found['arguments, as counted'] == sum(found[name] for name in held)
  assert found['temporaries, gradient included'] > found['gradient']
  assert found['all-gather'] > 0


@pytest.mark.parametrize('value, said', [
  ('--dry_run=tpu', r'--dry_run=tpu is unknown\. .*--dry_run=compile for an estimate.*--dry_run=v5e:4x4'),
  ('--dry_run=False', '--dry_run=False is unknown')])
def test_other_values_are_answered_with_those_that_there_are(plan, value, said):
  status, printed, errors = plan(dry_run=value)
  assert (status, printed) == (2, '')
  assert re.search(said, errors)


def test_answering_has_no_step_to_compile(plan):
  status, _, errors = plan(dry_run='--dry_run=compile', program='infer')
  assert status == 2
  assert '--dry_run=compile compiles a training step, which infer does not have' in errors


@pytest.mark.skipif(importlib.util.find_spec('libtpu') is not None, reason='the compiler of TPUs is there')
def test_a_slice_needs_the_compiler_of_tpus(plan):
  status, _, errors = plan(dry_run='--dry_run=v5e:2x2')
  assert status == 2
  assert 'The step cannot be compiled for v5e:2x2: The TPU compiler is not installed: `pip install ' in errors


def test_new_ends_are_part_of_the_plan(run, tmp_path):
  from prompt_tuning.models.loading import random_model, save_model
  from prompt_tuning.models.new_models import gpt2

  shape = gpt2(vocab_size=5, width=8, heads=2, layers=2, position_count=20)
  save_model(random_model(shape), str(tmp_path / 'gpt'))
  folder = 'experiments/frozen_transformer'
  status, printed, errors = run(
    'train', f'--gin_file={folder}/small.gin', f'--gin_file={folder}/xor.gin', '--gin.TUNE_BATCH=2',
    f"--gin.INITIAL_CHECKPOINT_PATH='{tmp_path}/gpt'", f"--gin.MODEL_DIR='{tmp_path}/run'",
    '--gin.VOCABULARY=@seqio.PassThroughVocabulary()', '--gin.seqio.PassThroughVocabulary.size=5', '--dry_run')
  assert status == 0, errors
  assert re.search(r"inputs: '[01]( [01]){9}', 10 tokens", printed)
  # Tokens, segments, positions, targets and weights of 10 positions; the row's number and prompt.
  assert counted(printed)['batch'] == 2 * 4 * (10 * 5 + 2)


TPU_PROGRAM = """
%begin (x: f32[4]) -> f32[4] {
  %a = f32[4]{0} all-reduce(%x), channel_id=3, to_apply=%add
}

%end (x: f32[4]) -> f32[4] {
  %b = f32[4]{0} all-reduce(%x), channel_id=3, to_apply=%add
}

%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %c = f32[4]{0} fusion(%x), kind=kCustom, calls=%begin
  %d = f32[4]{0} fusion(%c), kind=kCustom, calls=%end
}

%condition.1 (p: (s32[], f32[4])) -> pred[] {
  %limit.2 = s32[]{:T(256)} constant(24), metadata={}
  ROOT %lt = pred[]{:T(1024)} compare(%i, %limit.2), direction=LT, metadata={}
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %w = (s32[]{:T(256)}, f32[4]{0}) while(%t), condition=%condition.1, body=%body, metadata={}
}
"""


@pytest.mark.parametrize('program, times', [(TPU_PROGRAM, 24), (TPU_PROGRAM.replace('constant(24)', 'copy(%n)'), None)])
def test_an_exchange_in_several_fusions_of_a_loop_for_tpus_counts_once_a_turn(program, times):
  import types

  from prompt_tuning.devices.collectives import collectives

  assert collectives(types.SimpleNamespace(as_text=lambda: program)) == [('all-reduce', 16, times)]
