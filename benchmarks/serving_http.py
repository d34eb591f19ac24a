"""What HTTP costs beside the engine: the same requests to a server and to an engine in the process, in turn.

  python benchmarks/serving_http.py --model FOLDER         # such as SmolLM2's folder

64 requests of 16 to 48 tokens over 8 prompts of 20 vectors ask for up to 64 new tokens each, all at once, greedy. A
plain client has a thread and a connection for each; streams are read event by event.
"""

import argparse
import concurrent.futures
import http.client
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

import contest
import numpy as np

import prompt_tuning as pt
from prompt_tuning.devices import compilation
from prompt_tuning.serving.engine import Engine
from prompt_tuning.serving.requests import Request

COUNT, NEW, PROMPTS = 64, 64, 8


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--model', required=True, help='the folder of a decoder-only model')
  parser.add_argument('--blocks', type=int, default=3, help='turns of each way')
  options = parser.parse_args()
  compilation.use_cache()
  model, random = pt.load_model(options.model), np.random.default_rng(0)
  inputs = [random.integers(300, model.module.config.vocab_size, random.integers(16, 49)).tolist()
            for _ in range(COUNT)]
  with tempfile.TemporaryDirectory() as folder, Engine(model) as engine:
    for number in range(PROMPTS):
      path = os.path.join(folder, f'prompt{number}.npy')
      np.save(path, (0.05 * random.normal(size=(20, model.width))).astype(np.float32))
      engine.prompts.load(f'prompt{number}', path)
    server = subprocess.Popen([sys.executable, '-m', 'prompt_tuning.programs.command', 'serve', '--model',
                               options.model, '--prompts', folder, '--port', '0'], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True,
                              env={**os.environ, 'PYTHONPATH': str(pathlib.Path(__file__).parents[1])})
    try:
      port = int(re.search(r'http://127\.0\.0\.1:(\d+)', server.stdout.readline())[1])
      ways = {'engine': lambda: in_process(engine, inputs), 'HTTP': lambda: over_http(port, inputs, False),
              'HTTP, streamed': lambda: over_http(port, inputs, True)}
      rates = {name: [] for name in ways}
      for block in range(-1, options.blocks):  # the first one compiles
        for name, way in ways.items():
          start = time.perf_counter()
          tokens = way()
          if block >= 0:
            rates[name].append(tokens / (time.perf_counter() - start))
    finally:
      server.terminate()
      server.wait()
  print('| | tokens/s | engine = 1 |\n|---|---|---|')
  for name, found in rates.items():
    print(f'| {name} | {statistics.median(found):.1f} | {contest.paired_ratio(found, rates["engine"]):.3f} |')


def in_process(engine: Engine, inputs: list[list[int]]) -> int:
  answers = [engine.submit(Request(ids, f'prompt{n % PROMPTS}', max_tokens=NEW)) for n, ids in enumerate(inputs)]
  return sum(len(answer.result().tokens) for answer in answers)


def over_http(port: int, inputs: list[list[int]], stream: bool) -> int:
  def ask(number: int) -> int:
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=600)
    body = {'model': f'prompt{number % PROMPTS}', 'prompt': inputs[number], 'max_tokens': NEW, 'temperature': 0}
    if stream:
      body |= {'stream': True, 'stream_options': {'include_usage': True}}
    connection.request('POST', '/v1/completions', json.dumps(body), {'Content-Type': 'application/json'})
    response = connection.getresponse()
    assert response.status == 200, response.read()
    if not stream:
      return json.loads(response.read())['usage']['completion_tokens']
    events = [line[6:] for line in response if line.startswith(b'data: {')]
    return json.loads(events[-1])['usage']['completion_tokens']

  with concurrent.futures.ThreadPoolExecutor(COUNT) as clients:
    return sum(clients.map(ask, range(len(inputs))))


if __name__ == '__main__':
  main()
