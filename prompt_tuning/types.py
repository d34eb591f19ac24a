"""Names for the few kinds of value that every layer of the package passes around.

Shapes use one set of letters everywhere: B batch, T input length, S target length, P prompt length,
N prompts, D width, H heads, K head width, F hidden width, L layers, V vocabulary, G segments in a row.
"""

from typing import Any

import jax
import numpy as np

Array = jax.Array | np.ndarray
Params = dict[str, Any]  # nested dicts whose leaves are arrays
Flat = dict[str, Any]  # the same tree, flat: '/'-joined path -> array
Batch = dict[str, Any]  # the result of `layouts.assemble`
