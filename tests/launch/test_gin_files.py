"""Gin files: where they are found, and how files written for T5X are adapted."""

import itertools
import json
import pathlib

import pytest

import prompt_tuning
from prompt_tuning import trees
from prompt_tuning.models import loading
from prompt_tuning.models.t5 import T5
from prompt_tuning.programs import gin_files
from prompt_tuning.runs import first_values, objects

CONFIGS = pathlib.Path(prompt_tuning.__file__).parent / 'configs'
OWN = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob('*.gin'))
MODELS = [name for name in OWN if name.startswith('models/') and name.endswith('_prompt.gin')]
RUN = {'train': 'runs/prompt_finetune.gin', 'eval': 'runs/prompt_eval.gin', 'infer': 'runs/prompt_infer.gin'}
NEEDED = {
  'train': ["--gin.MODEL_DIR='run'", "--gin.INITIAL_CHECKPOINT_PATH='there'", '--gin.TRAIN_STEPS=80'],
  'eval': ["--gin.CHECKPOINT_PATH='there'", "--gin.EVAL_OUTPUT_DIR='out'", "--gin.PROMPT_FILE='prompt'"],
  'infer': ["--gin.CHECKPOINT_PATH='there'", "--gin.INFER_OUTPUT_DIR='out'", "--gin.PROMPT_FILE='prompt'"],
}
DATA = ["--gin.MIXTURE_OR_TASK_NAME='Add1'", "--gin.TASK_FEATURE_LENGTHS={'inputs': 9, 'targets': 5}"]
MORE = {'prompts/from_class_labels.gin': ["--gin.CLASS_LABELS=['7', '8 9']"],
        'prompts/from_class_labels_numpy.gin': ["--gin.CLASS_LABELS=['7', '8 9']", "--gin.EMBEDDING_FILE='{numpy}'"],
        'prompts/from_sampled_vocab_numpy.gin': ["--gin.EMBEDDING_FILE='{numpy}'"],
        'prompts/from_file.gin': ["--gin.PROMPT_FILE='{prompt}'"]}


def arguments(program, *files):
  return [*(f'--gin_file={file}' for file in files), *NEEDED[program], *DATA]


@pytest.mark.parametrize('name', OWN)
def test_every_file_says_at_its_top_what_it_sets(name):
  lines = (CONFIGS / name).read_text().splitlines()
  assert lines[0].startswith('# ')
  assert any(line.startswith(('# Sets:', '# Needs:', '#   ')) for line in lines[:8])
  assert len(lines) < 100


def test_every_folder_of_files_is_a_package():
  assert all((folder / '__init__.py').exists() for folder in {(CONFIGS / name).parent for name in OWN})


@pytest.mark.parametrize('program', RUN)
@pytest.mark.parametrize('model', MODELS)
def test_every_model_file_builds_at_toy_size(model, program, build, toy_shape):
  sizes = [] if 'from_checkpoint' not in model else [size for size in toy_shape if 'VOCAB' in size or 'Vocab' in size]
  described = build(program, *arguments(program, model, RUN[program]), *(sizes or toy_shape))
  config = objects.config(described)
  assert config is None if sizes else (config.width, config.heads, config.vocab_size) == (8, 2, 40)
  assert objects.sampler(described).num_decodes == 1


@pytest.mark.parametrize('size', ['small', 'base', 'large', 'xl', 'xxl'])
def test_model_files_have_t5xs_parameters(size, build, shared):
  model = build('train', *arguments('train', f'models/t5_1_1_{size}_prompt.gin', RUN['train']))
  flat = loading.parameter_shapes(T5(objects.config(model)))
  found = {trees.layer_name(path, i): [*array.shape[1:]] for path, array in flat.items() if trees.is_stacked(path)
           for i in range(array.shape[0])}
  found.update({path: [*array.shape] for path, array in flat.items() if not trees.is_stacked(path)})
  golden = shared / 't5x/f_misc'
  wanted = json.loads((golden / 't5_1_1_sizes.json').read_text())[size]
  assert (len(found), trees.count(flat)) == (wanted['count'], wanted['total_params'])
  assert {name: found[name] for name in wanted['example']} == {
    name: each['shape'] for name, each in wanted['example'].items()}
  if size == 'small':  # T5X's complete list is available for it
    names = json.loads((golden / 't5_1_1_small_params.json').read_text())
    assert found == {name: each['shape'] for name, each in names.items()}


@pytest.mark.parametrize('name', [name for name in OWN if name.startswith('runs/')])
def test_every_run_file_builds_at_toy_size(name, build, toy_shape):
  program = next((each for each in ('eval', 'infer') if name.endswith(f'{each}.gin')), 'train')
  given = [each for each in arguments(program, 'models/t5_1_1_prompt.gin', name)
           if name in RUN.values() or 'PROMPT_FILE' not in each]
  described = build(program, *given, *toy_shape)
  assert type(described).__name__ == {'train': 'TrainRun', 'eval': 'EvalRun', 'infer': 'InferRun'}[program]
  assert objects.config(described).width == 8


