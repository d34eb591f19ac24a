"""The command in a process of its own, with the clients that people use; needs `.[serve,harness,peers]` and curl."""

import asyncio
import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

if importlib.util.find_spec('openai') is None:
  pytest.skip("needs `pip install '.[serve,peers]'`", allow_module_level=True)

import chat_toys
import httpx2 as httpx
import openai

import prompt_tuning as pt
from prompt_tuning.evaluation.saved import SavedPrompt

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parents[2]
TEXTS = ('A warm film', 'dull', 'I could not stop laughing and crying', 'é 你 ok')


class Process:
  """A server that is ready, and is ended at the end."""

  def __init__(self, model, *flags, code='import sys; from prompt_tuning.programs import serve; sys.exit(serve.main())',
               environment=None):
    self.errors = open(f'{model}-errors.txt', 'w+')
    self.process = subprocess.Popen(
      [sys.executable, '-c', code, '--model', model, '--port', '0', *flags], stdout=subprocess.PIPE, stderr=self.errors,
      text=True, env={**(environment or os.environ), 'PYTHONPATH': str(ROOT)})
    line = self.process.stdout.readline()
    found = re.search(r'(\d+) prompts are served at (http://\S+)', line)
    if found is None:
      self.process.wait(60)
      pytest.fail(f'{line}\n{self.log()}')
    self.prompts, self.url = int(found[1]), found[2]

  def log(self):
    self.errors.seek(0)
    return self.errors.read()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    if self.process.poll() is None:
      self.process.kill()
    self.process.wait()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A random chat model with two prompts and a prefix."""
  folder = tmp_path_factory.mktemp('served')
  chat_toys.write_model(folder / 'toy')
  noise = np.random.default_rng(0)
  for name, length in (('a/short.npy', 2), ('a/long.safetensors', 5)):
    (folder / 'prompts/a').mkdir(parents=True, exist_ok=True)
    SavedPrompt(noise.normal(size=(length, 12)).astype(np.float32)).save(str(folder / 'prompts' / name))
  return folder


@pytest.fixture(scope='module')
def server(folder, users_environment):
  with Process(str(folder / 'toy'), '--prompts', str(folder / 'prompts'), '--loadable', str(folder), '--watch',
               environment=users_environment) as found:
    yield found


@pytest.fixture(scope='module')
def model(folder):
  return pt.load_model(str(folder / 'toy'))


@pytest.fixture
def client(server):
  return openai.OpenAI(base_url=f'{server.url}/v1', api_key='none', max_retries=0)


def path_of(folder, name):
  return None if name == 'toy' else str(next((folder / 'prompts').glob(f'{name}.*')))


@pytest.mark.parametrize('name', ['toy', 'a/short', 'a/long'])
def test_greedy_texts_and_scores_are_those_of_the_process(server, client, folder, model, name):
  path = path_of(folder, name)
  prompt = None if path is None else pt.load_trained(path)
  expected = model.predict(list(TEXTS), prompt, max_length=12)
  found = client.completions.create(model=name, prompt=list(TEXTS), max_tokens=12, temperature=0)
  assert [choice.text for choice in found.choices] == expected
  for text in TEXTS:
    ids = model.vocabulary.encode(text)
    scored = client.completions.create(model=name, prompt=ids, max_tokens=1, temperature=0, logprobs=1, echo=True)
    [own] = model.score([ids[:1]], [ids[1:]], prompt, per_token=True)
    scores = scored.choices[0].logprobs
    assert scores.token_logprobs[0] is None and len(scores.token_logprobs) == len(ids) + 1
    np.testing.assert_allclose(scores.token_logprobs[1:-1], own.log_probs, atol=1e-4)
    assert scored.choices[0].text.startswith(text)


def test_sampled_texts_are_those_of_the_process(client, folder, model):
  found = client.completions.create(model='a/long', prompt=list(TEXTS), max_tokens=12, temperature=0.9, top_p=0.95,
                                    seed=7, extra_body={'top_k': 30})
  expected = model.predict(list(TEXTS), pt.load_trained(path_of(folder, 'a/long')), max_length=12,
                           sampler=pt.Sampling(temperature=0.9, topp=0.95, topk=30), seed=[7] * len(TEXTS))
  assert [choice.text for choice in found.choices] == expected


def test_a_stream_is_the_answer_in_pieces(client):
  settings = dict(model='a/short', prompt='A film', max_tokens=20, temperature=1, seed=3, n=2, logprobs=2)
  whole = client.completions.create(**settings)
  texts, tokens = ['', ''], [[], []]
  for part in client.completions.create(**settings, stream=True, stream_options={'include_usage': True}):
    for choice in part.choices:
      texts[choice.index] += choice.text
      tokens[choice.index] += choice.logprobs.tokens
  assert texts == [choice.text for choice in whole.choices]
  assert tokens == [choice.logprobs.tokens for choice in whole.choices]
  assert part.usage == whole.usage and whole.usage.completion_tokens == sum(map(len, tokens))


def test_a_conversation(client, folder, model):
  messages = [chat_toys.SYSTEM, chat_toys.USER]
  settings = dict(model='a/long', messages=messages, max_tokens=12, temperature=0, logprobs=True, top_logprobs=2)
  found = client.chat.completions.create(**settings)
  assert found.choices[0].message.content == model.chat(messages, pt.load_trained(path_of(folder, 'a/long')),
                                                        max_length=12)
  entries = found.choices[0].logprobs.content
  assert len(entries) == found.usage.completion_tokens and len(entries[0].top_logprobs) == 2
  parts = list(client.chat.completions.create(**settings, stream=True))
  assert parts[0].choices[0].delta.role == 'assistant' and parts[-1].choices[0].finish_reason
  assert ''.join(part.choices[0].delta.content or '' for part in parts) == found.choices[0].message.content
  assert client.chat.completions.create(model='toy', messages=messages).usage.completion_tokens > 12  # all the room


def test_many_clients_at_once_get_what_each_gets_alone(server, client):
  asked = [dict(model=name, prompt=text, max_tokens=6 + number, temperature=number % 2, seed=number)
           for number, name in enumerate(('toy', 'a/short', 'a/long') * 4) for text in TEXTS]

  async def all_at_once():
    async with openai.AsyncOpenAI(base_url=f'{server.url}/v1', api_key='none') as to:
      return await asyncio.gather(*(to.completions.create(**each) for each in asked))

  together = [found.choices[0].text for found in asyncio.run(all_at_once())]
  alone = [client.completions.create(**each).choices[0].text for each in asked]
  assert sum(map(str.__eq__, together, alone)) >= len(asked) - 1  # a near tie may fall otherwise


def test_errors_are_those_of_the_client(client, server, folder):
  with pytest.raises(openai.NotFoundError, match='a/short'):
    client.completions.create(model='a/shrt', prompt='a')
  with pytest.raises(openai.BadRequestError, match='max_length'):
    client.completions.create(model='toy', prompt='a' * 3000, max_tokens=100)
  with pytest.raises(openai.BadRequestError, match='tools'):
    client.chat.completions.create(model='toy', messages=[chat_toys.USER], tools=[{'type': 'function', 'function': {
      'name': 'f'}}])
  bad = folder / 'bad.npy'
  np.save(bad, np.ones((2, 5), np.float32))
  response = httpx.post(f'{server.url}/v1/load_prompt', json={'prompt_name': 'bad', 'prompt_path': 'bad.npy'})
  assert response.status_code == 400 and '12' in response.text


@pytest.mark.skipif(shutil.which('curl') is None, reason='curl is not installed')
def test_curl(server, tmp_path):
  curl = lambda *flags: subprocess.run(['curl', '-s', '-w', '\n%{http_code}', *flags], capture_output=True, text=True,
                                       check=False).stdout
  body = json.dumps({'model': 'toy', 'prompt': 'A', 'max_tokens': 3, 'stream': True})
  out = curl('-N', f'{server.url}/v1/completions', '-d', body)
  assert out.endswith('data: [DONE]\n\n\n200') and out.count('data: {') == 3
  (tmp_path / 'large.json').write_bytes(b' ' * 100 * 2**20)
  out = curl(f'{server.url}/v1/completions', '--data-binary', f'@{tmp_path / "large.json"}')
  assert out.endswith('413') and '16,777,216' in out
  assert curl(f'{server.url}/health').endswith('200')


def test_lm_eval_has_the_figures_of_the_process(server, folder, tmp_path):
  pytest.importorskip('tenacity', reason="needs `pip install 'lm-eval[api]'`")
  sys.path.insert(0, str(ROOT / 'tests/harness'))
  try:
    import local_tasks
  finally:
    sys.path.pop(0)
  from lm_eval.models.openai_completions import LocalCompletionsAPI

  from prompt_tuning.harness import PromptedLM

  local_tasks.write(tmp_path / 'tasks')
  over_http = local_tasks.answers(
    LocalCompletionsAPI(model='a/long', base_url=f'{server.url}/v1/completions', batch_size=2, num_concurrent=2),
    tmp_path / 'tasks')
  inside = local_tasks.answers(PromptedLM(str(folder / 'toy'), path_of(folder, 'a/long')), tmp_path / 'tasks')
  for task, figures in inside[0].items():
    for name, value in figures.items():
      if isinstance(value, float):
        assert over_http[0][task][name] == pytest.approx(value, rel=1e-4), (task, name)
  assert over_http[1]['until'] == inside[1]['until']


def test_new_prompts_are_picked_up(server, client, folder):
  SavedPrompt(np.ones((3, 12), np.float32)).save(str(folder / 'prompts/later.npy'))
  end = time.monotonic() + 20
  while 'later' not in [model.id for model in client.models.list()]:
    assert time.monotonic() < end
    time.sleep(0.5)
  assert client.completions.create(model='later', prompt='A', max_tokens=2).usage.prompt_tokens == 1


def test_the_example_of_the_docs(users_environment, capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  example = re.search(r'```python\n# client.py\n(.*?)```', (ROOT / 'docs/serving.md').read_text(), re.DOTALL)[1]
  with Process('t5_integers', '--prompts', str(ROOT / 'prompt_tuning/pretrained_prompts'),
               environment=users_environment) as found:
    assert found.prompts == 7
    exec(example.replace('http://127.0.0.1:8000', found.url), {})
  assert 't5_integers/Add1' in capsys.readouterr().out


def test_sigterm_lets_answers_end_and_refuses_new_ones(folder, users_environment):
  body = {'model': 'toy', 'prompt': 'A', 'max_tokens': 1500, 'temperature': 0, 'stream': True}
  with Process(str(folder / 'toy'), environment=users_environment) as found, httpx.Client(timeout=60) as to:
    with to.stream('POST', f'{found.url}/v1/completions', json=body) as response:
      lines = response.iter_lines()
      assert next(lines).startswith('data: {')
      found.process.send_signal(signal.SIGTERM)
      time.sleep(0.2)
      assert to.get(f'{found.url}/ready').status_code == 503
      refused = to.post(f'{found.url}/v1/completions', json={**body, 'stream': False})
      assert refused.status_code == 503 and refused.json()['error']['code'] == 'draining'
      rest = [line for line in lines if line]
    assert rest[-1] == 'data: [DONE]' and len(rest) == 1500
    assert found.process.wait(30) == 0
    assert 'SIGTERM' in found.log()


FAILING = '''
import os, sys
from prompt_tuning.serving import running
add = running.Running.add
def failing(self, *given):
  if os.path.exists(sys.argv[sys.argv.index("--served_model_name") + 1]):
    raise RuntimeError("a defect")
  return add(self, *given)
running.Running.add = failing
from prompt_tuning.programs import serve
sys.exit(serve.main())
'''


def test_an_engine_that_fails_ends_the_process_with_an_error(folder, tmp_path, users_environment):
  flag = tmp_path / 'fails'
  with Process(str(folder / 'toy'), '--served_model_name', str(flag), code=FAILING, environment=users_environment
               ) as found, httpx.Client(timeout=60) as to:
    ask = lambda: to.post(f'{found.url}/v1/completions', json={'model': str(flag), 'prompt': 'A', 'max_tokens': 4})
    assert ask().status_code == 200
    flag.touch()
    assert ask().status_code == 500
    flag.unlink()
    assert ask().status_code == 200  # it has come back
    flag.touch()
    assert [ask().status_code for _ in range(3)] == [500] * 3
    assert found.process.wait(30) == 1
    assert 'a defect' in found.log()
