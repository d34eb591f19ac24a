"""Every macro and binding of docs/configuration.md, overridden on the command line, has its effect on the run."""

import dataclasses
import os
import pathlib
import re

import numpy as np
import pytest
from test_configuration_page import names
from test_programs import FROM_CHECKPOINT, LENGTHS

from prompt_tuning.prompts import PATH
from prompt_tuning.runs import objects, training

RESTORE, SAVE, DATASET = (f'utils.{name}Config' for name in ('RestoreCheckpoint', 'SaveCheckpoint', 'Dataset'))
RATE, UNIFORM = 'utils.create_learning_rate_scheduler', 'prompt_init/linen.initializers.uniform'
INIT = 'prompt_init/prompts'
SAMPLE = '--gin.models.EncoderDecoderModel.decode_fn=@decoding.temperature_sample'
PREFIX = '--gin.PROMPT=@prefix.Prefix'
LOSS = '--gin.models.EncoderDecoderModel.loss_fn=@losses'
GPT = ('--gin_file=models/gpt.gin', '--gin.NUM_LAYERS=2', '--gin.POSITION_COUNT=30')
INTEGERS = ('--gin.MIXTURE_OR_TASK_NAME=@integers.Task()', "--gin.integers.Task.name='Add1'")
ENDS = ('--gin.models.EncoderDecoderModel.ends=@architectures.NewEnds()', '--gin.architectures.NewEnds.classes=3')
BITS = ('--gin.MIXTURE_OR_TASK_NAME=@labels.Bits()',)
SUFFIX = '--gin.train_prompts.Prompt.combine=@train_prompts.suffix_prompt'


def config(run):
  return objects.config(run)


def optimizer(run):
  return objects.optimizer(run, 0)


def rate(run):
  return [float(optimizer(run).learning_rate(step)) for step in (1, 4, 8)]


def chosen(run):
  return run.method.options


def vocabulary(run):
  return objects.vocabulary(run)


def task(run):
  return objects.task(run)


def loss(run):
  return objects.loss(run, vocabulary(run))


def first_input(run):
  return task(run).split('train')[0]['inputs']


def evaluations(run):
  return training.evaluations(run, task(run))


