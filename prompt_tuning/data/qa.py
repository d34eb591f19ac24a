"""Question answering: SQuAD, the out-of-domain sets of MRQA 2019, and mixtures that train on one and test on the other.

  squad_v010_allanswers          SQuAD 1.1 (Rajpurkar et al. 2016): TFDS squad/v1.1:3.0.0. The name is that of T5's task
                                 (Raffel et al. 2020), from when the dataset's version was 0.1.0.
  squad_v010_allanswers_train    its training split alone
  mrqa_{set}_v100                an out-of-domain set of MRQA 2019 (Fisch et al. 2019): TFDS mrqa/{set}:1.0.0, for
                                 evaluation only. The sets have one split, 'test', also available as 'validation'.
  squad_to_mrqa_{set}_v100       training on SQuAD, evaluation on a set: zero-shot domain transfer (Lester et al. 2021,
  squad_to_{set}                 section 5); the two names are synonyms
  squad_to_mrqa                  training on SQuAD, evaluation on all six sets

A mixture's split combines the tasks that have that split, so 'train' is SQuAD and 'validation' is MRQA.

Inputs are 'question: ... context: ...', targets the first answer. As in T5, each punctuation mark in question, context
and answers is surrounded by spaces, and runs of white space become one space. Metrics normalise that away again, except
inside words: 'U.S.' counts as two words in F1.
"""

import re
from collections.abc import Iterator, Sequence

from prompt_tuning.data import qa_metrics, seqio_tasks
from prompt_tuning.data.tasks import Example

SQUAD = 'squad_v010_allanswers'
MRQA = ('bio_asq', 'drop', 'duo_rc', 'race', 'relation_extraction', 'textbook_qa')
_PUNCTUATION = re.compile(r'([!-/:-@\[-`{-~])')  # all ASCII punctuation


def squad_example(example: Example) -> Iterator[Example]:
  """Yields the example for a SQuAD question."""
  yield question_answering(example, example['answers']['text'])


def mrqa_example(example: Example) -> Iterator[Example]:
  """Yields the example for an MRQA question."""
  yield question_answering(example, example['answers'])


def question_answering(example: Example, answers: Sequence[str]) -> Example:
  """Returns inputs, targets, and all accepted answers as 'answers'.

  Raises:
    ValueError: there is no answer.
  """
  if not answers:
    raise ValueError(f'The question {example["question"]!r:.80} has no answer, expected at least one. '
                     'Leave out questions without an answer.')
  answers = [part_punctuation(answer) for answer in answers]
  question, context = part_punctuation(example['question']), part_punctuation(example['context'])
  return {'inputs': f'question: {question} context: {context}', 'targets': answers[0], 'answers': answers}


def part_punctuation(text: str) -> str:
  """Returns a text with spaces around each ASCII punctuation mark, and words separated by single spaces.

  >>> part_punctuation("the patient's  lungs?")
  "the patient ' s lungs ?"
  """
  return ' '.join(_PUNCTUATION.sub(r' \1 ', text).split())


def accepted_answers(text: str, example: Example, is_target: bool) -> str | list[str]:
  """Returns the value that metrics compare: all accepted answers for a target, the text for a prediction."""
  return list(example['answers']) if is_target else text


def _add() -> None:
  judged = {'postprocess': accepted_answers, 'metrics': [qa_metrics.squad]}
  seqio_tasks.add_tfds_task(SQUAD, 'squad/v1.1:3.0.0', squad_example, splits=['train', 'validation'], **judged)
  seqio_tasks.add_tfds_task(f'{SQUAD}_train', 'squad/v1.1:3.0.0', squad_example, splits=['train'], **judged)
  for name in MRQA:
    seqio_tasks.add_tfds_task(f'mrqa_{name}_v100', f'mrqa/{name}:1.0.0', mrqa_example,
                              splits={'test': 'test', 'validation': 'test'}, **judged)
    for mixture in (f'squad_to_mrqa_{name}_v100', f'squad_to_{name}'):
      seqio_tasks.add_mixture(mixture, [f'{SQUAD}_train', f'mrqa_{name}_v100'])
  seqio_tasks.add_mixture('squad_to_mrqa', [f'{SQUAD}_train', *(f'mrqa_{name}_v100' for name in MRQA)])


_add()
