"""A mixture of experts beside transformers: prefill, decoding and a training step of a prompt, on one model.

  python benchmarks/experts.py                                   # where the extra `peers` is installed
  python benchmarks/experts.py --peer_python path/to/python

A small Qwen 3 MoE with random weights and the proportions of the published ones: 64 experts of a third of the width, of
which a token chooses 8. Float32. Each contestant is a process of its own and reads the same folder; they take turns.
With `--ragged_dot` there is one more: this package without its blocks of one expert, which is slow.
"""

import argparse
import contextlib
import pathlib
import statistics
import sys
import tempfile

import contest
import numpy as np

SHAPE = {'vocab_size': 8000, 'layers': 2, 'width': 512, 'heads': 8, 'kv_heads': 2, 'head_dim': 64, 'mlp_dim': 192,
         'experts': 64, 'experts_per_token': 8}
ROWS, INPUTS, TARGETS, NEW, P = 2, 128, 32, 16, 20
WHAT = ('prefill', 'decode', 'train')
NAMES = ('ours', 'ours, ragged_dot', 'transformers', 'transformers, eager')


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--rows', type=int, default=ROWS)
  parser.add_argument('--blocks', type=int, default=5, help='turns of each contestant')
  parser.add_argument('--ragged_dot', action='store_true')
  parser.add_argument('--peer_python', default=sys.executable, help='an interpreter that can import transformers')
  parser.add_argument('--contestant', choices=NAMES, help=argparse.SUPPRESS)
  parser.add_argument('--folder', help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.contestant:
    ours, _, how = options.contestant.partition(', ')
    made = (ours_of if ours == 'ours' else theirs_of)(options.folder, options.rows, how)
    contest.serve(made['prefill'], digest=made['digest'], **{
      name: lambda name=name: contest.seconds(made[name]) for name in WHAT})
    return
  with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
    write_model(folder)
    command = [str(pathlib.Path(__file__)), '--rows', str(options.rows), '--folder', folder, '--contestant']
    names = [name for name in NAMES if options.ragged_dot or name != 'ours, ragged_dot']
    contestants = {name: stack.enter_context(contest.Contestant([
      sys.executable if name.startswith('ours') else options.peer_python, *command, name])) for name in names}
    digests = [contestant.ask('digest') for contestant in contestants.values()]
    assert np.allclose(digests, digests[0], atol=1e-3), digests  # logits of one text
    times = {(name, what): [] for name in names for what in WHAT}
    for block in range(-1, options.blocks):  # the first compiles
      for (name, what), seconds in times.items():
        found = contestants[name].ask(what)
        seconds += [found] * (block >= 0)
  print(f'{options.rows} rows: {INPUTS} tokens are read, {NEW - 1} more generated; a step has {INPUTS} + {TARGETS}.\n')
  print('| | ms to read | ours = 1 | ms a token, decoding | ours = 1 | ms a training step | ours = 1 |\n' + '|---' * 7
        + '|')
  for name in names:
    of_token = lambda name: [(whole - first) / (NEW - 1) for whole, first in zip(
      times[name, 'decode'], times[name, 'prefill'], strict=True)]
    figures = [(of_token(name), of_token('ours')) if what == 'decode' else (times[name, what], times['ours', what])
               for what in WHAT]
    print(f'| {name} | ' + ' | '.join(f'{1000 * statistics.median(own):.1f} | {contest.paired_ratio(own, best):.2f}'
                                      for own, best in figures) + ' |')


def write_model(folder: str) -> None:
  """Writes the model that all contestants read."""
  from prompt_tuning.models.decoder_config import DecoderConfig
  from prompt_tuning.models.loading import random_model, save_model
  from prompt_tuning.models.positions import Rotary

  layers = SHAPE['layers']
  save_model(random_model(DecoderConfig(
    **SHAPE, mlp_activations=('silu', 'linear'), query_scale=SHAPE['head_dim']**-0.5, query_norms=True,
    rotary=(Rotary(1e6),) * layers, windows=(0,) * layers, family='qwen3_moe')), folder)


def rows_of(count: int) -> np.ndarray:
  """Returns the tokens [B, T] of inputs and targets."""
  return np.random.default_rng(0).integers(3, SHAPE['vocab_size'], (count, INPUTS + TARGETS))


def ours_of(folder: str, count: int, how: str) -> dict:
  """Returns the functions of this package."""
  import jax
  import jax.numpy as jnp
  import optax

  from prompt_tuning.decoding.samplers import Greedy
  from prompt_tuning.models import grouped, loading
  from prompt_tuning.models.generation import generate
  from prompt_tuning.prompts import Prompt, PromptTuning
  from prompt_tuning.rows import layouts
  from prompt_tuning.rows.conditioning import Conditioning
  from prompt_tuning.training.step import TrainState, make_step

  if how:
    grouped.choose = lambda *_: 0
  model, rows = loading.load_model(folder), rows_of(count)
  layout = model.layout()
  batch = layouts.assemble([[layout.question(row[:INPUTS])] for row in rows], {'decoder': INPUTS},
                           side=layout.question_side)

  def decode(new: int = NEW) -> None:
    np.asarray(generate(model.module, model.params, batch, Conditioning(), jax.random.key(0), sampler=Greedy(),
                        max_length=new, end_ids=(-1,), layers=model.layers)[0])

  method, optimizer = PromptTuning(Prompt(P)), optax.adam(1e-3)
  layout = model.layout(method.layout())
  examples = layouts.assemble([[layout.example(row[:INPUTS], row[INPUTS:])] for row in rows],
                              layout.row_lengths({'inputs': INPUTS, 'targets': TARGETS}))
  trained = method.initialise(jax.random.key(1), model)
  state, run = TrainState(jnp.int32(0), trained, optimizer.init(trained)), jax.jit(
    make_step(model.module, method, optimizer), donate_argnums=1)

  def train() -> None:
    nonlocal state
    state, sums = run(model.params, state, examples)
    assert np.isfinite(float(sums['loss']))

  return {'prefill': lambda: decode(1), 'decode': decode, 'train': train,
          'digest': lambda: model.logits([rows[0, :8]], [rows[0, 8:10]])[0][:, :5].ravel().tolist()}


def theirs_of(folder: str, count: int, how: str) -> dict:
  """Returns the functions of transformers."""
  import torch
  import transformers

  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32, **({'experts_implementation': how} if how else {})).eval().requires_grad_(False)
  rows = torch.tensor(rows_of(count))
  ids = rows[:, :INPUTS]

  def decode(new: int = NEW) -> None:
    with torch.no_grad():
      model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=False,
                     pad_token_id=0)

  prompt = torch.nn.Parameter(0.5 * torch.randn(P, SHAPE['width']))
  optimizer = torch.optim.Adam([prompt], 1e-3)

  def train() -> None:
    optimizer.zero_grad()
    embedded = torch.cat([prompt.expand(count, -1, -1), model.get_input_embeddings()(rows)], dim=1)
    hidden = model.model(inputs_embeds=embedded).last_hidden_state[:, P + INPUTS - 1:-1]
    torch.nn.functional.cross_entropy(model.lm_head(hidden).flatten(0, 1), rows[:, INPUTS:].flatten()).backward()
    optimizer.step()

  def digest() -> list[float]:
    with torch.no_grad():
      return model(rows[:1, :9]).logits[0, 7:9, :5].flatten().tolist()

  return {'prefill': lambda: decode(1), 'decode': decode, 'train': train, 'digest': digest}


if __name__ == '__main__':
  main()
