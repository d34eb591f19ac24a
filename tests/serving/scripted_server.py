"""A server of the playground's routes whose answers are scripted, so that a test knows every token and figure."""

import asyncio
import json
import math
import pathlib
import threading

import uvicorn
from starlette.applications import Starlette
from starlette.responses import FileResponse, JSONResponse, StreamingResponse
from starlette.routing import Route

import prompt_tuning

PAGE = pathlib.Path(prompt_tuning.__file__).parent / 'serving/http/playground.html'
BASE = 'SmolLM2-135M'
LONG = ' The plot is thin, but the cast is so warm and the pictures are so fine that you will not mind at all'
# Model -> its answer as tokens, each with its probability.
ANSWERS = {
  BASE: [(' It', .41), (' is', .55), (' a', .38), (' film', .12), (' that', .33), (' is', .29), (' worth', .08),
         (' a', .21), (' look', .17), (' ', .4), ('bytes:\\xf0\\x9f', .2), ('bytes:\\x8e\\xac', .9)],
  'reviews/prompt': [(' positive', .93), ('</s>', .99)],
  'reviews/prefix': [(' positive', .61), ('</s>', .97)],
  'headlines': [(f' {word}' if place else word, .9 - .8 * (place * 7 % 10) / 10)
                for place, word in enumerate(LONG.split())] + [('</s>', .8)],
}
ABOUT = {
  BASE: {},
  'reviews/prompt': {
    'path': 'runs/reviews/prompt', 'model': BASE, 'task': 'reviews.jsonl', 'method': 'PromptTuning', 'step': 600,
    'prompt_length': 20, 'placement': 'before', 'settings': {
      'method': 'prompt', 'template': 'Review: {text}\nSentiment:', 'target_template': ' {label}', 'steps': 600,
      'learning_rate': 0.3},
    'best': {'step': 500, 'objective': 'reviews.jsonl/accuracy', 'value': 91.25,
             'metrics': {'reviews.jsonl/loss': 0.2197460681, 'reviews.jsonl/accuracy': 91.25}}},
  'reviews/prefix': {'path': 'runs/reviews/prefix', 'task': 'reviews.jsonl', 'method': 'Prefix', 'step': 600,
                     'settings': {'method': 'prefix', 'length': 5}},
  'headlines': {'path': 'headlines.npy', 'prompt_length': 8},
  'busy': {'path': 'busy.npy'}, 'broken': {'path': 'broken.npy'},
}
WORDS = [[[' Negative', .2713], ['negative', .2688], ['Negative', .2603]], [[' wis', .32], [' sapp', .31], ['\n', .12]]]


