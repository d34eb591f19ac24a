"""`adafactor.…`: prompt tuning's optimizer; and AdamW."""

from prompt_tuning.training.optimizers import Adafactor, AdamW

__all__ = ['Adafactor', 'AdamW']
