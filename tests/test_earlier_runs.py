"""Files of earlier runs mean the same now: `earlier_runs/` holds a folder of each kind, made by the version of 2026-11.

Beside the folders stand `expected/<name>.json` and `.npz`: what that version made of them, used and resumed. The script
`earlier_runs/make.py` wrote all of it with the functions of this file.
"""

import dataclasses
import functools
import json
import pathlib
import shutil

import numpy as np
import pytest

# --- The package's side: the only part that knows where things live in it -----------------------------------------
from prompt_tuning import prompts
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
METHODS = {  # the name of a folder -> model, method, other settings than `train`'s
  'prompt_before': ('t5', prompts.PromptTuning(prompts.Prompt(7)), {'dropout_rate': 0.1, 'packed': True}),
  'prompt_after_eos': ('t5', prompts.PromptTuning(prompts.Prompt(7), layouts.after_eos), {'microbatches': 2}),
  'prompt_that_sees_no_input': (
    't5', prompts.PromptTuning(prompts.Prompt(7), visibility=Visibility(input=False)), {}),
  'retrained_norms': ('t5', Retrained('.*layer_norm/scale'), {}),
  'low_rank': ('t5', LowRank(1, '.*/self_attention/(query|out)/kernel'), {}),
  'prefix': ('t5', Prefix(6), {}),
  'prefix_of_a_network': ('t5', Prefix(6, attentions=('encoder', 'decoder'), hidden=7, width=9), {'optimizer': ADAMW}),
  'prefix_of_cross_attention': ('t5', Prefix(6, attentions=('cross',)), {}),
  'layer_prompts_that_are_added': ('t5', LayerPrompts(7, mode='add'), {'buckets': (3, 6)}),
  'decoder_prompt': ('llama', prompts.PromptTuning(prompts.Prompt(5)), {'packed': True}),
  'decoder_prefix': ('llama', Prefix(5), {}),
  'decoder_layer_prompts': ('llama', LayerPrompts(5), {}),
}


def task():
  """Returns the task that all runs learn: lists of ids are turned round."""
  rows = [json.loads(line) for line in (HERE / 'turn.jsonl').read_text().splitlines()]
  return Task('turn', {'train': rows[:10], 'validation': rows[10:13]}, (accuracy,))


@functools.cache
def frozen(name, dropout_rate=0.0):
  """Returns a frozen model, 't5' or 'llama'."""
  return load_model(str(HERE / 'models' / name), vocabulary=VOCABULARY, dropout_rate=dropout_rate)


def train(name, folder, steps):
  """Trains a run of `METHODS` to its step `steps`, from what the folder holds; returns what tells how it ended."""
  model, method, settings = METHODS[name]
  settings = {'optimizer': ADAFACTOR, 'packed': False, **settings}
  model = frozen(model, settings.pop('dropout_rate', 0.0))
  run = loop.train(
    model=dataclasses.replace(model, step=START), method=method,
    task=task(), lengths=LENGTHS, model_dir=str(folder), train_steps=START + steps, batch_size=4, seed=5,
    evaluations=loop.Evaluations(period=2, loss_steps=1, examples=0), saving=loop.Saving(2), log_period=1, quiet=True,
    **settings)
  return {'step': run.step, 'metrics': run.metrics, 'best': run.best}, run.trained


def figures(trained, model, *, answers=False):
  """Returns what trained tensors do: the loss of the validation split and two rows of logits.

  Args:
    trained: as `load_trained` gives them.
    model: the name of the frozen model.
    answers: the model's own are returned too, with their metrics.
  """
  model = frozen(model)
  rows, conditioning, layout = task().split('validation'), trained.conditioning(model), model.layout(trained.layout())
  found = evaluate_loss(model, conditioning, layout, task(), lengths=LENGTHS, batch_size=4, loss=Loss())
  if answers:
    result = evaluate(model, conditioning, layout, task(), sampler=Greedy(), lengths=LENGTHS, batch_size=4)
    found |= {**result.metrics, 'answers': [line['output'] for line in result.lines]}
  return found, model.logits([row['inputs'] for row in rows[:2]], [row['targets'] for row in rows[:2]], trained)


def run_command(*arguments):
  """Runs `prompt-tuning`; it must end well."""
  assert command.main(list(map(str, arguments))) == 0


# --- The same for every version of the package --------------------------------------------------------------------

STEPS, MORE = 4, 2  # of a run that is kept, and of one that is resumed
WITH_ANSWERS = ('prompt_before', 'prefix', 'decoder_layer_prompts')  # to generate takes a program of its own
ADAPTERS = {'peft_prompt': 'decoder_prompt', 'peft_prefix': 'decoder_prefix'}  # folder -> the run that it is of
TENSORS = ('best', 'last')
SHORT = ('prompt_before', 'low_rank', 'decoder_prefix')  # resumed in the fast suite, the others on demand


def expected(name):
  with np.load(HERE / f'expected/{name}.npz') as arrays:
    return json.loads((HERE / f'expected/{name}.json').read_text()), dict(arrays)


def assert_same(found, wanted):
  """Compares dicts of numbers, texts and further dicts, numbers at 1e-5."""
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


def lines(folder):
  return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


@pytest.fixture
def copied(tmp_path, monkeypatch):
  """A copy of all that is kept, as working directory."""
  shutil.copytree(HERE, tmp_path / 'copy')
  monkeypatch.chdir(tmp_path / 'copy')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  return tmp_path / 'copy'


@pytest.mark.parametrize('name', METHODS)
def test_trained_tensors_of_an_earlier_run_do_what_they_did(name):
  wanted, arrays = expected(name)
  for each in TENSORS:
    found, logits = figures(load_trained(str(HERE / name / f'{each}.safetensors')), METHODS[name][0],
                            answers=name in WITH_ANSWERS)
    assert_same(found, wanted[each])
    assert_close(logits, arrays[f'{each}/logits'])


@pytest.mark.parametrize('name', [
  name if name in SHORT else pytest.param(name, marks=pytest.mark.slow) for name in METHODS])
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
def test_saved_prompts_do_what_they_did(file):
  wanted, arrays = expected('prompt')
  found, logits = figures(load_trained(str(HERE / file)), 't5')
  assert_same(found, wanted[file])
  assert_close(logits, arrays[f'{file}/logits'])


@pytest.mark.parametrize('folder', ADAPTERS)
def test_adapters_for_peft_are_read(folder, copied):
  run_command('convert', folder, 'adapter.safetensors', '--model=models/llama')
  found = load_trained('adapter.safetensors').tensors
  _, arrays = expected(folder)
  assert found.keys() == arrays.keys()
  for name, array in arrays.items():
    np.testing.assert_array_equal(found[name], array)