# Macro or binding -> (its value in gin, the setting of the run, the setting's expected value), and further arguments.
TRAIN = {
  'NUM_HEADS': ('3', lambda run: config(run).heads, 3),
  'NUM_ENCODER_LAYERS': ('4', lambda run: config(run).encoder_layers, 4),
  'NUM_DECODER_LAYERS': ('4', lambda run: config(run).decoder_layers, 4),
  'HEAD_DIM': ('7', lambda run: config(run).head_dim, 7),
  'EMBED_DIM': ('14', lambda run: config(run).width, 14),
  'MLP_DIM': ('15', lambda run: config(run).mlp_dim, 15),
  'NUM_EMBEDDINGS': ('41', lambda run: config(run).vocab_size, 41),
  'ACTIVATION_DTYPE': ("'float16'", lambda run: config(run).dtype, np.float16),
  'DROPOUT_RATE': ('0.25', lambda run: config(run).dropout_rate, 0.25),
  'LAYER_REMAT': ("'full'", lambda run: config(run).rematerialise, 'full'),
  'ARCHITECTURE': ('@architectures.T5()', lambda run: run.architecture.name, 't5'),
  'MODEL': ('@models.EncoderDecoderModel()', lambda run: run.model, 'there'),
  'OPTIMIZER': ('@adafactor.AdamW()', lambda run: type(optimizer(run)).__name__, 'AdamW'),
  'VOCABULARY': ('@seqio.PassThroughVocabulary()', lambda run: vocabulary(run).size, 40),
  'Z_LOSS': ('0.5', lambda run: loss(run).z_loss, 0.5),
  'LABEL_SMOOTHING': ('0.2', lambda run: loss(run).label_smoothing, 0.2),
  'LOSS_NORMALIZING_FACTOR': ("'NUM_REAL_TARGET_TOKENS'", lambda run: loss(run).normalizing_factor, 'tokens'),
  'PROMPT_LENGTH': ('6', lambda run: chosen(run)['length'], 6),
  'MODEL_DIR': ("'other'", lambda run: run.output, 'other'),
  'MIXTURE_OR_TASK_NAME': ("'Modulo'", lambda run: task(run).name, 'Modulo'),
  'TASK_FEATURE_LENGTHS': ("{'inputs': 7, 'targets': 3}", lambda run: run.max_input_length, 7),
  'TRAIN_STEPS': ('90', lambda run: objects.end(run, 70), 90),
  'TRAIN_STEPS_RELATIVE': ('9', lambda run: objects.end(run, 70), 79),
  'INITIAL_CHECKPOINT_PATH': ("'elsewhere'", lambda run: run.model, 'elsewhere'),
  'BATCH_SIZE': ('16', lambda run: run.batch_size, 16),
  'EVAL_STEPS': ('3', lambda run: evaluations(run).loss_steps, 3),
  'EVAL_PERIOD': ('30', lambda run: evaluations(run).period, 30),
  'RANDOM_SEED': ('12', lambda run: run.seed, 12),
  'USE_CACHED_TASKS': ('False', lambda run: run.data.name, 'Add1'),
  'EVALUATOR_NUM_EXAMPLES': ('11', lambda run: evaluations(run).examples, 11),
  'JSON_WRITE_N_RESULTS': ('2', lambda run: evaluations(run).written, 2),
  'EVALUATOR_USE_MEMORY_CACHE': ('False', lambda run: evaluations(run).examples, None),
  'MIXTURE_OR_TASK_MODULE': ("'tasks_of_a_test'", lambda run: task(run).name, 'Add1'),
  f'{SAVE}.period': ('500', lambda run: run.saving_period, 500),
  f'{SAVE}.keep': ('20', lambda run: run.keep, 20),
  f'{SAVE}.dtype': ("'float32'", lambda run: run.keep, 1),
  f'{RESTORE}.path': ("['one']", lambda run: run.model, 'one'),
  f'{RESTORE}.mode': ("'latest'", lambda run: run.model, 'there'),
  f'{RESTORE}.dtype': ("'bfloat16'", lambda run: run.dtype, 'bfloat16'),
  f'{RESTORE}.assignment_map': ('()', lambda run: run.ignored, ()),
  'utils.RestoreChekcpointConfig': (None, lambda run: run.dtype, 'float16',
                                    "--gin.utils.RestoreChekcpointConfig.dtype='float16'"),
  f'{DATASET}.mixture_or_task_name': ("'Modulo'", lambda run: task(run).name, 'Modulo'),
  f'{DATASET}.task_feature_lengths': ("{'inputs': 7, 'targets': 3}",
                                      lambda run: run.max_target_length, 3),
  f'{DATASET}.split': (None, lambda run: (run.split, evaluations(run).split), ('validation', 'train'),
                       "--gin.train/utils.DatasetConfig.split='validation'",
                       "--gin.train_eval/utils.DatasetConfig.split='train'",
                       "--gin.infer_eval/utils.DatasetConfig.split='train'"),
  f'{DATASET}.batch_size': ('8', lambda run: run.batch_size, 8),
  f'{DATASET}.seed': ('21', lambda run: run.seed, 21),
  f'{DATASET}.pack': (None, lambda run: run.packed, True, '--gin.train/utils.DatasetConfig.pack=True'),
  f'{DATASET}.buckets': (None, lambda run: run.buckets, (2, 5), '--gin.train/utils.DatasetConfig.buckets=(2, 5)'),
  f'{DATASET}.use_cached': ('False', lambda run: run.data.name, 'Add1'),
  f'{DATASET}.module': ("'tasks_of_a_test'", lambda run: run.imports, ('tasks_of_a_test',)),
  f'{RATE}.base_learning_rate': ('0.5', rate, [0.5, 0.5, 0.5]),
  f'{RATE}.factors': ("'constant * linear_warmup'", rate, [0.3 / 1000, 1.2 / 1000, 2.4 / 1000]),
  f'{RATE}.warmup_steps': ('4', rate, [0.075, 0.3, 0.3], f"--gin.{RATE}.factors='constant * linear_warmup'"),
  f'{RATE}.total_steps': ('8', lambda run: rate(run)[2], 0.0, f"--gin.{RATE}.factors='constant * linear_decay'",
                          f'--gin.{RATE}.warmup_steps=0'),
  'trainer.Trainer.num_microbatches': ('4', lambda run: run.microbatches, 4),
  'partitioning.PjitPartitioner.num_partitions': ('4', lambda run: objects.mesh_shape(run).model, 4),
  'partitioning.PjitPartitioner.model_parallel_submesh': ('(2, 2, 1, 2)', lambda run: objects.mesh_shape(run).model, 8),
  'partitioning.PjitPartitioner.mesh_shape': (
    "{'fsdp': 4}", lambda run: dataclasses.astuple(objects.mesh_shape(run)), (-1, 4, 1)),
  'adafactor.Adafactor.decay_rate': ('0.7', lambda run: optimizer(run).decay_rate, 0.7),
  'adafactor.Adafactor.step_offset': ('70', lambda run: optimizer(run).step_offset, 70),
  'adafactor.Adafactor.multiply_by_parameter_scale': (
    'True', lambda run: optimizer(run).multiply_by_parameter_scale, True),
  'adafactor.Adafactor.weight_decay_rate': ('0.01', lambda run: optimizer(run).weight_decay_rate, 0.01),
  'adafactor.Adafactor.factored': ('False', lambda run: optimizer(run).factored, False),
  'adafactor.Adafactor.min_dim_size_to_factor': ('3', lambda run: optimizer(run).min_dim_size_to_factor, 3),
  'adafactor.AdamW.learning_rate': (
    '0.02', lambda run: optimizer(run).learning_rate, 0.02, '--gin.OPTIMIZER=@adafactor.AdamW()',
    '--gin.trainer.Trainer.learning_rate_fn=None'),
  'models.EncoderDecoderModel.predict_batch_with_aux.num_decodes': (
    '3', lambda run: objects.sampler(run).num_decodes, 3),
  'models.EncoderDecoderModel.decode_fn': (
    '@decoding.greedy', lambda run: type(objects.sampler(run)).__name__, 'Greedy'),
  'decoding.beam_search.alpha': ('0.8', lambda run: objects.sampler(run).alpha, 0.8,
                                 '--gin.models.EncoderDecoderModel.decode_fn=@decoding.beam_search'),
  'decoding.beam_search.temperature': ('0.7', lambda run: objects.sampler(run).temperature, 0.7,
                                       '--gin.models.EncoderDecoderModel.decode_fn=@decoding.beam_search'),
  'decoding.beam_search.penalty': ("'transformers'", lambda run: objects.sampler(run).penalty, 'transformers',
                                   '--gin.models.EncoderDecoderModel.decode_fn=@decoding.beam_search'),
  'decoding.temperature_sample.temperature': ('0.3', lambda run: objects.sampler(run).temperature, 0.3, SAMPLE),
  'decoding.temperature_sample.topp': ('0.4', lambda run: objects.sampler(run).topp, 0.4, SAMPLE),
  'decoding.temperature_sample.topk': ('6', lambda run: objects.sampler(run).topk, 6, SAMPLE),
  'prompts.Prompt.length': ('6', lambda run: chosen(run)['length'], 6),
  'prompts.Prompt.dtype': ("'bfloat16'", lambda run: chosen(run)['vectors_dtype'], 'bfloat16'),
  'train_prompts.Prompt.prompt': ('@prompts.Prompt()', lambda run: chosen(run)['length'], 100),
  'train_prompts.Prompt.combine': ('@train_prompts.prefix_prompt_after_bos',
                                   lambda run: chosen(run)['placement'], 'after_bos'),
  'train_prompts.suffix_prompt.before_eos': ('True', lambda run: chosen(run)['placement'], 'before_eos', SUFFIX),
  'train_prompts.Prompt.see_input': ('False', lambda run: chosen(run)['see_input'], False),
  'train_prompts.Prompt.see_prompt': ('False', lambda run: chosen(run)['see_prompt'], False),
  'train_prompts.Prompt.cache_text': ('True', lambda run: chosen(run)['cached'], True, SUFFIX),
  'PROMPT': ('@retrained.Retrained', lambda run: run.method.name, 'retrained'),
  'train_prompts.Prompt.wayward_text': ("'4 5 6'", lambda run: chosen(run)['wayward_text'], '4 5 6',
                                        '--gin.train_prompts.Prompt.wayward_gamma=0.5'),
  'train_prompts.Prompt.wayward_gamma': ('0.5', lambda run: chosen(run)['wayward_gamma'], 0.5,
                                         "--gin.train_prompts.Prompt.wayward_text='4 5 6'"),
  'models.EncoderDecoderModel.loss_fn': ('@losses.pairwise_distance()',
                                         lambda run: loss(run).function.__name__, 'pairwise_distance'),
  'losses.pairwise_cosine.of': ("'hidden'", lambda run: loss(run).of, 'hidden', f'{LOSS}.pairwise_cosine()'),
  'losses.pairwise_distance.of': ("'hidden'", lambda run: loss(run).of, 'hidden', f'{LOSS}.pairwise_distance()'),
  'losses.margin.label_words': ("['4 5', '6']", lambda run: loss(run).function.keywords['labels'],
                                (4, 6), f'{LOSS}.margin()'),
  'losses.margin.margin': ('0.5', lambda run: loss(run).function.keywords['margin'], 0.5,
                           f'{LOSS}.margin()', "--gin.losses.margin.label_words=['4', '6']"),
  'prefix.Prefix.length': ('4', lambda run: chosen(run)['length'], 4, PREFIX),
  'prefix.Prefix.init': ('@linen.initializers.ones_init()', lambda run: chosen(run)['init'].name, 'ones_init',
                         PREFIX),
  'prefix.Prefix.attentions': ("['cross']", lambda run: chosen(run)['attentions'], ['cross'], PREFIX),
  'prefix.Prefix.hidden': ('5', lambda run: chosen(run)['hidden'], 5, PREFIX),
  'prefix.Prefix.width': ('6', lambda run: chosen(run)['width'], 6, PREFIX),
  'prefix.Prefix.frozen': ('2', lambda run: chosen(run)['frozen'], 2, PREFIX),
  'prefix.Prefix.text': ("'4 5'", lambda run: chosen(run)['text'], '4 5', PREFIX),
  'prefix.LayerPrompts.length': ('4', lambda run: chosen(run)['length'], 4, '--gin.PROMPT=@prefix.LayerPrompts'),
  'prefix.LayerPrompts.init': ('@linen.initializers.ones_init()', lambda run: chosen(run)['init'].name,
                               'ones_init', '--gin.PROMPT=@prefix.LayerPrompts'),
  'prefix.LayerPrompts.mode': ("'add'", lambda run: chosen(run)['mode'], 'add', '--gin.PROMPT=@prefix.LayerPrompts'),
  'retrained.Retrained.patterns': ("['.*bias.*']", lambda run: chosen(run)['patterns'], ['.*bias.*'],
                                   '--gin.PROMPT=@retrained.Retrained'),
  'retrained.LowRank.rank': ('3', lambda run: chosen(run)['rank'], 3, '--gin.PROMPT=@retrained.LowRank'),
  'retrained.LowRank.patterns': ("'.*wo/kernel'", lambda run: chosen(run)['patterns'], '.*wo/kernel',
                                 '--gin.PROMPT=@retrained.LowRank'),
  'retrained.Scales.places': ("'.*/key/output'", lambda run: chosen(run)['places'], '.*/key/output',
                              '--gin.PROMPT=@retrained.Scales'),
  'adafactor.AdamW.decayed': ("['.*kernel']", lambda run: optimizer(run).decayed, ['.*kernel'],
                              '--gin.OPTIMIZER=@adafactor.AdamW()'),
  'train_script.train.objective': ("'loss'", lambda run: evaluations(run).objective, 'loss'),
  'train_script.train.patience': ('3', lambda run: evaluations(run).patience, 3),
  'train_script.train.cache_limit': ('5', lambda run: run.cache_limit, 5),
  'train_script.train.stop_accuracy': ('0.9', lambda run: run.stop_accuracy, 0.9),
  'train_script.train.stop_examples': ('70', lambda run: run.stop_examples, 70),
  'train_script.train.check_frozen': ('True', lambda run: run.check_frozen, True),
  'train_script.train.extend': ('True', lambda run: run.extend, True),
  'train_script.train.start_from': ("'runs/other'", lambda run: run.start_from, 'runs/other'),
  'train_script.train.log_period': ('7', lambda run: run.log_period, 7),
  'seqio.PassThroughVocabulary.size': ('39', lambda run: vocabulary(run).size, 39),
  'seqio.ByteVocabulary.extra_ids': ('5', lambda run: vocabulary(run).size, 264,
                                     '--gin.VOCABULARY=@seqio.ByteVocabulary()'),
  'architectures.T5.relative_buckets': ('6', lambda run: config(run).relative_buckets, 6),
  'architectures.T5.relative_max_distance': ('16', lambda run: config(run).relative_max_distance, 16),
  'architectures.T5.mlp_activations': ("('relu',)", lambda run: config(run).mlp_activations, ('relu',)),
  'architectures.T5.attention': ("'xla'", lambda run: config(run).attention, 'xla'),
  'architectures.T5.tied': ('True', lambda run: config(run).tied, True),
  'NUM_LAYERS': ('5', lambda run: config(run).layers, 5, *GPT),
  'POSITION_COUNT': ('17', lambda run: config(run).position_count, 17, *GPT),
  'TIED_OUTPUT': ('False', lambda run: config(run).outputs, 40, *GPT),
  'architectures.GPT.attention': ("'xla'", lambda run: config(run).attention, 'xla', *GPT),
  'architectures.GPT.mlp_dim': ('11', lambda run: config(run).mlp_dim, 11, *GPT),
  'models.EncoderDecoderModel.ends': ('@architectures.NewEnds()', lambda run: run.new_layers['classes'], 3, *ENDS),
  'models.EncoderDecoderModel.untrained': ('True', lambda run: run.random_weights, True),
  'architectures.NewEnds.classes': ('5', lambda run: run.new_layers['classes'], 5, *ENDS),
  'architectures.NewEnds.tokens': ('4', lambda run: run.new_layers['tokens'], 4, *ENDS),
  'architectures.NewEnds.features': ('4', lambda run: run.new_layers['features'], 4, *ENDS),
  'architectures.NewEnds.seed': ('6', lambda run: run.new_layers['seed'], 6, *ENDS),
  'labels.Bits.name': ("'BitMemory'", lambda run: task(run).name, 'BitMemory', *BITS),
  'labels.Bits.length': ('7', lambda run: len(first_input(run)), 14, *BITS),
  'labels.Bits.strings': ('4', lambda run: len(first_input(run)), 25, *BITS, "--gin.labels.Bits.name='BitMemory'"),
  'labels.Digits.patch': ('2', lambda run: first_input(run).shape, (16, 4),
                          '--gin.MIXTURE_OR_TASK_NAME=@labels.Digits()'),
  'integers.Task.name': ("'Modulo'", lambda run: task(run).name, 'Modulo', *INTEGERS),
  'integers.Task.length': ('3', lambda run: len(first_input(run).split()), 3, *INTEGERS),
  'integers.Task.largest': ('9', lambda run: task(run).split('train').largest, 9, *INTEGERS),
  'integers.Task.zeros': ('2', lambda run: first_input(run)[:4], '0 0 ', *INTEGERS),
  'integers.Task.ends': ('False', lambda run: task(run).split('train')[0]['targets_ends'], False, *INTEGERS),
}
EVAL = {
  'models.EncoderDecoderModel.any_model': ('True', lambda run: run.any_model, True),
  f'{RESTORE}.fallback_to_scratch': ('False', lambda run: run.first_values_seed, None),
  'CHECKPOINT_PATH': ("'elsewhere'", lambda run: run.model, 'elsewhere'),
  'EVAL_OUTPUT_DIR': ("'judged'", lambda run: run.output, 'judged'),
  'PROMPT_FILE': ("'other.npy'", lambda run: run.prompt, 'other.npy'),
  f'{INIT}.np_load.path': ("'other.npy'", lambda run: run.prompt, 'other.npy'),
  f'{DATASET}.split': ("'validation'", lambda run: run.split, 'validation'),
  'eval_script.evaluate.label_words': ("['4', '5 6']", lambda run: run.label_words, ('4', '5 6')),
  'eval_script.evaluate.label_score': ("'mean'", lambda run: run.label_score, 'mean'),
  'eval_script.evaluate.fallback_init_rng': ('5', lambda run: run.first_values_seed, 5),
}
INFER = {
  'INFER_OUTPUT_DIR': ("'answers'", lambda run: run.output, 'answers/Add1-predict.jsonl-00000-of-00001'),
  'infer_script.infer.mode': ("'score'", lambda run: run.mode, 'score'),
  'infer_script.infer.fallback_init_rng': ('None', lambda run: run.first_values_seed, None),
  'infer_script.infer.random_seed': ('4', lambda run: run.seed, 4),
  'infer_script.infer.lines': ("'id||text'", lambda run: run.output, 'out/Add1-predict.txt'),
}
# Names that another test covers.
ELSEWHERE = {
  'SCALE': 'test_what_is_not_supported_is_a_clear_error',
  'ACTIVATION_PARTITIONING_DIMS': 'test_what_is_not_supported_is_a_clear_error',
  'USE_HARDWARE_RNG': 'test_what_is_not_supported_is_a_clear_error',
  f'{DATASET}.shuffle': 'test_what_is_not_supported_is_a_clear_error',
  'partitioning.PjitPartitioner.model_parallel_submesh': 'test_what_is_not_supported_is_a_clear_error',
  'PROMPT_REGEX': 'test_a_pattern_that_means_more_or_less_than_the_prompt_is_an_error',
  'CLASS_LABELS': 'test_every_prompt_file_makes_first_values',
  'EMBEDDING_FILE': 'test_the_readme_may_give_an_embedding_file_where_the_checkpoint_would_be_read',
  f'{UNIFORM}.scale': 'test_uniform_first_values_lie_below_the_scale',
  f'{INIT}.from_sample_of_embeddings.population_size': 'test_sampled_first_values_are_rows_of_the_population',
  f'{INIT}.from_samples_of_embeddings.population_size': 'test_sampled_first_values_are_rows_of_the_population',
  f'{INIT}.from_embedded_list.texts': 'test_first_values_of_texts_are_their_embeddings',
  f'{INIT}.from_embedded_string.text': 'test_first_values_of_texts_are_their_embeddings',
  f'{INIT}.from_array.prompt': 'test_first_values_are_read_from_what_is_named',
  f'{INIT}.t5x_load.checkpoint_path': 'test_first_values_are_read_from_what_is_named',
  f'{INIT}.t5x_load.variable_path': 'test_first_values_are_read_from_what_is_named',
  'prompts.Prompt.prompt_init': 'test_first_values_of_texts_are_their_embeddings',
  'seqio.SentencePieceVocabulary.sentencepiece_model_file': 'test_a_vocabulary_is_the_file_that_is_named',
  'seqio.SentencePieceVocabulary.extra_ids': 'test_a_vocabulary_is_the_file_that_is_named',
}


