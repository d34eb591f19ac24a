"""SuperGLUE (Wang et al. 2019, "SuperGLUE: A Stickier Benchmark for General-Purpose Language Understanding Systems").

Importing this module adds to SeqIO, for the TFDS version super_glue 1.0.2:

- `super_glue_{name}_v102` for the names in `TASKS`;
- the Winograd Schema Challenge with the pronoun's referent as target: `super_glue_wsc_v102_simple_train`, which keeps
  only examples whose noun is the referent; `super_glue_wsc_v102_simple_eval`, where a comparison of the predicted noun
  with the example's noun gives the label; and the mixture `super_glue_wsc_and_dev_v102_simple` of both;
- `dpr_v001_simple`, more pronouns in the same form (Rahman and Ng 2012);

all in the forms of `task_forms`, with the prefixes `mt5_` and `byt5_` and the suffix `_examples`; and mixtures of all
of these with rates proportional to the sizes of their training splits:
`task_index_super_glue_v102_examples_proportional` and `task_index_super_glue_with_dpr_v102_examples_proportional`.
The mixtures exclude the diagnostic sets, which have no training split.

The diagnostic sets `axb` and `axg` are for models trained on RTE and use RTE's texts. TFDS has WiC without parts of
speech, so its text begins with the sentences. Index tokens are positions in `LEADS`.
"""

import functools

from prompt_tuning.data import benchmark_metrics, seqio_tasks, task_forms, text_to_text
from prompt_tuning.data.glue import classification
from prompt_tuning.data.metrics import accuracy
from prompt_tuning.data.task_forms import Benchmark

LEADS = ('boolq', 'cb', 'copa', 'multirc', 'record', 'rte', 'wic', 'wsc')
BOOLEAN = ('False', 'True')

_rte = functools.partial(classification, keys=('hypothesis', 'premise'), labels=('entailment', 'not_entailment'),
                         lead='rte')

TASKS: dict[str, Benchmark] = {task.config: task for task in (
  classification('boolq', ('passage', 'question'), BOOLEAN),
  classification('cb', ('hypothesis', 'premise'), ('entailment', 'contradiction', 'neutral'),
                 (benchmark_metrics.mean_3class_f1, accuracy)),
  classification('copa', ('choice1', 'choice2', 'premise', 'question'), ('choice1', 'choice2')),
  Benchmark('multirc', 'multirc', functools.partial(text_to_text.multirc, labels=BOOLEAN),
            (benchmark_metrics.multirc,), functools.partial(text_to_text.grouped_label, labels=BOOLEAN)),
  Benchmark('record', 'record', text_to_text.record, (benchmark_metrics.record,), text_to_text.all_answers),
  _rte('rte'),
  classification('wic', ('sentence1', 'sentence2', 'word'), BOOLEAN),
  _rte('axb', metrics=(benchmark_metrics.matthews, accuracy), columns=('sentence2', 'sentence1'), splits=('test',)),
  _rte('axg', splits=('test',)),
)}
_wsc = functools.partial(Benchmark, 'wsc.fixed', 'wsc:', metrics=(accuracy,), postprocess=text_to_text.same_referent)
WSC: dict[str, Benchmark] = {
  'train': _wsc(preprocess=functools.partial(text_to_text.referent, right_only=True), splits=('train',)),
  'eval': _wsc(preprocess=text_to_text.referent, splits=('validation', 'test')),
}
DPR = Benchmark('', 'wsc:', text_to_text.definite_pronoun, (accuracy,), splits=('train', 'test'))

NAMES: list[str] = []
for _name, _task in TASKS.items():
  NAMES += task_forms.add_forms(f'super_glue_{_name}_v102', f'super_glue/{_name}:1.0.2', _task, LEADS)
for _name, _task in WSC.items():
  NAMES += task_forms.add_forms(f'super_glue_wsc_v102_simple_{_name}', 'super_glue/wsc.fixed:1.0.2', _task, LEADS)
_WSC_NAMES = [f'super_glue_wsc_v102_simple_{name}' for name in WSC]
NAMES += task_forms.add_form_mixtures('super_glue_wsc_and_dev_v102_simple', _WSC_NAMES)
NAMES += task_forms.add_forms('dpr_v001_simple', 'definite_pronoun_resolution:0.0.1', DPR, LEADS)

_MIXED = [f'task_index_{name}' for name in (
  *(f'super_glue_{name}_v102' for name, task in TASKS.items() if 'train' in task.splits), *_WSC_NAMES)]
NAMES += seqio_tasks.add_mixture('task_index_super_glue_v102_examples_proportional', _MIXED, rate='examples')
NAMES += seqio_tasks.add_mixture('task_index_super_glue_with_dpr_v102_examples_proportional',
                                 [*_MIXED, 'task_index_dpr_v001_simple'], rate='examples')
