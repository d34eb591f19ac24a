import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from prompt_tuning import trees
from prompt_tuning.checkpoints.huggingface import write_huggingface
from prompt_tuning.checkpoints.loading import Rule, save
from prompt_tuning.checkpoints.t5x import write_t5x

SHAPES = {
  'token_embedder/embedding': (16384, 640),
  'decoder/logits_dense/kernel': (640, 16384),
  'encoder/layers/attention/query/kernel': (4, 1600, 1600),
  'encoder/layers/mlp/wi/kernel': (4, 1600, 1600),
  'encoder/layers/mlp/wo/kernel': (4, 1600, 1600),
  'encoder/layers/norm/scale': (4, 1600),
}
RULES = [Rule(path.replace('layers', 'layers_{i}'), path.replace('layers', '{i}'), transpose=path.endswith('kernel'))
         for path in SHAPES]
CHECKPOINT = sum(4 * math.prod(shape) for shape in SHAPES.values())  # 207 MB
LARGEST = max(4 * math.prod(shape) for shape in SHAPES.values())  # 42 MB
OVERHEAD = 4 * 2**20

LOAD = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from prompt_tuning.checkpoints import huggingface, loading, t5x

def status(field):
  return next(1024 * int(line.split()[1]) for line in open('/proc/self/status') if line.startswith(field))

format, folder, shapes, rules = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4])
shapes = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes.items()}
reader = t5x.T5XCheckpoint(folder) if format == 't5x' else huggingface.HuggingFaceFolder(folder)
reader.read(next(name for name in reader.names() if 'norm' in name))  # starts the reader's threads
jax.device_put(np.ones(3)).block_until_ready()
before, anonymous = status('VmRSS'), status('RssAnon')
open('/proc/self/clear_refs', 'w').write('5')  # the peak starts again from here
params = loading.load(reader, shapes, [loading.Rule(*rule) for rule in rules] if format != 't5x' else None)
print(json.dumps({'peak': status('VmHWM') - before, 'kept': status('RssAnon') - anonymous}))
"""


@pytest.mark.parametrize('format', ['t5x', 'hugging face'])
@pytest.mark.skipif(not os.path.exists('/proc/self/clear_refs'), reason='peak memory is read from Linux')
def test_loading_needs_the_checkpoints_size_and_the_largest_array(tmp_path, format):
  params = {path: np.broadcast_to(np.arange(shape[-1], dtype=np.float32) % 17, shape) for path, shape in SHAPES.items()}
  if format == 't5x':
    write_t5x(str(tmp_path), 0, save(trees.unflatten(params)))
  else:
    write_huggingface(str(tmp_path / 'model'), {}, save(trees.unflatten(params), RULES), shard_bytes=60_000_000)
  folder = tmp_path if format == 't5x' else tmp_path / 'model'
  rules = [(rule.ours, rule.theirs, rule.transpose) for rule in RULES]
  # Measures the loader's memory, not the freed memory that glibc keeps (up to 64 MB per thread).
  allocator = {'MALLOC_ARENA_MAX': '1', 'MALLOC_MMAP_THRESHOLD_': '1000000'}
  result = subprocess.run(
    [sys.executable, '-c', LOAD, format, str(folder), json.dumps(SHAPES), json.dumps(rules)],
    env=os.environ | allocator, capture_output=True, text=True, check=True)
  measured = json.loads(result.stdout)
  assert CHECKPOINT - OVERHEAD <= measured['peak'] <= CHECKPOINT + LARGEST + OVERHEAD
  assert measured['kept'] <= CHECKPOINT + OVERHEAD
