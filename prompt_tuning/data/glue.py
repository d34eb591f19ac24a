"""GLUE (Wang et al. 2018, "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding").

Importing this module adds to SeqIO, for the TFDS versions glue 1.0.0 (`v002`) and 2.0.0 (`v200`, other data for QQP):

- `glue_{name}_{version}` for the names in `TASKS`, in the forms of `task_forms`, with the prefixes `mt5_` and `byt5_`
  and the suffix `_examples`;
- the mixtures `glue_mnli_and_dev_{version}`, with the same forms: MNLI's training examples, with both of its evaluation
  sets as `validation`.

The diagnostic set `ax` is for models trained on MNLI and uses MNLI's texts. Index tokens are positions in `LEADS`.
"""

import functools
from collections.abc import Sequence

from prompt_tuning.data import benchmark_metrics, task_forms, text_to_text
from prompt_tuning.data.metrics import Metric, accuracy
from prompt_tuning.data.task_forms import Benchmark

VERSIONS = {'v002': '1.0.0', 'v200': '2.0.0'}
LEADS = ('cola', 'sst2', 'mrpc', 'qqp', 'stsb', 'mnli', 'qnli', 'rte', 'wnli')
MNLI = ('entailment', 'neutral', 'contradiction')


def classification(config: str, keys: Sequence[str], labels: Sequence[str], metrics: Sequence[Metric] = (accuracy,), *,
                   lead: str | None = None, splits: Sequence[str] = task_forms.ALL_SPLITS,
                   columns: Sequence[str] = ()) -> Benchmark:
  """Returns a classification task with label words as targets; see `text_to_text.classify`."""
  return Benchmark(config, lead or config,
                   functools.partial(text_to_text.classify, keys=keys, labels=labels, columns=columns), metrics,
                   functools.partial(text_to_text.label_index, labels=labels), splits, labels)


_SENTENCES = ('sentence1', 'sentence2')
_mnli = functools.partial(classification, keys=('hypothesis', 'premise'), labels=MNLI, lead='mnli')
_f1_and_accuracy = (benchmark_metrics.binary_f1, accuracy)

TASKS: dict[str, Benchmark] = {task.config: task for task in (
  classification('cola', ('sentence',), ('unacceptable', 'acceptable'), (benchmark_metrics.matthews,)),
  classification('sst2', ('sentence',), ('negative', 'positive')),
  classification('mrpc', _SENTENCES, ('not_equivalent', 'equivalent'), _f1_and_accuracy),
  classification('qqp', ('question1', 'question2'), ('not_duplicate', 'duplicate'), _f1_and_accuracy),
  Benchmark('stsb', 'stsb', text_to_text.stsb, (benchmark_metrics.correlations,), text_to_text.score),
  _mnli('mnli', splits=('train', 'validation_matched', 'validation_mismatched', 'test_matched', 'test_mismatched')),
  _mnli('mnli_matched', splits=('validation', 'test')),
  _mnli('mnli_mismatched', splits=('validation', 'test')),
  classification('qnli', ('question', 'sentence'), ('entailment', 'not_entailment')),
  classification('rte', _SENTENCES, ('entailment', 'not_entailment')),
  classification('wnli', _SENTENCES, ('not_entailment', 'entailment')),
  _mnli('ax', splits=('test',)),
)}

NAMES: list[str] = []
for _version, _number in VERSIONS.items():
  for _name, _task in TASKS.items():
    NAMES += task_forms.add_forms(f'glue_{_name}_{_version}', f'glue/{_name}:{_number}', _task, LEADS)
  NAMES += task_forms.add_form_mixtures(
    f'glue_mnli_and_dev_{_version}', [f'glue_{name}_{_version}' for name in TASKS if name.startswith('mnli')])
