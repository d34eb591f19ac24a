"""`decoding.…`: how predictions are decoded. Without a choice T5X searches with one beam and alpha 0.6."""

from prompt_tuning.decoding import samplers
from prompt_tuning.t5x_names.aliases import choosing

__all__ = ['beam_search', 'greedy', 'temperature_sample']
beam_search = choosing('beam_search', samplers.BeamSearch)
greedy = choosing('greedy', samplers.Greedy)
temperature_sample = choosing('sampling', samplers.Sampling)
