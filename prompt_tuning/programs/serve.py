"""Serves a frozen model and its prompts over HTTP to clients of OpenAI's API (docs/serving.md).

  prompt-tuning serve --model /models/qwen --prompts runs
  curl http://127.0.0.1:8000/v1/completions -d '{"model": "reviews", "prompt": "Good film!", "max_tokens": 8}'

Every run, .npy and .safetensors file and PEFT folder below --prompts is served under its path, without the file ending.
"""

import argparse
import importlib
import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from prompt_tuning.files import terminal
from prompt_tuning.names import printable, require_number, translated
from prompt_tuning.programs import arguments

KEY = 'PROMPT_TUNING_API_KEY'  # an environment variable, which the list of processes does not show
_UNITS = {'': 1, 'B': 1, 'KIB': 2**10, 'MIB': 2**20, 'GIB': 2**30, 'TIB': 2**40, 'KB': 10**3, 'MB': 10**6, 'GB': 10**9,
          'TB': 10**12}
_SECONDS = 5.0  # between two checks of the folder with --watch
_LIMITS = {'slots': 1, 'model_parallel': 1, 'max_length': 2, 'queue': 1, 'max_n': 1, 'port': 0}  # the smallest values


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit status."""
  terminal.open_streams()
  parser = _parser()
  words = {action.dest: action.option_strings[0] for action in parser._actions if action.option_strings}
  try:
    with terminal.worded(lambda text: translated(text, words)):
      return _run(parser.parse_args(argv))
  except (ValueError, OSError, ImportError, MemoryError) as error:
    message = translated(str(error) or 'There is not enough memory.', words)
    terminal.say(f'prompt-tuning serve: {printable(message)}')
    return 2


def _parser() -> argparse.ArgumentParser:
  parser = arguments.Parser(prog='prompt-tuning serve', description=__doc__,
                            formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--model', metavar='FOLDER', required=True, help='the frozen model')
  parser.add_argument('--served_model_name', metavar='NAME', help="the base model's name (its folder's)")
  parser.add_argument('--prompts', metavar='FOLDER', help='the folder below which prompts are served')
  parser.add_argument('--watch', action='store_true', help='load prompts that are added or changed')
  parser.add_argument('--loadable', metavar='FOLDER', help='let clients load prompts below this folder, and unload any')
  parser.add_argument('--host', metavar='ADDRESS', default='127.0.0.1', help='to listen on (127.0.0.1)')
  parser.add_argument('--port', type=int, metavar='NUMBER', default=8000, help='to listen on; 0: a free one (8000)')
  parser.add_argument('--api_key', metavar='KEY', help=f'the bearer token that clients must send; {KEY} in the '
                                                       'environment hides it from the list of processes')
  parser.add_argument('--slots', type=int, metavar='NUMBER', default=64, help='generations that run at once (64)')
  parser.add_argument('--max_length', type=int, metavar='TOKENS', default=2048,
                      help='most positions of a prompt, an input and its generation together (2048)')
  parser.add_argument('--queue', type=int, metavar='NUMBER', default=1024, help='most requests that wait (1024)')
  parser.add_argument('--prompt_memory', metavar='BYTES', default='1GiB',
                      help='for the keys and values of prompts that are kept (1GiB)')
  parser.add_argument('--cache_memory', metavar='BYTES', default='4GiB',
                      help='for the KV caches of running generations; others wait until there is room (4GiB)')
  parser.add_argument('--timeout', type=float, metavar='SECONDS',
                      help='limit for a generation, waiting included (none)')
  parser.add_argument('--model_parallel', type=int, metavar='DEVICES', default=1,
                      help='devices over which heads, hidden width and vocabulary are split (1)')
  parser.add_argument('--max_body', metavar='BYTES', default='16MiB', help='the largest body of a request (16MiB)')
  parser.add_argument('--max_n', type=int, metavar='NUMBER', default=16, help='most generations for one input (16)')
  parser.add_argument('--log_texts', action='store_true', help='write inputs and generations to the access log too')
  parser.add_argument('--dtype', default='float32', help='type of the frozen parameters in memory (float32)')
  parser.add_argument('--rotary_length', type=int, metavar='POSITIONS', default=0,
                      help='positions that rows may have, in models that scale rotary positions by it (those it was '
                           'first trained with)')
  return parser


def _run(flags: argparse.Namespace) -> int:
  for name, least in _LIMITS.items():
    require_number(name, getattr(flags, name), least=least, whole=True, **({'below': 2**16} if name == 'port' else {}))
  memory, caches, body = (_bytes(name, getattr(flags, name)) for name in ('prompt_memory', 'cache_memory', 'max_body'))
  if flags.timeout is not None and not 0 < flags.timeout < float('inf'):
    raise ValueError(f'timeout={flags.timeout} cannot be used: expected a number of seconds above 0.')
  name = flags.served_model_name or os.path.basename(os.path.abspath(flags.model))
  if not name.isprintable() or name != name.strip():
    raise ValueError(f'served_model_name={name!r} cannot be used: expected printable characters, and no space at '
                     'either end.')
  if flags.watch and flags.prompts is None:
    raise ValueError('--watch looks for prompts below --prompts FOLDER. Give the folder, or leave --watch out.')
  for setting in ('prompts', 'loadable'):
    folder = getattr(flags, setting)
    if folder is not None and not os.path.isdir(folder):
      raise NotADirectoryError(f'{setting}={folder} is not a folder. Give one that exists.')
  key = flags.api_key if flags.api_key is not None else os.environ.get(KEY) or None
  if key is not None and not (key and key.isascii() and key.isprintable() and key == key.strip()):
    raise ValueError('The API key cannot be sent in a header: expected ASCII characters, and no space at either end.')
  server = importlib.import_module('prompt_tuning.serving.http.server')  # says how to install what it needs
  from prompt_tuning.serving.http.service import Limits, Service

  service = Service(name, api_key=key, loadable=flags.loadable, log_texts=flags.log_texts,
                    limits=Limits(body, flags.max_n, flags.slots + flags.queue, flags.timeout))
  with server.listen(flags.host, flags.port) as listening:
    if key is None and flags.host not in ('127.0.0.1', 'localhost', '::1'):
      terminal.say(f'Anyone who reaches {server.address(listening)} can use it: no key is set. Set --api_key or '
                   f'{KEY} unless the network is trusted.')
    status = server.Server(service).run_with(listening, lambda: _started(
      flags, service, memory, caches, server.address(listening)))
  if service.failed or service.draining:
    # Threads of the engine may still run compiled programs, which an orderly exit of Python would wait for.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  return status


def _started(flags: argparse.Namespace, service: Any, memory: int, caches: int, address: str) -> Any:
  """Loads model and prompts, starts and serves the engine, says where it is reached, and returns it."""
  from prompt_tuning.devices import compilation
  from prompt_tuning.models.loading import load_model
  from prompt_tuning.serving.engine import Engine
  from prompt_tuning.serving.prompt_folder import PromptFolder

  compilation.use_cache()
  begun = time.perf_counter()
  length = {'rotary_length': flags.rotary_length} if flags.rotary_length else {}
  model = load_model(flags.model, dtype=flags.dtype, mesh=_mesh(flags.model_parallel), **length)
  if model.vocabulary is None:
    raise ValueError(f'model={flags.model} has no tokenizer, but requests are texts. Put its tokenizer.json, or '
                     'another file listed in docs/inference.md, into the folder.')
  engine = Engine(model, slots=flags.slots, max_length=flags.max_length, queue=flags.queue, prompt_memory=memory,
                  cache_memory=caches)
  folder = None
  if flags.prompts is not None:
    folder = PromptFolder(flags.prompts, engine.prompts, (service.name,), service.loaded)
    if not folder.update():
      terminal.say(f'No prompt below {flags.prompts} can be served: {service.name} is served alone.')
  engine.start()
  service.serve(engine)
  terminal.show(f'{service.name} and {len(engine.prompts.names())} prompts are served at {address} '
                f'(ready after {time.perf_counter() - begun:.1f} s)')
  if folder is not None and flags.watch:
    threading.Thread(target=_watch, args=(folder,), name='watch', daemon=True).start()
  return engine


def _mesh(count: int) -> Any:
  """Returns the mesh of this many devices, which share the model; None for one."""
  import jax

  from prompt_tuning.devices.meshes import MeshShape, make_mesh

  devices = jax.local_devices()
  if count > len(devices):
    raise ValueError(f'model_parallel={count} cannot be used: this machine has {len(devices)} devices.')
  return make_mesh(MeshShape(1, 1, count), devices[:count])


def _watch(folder: Any) -> None:
  while True:
    time.sleep(_SECONDS)
    try:
      folder.update()
    except Exception as error:  # the disk may be unavailable for a while
      terminal.say(f'--watch: {type(error).__name__}: {error}')


def _bytes(name: str, text: str) -> int:
  """Returns a number of bytes that is written as 1GiB, 500MB or 1048576.

  Raises:
    ValueError: it is not.
  """
  number = text.rstrip('BKMGTibkmgt')
  unit = _UNITS.get(text[len(number):].upper())
  try:
    count = int(float(number) * unit) if unit else 0
  except (ValueError, OverflowError):
    count = 0
  if count < 1:
    raise ValueError(f'{name}={text} cannot be used: expected bytes such as 1GiB, 500MB or 1048576.')
  return count
