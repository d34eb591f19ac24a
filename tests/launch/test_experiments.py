"""The experiments: their gin files describe runs, their scripts run whole at toy sizes, and the page names them all."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import prompt_tuning
from prompt_tuning.models.loading import find_model
from prompt_tuning.scripts import clustering, elicitation, frozen_transformer, table_to_text
from prompt_tuning.scripts._experiment import Experiment

ROOT = pathlib.Path(prompt_tuning.__file__).parent
PAGE = (ROOT.parent / 'docs/experiments.md').read_text()
CONFIGS = ROOT / 'configs/experiments'
TOY = {
  'elicitation': """
include 'prompt_tuning/configs/experiments/elicitation/small.gin'
LIST_LENGTH = 3
LARGEST_ENTRY = 4
PREFIX_LENGTH = 2
LENGTHS = {'inputs': 3, 'targets': 3}
LENGTHS_WITH_ZEROS = {'inputs': 5, 'targets': 3}
NUM_LAYERS = 2
NUM_HEADS = 2
EMBED_DIM = 8
BATCH_SIZE = 4
PRETRAIN_STEPS = 3
PRETRAIN_WARMUP = 1
TUNE_STEPS = 2
""",
  'table_to_text': """
include 'prompt_tuning/configs/experiments/table_to_text/small.gin'
NUM_LAYERS = 1
NUM_HEADS = 2
EMBED_DIM = 8
NUM_EMBEDDINGS = 290
POSITION_COUNT = 180
PRETRAIN_BATCH = 2
PRETRAIN_STEPS = 101
PREFIX_HIDDEN = 4
TUNE_BATCH = 2
TUNE_STEPS = 2
""",
  'clustering': """
include 'prompt_tuning/configs/experiments/clustering/small.gin'
PROMPT_VECTORS = 2
TUNE_STEPS = 2
TUNE_BATCH = 4
TEXT_LENGTH = 40
EXAMPLES = 40
""",
  'frozen_transformer': """
include 'prompt_tuning/configs/experiments/frozen_transformer/small.gin'
TUNE_STEPS = 2
TUNE_BATCH = 4
"""}


@pytest.fixture
def size(tmp_path):
  """Returns a function that writes an experiment's toy size and returns its path."""

  def write(name):
    path = tmp_path / f'{name}.gin'
    path.write_text(TOY[name])
    return str(path)

  return write


