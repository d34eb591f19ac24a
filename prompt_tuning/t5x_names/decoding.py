"""`decoding.…`: how answers are decoded. Without a choice T5X searches with one beam and alpha 0.6."""

from prompt_tuning.decoding.samplers import BeamSearch as beam_search
from prompt_tuning.decoding.samplers import Greedy as greedy
from prompt_tuning.decoding.samplers import Sampling as temperature_sample

__all__ = ['beam_search', 'greedy', 'temperature_sample']
