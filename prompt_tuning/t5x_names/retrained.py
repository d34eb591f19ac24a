"""`retrained.…`: what to train instead of a prompt: parameters, or updates of low rank to them."""

from prompt_tuning.tuning.low_rank import LowRank
from prompt_tuning.tuning.retrained import Retrained

__all__ = ['LowRank', 'Retrained']
