"""Files of earlier runs still give the same results: `earlier_runs/` holds a folder of each kind, from version 2026-11.

`expected/<name>.json` and `.npz` hold that version's results of using and resuming them. The script
`earlier_runs/make.py` wrote all of it with the functions of this file.
"""

import dataclasses
import functools
import json
import pathlib
import shutil

import numpy as np
import pytest

# --- The package's side: the only part that depends on its modules ------------------------------------------------
from prompt_tuning import prompts
from prompt_tuning.data.files import share
from prompt_tuning.data.metrics import accuracy
from prompt_tuning.data.tasks import Task
from prompt_tuning.data.vocabularies import PassThroughVocabulary
from prompt_tuning.decoding.samplers import Greedy
from prompt_tuning.evaluation.evaluate import evaluate, evaluate_loss
from prompt_tuning.evaluation.saved import load_prompt, load_trained
from prompt_tuning.losses import Loss
from prompt_tuning.models.loading import load_model
from prompt_tuning.programs import command
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Visibility
from prompt_tuning.scripts import convert
from prompt_tuning.training import loop
from prompt_tuning.training.optimizers import Adafactor, AdamW
from prompt_tuning.tuning.layer_prompts import LayerPrompts
from prompt_tuning.tuning.low_rank import LowRank
from prompt_tuning.tuning.prefix import Prefix
from prompt_tuning.tuning.retrained import Retrained

HERE = pathlib.Path(__file__).parent / 'earlier_runs'
START = 100  # the step of the frozen model
VOCABULARY = PassThroughVocabulary(29)
LENGTHS = {'inputs': 6, 'targets': 5}
ADAFACTOR = Adafactor(lambda step: 0.05 * (step - START + 1))
ADAMW = AdamW(0.03, weight_decay=0.1, clip=1.0)
METHODS = {  # folder name -> model, method, settings that differ from those of `train`
  'prompt_before': ('t5', prompts.PromptTuning(prompts.Prompt(7)), {'packed': True}),
  'prompt_after_eos': ('t5', prompts.PromptTuning(prompts.Prompt(7), layouts.after_eos), {}),
  'prompt_that_sees_no_input': (
    't5', prompts.PromptTuning(prompts.Prompt(7), visibility=Visibility(input=False)), {}),
  'retrained_norms': ('t5', Retrained('.*layer_norm/scale'), {}),
  'low_rank': ('t5', LowRank(1, '.*/self_attention/(query|out)/kernel'), {}),
  'prefix': ('t5', Prefix(6), {}),
  'prefix_of_a_network': ('t5', Prefix(6, attentions=('encoder', 'decoder'), hidden=7, width=9), {'optimizer': ADAMW}),
  'prefix_of_cross_attention': ('t5', Prefix(6, attentions=('cross',)), {}),
  'layer_prompts_that_are_added': ('t5', LayerPrompts(7, mode='add'), {}),
  'decoder_prompt': ('llama', prompts.PromptTuning(prompts.Prompt(5)), {'packed': True, 'dropout_rate': 0.1}),
  'decoder_prefix': ('llama', Prefix(5), {'buckets': (3, 6)}),
  'decoder_layer_prompts': ('llama', LayerPrompts(5), {}),
}


def task():
  """Returns the task of all runs: lists of ids are reversed."""
  rows = [json.loads(line) for line in (HERE / 'turn.jsonl').read_text().splitlines()]
  return Task('turn', {'train': rows[:10], 'validation': rows[10:13]}, (accuracy,))


@functools.cache
def frozen(name, dropout_rate=0.0):
  """Returns a frozen model, 't5' or 'llama'."""
  return load_model(str(HERE / 'models' / name), vocabulary=VOCABULARY, dropout_rate=dropout_rate)


def train(name, folder, steps):
  """Trains or resumes a run of `METHODS` in the folder up to step `steps`; returns its results."""
  model, method, settings = METHODS[name]
  settings = {'optimizer': ADAFACTOR, 'packed': False, **settings}
  model = frozen(model, settings.pop('dropout_rate', 0.0))
  run = loop.train(
    model=dataclasses.replace(model, step=START), method=method,
    task=task(), lengths=LENGTHS, model_dir=str(folder), train_steps=START + steps, batch_size=4, seed=5,
    evaluations=loop.Evaluations(period=2, loss_steps=1, examples=0), saving=loop.Saving(2), log_period=1, quiet=True,
    **settings)
  return {'step': run.step, 'metrics': run.metrics, 'best': run.best}, run.trained


def losses(trained, model):
  """Returns the loss and its parts on the validation split, with trained tensors."""
  model = frozen(model)
  return named_as_then(evaluate_loss(model, trained.conditioning(model), model.layout(trained.layout()), task(),
                                     lengths=LENGTHS, batch_size=4, loss=Loss()))


def named_as_then(figures):
  """Returns figures with the names that they had in that version."""
  return {'accuracy' if name == 'token_accuracy' else name: value for name, value in figures.items()}


