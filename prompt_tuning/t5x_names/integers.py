"""`integers.…`: tasks on lists of integers whose shape differs from the shipped model's."""

from prompt_tuning.data import task_kinds
from prompt_tuning.t5x_names.aliases import choosing

__all__ = ['Task']
Task = choosing('integers', task_kinds.integer_task, name='task')
