"""Models, prompts and files of the Hugging Face hub, against a stand-in on loopback."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import hub_stand_in
import huggingface_hub.constants
import numpy as np
import pytest
from gguf_files import write_member

import prompt_tuning as pt
from prompt_tuning.checkpoints.peft import read_adapter
from prompt_tuning.evaluation import cards, saved
from prompt_tuning.files import hub
from prompt_tuning.losses import Loss
from prompt_tuning.models import loading
from prompt_tuning.programs import command
from prompt_tuning.runs import run_file
from prompt_tuning.training.identity import identity

ABOUT = {'model': 'acme/tiny', 'task': '/home/user/reviews.jsonl', 'lengths': {'inputs': 8, 'targets': 3},
         'settings': {'template': 'Review: {text}', 'labels': {'0': 'bad "one"', '1': 'good'}},
         'made_for': {'family': 't5', 'width': 96, 'layers': [2, 2], 'vocabulary': 32}}


@pytest.fixture
def remote(tmp_path, monkeypatch):
  """The stand-in, with a model acme/tiny, whose repository also holds files that are of no use here."""
  folder = tmp_path / 'hub/models/acme/tiny'
  shutil.copytree(loading.find_model('t5_integers'), folder)
  for name in ('pytorch_model.bin', 'consolidated.safetensors', 'onnx/model.safetensors', 'notes.py'):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b'of no use')
  served = hub_stand_in.Hub(tmp_path / 'hub')
  template = served.address + '/{repo_id}/resolve/{revision}/{filename}'
  for name, value in {'ENDPOINT': served.address, 'HUGGINGFACE_CO_URL_TEMPLATE': template, 'HF_HUB_OFFLINE': False,
                      'HF_HUB_CACHE': str(tmp_path / 'cache'),
                      'HF_HUB_DISABLE_XET': True}.items():
    monkeypatch.setattr(huggingface_hub.constants, name, value)
  monkeypatch.chdir(tmp_path)
  for cached in (hub.fetch, hub.names):
    cached.cache_clear()
  yield served
  for cached in (hub.fetch, hub.names):
    cached.cache_clear()
  served.close()


def test_of_a_model_only_configuration_tokenizer_and_safetensors_are_fetched(remote, capfd):
  model = pt.load_model('acme/tiny')
  assert 'Fetching' not in capfd.readouterr().err  # no bar where no terminal is
  assert {'config.json', 'tokenizer.json', 'model.safetensors'} <= remote.fetched
  assert not remote.fetched & {'pytorch_model.bin', 'consolidated.safetensors', 'notes.py'}
  assert not any('onnx' in request for request in remote.asked if 'resolve' in request)
  own = pt.load_model('t5_integers')
  assert (model.weights_digest, model.vocabulary) == (own.weights_digest, own.vocabulary)
  assert hub.id_of(model.path) == 'acme/tiny'
  assert repr(model).startswith("LanguageModel('acme/tiny', family t5, ")


def test_a_run_records_the_name_of_its_model_not_the_folder_of_the_cache(remote):
  model = pt.load_model('acme/tiny@main')
  own = identity(model=model, method=pt.PromptTuning(pt.Prompt(3)), task=pt.Task('t', {'train': [{'inputs': '1'}]}),
                 split='train', lengths={}, batch_size=1, packed=False, buckets=None, seed=0,
                 optimizer=pt.Adafactor(), loss=Loss(), settings=None)
  assert own['model'] == 'acme/tiny'


def test_a_folder_of_the_same_name_wins_and_that_is_said_once(remote, capsys):
  hub._say_local.cache_clear()
  shutil.copytree(loading.find_model('t5_integers'), 'acme/tiny')
  assert loading.find_model('acme/tiny') == loading.find_model('acme/tiny') == 'acme/tiny'
  assert capsys.readouterr().err.count('acme/tiny is a folder here') == 1
  assert remote.asked == []


def test_a_path_into_a_folder_that_is_here_is_not_asked_for_on_the_hub(remote):
  shutil.copytree(loading.find_model('t5_integers'), 'acme/tinier')
  with pytest.raises(FileNotFoundError, match=r'acme/tiny: the folder acme is here, and has no tiny\. Did you mean '
                                              r'tinier\? .* add a revision: acme/tiny@main'):
    pt.load_model('acme/tiny')
  with pytest.raises(FileNotFoundError, match='acme/words: the folder acme is here, and has no words'):
    pt.load_prompt('acme/words')
  assert command.main(['eval', '--prompt', 'acme/words', '--data', 'rows.jsonl']) == 2
  assert remote.asked == []
  assert hub.id_of(loading.find_model('acme/tiny@main')) == 'acme/tiny'


def test_what_was_fetched_once_is_read_without_network(remote, monkeypatch):
  first = loading.find_model('acme/tiny')
  hub.fetch.cache_clear()
  monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
  count = len(remote.asked)
  assert loading.find_model('acme/tiny') == first and len(remote.asked) == count


@pytest.mark.parametrize('name, change, message', [
  ('acme/tinny', {}, r'acme/tinny: there is no such folder here, and this account can read no model http.*/acme/tinny. '
                     r'Check the name. Log in with `hf auth login`, or set HF_TOKEN for one'),
  ('acme/tiny', {'gated': {'acme/tiny'}}, r'acme/tiny: its owner gives access on request. Ask for it at http.*acme'),
  ('acme/tiny@v9', {}, r'acme/tiny@v9: http.*/acme/tiny has no revision v9\. Give a branch'),
  ('acme/tiny', {'offline': True}, r'is not asked, as HF_HUB_OFFLINE is set; its cache lacks acme/tiny'),
  ('acme/tiny', {'address': 'http://127.0.0.1:9'}, r'http://127.0.0.1:9 cannot be reached \(.*Check the network'),
])
def test_why_a_model_cannot_be_read_is_said(remote, monkeypatch, name, change, message):
  remote.gated |= change.get('gated', set())
  monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', change.get('offline', False))
  monkeypatch.setattr(huggingface_hub.constants, 'ENDPOINT', change.get('address', remote.address))
  with pytest.raises(OSError, match=message):
    pt.load_model(name)


def test_pickles_are_never_fetched(remote):
  (remote.folder / 'models/acme/tiny/model.safetensors').unlink()
  with pytest.raises(ValueError, match=r'acme/tiny: this repository .* has no model\.safetensors and no GGUF file'):
    pt.load_model('acme/tiny')
  assert 'pytorch_model.bin' not in remote.fetched


@pytest.fixture
def files(remote):
  """A repository that holds only GGUF files."""
  folder = remote.folder / 'models/acme/quants'
  write_member('qwen2', folder)
  shutil.rmtree(folder / 'folder')
  return folder


def test_the_only_gguf_file_of_a_repository_is_the_model(remote, files):
  (files / 'README.md').write_text('None of this is read.')
  model = pt.load_model('acme/quants')
  assert model.weights_digest == pt.load_model(str(files / 'model.gguf')).weights_digest
  assert remote.fetched == {'model.gguf'} and hub.id_of(model.path) == 'acme/quants/model.gguf'
  assert loading.find_model(hub.id_of(model.path)) == model.path
  text = cards.card({'decoder/prompt/prompt/prompt': np.ones((2, 3))}, {}, title='a', source='a',
                    base='acme/quants@main/model.gguf')
  assert 'base_model: "acme/quants"\n' in text


def test_of_several_gguf_files_one_is_named(remote, files, monkeypatch):
  (files / 'other.gguf').write_bytes(b'')
  with pytest.raises(ValueError, match=r'several GGUF files: model\.gguf, other\.gguf\. Name one of them, such as '
                                       r'acme/quants/model\.gguf'):
    pt.load_model('acme/quants')
  assert loading.find_model('acme/quants@main/model.gguf') == loading.find_model('acme/quants/model.gguf')
  assert remote.fetched == {'model.gguf'}
  with pytest.raises(FileNotFoundError, match=r'q4\.gguf is not among the files of acme/quants: model\.gguf, other'):
    pt.load_model('acme/quants/q4.gguf')
  for cached in (hub.fetch, hub.names):
    cached.cache_clear()
  monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
  assert loading.find_model('acme/quants').endswith('model.gguf')  # the one in the cache


def test_without_the_extra_a_missing_folder_names_it(monkeypatch):
  monkeypatch.setattr(hub, '_installed', lambda: False)
  with pytest.raises(FileNotFoundError, match=r'acme/tiny: there is no such folder\. .* `pip install .\.\[hub\].`'):
    pt.load_model('acme/tiny')
  with pytest.raises(FileNotFoundError, match=r'acme/words: there is no such file or folder\. .*\[hub\]'):
    pt.load_prompt('acme/words')
  with pytest.raises(ImportError, match=r'which is not installed: `pip install'):
    prompt().push('acme/words')


def test_what_follows_the_name_of_a_repository_must_be_a_revision():
  for name, found in (('acme/tiny@', "''"), ('acme/tiny@v 1', "'v 1'")):
    for load in (pt.load_model, pt.load_trained):
      with pytest.raises(FileNotFoundError, match=f'After @, expected .* of the repository acme/tiny, found {found}'):
        load(name)


def prompt(length=5):
  return saved.SavedPrompt(np.arange(length * 96, dtype=np.float32).reshape(length, 96), about=ABOUT)


def test_a_pushed_prompt_is_read_by_its_name_here_and_as_an_adapter(remote):
  assert prompt().push('acme/words') == f'{remote.address}/acme/words'
  read = pt.load_prompt('acme/words')
  np.testing.assert_array_equal(read.vectors, prompt().vectors)
  assert read.about['task'] == 'reviews.jsonl'  # no folder of the machine
  adapter = read_adapter(str(remote.folder / 'models/acme/words'))
  assert adapter.kind == 'PROMPT_TUNING' and adapter.config['base_model_name_or_path'] == 'acme/tiny'
  text = (remote.folder / 'models/acme/words/README.md').read_text()
  assert 'base_model: "acme/tiny"' in text and "pt.load_trained('acme/words')" in text
  (remote.folder / 'models/acme/words/README.md').write_text('Mine.')
  prompt(3).push('acme/words')
  assert (remote.folder / 'models/acme/words/README.md').read_text() == 'Mine.'


def test_the_base_model_that_a_push_names_is_one_of_the_shape_of_the_training(remote):
  config = loading.describe(pt.load_model('t5_integers').module.config)
  trained = dataclasses.replace(prompt(), about={**ABOUT, 'model_config': config})
  trained.push('acme/words', model='acme/tiny')
  about = {**trained.about, 'model_config': {**config, 'd_model': 128}}
  for name, error, message in (
      ('acme/tiny', ValueError, r"model='acme/tiny' is of another shape .*d_model: 96 there, 128 in training"),
      ('t5_integers', ValueError, r"model='t5_integers' cannot be used: it is not the name of a model on the hub"),
      ('acme/tyni', FileNotFoundError, 'acme/tyni: .*this account can read no model')):
    with pytest.raises(error, match=message):
      dataclasses.replace(trained, about=about).push('acme/other', model=name)
  assert not (remote.folder / 'models/acme/other').exists()


def test_a_card_that_was_changed_is_pushed_as_it_is_and_of_another_the_license_is_kept(remote, capsys):
  for text, expected in (('Mine.', 'Mine.'), (f'---\nlicense: other\nlicense_name: mine\n---\n{cards.MARK}', None)):
    pathlib.Path('run').mkdir(exist_ok=True)
    pathlib.Path('run/README.md').write_text(text)
    prompt().save('run/best.safetensors')
    name = f'acme/words{len(text)}'
    pt.load_prompt('run').push(name)
    found = (remote.folder / 'models' / name / 'README.md').read_text()
    assert found == expected if expected else 'license: other\nlicense_name: mine\n---' in found
  assert 'run/README.md was changed: it becomes the card of acme/words5' in capsys.readouterr().err


def test_a_prompt_of_a_model_of_the_package_names_it_and_no_other_program(remote):
  dataclasses.replace(prompt(), about={**ABOUT, 'model': 't5_integers'}).push('acme/words')
  assert run_file.read_beside('acme/words')['model'] == 't5_integers'
  assert 'PeftModel' not in (remote.folder / 'models/acme/words/README.md').read_text()


@pytest.mark.parametrize('name, error, message', [
  ('acme/tiny', ValueError, 'acme/tiny is the repository of a model: it holds config.json'),
  ('acme/a..b', ValueError, r"'acme/a..b' is not the name of a repository \(Cannot have"),
  ('acme/new@v1', FileNotFoundError, 'acme/new@v1: this account can read no model')])
def test_a_prompt_is_not_pushed_where_it_does_not_belong(remote, name, error, message):
  with pytest.raises(error, match=message):
    prompt().push(name)
  assert not (remote.folder / 'models/acme/new').exists()
  assert not (remote.folder / 'models/acme/tiny/best.safetensors').exists()


def test_an_evaluation_takes_model_and_templates_of_a_pushed_prompt(remote, capsys):
  prompt().push('acme/words')
  (remote.folder / 'models/acme/words/run.toml').write_text(
    (remote.folder / 'models/acme/words/run.toml').read_text().replace('model =', 'imports = ["theirs"]\nmodel ='))
  found = run_file.read_beside('acme/words')
  assert found == {'model': 'acme/tiny', 'template': 'Review: {text}', 'labels': ABOUT['settings']['labels'],
                   'max_input_length': 8, 'max_target_length': 3}
  with open('rows.jsonl', 'w') as file:
    file.write(json.dumps({'text': '1 2', 'targets': '1'}))
  assert command.main(['eval', '--prompt', 'acme/words', '--data', 'rows.jsonl', '--target_template', '{targets}',
                       '--labels', '1=2', '--dry_run']) == 0
  assert 'encoder/prompt/prompt/prompt (5, 96)' in capsys.readouterr().out


def test_who_may_not_write_is_told_so(remote):
  remote.closed = True
  with pytest.raises(PermissionError, match=r'acme/words: this account may not write http.* set HF_TOKEN'):
    prompt().push('acme/words')
  with pytest.raises(ValueError, match=r"'words' is not the name of a repository. Give owner/name"):
    prompt().push('words')


@pytest.mark.parametrize('path, expected', [
  ('Qwen/Qwen3-0.6B', True), ('acme/tiny@refs/pr/1', True), ('runs/best.safetensors', False), ('./acme/tiny', False),
  ('/models/t5', False), ('t5_integers', False), ('gs://bucket/a', False), ('a/b/c', False), ('runs/x.npy', False)])
def test_names_of_repositories_are_told_from_paths(path, expected):
  assert hub.is_id(path) == expected


@pytest.mark.parametrize('name, repository, file', [
  ('acme/tiny', 'acme/tiny', ''), ('acme/tiny@v1/q4/x.gguf', 'acme/tiny@v1', 'q4/x.gguf'),
  ('./acme/x.gguf', '', ''), ('/acme/tiny/x.gguf', '', ''), ('gs://bucket/a/x.gguf', '', ''), ('acme/x.gguf', '', '')])
def test_a_file_of_a_repository_follows_its_name(name, repository, file):
  assert hub.split(name) == (repository, file)


def test_a_card_is_yaml_with_the_license_left_to_fill():
  import yaml

  best = {'step': 7, 'metrics': {'reviews.jsonl/loss': 0.25, 'reviews.jsonl/f1:a|b': 50.0}}
  trained = dataclasses.replace(prompt(), about={
    **ABOUT, 'task': 'hf://datasets/acme/reviews', 'best': best, 'method': 'PromptTuning', 'batch_size': 4,
    'optimizer': 'Adafactor', 'rates': [0.3, 0.1], 'seed': 2, 'weights': 'abc',
    'before': {'reviews.jsonl/loss': 1.5}}).as_trained()
  text = cards.card(trained.tensors, trained.about, title='words', source='runs/words')
  front = yaml.safe_load(text.split('---')[1])
  assert front == {'base_model': 'acme/tiny', 'library_name': 'prompt-tuning', 'pipeline_tag': 'text2text-generation',
                   'tags': ['prompt-tuning', 'jax'], 'datasets': ['acme/reviews'], 'metrics': ['loss', 'f1:a|b']}
  assert '# license: choose one' in text and cards.is_own(text)
  assert '| method | PromptTuning, 5 vectors |' in text and '| parameters | 480 |' in text
  assert '| reviews.jsonl/loss | 1.5 | 0.25 |' in text and '| reviews.jsonl/f1:a\\|b | | 50 |' in text
  assert 'prompt-tuning convert runs/words adapter --model=acme/tiny' in text and 'vllm' not in text
  filled = text.replace('# license: choose one, for example apache-2.0', 'license: mit')
  again = cards.card(trained.tensors, trained.about, title='words', source='runs/words', earlier=filled)
  assert 'license: mit' in again


def test_a_file_of_a_data_set_is_fetched_alone(remote):
  folder = remote.folder / 'datasets/acme/reviews/data'
  folder.mkdir(parents=True)
  (folder / 'train.jsonl').write_text('{"inputs": "a", "targets": "b"}\n')
  (folder / 'test.jsonl').write_text('{}')
  task = pt.FileTask('hf://datasets/acme/reviews@main/data/train.jsonl', validation=0.0)
  assert task.split('all')[0]['targets'] == 'b' and remote.fetched == {'train.jsonl'}
  with pytest.raises(FileNotFoundError, match=r'the data set acme/reviews has no file data/dev\.jsonl'):
    pt.FileTask('hf://datasets/acme/reviews/data/dev.jsonl')
  with pytest.raises(FileNotFoundError, match=r'acme/none: this account can read no dataset http.*/datasets/acme/none'):
    pt.FileTask('hf://datasets/acme/none/a.csv')


@pytest.mark.slow
def test_the_splits_of_a_data_set_are_read_by_its_library(remote, tmp_path):
  folder = remote.folder / 'datasets/acme/reviews/data'
  folder.mkdir(parents=True)
  (folder / 'train.jsonl').write_text('{"inputs": "1 2", "targets": "2"}\n' * 3)
  (folder / 'test.jsonl').write_text('{"inputs": "3", "targets": "3"}\n' * 2)
  asked = 'data hf://datasets/acme/reviews --validation hf://datasets/acme/reviews:test --model t5_integers'
  program = 'import sys; from prompt_tuning.programs import command; sys.exit(command.main())'
  done = subprocess.run([sys.executable, '-c', program, *asked.split()], capture_output=True, text=True, check=False,
                        env={**os.environ, 'HF_ENDPOINT': remote.address, 'HF_HOME': str(tmp_path / 'home'),
                             'HF_HUB_OFFLINE': '0'})
  assert done.returncode == 0, done.stderr
  assert 'hf://datasets/acme/reviews: train 3, validation 2' in done.stdout
  assert 'also has test, which is read only where it is named' in done.stderr and 'Generating' not in done.stderr