@pytest.mark.parametrize('program, name', [
  *(('train', name) for name in TRAIN), *(('eval', name) for name in EVAL), *(('infer', name) for name in INFER)])
def test_an_override_has_its_effect(program, name, described, tmp_path, monkeypatch):
  (tmp_path / 'tasks_of_a_test.py').write_text('')
  monkeypatch.syspath_prepend(str(tmp_path))
  value, effect, wanted, *more = {'train': TRAIN, 'eval': EVAL, 'infer': INFER}[program][name]
  run = described(program, *more, *([] if value is None else [f'--gin.{name}={value}']))
  assert effect(run) == pytest.approx(wanted) if isinstance(wanted, (float, list)) else effect(run) == wanted


@pytest.mark.parametrize('name', [*names('Macros'), *names('Bindings')])
def test_every_macro_and_binding_of_the_page_has_a_test_of_its_effect(name):
  if name in {*TRAIN, *EVAL, *INFER}:
    return
  assert name in ELSEWHERE, f'{name} is on the page: show here what overriding it does'
  tests = ''.join(path.read_text() for path in pathlib.Path(__file__).parent.glob('test_*.py'))
  assert f'def {ELSEWHERE[name]}(' in tests


def test_of_two_files_the_later_wins_whatever_their_order(described, tmp_path):
  for name, steps in (('first', 3), ('second', 4)):
    (tmp_path / f'{name}.gin').write_text(f'EVAL_PERIOD = {steps}\nutils.SaveCheckpointConfig.keep = {steps}\n')
  for order in (['first', 'second'], ['second', 'first']):
    run = described('train', *(f'--gin_file={tmp_path}/{name}.gin' for name in order))
    wanted = 4 if order[-1] == 'second' else 3
    assert (run.evaluation_period, run.keep) == (wanted, wanted)