def application(*, key=None, chat=True, pause=0.0, loading=0, more=()):
  """Returns the application.

  Args:
    key: what clients must send.
    chat: the model has a chat template.
    pause: seconds between the tokens of a stream.
    more: names of further prompts.
    loading: so many first requests for the models are answered with 503.
  """
  asked: list[dict] = []
  still_loading = [loading]

  def error(status, message, **headers):
    return JSONResponse({'error': {'message': message, 'type': 'x', 'param': None, 'code': None}}, status,
                        headers={name.replace('_', '-'): value for name, value in headers.items()})

  def refused(request):
    if key is not None and request.headers.get('authorization') != f'Bearer {key}':
      return error(401, 'The API key is wrong or missing.')

  async def models(request):
    if refused(request):
      return refused(request)
    if still_loading[0]:
      still_loading[0] -= 1
      return error(503, 'The model is being loaded.', Retry_After='1')
    return JSONResponse({'object': 'list', 'data': [
      {'id': name, 'object': 'model', 'parent': None if name == BASE else BASE, 'about': about}
      for name, about in [*ABOUT.items(), *((name, {}) for name in more)]]})

  async def words(request):
    if request.query_params['model'] != 'reviews/prompt':
      return error(400, 'The trained tensors are decoder.prefix: they have no vectors among embedded tokens.')
    return JSONResponse({'words': WORDS})

  async def info(request):
    return JSONResponse({'eos_token': '</s>', 'chat_template': '{{ messages }}' if chat else None})

  async def generate(request):
    if refused(request):
      return refused(request)
    fields = await request.json()
    asked.append(fields)
    if fields['model'] == 'busy':
      return error(429, '100 requests wait. Send the request again later.', Retry_After='3')
    return StreamingResponse(stream(fields, 'messages' in fields), media_type='text/event-stream')

  async def stream(fields, chat):
    event = lambda content: f'data: {json.dumps(content)}\n\n'
    if fields['model'] == 'broken':
      yield event({'choices': [choice(chat, ' half', [(' half', .5)], None)]})
      yield event({'error': {'message': 'The engine failed; the log of the server has the reason.'}})
      return
    tokens = ANSWERS[fields['model']]
    cut = tokens[:fields['max_tokens']]
    waiting, whole = b'', ''.join(token for token, _ in cut)
    room = min([whole.index(stop) for stop in fields.get('stop', ()) if stop in whole], default=len(whole))
    for place, (token, share) in enumerate(cut):
      await asyncio.sleep(pause)
      waiting += bytes_of(token) if token != '</s>' else b''
      try:
        text, waiting = waiting.decode(), b''
      except UnicodeDecodeError:
        text = ''
      text, room = text[:room], max(0, room - len(text))
      reason = None if place + 1 < len(cut) else 'length' if len(cut) < len(tokens) or token != '</s>' else 'stop'
      yield event({'choices': [choice(chat, text, [(token, share)], reason)]})
    if fields.get('stream_options'):
      yield event({'choices': [], 'usage': {'prompt_tokens': 3, 'completion_tokens': len(cut), 'total_tokens': 3}})
    yield 'data: [DONE]\n\n'

  made = Starlette(routes=[
    Route('/', lambda request: FileResponse(PAGE)), Route('/v1/models', models), Route('/words', words),
    Route('/tokenizer_info', info), Route('/v1/completions', generate, methods=['POST']),
    Route('/v1/chat/completions', generate, methods=['POST'])])
  made.state.asked = asked
  return made


def bytes_of(token):
  return bytes.fromhex(token[6:].replace('\\x', '')) if token.startswith('bytes:') else token.encode()


def choice(chat, text, tokens, reason):
  """Returns the choice of an event, in the form of a chat or of completions."""
  log = math.log
  others = lambda share: [(' or', (1 - share) * .6), (' another', (1 - share) * .3)]
  if chat:
    content = [{'token': token, 'logprob': log(share), 'bytes': list(bytes_of(token)), 'top_logprobs': [
      {'token': each, 'logprob': log(part), 'bytes': list(bytes_of(each))} for each, part in
      [(token, share), *others(share)]]} for token, share in tokens]
    return {'index': 0, 'delta': {'content': text}, 'logprobs': {'content': content}, 'finish_reason': reason}
  return {'index': 0, 'text': text, 'finish_reason': reason, 'logprobs': {
    'tokens': [token for token, _ in tokens], 'token_logprobs': [log(share) for _, share in tokens],
    'top_logprobs': [{each: log(part) for each, part in [(token, share), *others(share)]} for token, share in tokens]}}


class Running:
  """An application that is served on a free port, in a thread, until `close`."""

  def __init__(self, app):
    self.asked = app.state.asked
    self._server = uvicorn.Server(uvicorn.Config(app, host='127.0.0.1', port=0, log_level='error', lifespan='off'))
    self._thread = threading.Thread(target=self._server.run, daemon=True)
    self._thread.start()
    while not self._server.started:
      self._thread.join(0.02)
    self.address = f'http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}/'

  def close(self):
    """Ends the server."""
    self._server.force_exit = self._server.should_exit = True
    self._thread.join(5)
