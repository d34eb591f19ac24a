"""`retrained.…`: what to train instead of a prompt: parameters, low-rank updates to them, or scales."""

from prompt_tuning.t5x_names.aliases import choosing
from prompt_tuning.tuning import low_rank, retrained, scales

__all__ = ['LowRank', 'Retrained', 'Scales']
LowRank = choosing('low_rank', low_rank.LowRank)
Retrained = choosing('retrained', retrained.Retrained)
Scales = choosing('scales', scales.Scales)
