"""`adafactor.…`: prompt tuning's optimizer; and AdamW."""

from prompt_tuning.t5x_names.aliases import choosing
from prompt_tuning.training import optimizers

__all__ = ['Adafactor', 'AdamW']
Adafactor = choosing('adafactor', optimizers.Adafactor)
AdamW = choosing('adamw', optimizers.AdamW)
