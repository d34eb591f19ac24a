"""What clients send and get, on an engine whose answers are scripted."""

import json
import logging
import threading
import time

import pytest

pytest.importorskip('starlette', reason="needs `pip install '.[serve]'`")

from fake_engine import FakeEngine
from starlette.testclient import TestClient

from prompt_tuning.serving.http.app import application
from prompt_tuning.serving.http.service import Limits, Service
from prompt_tuning.serving.requests import Piece


def client(engine=None, *, loading=False, **settings):
  service = Service('toy', **settings)
  if not loading:
    service.serve(engine or FakeEngine())
  return TestClient(application(service), raise_server_exceptions=False)


def complete(to, **fields):
  return to.post('/v1/completions', json={'model': 'toy', 'prompt': '3 4', 'max_tokens': 3, **fields})


def events(response):
  found = [line.removeprefix('data: ') for line in response.text.split('\n\n') if line]
  assert found[-1] == '[DONE]'
  return [json.loads(each) for each in found[:-1]]


def refused(response, status, *words):
  assert response.status_code == status, response.text
  error = response.json()['error']
  assert set(error) == {'message', 'type', 'param', 'code'}
  for word in words:
    assert word in error['message'], error
  return error


def test_a_completion():
  found = complete(client(), model='a/x').json()
  assert found['object'] == 'text_completion' and found['model'] == 'a/x' and found['id'].startswith('cmpl-')
  assert found['choices'] == [{'index': 0, 'text': '5 6 7', 'logprobs': None, 'finish_reason': 'length'}]
  assert found['usage'] == {'prompt_tokens': 2, 'completion_tokens': 3, 'total_tokens': 5}


def test_settings_reach_the_engine_and_defaults_are_those_of_the_api():
  engine = FakeEngine()
  to = client(engine)
  complete(to, model='toy:a/y', temperature=0.5, top_p=0.9, top_k=7, min_p=0.1, stop=['x', 'y'], seed=-1, n=2,
           frequency_penalty=0, logit_bias={}, user='me', suffix=None, best_of=1)
  first, second = (answer.request for answer in engine.answers)
  assert (first.prompt, first.temperature, first.topp, first.topk, first.minp, first.stop, first.seed) == (
    'a/y', 0.5, 0.9, 7, 0.1, ('x', 'y'), 2**32 - 1)
  assert (first.number, second.number, second.seed) == (0, 1, first.seed)
  to.post('/v1/completions', json={'model': 'toy', 'prompt': [3, 4], 'stop': 'z', 'top_k': -1})
  last = engine.answers[-1].request
  assert (list(last.ids), last.prompt, last.max_tokens, last.temperature, last.topp, last.topk, last.top) == (
    [3, 4], None, 16, 1.0, 0.0, 0, None) and last.stop == ('z',)


@pytest.mark.parametrize('prompt, rows', [('3 4', 1), (['3', '4 5'], 2), ([3, 4], 1), ([[3], [4, 5], [6]], 3)])
def test_the_four_forms_of_a_prompt(prompt, rows):
  found = complete(client(), prompt=prompt, n=2).json()
  assert [choice['index'] for choice in found['choices']] == list(range(2 * rows))
  assert found['usage']['completion_tokens'] == 6 * rows


def test_log_probabilities_of_an_echo_as_lm_eval_reads_them():
  found = complete(client(), prompt=[[3, 4, 6]], max_tokens=1, temperature=0, logprobs=1, seed=1234, echo=True).json()
  scores = found['choices'][0]['logprobs']
  assert found['choices'][0]['text'] == '3 4 65'
  assert scores['token_logprobs'] == [None, -1.0, -1.5, -1.25]
  assert scores['top_logprobs'][0] is None and scores['top_logprobs'][2] == {' 4': -0.25, ' 6': -1.5}
  assert scores['tokens'] == ['3', ' 4', ' 6', '5'] and scores['text_offset'] == [0, 1, 3, 5]


def test_an_input_is_scored_without_an_answer():
  found = complete(client(), max_tokens=0, echo=True, logprobs=0).json()
  assert found['choices'][0]['text'] == '3 4' and found['choices'][0]['logprobs']['token_logprobs'] == [None, -1.0]
  assert found['usage']['completion_tokens'] == 0
  assert complete(client(), echo=True).json()['choices'][0]['text'] == '3 45 6 7'


