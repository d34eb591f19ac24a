"""GLUE's tasks with the label words of another: whether a prompt, moved to another task, brings its words along.

Importing this module adds `glue_{target}_from_{source}_v002` to SeqIO, in the forms of `task_forms`, for all pairs of
GLUE's tasks of classification with two classes: inputs, splits and metrics are the target's, and a label becomes the
source's word of the same index. So for sst2 from mrpc `negative` (0) is `not_equivalent` and `positive` (1)
`equivalent`. As tasks number their classes differently, rte from wnli swaps words: `entailment` (0) is
`not_entailment`. MNLI, the only task with three classes, has no other to take words from.
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