def divide(folder):
  """Divides turn.jsonl as that version did, by a hash of the inputs: into itself and validation.jsonl."""
  parts = {'turn': '', 'validation': ''}
  for line in (folder / 'turn.jsonl').read_text().splitlines(keepends=True):
    parts['validation' if share(json.loads(line)['inputs']) < 0.1 else 'turn'] += line
  for name, text in parts.items():
    (folder / f'{name}.jsonl').write_text(text)


def answers(trained, model):
  """Returns the metrics of the validation split, and the predictions."""
  model = frozen(model)
  result = evaluate(model, trained.conditioning(model), model.layout(trained.layout()), task(), sampler=Greedy(),
                    lengths=LENGTHS, batch_size=4)
  return {**result.metrics, 'answers': [line['output'] for line in result.lines]}


def logits(trained, model):
  """Returns the logits of two rows."""
  rows = task().split('validation')[:2]
  return frozen(model).logits([row['inputs'] for row in rows], [row['targets'] for row in rows], trained)


def run_command(*arguments):
  """Runs `prompt-tuning`, which must succeed."""
  program, *arguments = map(str, arguments)
  assert (convert.main(arguments) if program == 'convert' else command.run(program, arguments)) == 0


# --- The same for every version of the package --------------------------------------------------------------------

STEPS, MORE = 4, 2  # of a stored run, and of a resumed one
# Each run compiles its programs. These differ in data, optimizer or dropout; `-m slow` also resumes the others.
STEPPED = ('prefix_of_a_network', 'decoder_prompt', 'decoder_prefix')
QUESTIONED = ('decoder_layer_prompts',)  # for logits and predictions; the others with `-m slow`
EVALUATED = ('by_command', 'prefix', 'prompt.npy')  # with prompt-tuning eval
ADAPTERS = {'peft_prompt': 'decoder_prompt', 'peft_prefix': 'decoder_prefix'}  # folder -> its run
TENSORS = ('best', 'last')
VALIDATION = "--gin.files.FileTask.validation='validation.jsonl'"
COMMON = (
  '--gin_file=models/from_checkpoint_prompt.gin', '--gin.VOCABULARY=@seqio.PassThroughVocabulary()',
  '--gin.seqio.PassThroughVocabulary.size=29', "--gin.MIXTURE_OR_TASK_NAME='turn.jsonl'", VALIDATION,
  f'--gin.TASK_FEATURE_LENGTHS={LENGTHS}')
TRAIN = ('train', '--gin_file=runs/prompt_finetune.gin', *COMMON, "--gin.INITIAL_CHECKPOINT_PATH='models/t5'",
         "--gin.MODEL_DIR='by_command'", '--gin.PROMPT_LENGTH=7', '--gin.BATCH_SIZE=2', '--gin.EVAL_PERIOD=2',
         '--gin.RANDOM_SEED=5')
EVAL = ('eval', '--gin_file=runs/prompt_eval.gin', *COMMON, '--gin.PROMPT_LENGTH=None',
        "--gin.CHECKPOINT_PATH='models/t5'", "--gin.utils.DatasetConfig.split='validation'",
        "--gin.EVAL_OUTPUT_DIR='judged'")


def mostly_slow(quick):
  """Returns the names of all runs, of which only some are tested by default."""
  return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]


def expected(name):
  with np.load(HERE / f'expected/{name}.npz') as arrays:
    return json.loads((HERE / f'expected/{name}.json').read_text()), dict(arrays)


def assert_same(found, wanted):
  """Compares nested dicts of numbers and texts, numbers to 1e-5."""
  assert found.keys() == wanted.keys()
  for name, value in wanted.items():
    if isinstance(value, dict):
      assert_same(found[name], value)
    elif isinstance(value, float):
      assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-5), name
    else:
      assert found[name] == value, name


def assert_close(found, wanted):
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def outputs(folder):
  """Returns the predictions of an evaluation by `EVAL`."""
  path, = (folder / 'judged/inference_eval').glob('turn.jsonl-0*.jsonl')
  return [json.loads(line)['output'] for line in path.read_text().splitlines()]


def last_figures(folder):
  """Returns the last line of a training run's metrics, without those of time and memory."""
  line = [line for line in lines(folder) if line['folder'] == 'train'][-1]
  return named_as_then({name: value for name, value in line.items() if not name.endswith(('per_second', '_bytes'))})


def lines(folder):
  return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


@pytest.fixture
def copied(tmp_path, monkeypatch):
  """A copy of all stored files, as working directory."""
  divide(shutil.copytree(HERE, tmp_path / 'copy'))
  monkeypatch.chdir(tmp_path / 'copy')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  return tmp_path / 'copy'


@pytest.mark.parametrize('name', METHODS)
def test_trained_tensors_of_an_earlier_run_have_the_same_losses(name):
  wanted, _ = expected(name)
  for each in TENSORS:
    assert_same(losses(load_trained(str(HERE / name / f'{each}.safetensors')), METHODS[name][0]), wanted[each])


