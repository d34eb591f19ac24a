"""The routes on a real engine: answers over HTTP are the engine's own, which other tests compare with `predict`."""

import chat_toys
import numpy as np
import pytest

pytest.importorskip('starlette', reason="needs `pip install '.[serve]'`")

from starlette.testclient import TestClient

import prompt_tuning as pt
from prompt_tuning.evaluation.saved import SavedPrompt, Trained
from prompt_tuning.serving.engine import Engine
from prompt_tuning.serving.http.app import application
from prompt_tuning.serving.http.service import Service
from prompt_tuning.serving.requests import Request

TEXT = 'A warm film that I will see again, and again'  # as long as the conversation, so that programs are shared


@pytest.fixture(scope='module')
def engine(tmp_path_factory):
  model = pt.load_model(chat_toys.write_model(tmp_path_factory.mktemp('served') / 'toy'))
  engine = Engine(model, slots=1, max_length=60)
  engine.prompts.load('a', SavedPrompt(np.ones((3, 12), np.float32)))
  engine.prompts.load('prefix', Trained({f'decoder/prefix/{name}': np.ones((2, 3, 2, 6), np.float32)
                                         for name in ('keys', 'values')}))
  with engine:
    yield engine


@pytest.fixture(scope='module')
def client(engine):
  service = Service('toy')
  service.serve(engine)
  return TestClient(application(service))


def test_a_completion_with_scores(client, engine):
  response = client.post('/v1/completions', json={'model': 'a', 'prompt': TEXT, 'max_tokens': 4, 'seed': 5,
                                                  'echo': True, 'logprobs': 1})
  [choice] = response.json()['choices']
  answer = engine.submit(Request(engine.ids_of(TEXT), 'a', 4, 1.0, seed=5, top=1, echo=True))
  own = answer.result()
  assert choice['text'] == TEXT + own.text
  tokens = [*answer.input_tokens, *own.tokens]
  assert choice['logprobs']['token_logprobs'] == [token.log_prob for token in tokens]
  assert choice['logprobs']['token_logprobs'][0] is None and len(tokens) == len(TEXT) + 4
  assert ''.join(choice['logprobs']['tokens'][:-4]) == TEXT


def test_a_chat_has_all_the_room_by_default(client, engine):
  messages = [chat_toys.USER]
  body = {'model': 'a', 'messages': messages, 'temperature': 0}
  found = client.post('/v1/chat/completions', json=body).json()
  [ids] = engine.model.chat_format.questions([messages])
  room = 60 - 3 - len(ids) + 1  # the last token is generated and not read
  assert found['choices'][0]['message']['content'] == engine.submit(Request(ids, 'a', room)).result().text
  response = client.post('/v1/chat/completions', json={**body, 'max_tokens': room + 1})
  assert response.status_code == 400 and 'max_length is 60' in response.json()['error']['message']


def test_words_near_to_a_prompt(client, engine):
  found = client.get('/words?model=a').json()['words']
  assert found == [[list(pair) for pair in row] for row in pt.nearest_words(engine.model, np.ones((3, 12), np.float32))]
  for query, status, words in (('', 400, 'NAME'), ('?model=toy', 400, 'NAME'), ('?model=b', 404, '/v1/models'),
                               ('?model=prefix', 400, 'prefix has no vectors')):
    response = client.get(f'/words{query}')
    assert response.status_code == status and words in response.json()['error']['message']


def test_what_the_engine_refuses_is_said(client):
  response = client.post('/v1/completions', json={'model': 'a', 'prompt': 'A' * 60})
  assert response.status_code == 400 and 'max_length' in response.json()['error']['message']
  response = client.post('/v1/chat/completions', json={'model': 'a', 'messages': [{'role': 'usr', 'content': 'a'}]})
  assert response.status_code == 400 and 'user' in response.json()['error']['message']
