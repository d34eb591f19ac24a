"""`decoding.…`: how answers are decoded. Without a choice T5X searches with one beam and alpha 0.6."""

from prompt_tuning.models.generation import BeamSearch as beam_search
from prompt_tuning.models.generation import Greedy as greedy
from prompt_tuning.models.generation import Sampling as temperature_sample

__all__ = ['beam_search', 'greedy', 'temperature_sample']
