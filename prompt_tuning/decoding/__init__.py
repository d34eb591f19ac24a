"""Decoding: beam search, sampling and greedy, over any `step` from token ids to logits.

`step(ids [B, N] int32, index scalar int32, cache) -> (logits [B, N, V], cache)` runs the decoder on the newest token of
each of the N sequences of each row; `index` counts the tokens before it. `cache` is a pytree whose leaves have B at
axis 1 and N at axis 2. `step` closes over everything that is constant during decoding. All functions here can be
traced: jit the whole call, and create `step` inside.
"""

from prompt_tuning.decoding.beam_search import UNFILLED, beam_search
from prompt_tuning.decoding.sampling import greedy, temperature_sample

__all__ = ['UNFILLED', 'beam_search', 'greedy', 'temperature_sample']
