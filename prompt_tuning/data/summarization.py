"""Summarisation: XSum and CNN/Daily Mail.

  xsum_v110            XSum (Narayan et al. 2018): TFDS xsum:1.1.0, a document and a one-sentence summary
  cnn_dailymail_v310   CNN/Daily Mail (Hermann et al. 2015, See et al. 2017), not anonymised: TFDS cnn_dailymail:3.1.0,
                       an article and its highlights

Inputs are 'summarize: ' and the text, as in T5 (Raffel et al. 2020). Metrics are ROUGE-1, ROUGE-2 and ROUGE-Lsum.
ROUGE-Lsum compares texts sentence by sentence; sentences end at line breaks.

TFDS prepares xsum from files that must be downloaded by hand. New versions of TFDS read cnn_dailymail:3.1.0 but do not
prepare it.
"""

import functools
from collections.abc import Iterator

from prompt_tuning.data import metrics, seqio_tasks
from prompt_tuning.data.tasks import Example


def summarize(example: Example, *, text: str, summary: str) -> Iterator[Example]:
  """Yields the example with inputs and targets from the fields `text` and `summary`."""
  yield {'inputs': f'summarize: {example[text]}', 'targets': example[summary]}


def sentences(text: str, example: Example, is_target: bool) -> str:
  """Returns a text with one line per sentence; a sentence ends with a full stop between spaces.

  CNN/Daily Mail up to version 3.1.0 has this form. Its targets have line breaks; a T5 vocabulary encodes and decodes a
  line break as a space, so this function restores them in predictions, as T5 does.
  """
  del example, is_target
  return text.replace(' . ', ' .\n')


def _add() -> None:
  for name, dataset, text, summary in (('xsum_v110', 'xsum:1.1.0', 'document', 'summary'),
                                       ('cnn_dailymail_v310', 'cnn_dailymail:3.1.0', 'article', 'highlights')):
    seqio_tasks.add_tfds_task(name, dataset, functools.partial(summarize, text=text, summary=summary),
                              splits=['train', 'validation', 'test'], postprocess=sentences, metrics=[metrics.rouge])


_add()