@pytest.mark.parametrize('name', mostly_slow(QUESTIONED))
def test_trained_tensors_of_an_earlier_run_give_the_same_logits_and_answers(name):
  wanted, arrays = expected(name)
  for each in TENSORS:
    trained = load_trained(str(HERE / name / f'{each}.safetensors'))
    assert_close(logits(trained, METHODS[name][0]), arrays[f'{each}/logits'])
    assert_same(answers(trained, METHODS[name][0]), wanted[f'{each}/answers'])


@pytest.mark.parametrize('name', METHODS)
def test_the_state_of_an_earlier_run_is_the_same_runs_and_is_restored_whole(name, tmp_path):
  folder = shutil.copytree(HERE / name, tmp_path / name)
  end, trained = train(name, folder, STEPS)  # it has ended: nothing is compiled
  last = load_trained(str(HERE / name / 'last.safetensors'))
  assert (end['step'], end['best']) == (START + STEPS, last.about['best'])
  kept = trained.keys() & last.tensors.keys()
  assert kept or name == 'prefix_of_a_network'
  for path in kept:
    np.testing.assert_array_equal(trained[path], last.tensors[path])
  assert lines(folder) == lines(HERE / name)


@pytest.mark.parametrize('name', mostly_slow(STEPPED))
def test_an_earlier_run_is_resumed_and_ends_as_it_would_have(name, tmp_path):
  wanted, arrays = expected(name)
  folder = shutil.copytree(HERE / name, tmp_path / name)
  end, trained = train(name, folder, STEPS + MORE)
  assert_same(end, wanted['resumed'])
  assert {f'resumed/{path}' for path in trained} == {path for path in arrays if path.startswith('resumed/')}
  for path, array in trained.items():
    assert_close(array, arrays[f'resumed/{path}'])
  before = lines(HERE / name)
  assert lines(folder)[:len(before)] == before
  assert [line['step'] for line in lines(folder)[len(before):] if line['folder'] == 'train'] == [105, 106]


@pytest.mark.parametrize('name', METHODS)
def test_the_folder_of_an_earlier_run_gives_its_best_tensors(name):
  best, found = load_trained(str(HERE / name / 'best.safetensors')), load_trained(str(HERE / name))
  assert found.about == best.about
  assert found.about['step'] == expected(name)[0]['best_step']


def test_a_run_of_an_earlier_command_is_resumed_by_the_command(copied):
  run_command(*TRAIN, '--gin.TRAIN_STEPS=5')
  wanted, arrays = expected('by_command')
  trained = load_trained('by_command/last.safetensors')
  assert trained.about['step'] == 5
  assert_close(trained.prompt().vectors, arrays['resumed/vectors'])
  assert_same(last_figures(copied / 'by_command'), wanted['resumed'])


@pytest.mark.parametrize('source', EVALUATED)
def test_the_command_evaluates_what_earlier_runs_left(source, copied):
  run_command(*EVAL, f"--gin.PROMPT_FILE='{source}'")
  assert outputs(copied) == expected('by_command')[0]['evaluated'][source]


def test_a_config_of_an_earlier_run_describes_the_same_run(copied):
  run_command('train', '--gin_file=by_command/config.gin', "--gin.MODEL_DIR='again'", VALIDATION)
  again, before = (load_trained(f'{folder}/last.safetensors') for folder in ('again', 'by_command'))
  assert_same({name: again.about[name] for name in before.about}, before.about)  # files now hold more
  assert_close(again.prompt().vectors, before.prompt().vectors)


def test_saved_prompts_are_read_with_their_places():
  _, arrays = expected('prompt')
  prompt = load_prompt(str(HERE / 'prompt.safetensors'))
  np.testing.assert_array_equal(prompt.vectors, arrays['vectors'])
  assert (prompt.placement.__name__, prompt.visibility) == ('before_eos', Visibility(input=False))
  assert prompt.about['step'] == 7
  plain = load_prompt(str(HERE / 'prompt.npy'))
  np.testing.assert_array_equal(plain.vectors, arrays['vectors'])
  assert plain.placement.__name__ == 'before'


@pytest.mark.parametrize('file', ['prompt.safetensors', 'prompt.npy'])
def test_saved_prompts_have_the_same_losses(file):
  assert_same(losses(load_trained(str(HERE / file)), 't5'), expected('prompt')[0][file])


@pytest.mark.parametrize('folder', ADAPTERS)
def test_adapters_for_peft_are_read(folder, copied):
  run_command('convert', folder, 'adapter.safetensors', '--model=models/llama')
  found = load_trained('adapter.safetensors').tensors
  _, arrays = expected(folder)
  assert found.keys() == arrays.keys()
  for name, array in arrays.items():
    np.testing.assert_array_equal(found[name], array)