@pytest.mark.parametrize('name', [name for name in OWN if name.startswith('architectures/')])
def test_every_architecture_file_builds_at_toy_size(name, build, toy_shape):
  if name.endswith('gpt.gin'):
    of_t5 = ('NUM_ENCODER_LAYERS', 'NUM_DECODER_LAYERS', 'HEAD_DIM', 'MLP_DIM')
    toy_shape = [each for each in toy_shape if not any(macro in each for macro in of_t5)]
    toy_shape += ['--gin.NUM_LAYERS=2', '--gin.POSITION_COUNT=30']
  described = build('train', *arguments('train', 'models/prompt.gin', name, RUN['train']), *toy_shape)
  assert (objects.config(described).width, described.method.options['length']) == (8, 100)


@pytest.mark.parametrize('size, shape', {
  'small': (6, 8, 64, 512, 1024), 'base': (12, 12, 64, 768, 2048), 'large': (16, 24, 64, 1024, 2816),
  'xl': (32, 24, 64, 2048, 5120), 'xxl': (64, 24, 64, 4096, 10240)}.items())
@pytest.mark.parametrize('family, rows', [('t5_1_1', 32128), ('mt5', 250112)])
def test_model_files_have_the_published_sizes(family, rows, size, shape, build):
  described = build('train', *arguments('train', f'models/{family}_{size}_prompt.gin', RUN['train']))
  config = objects.config(described)
  assert (config.heads, config.encoder_layers, config.head_dim, config.width, config.mlp_dim) == shape
  assert (config.decoder_layers, config.vocab_size, config.dtype) == (shape[1], rows, 'bfloat16')
  assert (config.mlp_activations, config.tied, config.relative_buckets) == (('gelu', 'linear'), False, 32)


@pytest.mark.parametrize('name', [name for name in OWN if name.startswith('prompts/')])
def test_every_prompt_file_makes_first_values(name, build, toy_shape, toy_model, toy_t5x, tmp_path):
  import jax
  import numpy as np

  from prompt_tuning.programs import dry_run

  embedding = np.arange(320, dtype=np.float32).reshape(40, 8)
  np.save(tmp_path / 'embedding.npy', embedding)
  np.save(tmp_path / 'prompt.npy', embedding[3:9])
  more = [each.format(numpy=tmp_path / 'embedding.npy', prompt=tmp_path / 'prompt.npy') for each in MORE.get(name, [])]
  described = build('train', *arguments('train', 'models/t5_1_1_prompt.gin', name, RUN['train']), *toy_shape, *more,
                    f"--gin.INITIAL_CHECKPOINT_PATH='{toy_t5x}'", '--gin.PROMPT_LENGTH=6')
  outline = dry_run.read_outline(described)
  outline.vocabulary = objects.vocabulary(described)
  rows = embedding if 'numpy' in name else np.asarray(toy_model.params['token_embedder']['embedding'])
  values = np.asarray(objects.method(described.method, outline).initialise(jax.random.key(0), outline)
                      ['encoder']['prompt']['prompt']['prompt'])
  assert values.shape == (6, 8)
  if name == 'prompts/from_file.gin':
    np.testing.assert_array_equal(values, embedding[3:9])
  if 'class_labels' in name:
    np.testing.assert_allclose(values[:2], [rows[7], (rows[8] + rows[9]) / 2], rtol=1e-6)
  if 'from_file' not in name:
    assert all(any(np.array_equal(row, each) for each in rows) for row in values[2:])


def test_the_readme_may_give_an_embedding_file_where_the_checkpoint_would_be_read(build, toy_shape, tmp_path):
  import numpy as np

  np.save(tmp_path / 'embedding.npy', np.ones((40, 8), np.float32))
  described = build('train', *arguments('train', 'models/t5_1_1_prompt.gin', 'prompts/from_sampled_vocab.gin',
                                        RUN['train']), *toy_shape, f"--gin.EMBEDDING_FILE='{tmp_path}/embedding.npy'")
  initialise = first_values.initializer(described.method.options['init'], None)
  np.testing.assert_array_equal(initialise(__import__('jax').random.key(0), (3, 8)), np.ones((3, 8)))


@pytest.mark.parametrize('name, sampler', [
  ('beam_search', ('BeamSearch', 4, {'alpha': 0.6})), ('greedy', ('Greedy', 1, {})),
  ('nucleus_sampling', ('Sampling', 1, {'topp': 0.9, 'topk': 0, 'temperature': 1.0}))])
def test_every_decoding_file_chooses_its_sampler(name, sampler, build, toy_shape):
  described = build('eval', *arguments('eval', 'models/t5_1_1_prompt.gin', f'models/decoding/{name}.gin',
                                       RUN['eval']), *toy_shape)
  made = objects.sampler(described)
  assert (type(made).__name__, made.num_decodes) == sampler[:2]
  assert {field: getattr(made, field) for field in sampler[2]} == sampler[2]


