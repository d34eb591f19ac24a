"""The gated delta rule: its parallel form, its recurrence, and transformers' program give the same numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning.models import delta_rule
from prompt_tuning.models.delta_rule import Spans

pytestmark = pytest.mark.slow
B, T, G, R, K, V = 3, 23, 2, 3, 5, 4
random = np.random.default_rng(0)
unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)


def inputs(length=T, rows=B):
  """Returns query, key, value, decay and rate."""
  normal = lambda *shape: random.normal(size=(rows, length, *shape)).astype(np.float32)
  return (unit(normal(G, K)), unit(normal(G, K)), normal(G, R, V), -np.exp(normal(G, R)),
          1 / (1 + np.exp(-normal(G, R))))


STATE = random.normal(size=(B, G, R, K, V)).astype(np.float32)


def recurrent(query, key, value, decay, rate, state):
  def one(state, position):
    out, state = delta_rule.step(*position, state)
    return state, out

  state, out = jax.lax.scan(one, state, jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), (query, key, value, decay, rate)))
  return jnp.moveaxis(out, 0, 1), state


def close(found, wanted, within=1e-5):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=within * max(1, np.abs(y).max())), found, wanted)


@pytest.mark.parametrize('size', [1, 4, 8, 64])
def test_chunks_of_any_size_give_what_the_recurrence_gives_and_its_gradient(size):
  given = inputs()

  def loss(run, *given):
    out, state = run(*given)
    return jnp.sum(jnp.sin(out)) + jnp.sum(state**2), (out, state)

  run = functools.partial(delta_rule.chunked, size=size)
  in_chunks = lambda *each: run(*each[:-1], state=each[-1])
  found, wanted = (jax.grad(functools.partial(loss, each), range(6), True)(*given, STATE)
                   for each in (in_chunks, recurrent))
  close(found, wanted, 2e-5)
  close(run(*given), recurrent(*given, np.zeros_like(STATE)))


def test_both_forms_give_what_transformers_programs_give():
  torch = pytest.importorskip('torch')
  theirs = pytest.importorskip('transformers.models.qwen3_5.modeling_qwen3_5')
  query, key, value, decay, rate = inputs(150)
  heads = lambda x: torch.tensor(x.reshape(B, 150, G * R, *x.shape[4:]))
  for program in (theirs.torch_chunk_gated_delta_rule, theirs.torch_recurrent_gated_delta_rule):
    out, state = program(*(torch.tensor(np.repeat(x, R, axis=2)) for x in (query, key)), heads(value), g=heads(decay),
                         beta=heads(rate), initial_state=torch.tensor(STATE.reshape(B, G * R, K, V)),
                         output_final_state=True)
    wanted = out.numpy().reshape(value.shape), state.numpy().reshape(STATE.shape)
    close(delta_rule.chunked(query * K**-0.5, key, value, decay, rate, state=STATE), wanted, 2e-5)
    close(recurrent(query * K**-0.5, key, value, decay, rate, STATE), wanted, 2e-5)


def test_one_key_again_and_again_loses_no_digits():
  query, key, value, decay, rate = inputs(128)
  key, decay, rate = np.broadcast_to(key[:, :1], key.shape), 0 * decay, 0 * rate + 0.999
  close(delta_rule.chunked(query, key, value, decay, rate, state=STATE),
        recurrent(query, key, value, decay, rate, STATE), 2e-5)


# Numbers of segments; two of a row's are together longer than a chunk.
ROWS = np.array([[0, 0, 0, *[1] * 9, *[2] * 8, 3, 0, 0], [*[1] * 2, *[2] * 19, 0, 0], [0] * T], np.int32)


@pytest.mark.parametrize('size', [4, 8, 64])
def test_every_segment_starts_from_the_state_before_the_row_and_padding_changes_nothing(size):
  given, spans = inputs(), Spans.of(ROWS)
  tokens = ROWS > 0
  masked = (*given[:3], *(each * tokens[..., None, None] for each in given[3:]))
  out, state = delta_rule.chunked(*masked, state=STATE, spans=spans, size=size)
  for b in range(B):
    last = STATE[b:b + 1]
    for segment in range(1, ROWS[b].max() + 1):
      here = ROWS[b] == segment
      alone, last = recurrent(*(each[b:b + 1, here] for each in given), STATE[b:b + 1])
      close(out[b:b + 1, here], alone, 2e-5)
    close(state[b:b + 1], last, 2e-5)
  shared = delta_rule.chunked(*masked, state=STATE[:1], spans=spans, size=size)
  close(shared, delta_rule.chunked(*masked, state=np.repeat(STATE[:1], B, axis=0), spans=spans, size=size))


@pytest.mark.parametrize('rows', [1, B])
def test_the_convolution_reads_its_segment_and_what_precedes_the_row(rows):
  x, weights = random.normal(size=(B, T, 6)).astype(np.float32), random.normal(size=(6, 4)).astype(np.float32)
  tail, spans = random.normal(size=(rows, 3, 6)).astype(np.float32), Spans.of(ROWS)
  found, after = delta_rule.convolved(x, weights, tail, spans), delta_rule.tail_after(x, tail, spans, 3)
  for b in range(B):
    whole = tail[b % rows]
    for segment in range(1, ROWS[b].max() + 1):
      own = x[b, ROWS[b] == segment]
      whole = np.concatenate([tail[b % rows], own])
      wanted = np.stack([np.sum(whole[t:t + 4] * weights.T, axis=0) for t in range(len(own))])
      close(found[b, ROWS[b] == segment], wanted)
    close(after[b], whole[-3:])
  plain = delta_rule.convolved(x, weights, None, None), delta_rule.tail_after(x, None, None, 3)
  ones = Spans.of(np.ones((B, T), np.int32))
  close(plain, (delta_rule.convolved(x, weights, 0 * tail, ones), delta_rule.tail_after(x, 0 * tail, ones, 3)))
  assert delta_rule.tail_after(x[:, :2], tail, None, 3).shape == (B, 3, 6)