def test_a_stream():
  response = complete(client(), stream=True, n=2, stream_options={'include_usage': True}, echo=True, logprobs=1)
  assert response.headers['content-type'].startswith('text/event-stream')
  *parts, last = events(response)
  assert last['choices'] == [] and last['usage'] == {'prompt_tokens': 2, 'completion_tokens': 6, 'total_tokens': 8}
  assert all(part['usage'] is None and part['id'] == last['id'] for part in parts)
  for index in (0, 1):
    own = [part['choices'][0] for part in parts if part['choices'][0]['index'] == index]
    assert ''.join(each['text'] for each in own) == '3 45 6 7'
    assert [each['finish_reason'] for each in own] == [None] * 3 + ['length']
    assert [offset for each in own for offset in each['logprobs']['text_offset']] == [0, 1, 3, 4, 6]


@pytest.mark.parametrize('fields, param, words', [
  ({'temperature': -1}, 'temperature', '>= 0'), ({'temperature': 'hot'}, 'temperature', 'hot'),
  ({'top_p': 0}, 'top_p', '> 0'), ({'max_tokens': 1.5}, 'max_tokens', 'int'), ({'max_tokens': True}, 'max_tokens', ''),
  ({'n': 17}, 'n', '16'), ({'n': 0}, 'n', ''), ({'stop': ['']}, 'stop', ''), ({'stop': ['a'] * 17}, 'stop', '16'),
  ({'logprobs': 21}, 'logprobs', '20'), ({'best_of': 2}, 'best_of', 'not supported'), ({'suffix': 'x'}, 'suffix', ''),
  ({'logit_bias': {'5': 1}}, 'logit_bias', 'not supported'), ({'presence_penalty': 0.5}, 'presence_penalty', ''),
  ({'prompt_embeds': 'AA=='}, 'prompt_embeds', 'not supported'), ({'temprature': 1}, 'temprature', 'temperature'),
  ({'max_tokens': 0}, 'max_tokens', 'echo'), ({'prompt': ''}, 'prompt', 'empty'), ({'prompt': []}, 'prompt', 'empty'),
  ({'prompt': ['3', 4]}, 'prompt', r'prompt[1]=4'), ({'prompt': 3}, 'prompt', 'str'),
  ({'prompt': [True]}, 'prompt', ''), ({'model': None}, 'model', 'missing'),
  ({'stream_options': {'x': 1}}, 'stream_options', 'x'),
  ({'prompt': [[3]] * 70, 'n': 16}, 'prompt', '1120 generations'), ({'seed': 2**70}, 'seed', '')])
def test_fields_that_cannot_be_used_are_named(fields, param, words):
  assert refused(complete(client(), **fields), 400, words)['param'] == param


@pytest.mark.parametrize('fields, words', [
  ({'prompt': [3, 50]}, ('token id 50', '50 rows')), ({'prompt': [-1]}, ('token id -1',)),
  ({'prompt': 'abc'}, ('abc',)), ({'max_tokens': 63}, ('max_length is 64',)), ({'prompt': [2**80]}, ('rows',))])
def test_inputs_that_cannot_be_read_are_named(fields, words):
  refused(complete(client(), **fields), 400, *words)


@pytest.mark.parametrize('body, words', [
  (b'{"model": "toy", "prompt": "3", "temperature": NaN}', 'NaN'), (b'{"model": "toy"', 'not JSON'), (b'', 'not JSON'),
  (b'\xff', 'not JSON'), (b'[1]', 'expected a JSON object'), (b'{"a":' * 5000, 'nested'),
  (b'{"model": "toy", "prompt": "3", "temperature": 1e999}', 'not JSON'),
  (b'{"model": "toy", "prompt": "\\ud800"}', 'not JSON')])
def test_bodies_that_are_no_json_object(body, words):
  refused(client().post('/v1/completions', content=body), 400, words)


def test_an_unknown_model_is_answered_with_the_nearest():
  error = refused(complete(client(), model='a/z'), 404, 'a/x', 'a/y', '/v1/models')
  assert error['code'] == 'model_not_found' and error['param'] == 'model'
  refused(client().get('/v1/models/toys'), 404, 'toy')


def test_models_are_listed_with_what_their_files_say():
  to = client()
  base, first, _ = to.get('/v1/models').json()['data']
  assert (base['id'], base['parent'], base['about'], base['object']) == ('toy', None, {}, 'model')
  assert (first['id'], first['parent'], first['about']['step'], first['root']) == ('a/x', 'toy', 7, 'x.npy')
  assert to.get('/v1/models/a/x').json() == first


