"""The examples of GLUE and SuperGLUE as texts, the way T5 was trained on them.

Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", appendix D,
shows each. Every function here takes an example of a TensorFlow Dataset, with Python's values, and returns the
examples made of it: 'inputs', 'targets', and what the metrics read beside. Inputs lack the leading task text
(`sst2 `); `lead` puts it there.

A label of -1, which test splits have, becomes the target `<unk>`.
"""

import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from prompt_tuning.data.tasks import Example

Preprocess = Callable[[Example], list[Example]]

UNKNOWN = '<unk>'
NO_LABEL = -1  # what an answer that is no label counts as
UNLABELLED = -2  # what a target without label counts as: no answer is right
NO_SCORE = -1.0  # what an answer that is no number counts as
DETERMINERS = frozenset('a an few her his each every many much my our some that the their these this those which whose '
                        'your'.split())


def lead(preprocess: Preprocess, text: str) -> Preprocess:
  """Returns `preprocess` with a leading task text in front of its inputs."""
  return functools.partial(_lead, preprocess=preprocess, text=text)


def _lead(example: Example, *, preprocess: Preprocess, text: str) -> list[Example]:
  return [each | {'inputs': f'{text} {each["inputs"]}'} for each in preprocess(example)]


def classify(example: Example, *, keys: Sequence[str], labels: Sequence[str],
             columns: Sequence[str] = ()) -> list[Example]:
  """Makes `key: text key: text ...` with the word of the label as target.

  Args:
    example: with 'label', a number.
    keys: as they stand in the inputs, in this order.
    labels: words, in the order of the dataset's classes.
    columns: of the dataset, for each key; empty is those named like the keys.
  """
  return [{'inputs': _fields(example, keys, columns), 'targets': _word(labels, example['label'])}]


def label_index(text: str, example: Example | None = None, is_target: bool = False, *, labels: Sequence[str]) -> int:
  """Returns the number of the label that a text is, white space around it aside.

  An answer that is none of them is -1, a target -2, so that no answer is right where there are no labels.
  """
  text = text.strip()
  return labels.index(text) if text in labels else UNLABELLED if is_target else NO_LABEL


def stsb(example: Example) -> list[Example]:
  """Makes the similarity of two sentences a text: the score to the nearest 0.2, such as `3.2` for 3.25.

  Half-way is rounded as T5 does: in single precision, to the even number of fifths.
  """
  score = np.float32(example['label'])
  target = UNKNOWN if score < 0 else f'{np.round(score * np.float32(5)) / 5:.1f}'
  return [{'inputs': _fields(example, ('sentence1', 'sentence2')), 'targets': target}]


def score(text: str, example: Example | None = None, is_target: bool = False) -> float:
  """Returns the number that a text is; -1.0, which no score is, if it is none."""
  try:
    number = float(text)
  except ValueError:
    return NO_SCORE
  return number if math.isfinite(number) else NO_SCORE


def multirc(example: Example, *, labels: Sequence[str]) -> list[Example]:
  """Makes one possible answer to a question; 'group' says which question, as the metric counts whole questions.

  The markup of the paragraph goes: `<b>` and `</b>` leave nothing, `<br>` leaves a blank.
  """
  example = {key: re.sub('</?b>', '', value.replace('<br>', ' ')) if isinstance(value, str) else value
             for key, value in example.items()}
  group = f'{example["idx"]["paragraph"]}-{example["idx"]["question"]}'
  return [each | {'group': group}
          for each in classify(example, keys=('question', 'answer', 'paragraph'), labels=labels)]


def grouped_label(text: str, example: Example, is_target: bool = False, *, labels: Sequence[str]) -> dict[str, Any]:
  """Returns the 'label' that a text is, as `label_index` does, and the 'group' of the example."""
  return {'label': label_index(text, example, is_target, labels=labels), 'group': example['group']}


