"""The arrays of a small checkpoint."""

import numpy as np

EMBEDDING = np.random.default_rng(3).random((19, 4), np.float32)
NAMED = {
  'token_embedder/embedding': EMBEDDING,
  'encoder/layers_0/mlp/wo/kernel': np.linspace(-1, 1, 24, dtype=np.float32).reshape(6, 4),
  'decoder/decoder_norm/scale': np.ones(4, np.float32),
}