def test_prompts_are_loaded_and_unloaded(tmp_path):
  (tmp_path / 'runs').mkdir()
  (tmp_path / 'runs/new.npy').write_bytes(b'')
  (tmp_path / 'secret.npy').write_bytes(b'')
  (tmp_path / 'runs/link').symlink_to(tmp_path / 'secret.npy')
  (tmp_path / 'runs/run').mkdir()
  (tmp_path / 'runs/run/best.safetensors').symlink_to(tmp_path / 'secret.npy')
  to = client(loadable=str(tmp_path / 'runs'))
  load = lambda path, name='new': to.post('/v1/load_prompt', json={'prompt_name': name, 'prompt_path': path})
  assert load('new.npy').status_code == 200 and load(str(tmp_path / 'runs/new.npy')).status_code == 200
  assert complete(to, model='new').status_code == 200
  for path in ('../secret.npy', str(tmp_path / 'secret.npy'), 'link', 'run', '/etc/passwd', 'new.npy/../../secret.npy',
               'a\0b', str(tmp_path / 'runs2')):
    refused(load(path), 403)
  refused(load('new.npy', 'toy'), 400, 'base')
  assert to.post('/v1/unload_prompt', json={'prompt_name': 'new'}).status_code == 200
  refused(to.post('/v1/unload_prompt', json={'prompt_name': 'new'}), 404, 'new')
  refused(complete(to, model='new'), 404)
  refused(client().post('/v1/load_prompt', json={'prompt_name': 'a', 'prompt_path': 'b'}), 403, '--loadable')
  refused(client().post('/v1/unload_prompt', json={'prompt_name': 'a/x'}), 403, '--loadable')


def test_a_key_is_asked_for_except_by_probes():
  to = client(api_key='secret')
  refused(complete(to), 401, 'Bearer')
  for wrong in ('Bearer wrong', 'secret', 'Bearer sécret'.encode()):
    refused(to.get('/v1/models', headers={'Authorization': wrong}), 401)
  assert to.get('/v1/models', headers={'Authorization': 'Bearer secret'}).status_code == 200
  assert [to.get(path).status_code for path in ('/health', '/ready', '/metrics', '/')] == [200] * 4
  assert to.get('/').headers['content-type'].startswith('text/html')
  assert client().get('/v1/models', headers={'Authorization': 'Bearer any'}).status_code == 200


def test_a_large_body_is_refused_before_it_is_read():
  to, read = client(limits=Limits(body=1000)), []

  def parts():
    for _ in range(100):
      read.append(1)
      yield b' ' * 100

  refused(to.post('/v1/completions', content=parts()), 413, '1,000')
  refused(to.post('/v1/completions', content=b'{}', headers={'Content-Length': str(100 * 2**20)}), 413)


def test_a_full_queue_is_said_and_recovers():
  engine = FakeEngine(held=True, queue=2)
  to = client(engine)
  response = complete(to, n=3)
  assert int(response.headers['retry-after']) >= 1 and refused(response, 429)['type'] == 'rate_limit_error'
  assert not engine.waiting  # those that had been taken are given up
  engine.held = False
  assert complete(to, n=2).status_code == 200


def test_nothing_is_taken_while_the_model_loads_or_the_server_ends():
  to = client(loading=True)
  assert to.get('/health').status_code == 200 and refused(to.get('/ready'), 503)['code'] == 'loading'
  refused(complete(to), 503)
  engine = FakeEngine()
  engine.draining = True
  assert refused(complete(client(engine)), 503)['code'] == 'draining'


def test_a_failing_engine_answers_500():
  for fields in ({}, {'stream': True}):
    engine = FakeEngine(held=True)
    to = client(engine)
    threading.Thread(target=fail_while_it_works, args=[engine], daemon=True).start()
    response = complete(to, **fields)
    if fields:
      assert json.loads(response.text.removeprefix('data: '))['error']['code'] == 'engine_failed'
      assert '[DONE]' not in response.text
    else:
      refused(response, 500, 'log')
    refused(complete(to), 500)
    assert to.get('/health').status_code == 500


def fail_while_it_works(engine):
  while not engine.waiting:
    time.sleep(0.005)
  engine.fail()


def test_an_answer_that_takes_too_long_is_a_504():
  engine = FakeEngine(held=True)

  def give_up():
    while not engine.waiting:
      time.sleep(0.005)
    (answer,) = engine.waiting
    answer.done = True
    answer.deliver(Piece(ended='timeout'))

  threading.Thread(target=give_up, daemon=True).start()
  error = refused(complete(client(engine, limits=Limits(seconds=2.5))), 504, '2.5 s')
  assert error['code'] == 'timeout' and engine.answers[0].request.timeout == 2.5


