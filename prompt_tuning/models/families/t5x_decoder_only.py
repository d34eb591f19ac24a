"""T5X's decoder-only T5: stored only as T5X checkpoints, whose names are the package's except the embedding's."""

from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families.t5 import count_layers, matrices
from prompt_tuning.models.family import Family, Names

_EMBEDDING = 'decoder/token_embedder/embedding'
_BIAS = 'decoder/relpos_bias/rel_embedding'


def infer(names: Names, path: str) -> DecoderConfig:
  """Returns the config inferred from the shapes of a checkpoint; the other values are as in `t5.infer`.

  Raises:
    ValueError: the checkpoint belongs to another decoder-only model.
  """
  if _BIAS not in names:
    raise ValueError(f'{path} is not a decoder-only T5: it lacks {_BIAS}. Give the config of its model.')
  query, out = 'decoder/layers_0/self_attention/query/kernel', 'decoder/layers_0/mlp/wo/kernel'
  shape = matrices(names, (_BIAS, _EMBEDDING, query, out), path)
  heads, buckets = shape[_BIAS]
  vocab_size, width = shape[_EMBEDDING]
  gated, tied = 'decoder/layers_0/mlp/wi_0/kernel' in names, 'decoder/logits_dense/kernel' not in names
  return DecoderConfig(
    layers=count_layers(names, 'decoder', path), width=width, heads=heads,
    head_dim=shape[query][1] // heads, mlp_dim=shape[out][0], vocab_size=vocab_size, family='t5x', tied=tied,
    started=True, mlp_activations=('gelu', 'linear') if gated else ('relu',), relative_buckets=buckets,
    output_scale=width**-0.5 if tied else 1.0)


FAMILY = Family(name='t5x', infer=infer, known_by=_EMBEDDING)