@pytest.fixture
def e2e(tmp_path):
  """Flags for small files in E2E's format."""
  (tmp_path / 'train.txt').write_text('\n'.join(
    f'name : The {name} | family friendly : yes | near : {number}||The {name} is a family pub near {number} .'
    for name in ('Mill', 'Crown', 'Bee', 'Oak') for number in range(40)))
  (tmp_path / 'dev.out').write_text('0||name : The Mill | family friendly : no||The Mill is no family pub .\n'
                                    '0||name : The Mill | family friendly : no||It is a pub .\n'
                                    '1||name : The Oak | Type : pub||The Oak is a pub .\n')
  return [f'--train={tmp_path}/train.txt', f'--dev={tmp_path}/dev.out']


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*/*.gin')), ids=lambda path: f'{path.parent.name}/{path.name}')
def test_every_file_is_on_the_page(path):
  section = PAGE.partition(f'experiments/{path.parent.name}/')[2].partition('\n## ')[0]
  assert f'`{path.name}`' in section


@pytest.mark.parametrize('name, size, file, wanted', [
  (name, size, file, wanted) for name, sizes, files in (
    ('elicitation', ('small', 'full'), {'pretrain': '', 'prefix': 'TASK', 'low_rank': 'TASK', 'full_tuning': 'TASK'}),
    ('table_to_text', ('small',), {'pretrain': 'E2E_TRAIN VOCABULARY_FILE'}),
    ('table_to_text', ('small', 'distilgpt2'), {'prefix': 'E2E_TRAIN E2E_DEV'}),
    ('clustering', ('small', 'gpt2'), {'cosine': 'E2E_TRAIN E2E_DEV', 'distance': 'E2E_TRAIN E2E_DEV'}),
    ('frozen_transformer', ('small', 'gpt2'), {'xor': '', 'memory': '', 'digits': ''}))
  for size in sizes for file, wanted in files.items()])
def test_every_file_describes_a_run_at_every_size(name, size, file, wanted, tmp_path, e2e):
  train, dev = (flag.partition('=')[2] for flag in e2e)
  values = {'TASK': 'Add1', 'E2E_TRAIN': train, 'E2E_DEV': dev, 'VOCABULARY_FILE': 'x'}
  values = {macro: values[macro] for macro in wanted.split()}
  if file != 'pretrain':
    values['INITIAL_CHECKPOINT_PATH'] = 'gpt'
  run = Experiment(name, size, str(tmp_path)).described(file, **values)
  assert run.total_steps > 1 and run.max_input_length >= 3


@pytest.mark.slow
def test_elicitation_pretrains_tunes_judges_and_draws(tmp_path, size):
  study = elicitation.Study(size('elicitation'), str(tmp_path))
  config = json.loads((tmp_path / 'model/config.json').read_text())
  assert (config['model_type'], config['n_layer'], config['tie_word_embeddings']) == ('gpt2', 2, False)
  run = study.tune('prefix', 'LessThan')
  assert f'Trained: {2 * 2 * 8}\n' in (pathlib.Path(run) / 'model-info.txt').read_text()
  assert 0 <= study.accuracy('LessThan', 'prefix', run) <= 100
  assert 0 <= study.accuracy('LessThan', 'low_rank', study.tune('low_rank', 'LessThan')) <= 100
  assert study.overlap('LessThan', 'LessThan') == 100
  assert study.overlap('Modulo', 'InverseBinary') is None
  pictures = study.draw_attention('LessThan', run)
  assert all(pathlib.Path(path).stat().st_size > 5000 for path in pictures)


@pytest.mark.slow
def test_table_to_text_runs_whole_and_goes_on_where_it_stopped(tmp_path, size, e2e, capsys):
  pytest.importorskip('sacrebleu', reason="sacrebleu is not installed: pip install '.[metrics]'")
  flags = [*e2e, f'--size={size("table_to_text")}', f'--output={tmp_path}/run']
  assert table_to_text.main(flags) == 0, capsys.readouterr().err
  found = json.loads((tmp_path / 'run/results.json').read_text())['bleu']
  assert list(found) == ['copying the table', 'the model without a prefix', 'the model with the prefix',
                         'a human reference']
  answers = (tmp_path / 'run/answers/e2e-predict.txt').read_text().splitlines()
  assert [line.partition('||')[0] for line in answers] == ['0', '1']
  capsys.readouterr()
  assert table_to_text.main(flags) == 0
  assert 'Resumed at step 2 of 2' in ' '.join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_frozen_transformer_compares_pretrained_with_random_and_draws(tmp_path, size, capsys):
  from prompt_tuning.models.decoder_only import DecoderConfig
  from prompt_tuning.models.loading import load_vocabulary, random_model, save_model

  config = DecoderConfig(vocab_size=32, layers=2, width=8, heads=2, head_dim=4, mlp_dim=8, mlp_activations=('gelu',),
                         norm='layer', bias=True, query_scale=0.5, position_count=16, family='gpt2', tied=True)
  save_model(random_model(config, vocabulary=load_vocabulary(find_model('t5_integers'))), str(tmp_path / 'gpt'))
  flags = [f'--model={tmp_path}/gpt', f'--size={size("frozen_transformer")}', f'--output={tmp_path}/run']
  assert frozen_transformer.main([*flags, '--tasks', 'xor', 'memory']) == 0, capsys.readouterr().err
  assert 'frozen arrays are unchanged to the last bit' in capsys.readouterr().out
  found = json.loads((tmp_path / 'run/results.json').read_text())
  norms, ends = (2 * 2 + 1) * 2 * 8, 2 * 8 + (8 + 1) * 2
  assert found['xor']['pretrained']['trained numbers'] == norms + 16 * 8 + ends
  assert np.isfinite([kind['accuracy'] for task in found.values() for kind in task.values()]).all()
  assert (tmp_path / 'run/attention.png').stat().st_size > 3000


@pytest.mark.slow
def test_clustering_tunes_by_both_losses_and_draws(tmp_path, size, capsys):
  pytest.importorskip('sklearn', reason="scikit-learn is not installed: pip install '.[metrics]'")
  from prompt_tuning.data.byte_level_bpe import train_tokenizer
  from prompt_tuning.data.vocabulary_folders import load_vocabulary
  from prompt_tuning.models.decoder_only import DecoderConfig
  from prompt_tuning.models.loading import random_model, save_model

  texts = [f'A {word} pub number {i} .' for i in range(30) for word in ('family', 'kids free')]
  friendly = ['no' if 'free' in text else 'yes' for text in texts]
  pairs = [f'family friendly : {value} | near : {i}||{texts[i]}\n' for i, value in enumerate(friendly)]
  (tmp_path / 'train.txt').write_text(''.join(pairs))
  (tmp_path / 'dev.out').write_text(''.join(f'{i}||{pair}' for i, pair in enumerate(pairs)))
  for name, content in train_tokenizer(texts, 290).items():
    (tmp_path / name).write_text(content)
  vocabulary = load_vocabulary(tmp_path)
  config = DecoderConfig(vocab_size=vocabulary.size, layers=1, width=8, heads=2, head_dim=4, mlp_dim=8, bias=True,
                         mlp_activations=('gelu',), norm='layer', query_scale=0.5, position_count=64, family='gpt2',
                         tied=True)
  save_model(random_model(config, vocabulary=vocabulary), str(tmp_path / 'gpt'))
  flags = [f'--train={tmp_path}/train.txt', f'--dev={tmp_path}/dev.out', f'--size={size("clustering")}',
           f'--model={tmp_path}/gpt', f'--output={tmp_path}/run']
  assert clustering.main(flags) == 0, capsys.readouterr().err
  found = json.loads((tmp_path / 'run/results.json').read_text())
  assert list(found) == ['cosine', 'distance'] and all(list(sides) == ['before', 'after'] for sides in found.values())
  assert all(0 <= sides[when]['linear_probe'] <= 100 for sides in found.values() for when in sides)
  assert (tmp_path / 'run/cosine.png').stat().st_size > 5000


@pytest.fixture
def found_whole(tmp_path, users_environment):
  """The results of an experiment at its small size, run as by a user."""

  def run(name, *flags):
    done = subprocess.run([sys.executable, '-m', f'prompt_tuning.scripts.{name}', f'--output={tmp_path}', *flags],
                          env=users_environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads((tmp_path / 'results.json').read_text())

  return run


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_prefixes_elicit_pretrained_tasks_and_teach_no_new_one(found_whole):
  found = found_whole('elicitation', '--new', 'DoubleHistogram')
  without, matrix, overlap, new = (
    found[name] for name in ('without a prefix', 'prefix on task', 'same answers', 'new tasks'))
  assert 25 < np.mean(list(without.values())) < 55
  assert min(matrix[task][task] for task in matrix) >= 95
  others = {(prefix, task) for prefix in matrix for task in matrix if task not in (prefix, 'InverseBinary')}
  assert max(matrix[prefix][task] - overlap[prefix][task] for prefix, task in others) <= 5
  assert new['DoubleHistogram']['prefix'] < 10 < 95 < new['DoubleHistogram']['full_tuning']


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_frozen_pretrained_network_learns_exclusive_or(found_whole):
  found = found_whole('frozen_transformer', '--tasks', 'xor')['xor']
  assert found['pretrained']['accuracy'] >= 99 and found['pretrained']['steps'] <= 1000
  assert found['random']['accuracy'] < found['pretrained']['accuracy'] - 5
