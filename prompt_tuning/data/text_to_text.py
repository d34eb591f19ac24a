"""GLUE and SuperGLUE examples as texts, in the form that T5 was trained on.

Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", appendix D,
shows each. The functions that make examples take an example of a TensorFlow Dataset, with Python values, and return a
list of examples with 'inputs', 'targets' and any other values that the metrics read. Inputs lack the leading task text
(`sst2 `); `lead` adds it.

A label of -1, as in test splits, becomes the target `<unk>`.
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
NO_LABEL = -1  # the index of a prediction that is not a label
UNLABELLED = -2  # the index of a target without a label: every prediction is wrong
NO_SCORE = -1.0  # the score of a prediction that is not a number
DETERMINERS = frozenset('a an few her his each every many much my our some that the their these this those which whose '
                        'your'.split())


def lead(preprocess: Preprocess, text: str) -> Preprocess:
  """Returns `preprocess` with a leading task text before its inputs."""
  return functools.partial(_lead, preprocess=preprocess, text=text)


def _lead(example: Example, *, preprocess: Preprocess, text: str) -> list[Example]:
  return [each | {'inputs': f'{text} {each["inputs"]}'} for each in preprocess(example)]


def classify(example: Example, *, keys: Sequence[str], labels: Sequence[str],
             columns: Sequence[str] = ()) -> list[Example]:
  """Makes inputs `key: text key: text ...`, with the label's word as target.

  Args:
    example: with 'label', a number.
    keys: the keys in the inputs, in this order.
    labels: words, in the order of the dataset's classes.
    columns: the dataset's column for each key; empty means the columns named like the keys.
  """
  return [{'inputs': _fields(example, keys, columns), 'targets': _word(labels, example['label'])}]


def label_index(text: str, example: Example | None = None, is_target: bool = False, *, labels: Sequence[str]) -> int:
  """Returns the index of the label that a text equals, ignoring surrounding white space.

  A prediction that is not a label gives -1, a target -2, so that no prediction is right for an unlabelled target.
  """
  text = text.strip()
  return labels.index(text) if text in labels else UNLABELLED if is_target else NO_LABEL


def stsb(example: Example) -> list[Example]:
  """Makes an example of sentence similarity; the target is the score to the nearest 0.2, such as `3.2` for 3.25.

  Ties are rounded as in T5: in single precision, to the even number of fifths.
  """
  score = np.float32(example['label'])
  target = UNKNOWN if score < 0 else f'{np.round(score * np.float32(5)) / 5:.1f}'
  return [{'inputs': _fields(example, ('sentence1', 'sentence2')), 'targets': target}]


def score(text: str, example: Example | None = None, is_target: bool = False) -> float:
  """Returns a text as a number; a text that is not a finite number gives -1.0, which is not a valid score."""
  try:
    number = float(text)
  except ValueError:
    return NO_SCORE
  return number if math.isfinite(number) else NO_SCORE


def multirc(example: Example, *, labels: Sequence[str]) -> list[Example]:
  """Makes an example of one candidate answer; 'group' identifies the question, since the metric counts questions.

  The paragraph's markup is removed: `<b>` and `</b>` are deleted, `<br>` becomes a space.
  """
  example = {key: re.sub('</?b>', '', value.replace('<br>', ' ')) if isinstance(value, str) else value
             for key, value in example.items()}
  group = f'{example["idx"]["paragraph"]}-{example["idx"]["question"]}'
  return [each | {'group': group}
          for each in classify(example, keys=('question', 'answer', 'paragraph'), labels=labels)]


def grouped_label(text: str, example: Example, is_target: bool = False, *, labels: Sequence[str]) -> dict[str, Any]:
  """Returns the 'label' of a text, as in `label_index`, and the 'group' of the example."""
  return {'label': label_index(text, example, is_target, labels=labels), 'group': example['group']}


def record(example: Example) -> list[Example]:
  """Makes one example for each correct answer to a query; a query without answers, as in 'test', has target `<unk>`.

  Evaluation therefore sees a query once for each of its answers: 'group' identifies the query, 'answers' holds all of
  its answers, and the metric counts each query once. The passage's bullets, lines after `@highlight`, become sentences.
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
  """Makes an example of the Winograd Schema Challenge: asterisks mark the pronoun, the noun is the target.

  Args:
    example: from `super_glue/wsc.fixed`: 'span2_text' is the pronoun, 'span1_text' a noun, and 'label' is 1 if the
      pronoun refers to it.
    right_only: for training: drop examples whose noun is not the referent, since they do not give the right answer.
  """
  if right_only and example['label'] != 1:
    return []
  inputs = mark(example['text'], example['span2_text'], example['span2_index'])
  noun = example['span1_text']
  return [{'inputs': inputs, 'targets': noun, 'noun': noun, 'label': int(example['label'])}]


def same_referent(text: str, example: Example, is_target: bool = False) -> int:
  """Returns the label for a target; for a prediction, 1 if it names the noun of the example, else 0.

  Both are compared in lower case, without determiners and without punctuation around words. They match if the words of
  one are a subset of the words of the other, and both or neither contain an apostrophe, so `Ann` does not match
  `Ann's`. A text without words never matches.
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
  """Puts asterisks around a pronoun, at its whole-word occurrence nearest to the word with this index.

  The dataset's indices count words separated by white space; a few are off by one, and some words carry a quotation
  mark.
  """
  places = [found.start() for found in re.finditer(rf'(?<!\w){re.escape(pronoun)}(?!\w)', text)]
  if not places:  # the pronoun does not occur in the text: replace the word at the index
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
