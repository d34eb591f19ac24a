"""`table_to_text.…`: texts that describe tables, and documents of the same pairs to pretrain on."""

import functools

from prompt_tuning.data import table_to_text
from prompt_tuning.data.tasks import Mixture
from prompt_tuning.data.tasks import Task as AnyTask

__all__ = ['Labels', 'PretrainingMixture', 'Task']


@functools.lru_cache(maxsize=4)  # a run asks for it once for training and once for each evaluation
def Task(train: str, validation: str | None = None, test: str | None = None, instruction: str = '',
         separator: str = table_to_text.SEPARATOR, name: str = 'e2e') -> AnyTask:
  """The task of saying in words what a table says, see `data/table_to_text.py`.

  Args:
    train: a file of lines `meaning||text`, plain or .gz, local or `gs://`.
    validation: a file of lines `id||meaning||text`, all references of each meaning.
    test: a file of meanings, to be answered by `infer`.
    instruction: stands in front of the meaning.
    separator: stands behind the meaning.
    name: what the task is called.
  """
  return table_to_text.task(train, validation, test=test, instruction=instruction, separator=separator, name=name)


@functools.lru_cache(maxsize=4)
def PretrainingMixture(train: str, separator: str = table_to_text.SEPARATOR,
                       validation: float = table_to_text.HELD_OUT, name: str = 'e2e_pretrain') -> Mixture:
  """Documents for a decoder-only model: meaning and text, text and meaning, text alone, equally often.

  Args:
    train: a file of lines `meaning||text`, plain or .gz, local or `gs://`.
    separator: stands between meaning and text.
    validation: the share of the meanings that are kept for the split 'validation'.
    name: what the mixture is called.
  """
  return table_to_text.pretraining(train, separator=separator, validation=validation, name=name)


@functools.lru_cache(maxsize=4)
def Labels(train: str, validation: str, attribute: str = 'family friendly', mentions: str = '',
           limit: int | None = None, validation_limit: int | None = None) -> AnyTask:
  """The task of telling from a text what an attribute of its meaning is.

  Args:
    train: a file of lines `meaning||text`.
    validation: a file of lines `id||meaning||text`.
    attribute: such as 'family friendly'.
    mentions: a regular expression; texts in which it is not found are left out.
    limit: at most so many examples to learn from; None is all.
    validation_limit: the same of those to judge by.
  """
  return table_to_text.labelled(train, validation, attribute=attribute, mentions=mentions, limit=limit,
                                validation_limit=validation_limit)
