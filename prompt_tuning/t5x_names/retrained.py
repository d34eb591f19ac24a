"""`retrained.…`: what to train instead of a prompt: parameters, or low-rank updates to them."""

from prompt_tuning.t5x_names.aliases import choosing
from prompt_tuning.tuning import low_rank, retrained

__all__ = ['LowRank', 'Retrained']
LowRank = choosing('low_rank', low_rank.LowRank)
Retrained = choosing('retrained', retrained.Retrained)