def test_of_one_flag_given_twice_the_later_wins(described):
  assert described('train', '--gin.EVAL_PERIOD=3', '--gin_bindings=EVAL_PERIOD=4').evaluation_period == 4
  assert described('train', '--gin_bindings=EVAL_PERIOD=4', '--gin.EVAL_PERIOD=3').evaluation_period == 3


def test_the_folder_of_tfds_is_passed_on(run, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', 'before')
  status, _, _ = run('train', '--gin_file=nowhere.gin', '--tfds_data_dir=/somewhere')
  assert (status, os.environ['TFDS_DATA_DIR']) == (2, '/somewhere')


def test_as_many_states_are_kept_as_asked_for(run, toy_t5x, tmp_path):
  arguments = [*FROM_CHECKPOINT, '--gin_file=runs/prompt_finetune.gin', "--gin.MIXTURE_OR_TASK_NAME='Add1'", LENGTHS,
               f"--gin.INITIAL_CHECKPOINT_PATH='{toy_t5x}'", '--gin.PROMPT_LENGTH=3', '--gin.BATCH_SIZE=2',
               '--gin.TRAIN_STEPS=73', '--gin.EVALUATOR_NUM_EXAMPLES=2', '--gin.EVAL_STEPS=1',
               f'--gin.{SAVE}.period=1']
  for folder, more, wanted in (('twenty', [f'--gin.{SAVE}.keep=20'], {71, 72, 73}), ('one', [], {73})):
    status, _, errors = run('train', *arguments, f"--gin.MODEL_DIR='{tmp_path}/{folder}'", *more)
    assert status == 0, errors
    found = {int(re.sub(r'\D', '', path.name)) for path in (tmp_path / folder).glob('checkpoint_*')}
    assert found - {70} == wanted
    assert np.load(tmp_path / folder / f'numpy_checkpoints/checkpoint_73/{PATH.replace("/", ".")}').shape == (3, 8)