def record(example: Example) -> list[Example]:
  """Makes one example for each right answer to a query; a query without one, as in the test split, gives `<unk>`.

  So evaluation meets a query as often as it has answers: 'group' says which query it is, 'answers' are all of its
  answers, and the metric counts each query once. The bullets of the passage, lines after `@highlight`, become
  sentences.
  """
  passage = re.sub(r'([.?!"\'])\n@highlight\n', r'\1 ', example['passage'])
  passage = passage.replace('\n@highlight\n', '. ')
  inputs = f'query: {example["query"]} entities: {", ".join(example["entities"])} passage: {passage}'
  beside = {'answers': list(example['answers']), 'group': f'{example["idx"]["passage"]}-{example["idx"]["query"]}'}
  return [{'inputs': inputs, 'targets': answer} | beside for answer in example['answers'] or [UNKNOWN]]


def all_answers(text: str, example: Example, is_target: bool = False) -> Any:
  """Returns all 'answers' and the 'group' for a target; the text for a prediction."""
  return {'answers': list(example['answers']), 'group': example['group']} if is_target else text


def referent(example: Example, *, right_only: bool = False) -> list[Example]:
  """Makes an example of the Winograd Schema Challenge: the pronoun stands between asterisks, the noun is the target.

  Args:
    example: of `super_glue/wsc.fixed`: 'span2_text' is the pronoun, 'span1_text' a noun, 'label' whether the pronoun
      means it.
    right_only: leaves out nouns that the pronoun does not mean, from which nothing can be learnt: for training.
  """
  if right_only and example['label'] != 1:
    return []
  inputs = mark(example['text'], example['span2_text'], example['span2_index'])
  noun = example['span1_text']
  return [{'inputs': inputs, 'targets': noun, 'noun': noun, 'label': int(example['label'])}]


def same_referent(text: str, example: Example, is_target: bool = False) -> int:
  """Returns 1 or 0: the label for a target; for a prediction, whether it names the noun of the example.

  It does when, in lower case and without determiners and punctuation around words, the words of one are among the
  words of the other, and both or neither hold an apostrophe, so `Ann` is not `Ann's`. A text without words names
  nothing.
  """
  if is_target:
    return int(example['label'])
  noun, found = _noun(example['noun']), _noun(text)
  inside = bool(found) and bool(noun) and (found <= noun or noun <= found)
  return int(inside and _possessive(found) == _possessive(noun))


def definite_pronoun(example: Example) -> list[Example]:
  """Makes an example of Rahman and Ng's pronouns, in the form of `referent`; the first occurrence counts."""
  return [{'inputs': mark(example['sentence'], example['pronoun'], 0),
           'targets': example['candidates'][example['label']]}]


def mark(text: str, pronoun: str, index: int) -> str:
  """Puts asterisks around a pronoun, where it stands as a whole word nearest to the word of this index.

  Indices of the dataset count words between blanks; a few of them are one off, and some words carry a quotation mark.
  """
  places = [found.start() for found in re.finditer(rf'(?<!\w){re.escape(pronoun)}(?!\w)', text)]
  if not places:  # the span is not a part of the text: the word of the index it is
    words = text.split()
    return ' '.join([*words[:index], f'*{pronoun}*', *words[index + 1:]])
  start = min(places, key=lambda place: abs(len(re.findall(r'\s+', text[:place].lstrip())) - index))
  return f'{text[:start]}*{pronoun}*{text[start + len(pronoun):]}'


def _fields(example: Example, keys: Sequence[str], columns: Sequence[str] = ()) -> str:
  return ' '.join(f'{key}: {example[column]}' for key, column in zip(keys, columns or keys, strict=True))


def _word(labels: Sequence[str], label: int) -> str:
  return UNKNOWN if label < 0 else labels[label]


def _noun(text: str) -> frozenset[str]:
  words = (word.strip('.,;:!?"*()') for word in text.lower().split())
  return frozenset(word for word in words if word) - DETERMINERS


def _possessive(words: frozenset[str]) -> bool:
  return any("'" in word or '’' in word for word in words)