def test_files_work_in_any_order(build, toy_shape):
  files = ['models/t5_1_1_prompt.gin', 'models/sizes/small.gin', 'prompts/from_class_labels.gin',
           'models/decoding/beam_search.gin', 'runs/prompt_finetune.gin']
  overrides = [each for each in toy_shape if 'NUM_EMB' in each or 'ocab' in each] + [
    "--gin.CLASS_LABELS=['7']", '--gin.DROPOUT_RATE=0.1']
  for order in itertools.permutations(files):
    described = build('train', *arguments('train', *order), *overrides)
    assert described.method.options['init'] is not None
    assert objects.config(described).width == 512
    assert objects.sampler(described).num_decodes == 4
    assert objects.optimizer(described, 0).learning_rate(0) == pytest.approx(0.3)


def test_a_file_for_t5x_keeps_its_lines_and_finds_its_names(build, toy_shape, tmp_path, monkeypatch):
  (tmp_path / 'my_inits.py').write_text('def threes(value=3.0):\n  return lambda key, shape: (value, shape)\n')
  (tmp_path / 'mine.gin').write_text('''# A user's own file.
from __gin__ import dynamic_registration
import __main__ as train_script
import seqio
from flax import linen
from flaxformer.components import dense
from t5x import gin_utils
from t5x import partitioning as parts
from t5x import utils
from prompt_tuning import prompts
from prompt_tuning.train import prompts as train_prompts
import my_inits

include "prompt_tuning/configs/models/t5_1_1_small_prompt.gin"
include "t5x/configs/runs/finetune.gin"

MIXTURE_OR_TASK_NAME = 'Add1'
prompts.Prompt.prompt_init = @prompt_init/my_inits.threes()
prompt_init/my_inits.threes.value = 2.0
train_prompts.Prompt.combine = @train_prompts.suffix_prompt
train_prompts.suffix_prompt.before_eos = True
train/utils.DatasetConfig.pack = False
utils.SaveCheckpointConfig.period = 3
parts.PjitPartitioner.num_partitions = 1
train_script.train.eval_period = 2
''')
  monkeypatch.syspath_prepend(str(tmp_path))
  described = build('train', '--gin_file=mine.gin', f'--gin_search_paths={tmp_path}', *NEEDED['train'], *DATA,
                    *toy_shape, '--gin.my_inits.threes.value=1.0')
  options = described.method.options
  assert options['init'](None, 'shape') == (2.0, 'shape')  # the scoped value, not the override
  assert options['placement'] == 'before_eos'
  assert (described.evaluation_period, described.saving_period, described.packed) == (2, 3, False)


def test_what_t5x_has_and_this_package_has_not_is_an_error_with_file_and_line(build, tmp_path):
  path = tmp_path / 'mine.gin'
  path.write_text('from __gin__ import dynamic_registration\nfrom t5x import optimizers as optim\n'
                  'OPTIMIZER = @optim.MultiOptimizer()\n')
  with pytest.raises(ValueError, match=rf'{path}:2: t5x.optimizers is not part of this package.*optim.MultiOptimizer'):
    build('train', f'--gin_file={path}')


@pytest.mark.parametrize('run', ['finetune', 'eval', 'infer', 'pretrain'])
def test_run_files_of_t5x_are_ours(run):
  found = gin_files.Library().find(f't5x/configs/runs/{run}.gin')
  assert found == str(CONFIGS / 'runs' / f'{run}.gin')


def test_a_missing_include_is_named_with_its_line_and_the_nearest_file(build, tmp_path):
  path = tmp_path / 'mine.gin'
  path.write_text("# mine\ninclude 'prompt_tuning/configs/models/t5_1_1_bas_prompt.gin'\n")
  with pytest.raises(OSError, match=rf'{path}:2: .*bas_prompt.gin: there is no such gin file in .* Did you mean '
                                    r'prompt_tuning/configs/models/t5_1_1_base_prompt.gin'):
    build('train', f'--gin_file={path}')


def test_search_paths_come_before_the_package(tmp_path):
  (tmp_path / 'runs').mkdir()
  (tmp_path / 'runs/prompt_eval.gin').write_text('')
  assert gin_files.Library([str(tmp_path)]).find('runs/prompt_eval.gin') == str(tmp_path / 'runs/prompt_eval.gin')


def test_slips_of_the_published_readme_mean_the_right_name(build, toy_shape):
  described = build('train', *arguments('train', 'models/t5_1_1_prompt.gin', 'prompts/from_sampled_vocab.gin',
                                        RUN['train']), *toy_shape,
                    '--gin.prompt_init/prompts.from_samples_of_embeddings.population_size=17',
                    "--gin.utils.RestoreChekcpointConfig.dtype='bfloat16'")
  assert described.dtype == 'bfloat16'
