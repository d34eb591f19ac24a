"""The inputs of a layer, in addition to the hidden states: those of all layers, and those that differ between them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from prompt_tuning.models.delta_rule import Spans
from prompt_tuning.rows.conditioning import State
from prompt_tuning.types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Surroundings:
  """The inputs that every layer of a stack reads in addition to the hidden states.

  Attributes:
    biases: each broadcastable to [B, H, T, T], for a layer's own keys.
    segments: [B, T], if only they and the order of a causal stack determine the biases; else None.
    front_biases: for each front, biases broadcastable to [B, H, T, S].
    positions: [T] or [B, T], the positions of the input in its sequence.
    front_positions: of each front, or None.
    memory: [B, T, D], an encoder's output; None if its keys and values are scanned.
    memory_bias: broadcastable to [B, 1, S, T].
    memory_segments: [B, S] and [B, T], if only they determine that bias; else None.
    memory_front_bias: broadcastable to [B, 1, S, P], for the KV prefix of the memory.
    prompt_memory: [B, P, D], or [1, P, D] for all: the encoder's output for a prompt that was run separately.
    prompt_memory_bias: broadcastable to [B, 1, S, P].
    added_rows: [B, T], the index of the layer's `added` vector for each position; -1 means none.
    scale_rows: as `rows` of `Scaling`.
    memory_scale_rows: as `memory_rows` of `Scaling`.
    spans: the segments of the rows, which delta layers read; None means one segment without padding.
    dropout: [B] random keys, one for each row; None means no dropout.
    shared: what layers without keys and values of their own read, see `groups.last_stored`.
  """

  biases: tuple[Array, ...]
  segments: Array | None = None
  front_biases: tuple[tuple[Array, ...], ...] = ()
  positions: Array | None = None
  front_positions: tuple[Array | None, ...] = ()
  memory: Array | None = None
  memory_bias: Array | None = None
  memory_segments: tuple[Array, Array] | None = None
  memory_front_bias: Array | None = None
  prompt_memory: Array | None = None
  prompt_memory_bias: Array | None = None
  added_rows: Array | None = None
  scale_rows: Array | None = None
  memory_scale_rows: Array | None = None
  spans: Spans | None = None
  dropout: Array | None = None
  shared: Mapping[bool, Any] = dataclasses.field(default_factory=dict)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scanned:
  """The inputs that differ between layers, apart from the weights; every array has a leading [L].

  If the layers differ, L counts those that read the array, see `groups`.

  Attributes:
    layer: of `StackConfig.per_layer`.
    fronts: keys and values before the layer's own.
    memory: keys and values of the memory, if they were computed before.
    memory_front: keys and values before the memory's.
    inputs: [L, B, T, D], read instead of the previous layer's output.
    added: [L, M, D], vectors added to the previous layer's output at some positions.
    embedded: [L, B, T, E], read in addition to the previous layer's output, see `layer_embeddings`.
    scales: [L, N, width] of some dense layers, see `Scaling`.
    state: of the delta layers, before the rows.
  """

  layer: dict[str, Array]
  fronts: tuple[tuple[Array, Array], ...] = ()
  memory: tuple[Array, Array] | None = None
  memory_front: tuple[Array, Array] | None = None
  inputs: Array | None = None
  added: Array | None = None
  embedded: Array | None = None
  scales: Mapping[str, Array] = dataclasses.field(default_factory=dict)
  state: State | None = None
