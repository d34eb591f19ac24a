"""Attention by plain XLA beside the kernel of the accelerator that is found: cuDNN's on a GPU, Pallas' on a TPU.

  python benchmarks/attention.py

Random bfloat16 heads, in four cases: a causal row; the same behind a front of 100 keys that all rows share; with four
times fewer heads of keys; and T5's encoder, whose biases differ between heads. Forward, and forward with the backward
pass to queries, keys and values. They run turn about; ratios are medians over the turns. On a CPU there is no kernel:
plain XLA is timed alone, and that is said. `--topology v5e:2x2` runs nothing: libtpu's compiler tells what memory each
of these TPUs would need beside the arguments, which are split by rows.
"""

import argparse
import functools
import statistics
from collections.abc import Callable

import contest
import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from prompt_tuning.devices import meshes, sharding
from prompt_tuning.models import kernels
from prompt_tuning.models.attention import Block, hide, self_visible
from prompt_tuning.rows.conditioning import Visibility
from prompt_tuning.types import Array

KERNELS = {'gpu': ('xla', 'cudnn'), 'tpu': ('xla', 'pallas'), 'cpu': ('xla',)}
CASES = ('causal', 'causal, shared front', 'causal, grouped heads', 'T5 encoder')


def arguments(case: str, rows: int, heads: int, length: int, width: int) -> tuple[Array, list[Block]]:
  """Returns queries [B, H, T, K] and blocks."""
  keys = iter(jax.random.split(jax.random.key(0), 8))
  draw = lambda *shape: jax.random.normal(next(keys), shape, jnp.bfloat16)
  causal, kv_heads = case != 'T5 encoder', heads // 4 if 'grouped' in case else heads
  segments = jnp.ones((rows, length), jnp.int32)
  biases = (hide(self_visible({'segments': segments}, causal=causal, visibility=Visibility())),)
  if not causal:
    biases += (draw(heads, length, length).astype(jnp.float32),)
  own = Block(draw(rows, kv_heads, length, width), draw(rows, kv_heads, length, width), biases,
              (segments, segments) if causal else None, causal)
  front = [Block(draw(1, heads, 100, width), draw(1, heads, 100, width), (jnp.zeros((1, 1, 1, 1)),))]
  return draw(rows, heads, length, width), [*(front if 'front' in case else []), own]


def passes(asked: str, mesh: Mesh | None = None) -> dict[str, Callable[..., object]]:
  """Returns the functions that are timed."""
  def loss(query: Array, keys_values: list[tuple[Array, Array]], blocks: list[Block]) -> Array:
    changed = [Block(*parts, block.biases, block.segments, block.causal)
               for parts, block in zip(keys_values, blocks, strict=True)]
    return jnp.sum(kernels.attend(query, changed, asked=asked, mesh=mesh)[0].astype(jnp.float32)**2)

  def both(query: Array, blocks: list[Block]) -> object:
    return jax.grad(loss, (0, 1))(query, [(block.keys, block.values) for block in blocks], blocks)

  return {'forward': jax.jit(lambda query, blocks: kernels.attend(query, blocks, asked=asked, mesh=mesh)[0]),
          'forward + backward': jax.jit(both)}


def take_turns(functions: dict[str, Callable[..., object]], given: tuple[object, ...],
               blocks: int) -> dict[str, list[float]]:
  """Returns the seconds of each function's calls, which follow one another in turn; the first calls compile."""
  timed = lambda function: contest.seconds(lambda: jax.block_until_ready(function(*given)))
  turns = [{name: timed(function) for name, function in functions.items()} for _ in range(blocks + 1)][1:]
  return {name: [turn[name] for turn in turns] for name in functions}


def temporary_bytes(function: Callable[..., object], given: object, rows: int, mesh: Mesh) -> int:
  """Returns what a compiled function needs of each device of a mesh, beside arguments and results."""
  def placed(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    spec = PartitionSpec(sharding.RULES['batch'] if x.shape[0] == rows else None)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

  lowered = function.trace(*jax.tree.map(placed, given)).lower(lowering_platforms=('tpu',))
  return lowered.compile().memory_analysis().temp_size_in_bytes


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--lengths', type=int, nargs='+', help='T; 512, 2048 and 4096, or 256 on a CPU')
  parser.add_argument('--rows', type=int, default=8)
  parser.add_argument('--heads', type=int, default=16)
  parser.add_argument('--width', type=int, default=64)
  parser.add_argument('--blocks', type=int, default=15, help='turns of each program')
  parser.add_argument('--topology', help='of TPUs that need not be there')
  options = parser.parse_args()
  device = jax.devices()[0]
  names = KERNELS['tpu' if options.topology else device.platform]
  print(f'{options.topology or device.device_kind}, bfloat16, {options.rows} rows, {options.heads} heads of width '
        f'{options.width}')
  mesh = None
  if options.topology:
    mesh = meshes.make_mesh(devices=topologies.get_topology_desc(options.topology, 'tpu').devices)
  elif len(names) == 1:
    print('There is no accelerator: no kernel can run, so plain XLA is timed alone.')
  columns = ['', 'T', 'pass', 'program', *(['MiB of each device'] if mesh else ['ms', 'speed, xla = 1'])]
  print(f'\n| {" | ".join(columns)} |\n|{"---|" * len(columns)}')
  for case in CASES:
    for length in options.lengths or ((512, 2048, 4096) if len(names) > 1 else (256,)):
      make = functools.partial(arguments, case, options.rows, options.heads, length, options.width)
      given = jax.eval_shape(make) if mesh else make()
      functions = {name: passes(name, mesh) for name in names}
      for part in functions['xla']:
        compared = {name: functions[name][part] for name in names}
        if mesh:
          sizes = {name: temporary_bytes(function, given, options.rows, mesh) for name, function in compared.items()}
          figures = {name: f'{size / 2**20:.1f}' for name, size in sizes.items()}
        else:
          times = take_turns(compared, given, options.blocks)
          figures = {name: f'{1e3 * statistics.median(seconds):.2f} | '
                           f'{contest.paired_ratio(times["xla"], seconds):.2f}' for name, seconds in times.items()}
        for name, found in figures.items():
          print(f'| {case} | {length} | {part} | {name} | {found} |', flush=True)


if __name__ == '__main__':
  main()
