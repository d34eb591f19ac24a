"""`table_to_text.…`: texts that describe tables, and documents of the same pairs to pretrain on."""

from prompt_tuning.data import table_to_text
from prompt_tuning.t5x_names.aliases import choosing

__all__ = ['Labels', 'PretrainingMixture', 'Task']
Task = choosing('table_to_text', table_to_text.task, name='title')
PretrainingMixture = choosing('table_to_text_pretraining', table_to_text.pretraining, name='title')
Labels = choosing('table_to_text_labels', table_to_text.labelled, without=['title'])