def test_what_the_engine_cannot_foresee_is_no_stack_trace(caplog):
  engine = FakeEngine()
  engine.submit = lambda *_: 1 / 0
  response = complete(client(engine))
  refused(response, 500, 'x-request-id')
  assert response.headers['x-request-id']


@pytest.mark.parametrize('stream', [False, True])
def test_a_client_that_leaves_frees_its_answers(stream):
  import anyio

  engine = FakeEngine(held=True)
  service = Service('toy')
  service.serve(engine)
  body = json.dumps({'model': 'toy', 'prompt': '3', 'n': 2, 'stream': stream}).encode()

  async def run():
    messages = [{'type': 'http.request', 'body': body, 'more_body': False}]

    async def receive():
      if messages:
        return messages.pop()
      while len(engine.answers) < 2:
        await anyio.sleep(0.005)
      return {'type': 'http.disconnect'}

    async def send(message):
      pass

    scope = {'type': 'http', 'method': 'POST', 'path': '/v1/completions', 'raw_path': b'/v1/completions', 'headers': [],
             'query_string': b'', 'root_path': '', 'scheme': 'http', 'server': ('a', 1), 'client': ('b', 2),
             'asgi': {'version': '3.0', 'spec_version': '2.3'}, 'http_version': '1.1'}
    await application(service)(scope, receive, send)

  anyio.run(run)
  assert len(engine.answers) == 2 and not engine.waiting


def test_request_ids_and_the_access_log(caplog):
  caplog.set_level(logging.INFO, logger='prompt_tuning.serving.access')
  assert complete(client()).headers['x-request-id']
  response = client().post('/v1/completions', json={'model': 'a/x', 'prompt': '33 44', 'max_tokens': 3},
                           headers={'x-request-id': 'mine'})
  assert response.headers['x-request-id'] == 'mine'
  line = caplog.messages[-1]
  assert line.startswith('mine testclient POST /v1/completions 200 ')
  assert 'model=a/x' in line and 'prompt_tokens=2 completion_tokens=3' in line and '33' not in line
  complete(client(log_texts=True), prompt='33 44')
  assert '"33 44"' in caplog.messages[-1] and '"5 6 7"' in caplog.messages[-1]
  assert client().get('/health', headers={'x-request-id': 'a' * 200}).headers['x-request-id'] != 'a' * 200


def test_metrics_have_the_names_of_vllm_and_add_up():
  to = client()
  complete(to, model='a/x', n=2)
  complete(to, stream=True)
  complete(to, temperature=-1)
  lines = dict(line.rsplit(' ', 1) for line in to.get('/metrics').text.splitlines() if not line.startswith('#'))
  number = lambda name: float(lines[name])
  assert number('vllm:prompt_tokens_total{model_name="a/x"}') == 2
  assert number('vllm:generation_tokens_total{model_name="a/x"}') == 6
  assert number('vllm:generation_tokens_total{model_name="toy"}') == 3
  assert number('vllm:request_success_total{finished_reason="length",model_name="a/x"}') == 2
  assert number('vllm:time_to_first_token_seconds_count{model_name="toy"}') == 1
  assert number('vllm:e2e_request_latency_seconds_count{model_name="a/x"}') == 2
  assert number('vllm:num_requests_running{model_name="toy"}') == number('vllm:num_requests_waiting{model_name="toy"}')
  assert number('prompt_tuning:http_requests_total{method="POST",route="/v1/completions",status="400"}') == 1


def test_the_remote_tokenizer_of_lm_eval():
  to = client()
  assert to.post('/tokenize', json={'prompt': '3 4', 'add_special_tokens': False}).json()['tokens'] == [3, 4]
  assert to.post('/detokenize', json={'tokens': [3, 4, 1]}).json() == {'prompt': '3 41'}
  info = to.get('/tokenizer_info').json()
  assert set(info) == {'eos_token', 'bos_token', 'pad_token', 'chat_template'} and info['eos_token'] == '1'
  refused(to.post('/detokenize', json={'tokens': [50]}), 400, '50')


def test_a_model_without_a_template_takes_no_chats():
  refused(client().post('/v1/chat/completions', json={'model': 'toy', 'messages': [{'role': 'user', 'content': '3'}]}),
          400, 'chat')


def test_unknown_routes_list_those_there_are():
  refused(client().get('/v1/completion'), 404, '/v1/completions')
  refused(client().get('/v1/completions'), 405)
