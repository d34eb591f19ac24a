"""The engine under load, beside one slot, one static batch, and PEFT that switches adapters between requests.

  python benchmarks/serving.py                             # GPT-2 small's shape, random weights
  python benchmarks/serving.py --model FOLDER              # a model of yours, such as SmolLM2's folder
  python benchmarks/serving.py --dtype bfloat16 --peer_dtype float32
  python benchmarks/serving.py --peer_python path/to/python

Requests of 16 to 64 tokens over 32 prompts of 20 vectors ask for 64 new tokens each, greedy, float32 unless --dtype
says otherwise (with bfloat16, our products are rounded to it too); no token ends them earlier. "All at once": so many
requests arrive together. "At a steady rate": they arrive one by one, at 70 % of the rate at which the engine answered
64 at once. Contestants take turns; one slot and PEFT answer 8 requests a turn. The limit is the time that the machine
needs for the products alone: every weight is read once a token at its bandwidth, or multiplied with all rows at its
matrix rate, whichever is slower.
"""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import statistics
import sys
import threading
import time
from typing import Any

import contest
import numpy as np

NEW, PROMPTS, LENGTH, FEW = 64, 32, 20, 8
CONCURRENT = (1, 8, 32, 64)
DTYPES = ('float32', 'bfloat16')


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--model', help="a folder; none is GPT-2 small's shape")
  parser.add_argument('--blocks', type=int, default=3, help='turns of each contestant')
  parser.add_argument('--dtype', default='float32', choices=DTYPES, help='of the weights')
  parser.add_argument('--peer_dtype', choices=DTYPES, help="of PEFT's; the same unless given")
  parser.add_argument('--peer_python', default=sys.executable, help='an interpreter that can import peft')
  parser.add_argument('--without_peer', action='store_true', help='leave PEFT out')
  parser.add_argument('--contestant', choices=['ours', 'peft'], help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.contestant:
    {'ours': ours, 'peft': peft_generate}[options.contestant](options.model, options.dtype)
    return
  command = [str(pathlib.Path(__file__)), *(['--model', options.model] if options.model else [])]
  with contextlib.ExitStack() as stack:
    start = lambda name, python, dtype: stack.enter_context(
      contest.Contestant([python, *command, '--dtype', dtype, '--contestant', name]))
    ask = start('ours', sys.executable, options.dtype).ask
    peer = None if options.without_peer else start('peft', options.peer_python, options.peer_dtype or options.dtype).ask
    print(f'Starting: {ask("start"):.0f} s. A prompt: {ask("size") / 1000:.1f} kB; loading 1,000 of them: '
          f'{ask("thousand"):.2f} s.', flush=True)
    names = [*(f'at_once {count}' for count in CONCURRENT), 'one_slot', 'predict', *(['peft'] if peer else [])]
    rates: dict[str, list[float]] = {name: [] for name in names}
    limits, first, between = [], {}, {}
    for block in range(-1, options.blocks):  # the first one compiles
      limit = ask('limit')
      for name in names:
        found = peer('run') if name == 'peft' else ask(name)
        if block >= 0:
          rates[name].append(found['rate'])
          first.setdefault(name, []).extend(found.get('first', []))
          between.setdefault(name, []).extend(found.get('between', []))
      if block >= 0:
        limits.append(limit)
    steady = ask(f'steady {0.7 * statistics.median(rates["at_once 64"]) / NEW}')
  report(rates, first, between, steady, limits)


def report(rates: Any, first: Any, between: Any, steady: Any, limits: Any) -> None:
  """Prints the tables."""
  best = rates['at_once 64']
  limit = statistics.median(limits)
  print(f'\nThe products alone would allow {limit:.0f} tokens/s with 64 rows.\n')
  print('| | tokens/s | requests/s | 64 at once = 1 | to the first token, s: p50 | p99 | between tokens, ms: p50 '
        '| p99 |\n|---|---|---|---|---|---|---|---|')
  rows = {**{name: (statistics.median(found), contest.paired_ratio(best, found), first[name], between[name])
             for name, found in rates.items()},
          'at a steady rate': (steady['rate'], None, steady['first'], steady['between'])}
  at = lambda values, share, scale=1.0, digits=2: f'{scale * np.quantile(values, share):.{digits}f}' if values else ''
  for name, (rate, ratio, own_first, own_between) in rows.items():
    print(f'| {name.replace("_", " ")} | {rate:.1f} | {rate / NEW:.2f} | {"" if ratio is None else f"1/{ratio:.2f}"} '
          f'| {at(own_first, 0.5)} | {at(own_first, 0.99)} | {at(own_between, 0.5, 1000, 0)} '
          f'| {at(own_between, 0.99, 1000, 0)} |')


def texts(vocabulary: int) -> list[list[int]]:
  random = np.random.default_rng(0)
  return [random.integers(3, vocabulary, random.integers(16, 65)).tolist() for _ in range(max(CONCURRENT))]


def vectors(width: int) -> list[np.ndarray]:
  random = np.random.default_rng(1)
  return [0.05 * random.normal(size=(LENGTH, width)).astype(np.float32) for _ in range(PROMPTS)]


def ours(folder: str | None, dtype: str) -> None:
  """Answers with the engine, and with `predict`."""
  if dtype == 'bfloat16':
    os.environ.setdefault('JAX_DEFAULT_MATMUL_PRECISION', dtype)
  import jax
  import jax.numpy as jnp
  from our_step import frozen_model, made
  from sizes import SIZES

  import prompt_tuning as pt
  from prompt_tuning.devices import compilation
  from prompt_tuning.serving.engine import Engine
  from prompt_tuning.serving.requests import Request

  if folder:
    model = pt.load_model(folder, dtype=dtype)
  else:
    module, batches = made(SIZES['gpt2'])
    model = frozen_model(module, batches[0], dtype)
  model = dataclasses.replace(model, vocabulary=None, ends=(-1,))  # no token ends an answer
  compilation.use_cache()
  inputs, prompts = texts(model.module.config.vocab_size), vectors(model.width)
  engines = {}

  def engine(slots: int) -> Engine:
    if slots not in engines:
      engines[slots] = Engine(model, slots=slots).start()
      for number, prompt in enumerate(prompts):
        engines[slots].prompts.load(f'prompt{number}', prompt)
    return engines[slots]

  def ask(slots: int, count: int, gaps: float = 0.0) -> dict[str, Any]:
    """Returns the tokens per second of so many requests, the seconds to first tokens and those between tokens."""
    running = engine(slots)
    arrived, ended, left = {}, [[] for _ in range(count)], threading.Semaphore(0)

    def receiver(number: int):
      def deliver(piece: Any) -> None:
        ended[number].append(time.perf_counter())
        if piece.ended:
          assert piece.ended == 'length', piece
          left.release()
      return deliver

    start = time.perf_counter()
    for number in range(count):
      arrived[number] = time.perf_counter()
      running.submit(Request(inputs[number], f'prompt{number % PROMPTS}', max_tokens=NEW), receiver(number))
      if gaps:
        time.sleep(gaps)
    for _ in range(count):
      left.acquire()
    seconds = time.perf_counter() - start
    return {'rate': count * NEW / seconds, 'first': [own[0] - arrived[number] for number, own in enumerate(ended)],
            'between': np.concatenate([np.diff(own) for own in ended]).tolist()}

  def predict() -> dict[str, Any]:
    count = max(CONCURRENT)
    seconds = contest.seconds(lambda: model.predict(inputs, [prompts[b % PROMPTS] for b in range(count)],
                                                    max_length=NEW, batch_size=count))
    return {'rate': count * NEW / seconds}

  def limit() -> float:
    """Returns tokens per second of 64 rows, if a step took what reading all weights, or multiplying them, takes."""
    weights = sum(array.size for array in jax.tree.leaves(model.params))
    left, right = jnp.ones((64, 1024)), jnp.ones((1024, 4096))
    product = jax.jit(jnp.dot)
    jax.block_until_ready(product(left, right))
    rate = 2 * 64 * 1024 * 4096 * 20 / min(
      contest.seconds(lambda: jax.block_until_ready([product(left, right) for _ in range(20)])) for _ in range(5))
    return 64 / max(4 * weights / contest.bandwidth(), 2 * 64 * weights / rate)

  def thousand() -> float:
    loaded = engine(max(CONCURRENT)).prompts
    seconds = contest.seconds(lambda: [loaded.load(f'more{n}', prompts[n % PROMPTS]) for n in range(1000)])
    for number in range(1000):
      loaded.drop(f'more{number}')
    return seconds

  most = max(CONCURRENT)
  commands = {f'at_once {count}': lambda count=count: ask(most, count) for count in CONCURRENT}
  commands |= {'one_slot': lambda: ask(1, FEW), 'predict': predict, 'limit': limit, 'thousand': thousand,
               'start': lambda: contest.seconds(lambda: engine(most)),
               'size': lambda: prompts[0].nbytes, 'steady': lambda rate: ask(most, most, 1 / float(rate))}
  serve(commands)


def peft_generate(folder: str | None, dtype: str) -> None:
  """Answers with PEFT, one request after the other, each with its own adapter."""
  import peft
  import torch
  import transformers
  from sizes import SIZES

  if folder:
    frozen = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
  else:
    size = SIZES['gpt2']
    frozen = transformers.GPT2LMHeadModel(transformers.GPT2Config(
      vocab_size=size.vocabulary, n_embd=size.width, n_head=size.heads, n_layer=size.layers,
      n_inner=size.mlp_dim)).to(getattr(torch, dtype))
  config = peft.PromptTuningConfig(task_type='CAUSAL_LM', num_virtual_tokens=LENGTH)
  inputs, prompts = texts(frozen.config.vocab_size), vectors(frozen.config.hidden_size)
  model = peft.get_peft_model(frozen, config, adapter_name='prompt0').eval()
  for number in range(1, PROMPTS):
    model.add_adapter(f'prompt{number}', config)
  for number, prompt in enumerate(prompts):
    model.prompt_encoder[f'prompt{number}'].embedding.weight.data = torch.tensor(prompt)

  @torch.no_grad()
  def run() -> dict[str, float]:
    def answer(number: int) -> None:
      model.set_adapter(f'prompt{number % PROMPTS}')
      ids = torch.tensor([inputs[number]])
      found = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW,
                             min_new_tokens=NEW, pad_token_id=0)
      assert found.shape[1] == ids.shape[1] + NEW
    return {'rate': FEW * NEW / contest.seconds(lambda: [answer(number) for number in range(FEW)])}

  serve({'run': run})


def serve(commands: Any) -> None:
  """Answers commands, see `contest.serve`; 'steady' has an argument."""
  import json

  answers, sys.stdout = sys.stdout, sys.stderr
  for line in sys.stdin:
    name, argument = line.strip(), ()
    if name.startswith('steady'):
      name, *argument = name.split()
    print(json.dumps(commands[name](*argument)), file=answers, flush=True)


if __name__ == '__main__':
  main()
