"""Mixed load on a server for a long time: python tests/serving/soak.py MINUTES [MODEL FOLDER].

Clients that ask in all ways, vanish, read slowly, send what is wrong, load and drop prompts. At the end no slot is
stuck, memory has not grown, the metrics add up, and nothing but the intended errors has been answered.
"""

import asyncio
import collections
import json
import pathlib
import random
import sys
import tempfile
import time

import httpx2 as httpx
import numpy as np

WRONG = (({'temperature': -1}, 400), ({'model': 'absent'}, 404), ({'max_tokens': 10**6}, 400), ({'prompt': {}}, 400),
         ({'n': 10**6}, 400), ({'unknown': 1}, 400), ({'prompt': [[10**9]]}, 400))


class Soak:
  """The clients of one server.

  Args:
    url: the server's.
    names: the models that requests name; 'changing' is loaded and dropped.
    file: the prompt that 'changing' is loaded from.
    seconds: for which they ask.
  """

  def __init__(self, url: str, names: list[str], file: str, seconds: float):
    self.names, self.file, self.end = names, file, time.monotonic() + seconds
    self.client = httpx.AsyncClient(base_url=url, timeout=120, limits=httpx.Limits(max_connections=200))
    self.counts: collections.Counter[str] = collections.Counter()
    self.faults: list[str] = []
    self.memory: list[int] = []

  async def run(self, clients: int, pid: int) -> dict[str, float]:
    """Asks until the end; returns the server's metrics afterwards."""
    kinds = (self.whole, self.stream, self.vanish, self.slow, self.wrong, self.chat)
    tasks = [self.repeat(kinds[number % len(kinds)]) for number in range(clients)]
    await asyncio.gather(*tasks, self.repeat(self.change), self.watch(pid))
    for _ in range(200):
      found = await self.metrics()
      if not found['vllm:num_requests_running'] and not found['vllm:num_requests_waiting']:
        break
      await asyncio.sleep(0.1)
    return found

  async def repeat(self, kind) -> None:
    while time.monotonic() < self.end:
      try:
        await kind()
        self.counts[kind.__name__] += 1
      except Exception as error:
        self.faults.append(f'{kind.__name__}: {type(error).__name__}: {error}')

  def body(self, **settings) -> dict:
    """Returns a request."""
    return {'model': random.choice(self.names), 'prompt': 'ab ' * random.randrange(1, 12),
            'max_tokens': random.randrange(1, 24), 'temperature': random.choice((0, 0.7, 1.3)),
            'seed': random.randrange(2**32), 'logprobs': random.choice((None, 0, 3)), **settings}

  async def expect(self, response, *statuses: int) -> dict:
    """Returns the body of a response; counts a status that was not intended as a fault."""
    if response.status_code not in statuses:
      raise AssertionError(f'{response.status_code}: {response.text[:200]}')
    return response.json()

  async def whole(self) -> None:
    found = await self.expect(await self.client.post('/v1/completions', json=self.body(n=random.randrange(1, 4))), 200)
    self.counts['tokens'] += found['usage']['completion_tokens']

  async def chat(self) -> None:
    body = {'model': self.names[0], 'messages': [{'role': 'user', 'content': 'Hello'}], 'max_tokens': 12}
    found = await self.expect(await self.client.post('/v1/chat/completions', json=body), 200)
    self.counts['tokens'] += found['usage']['completion_tokens']

  async def stream(self, pause: float = 0.0, most: int = 10**6) -> None:
    body = self.body(stream=True, stream_options={'include_usage': True}, n=random.randrange(1, 3))
    async with self.client.stream('POST', '/v1/completions', json=body) as response:
      assert response.status_code == 200, response.status_code
      count = 0
      async for line in lines(response):
        count += line.startswith('data:')
        if count > most:
          return
        if line.startswith('data: {'):
          event = json.loads(line[6:])
          assert 'error' not in event, event
          self.counts['tokens'] += (event.get('usage') or {}).get('completion_tokens', 0)
        await asyncio.sleep(pause)
      assert most < 10**6 or line == '' or line == 'data: [DONE]', line

  async def slow(self) -> None:
    await self.stream(pause=0.05)

  async def vanish(self) -> None:
    await self.stream(most=random.randrange(3))

  async def wrong(self) -> None:
    change, status = random.choice(WRONG)
    await self.expect(await self.client.post('/v1/completions', json=self.body(**change)), status)

  async def change(self) -> None:
    """Loads a prompt, uses it, and drops it."""
    await self.expect(await self.client.post('/v1/load_prompt', json={
      'prompt_name': 'changing', 'prompt_path': self.file}), 200)
    await self.expect(await self.client.post('/v1/completions', json=self.body(model='changing')), 200)
    await self.expect(await self.client.post('/v1/unload_prompt', json={'prompt_name': 'changing'}), 200)
    await self.expect(await self.client.post('/v1/completions', json=self.body(model='changing')), 404)

  async def watch(self, pid: int) -> None:
    """Notes the server's memory."""
    while time.monotonic() < self.end:
      text = pathlib.Path(f'/proc/{pid}/status').read_text()
      self.memory.append(int(text.split('VmRSS:')[1].split()[0]) // 1024)
      await asyncio.sleep(5)

  async def metrics(self) -> dict[str, float]:
    """Returns the sums of the server's metrics over prompts."""
    sums: collections.Counter[str] = collections.Counter()
    for line in (await self.client.get('/metrics')).text.splitlines():
      if not line.startswith('#'):
        name, _, value = line.rpartition(' ')
        sums[name.partition('{')[0]] += float(value)
    return sums


async def lines(response):
  """Yields the lines of a stream of events, which end with a line feed alone; texts may hold other separators."""
  rest = b''
  async for part in response.aiter_bytes():
    *whole, rest = (rest + part).split(b'\n')
    for line in whole:
      yield line.decode()


def check(soak: Soak, metrics: dict[str, float]) -> None:
  """Raises AssertionError if something is not as it should be."""
  print(dict(soak.counts), f'memory MB: {soak.memory[:3]} … {soak.memory[-3:]}')
  assert not soak.faults, f'{len(soak.faults)} faults, such as {soak.faults[:5]}'
  assert metrics['vllm:num_requests_running'] == metrics['vllm:num_requests_waiting'] == 0, 'a slot is stuck'
  # Those of clients that vanished were generated too, and those of the changing prompt.
  assert metrics['vllm:generation_tokens_total'] >= soak.counts['tokens'] > 0
  settled = soak.memory[len(soak.memory) // 3:]  # after all programs are compiled
  if len(settled) > 20:
    third = len(settled) // 3
    grown = np.median(settled[-third:]) - np.median(settled[:third])
    assert grown < 0.02 * np.median(settled) + 10, f'memory has grown by {grown} MB'


def write_prompts(folder: pathlib.Path, width: int) -> list[str]:
  """Writes prompts into a folder; returns the flags of a server that serves them."""
  from prompt_tuning.evaluation.saved import SavedPrompt

  (folder / 'prompts').mkdir()
  for length in (2, 5, 9):
    SavedPrompt(np.random.default_rng(length).normal(size=(length, width)).astype(np.float32)).save(
      str(folder / f'prompts/p{length}.safetensors'))
  return ['--prompts', str(folder / 'prompts'), '--loadable', str(folder), '--served_model_name', 'base']


def load(server, folder: pathlib.Path, seconds: float) -> None:
  """Puts load on a server of `write_prompts`' flags. Raises AssertionError if something is not as it should be."""
  soak = Soak(server.url, ['base', 'p2', 'p5', 'p9'], str(folder / 'prompts/p9.safetensors'), seconds)
  check(soak, asyncio.run(soak.run(40, server.process.pid)))


def main() -> None:
  import chat_toys
  from test_server_process import Process

  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    model = sys.argv[2] if len(sys.argv) > 2 else chat_toys.write_model(folder / 'toy')
    width = json.loads((pathlib.Path(model) / 'config.json').read_text())['hidden_size']
    with Process(model, *write_prompts(folder, width)) as server:
      try:
        load(server, folder, 60 * float(sys.argv[1]))
      except AssertionError:
        # Without the access log, and what asyncio says of clients that vanished.
        errors = [line for line in server.log().splitlines() if ' /v1/' not in line and 'socket.send()' not in line]
        print('\n'.join(errors)[-20_000:])
        raise
  print('Nothing is wrong.')


if __name__ == '__main__':
  sys.path[:0] = [str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parents[1])]
  main()
