"""`labels.…`: tasks that label positions of their input, for models with new input and output layers."""

from prompt_tuning.data import task_kinds
from prompt_tuning.t5x_names.aliases import choosing

__all__ = ['Bits', 'Digits']
Bits = choosing('bits', task_kinds.bit_task, name='task')
Digits = choosing('digits', task_kinds.digit_task)
