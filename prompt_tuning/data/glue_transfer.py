"""GLUE tasks with another task's label words: does a prompt that moves to another task keep its label words?

Importing this module adds `glue_{target}_from_{source}_v002` to SeqIO, in the forms of `task_forms`, for all pairs of
GLUE's binary classification tasks. Inputs, splits and metrics are the target's; a label becomes the source's word of
the same index. For sst2 from mrpc, `negative` (0) becomes `not_equivalent` and `positive` (1) `equivalent`. Tasks
number their classes differently, so rte from wnli swaps words: `entailment` (0) becomes `not_entailment`. MNLI is
excluded: no other task has three classes.
"""

import dataclasses
import functools
import itertools

from prompt_tuning.data import glue, task_forms, text_to_text

LABELS = {name: task.labels for name, task in glue.TASKS.items() if len(task.labels) == 2}

NAMES: list[str] = []
for _target, _source in itertools.permutations(LABELS, 2):
  _labels, _task = LABELS[_source], glue.TASKS[_target]
  _task = dataclasses.replace(
    _task, preprocess=functools.partial(_task.preprocess, labels=_labels),
    postprocess=functools.partial(text_to_text.label_index, labels=_labels))
  NAMES += task_forms.add_forms(
    f'glue_{_target}_from_{_source}_v002', f'glue/{_target}:{glue.VERSIONS["v002"]}', _task, glue.LEADS)
