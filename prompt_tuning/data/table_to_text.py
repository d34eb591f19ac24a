"""Table-to-text data in the form of E2E (Novikova, Dušek and Rieser 2017): name : The Mill | Type : pub | …

Files have one of three line formats, plain or compressed (.gz), local or `gs://`:

  pairs       meaning||text
  references  id||meaning||text, several lines for each meaning
  meanings    meaning

References are matched to a meaning by its text, never by line number: in E2E's development files, meanings and
references are in different orders from the 276th meaning on.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prompt_tuning import trees
from prompt_tuning.data import files, metrics
from prompt_tuning.data.tasks import Example, Mixture, Task
from prompt_tuning.names import nearest

SEPARATOR = '\n'  # a separate token in most vocabularies, so a text has the same tokens after it as alone
HELD_OUT = 0.02  # of the pairs, for the loss of a pretrained model
_MARK = '||'


def task(train: str, validation: str | None = None, *, test: str | None = None, instruction: str = '',
         separator: str = SEPARATOR, title: str = 'e2e') -> Task:
  """Returns the task of describing a table in words.

  Inputs are the instruction, the meaning and the separator; targets are the text. An example of 'validation' is a
  meaning with its 'id' and all its 'references', against which predictions are scored; its target, used for the loss,
  is the first reference. Examples of 'test' have only inputs and ids.

  Args:
    train: a file of pairs.
    validation: a file of references.
    test: a file of meanings.
    instruction: text before the meaning, used verbatim.
    separator: text after the meaning, used verbatim.
    title: the task's name.

  Raises:
    ValueError: a line cannot be read; the message names file and line.
  """
  def inputs(meaning: str) -> str:
    return f'{instruction}{meaning}{separator}'

  splits: dict[str, Sequence[Example]] = {
    'train': [{'inputs': inputs(meaning), 'targets': text} for meaning, text in read_pairs(train)]}
  if validation is not None:
    splits['validation'] = [{'inputs': inputs(e['meaning']), 'targets': e['references'][0], **e}
                            for e in read_references(validation)]
  if test is not None:
    splits['test'] = [{'inputs': inputs(meaning), 'meaning': meaning, 'id': str(number)}
                      for number, meaning in enumerate(read_meanings(test))]
  return Task(title, splits, (metrics.sentence_bleu, corpus_bleu), source=train, postprocess=_references)


def pretraining(train: str, *, separator: str = SEPARATOR, validation: float = HELD_OUT,
                title: str = 'e2e_pretrain') -> Mixture:
  """Returns the equal mixture of three kinds of unmarked documents for a decoder-only model.

  They are `meaning separator text`, `text separator meaning` and `text`, each with an end token. A row needs a first
  token from which the next is predicted, so the first word of a document is the input and the rest the target: the
  loss covers everything but the first word.

  Args:
    train: a file of pairs.
    separator: text between meaning and text, used verbatim.
    validation: the fraction of meanings, chosen by a hash, whose pairs form 'validation' instead of 'train'.
    title: the mixture's name.

  Raises:
    ValueError: a line cannot be read, or the fraction is not from 0 to below 1.
  """
  if not 0 <= validation < 1:
    raise ValueError(f'validation={validation} is out of range for {title}. Give a fraction from 0 to below 1.')
  pairs = read_pairs(train)
  held_out = {meaning for meaning, _ in pairs if files.share(meaning) < validation}
  forms: Mapping[str, Callable[[str, str], str]] = {
    'meaning_text': lambda meaning, text: f'{meaning}{separator}{text}',
    'text_meaning': lambda meaning, text: f'{text}{separator}{meaning}',
    'text': lambda meaning, text: text}

  def part(kind: str) -> Task:
    documents: dict[str, list[Example]] = {'train': [], 'validation': []}
    for meaning, text in pairs:
      documents['validation' if meaning in held_out else 'train'].append(_document(forms[kind](meaning, text)))
    return Task(f'{title}_{kind}', {split: found for split, found in documents.items() if found}, source=train)

  return Mixture(title, tuple(part(kind) for kind in forms))


def labelled(train: str, validation: str, *, attribute: str = 'family friendly', mentions: str = '',
             limit: int | None = None, validation_limit: int | None = None, title: str = 'e2e_labels') -> Task:
  """Returns the task of predicting an attribute of the meaning, such as 'yes' or 'no', from its text.

  Inputs are texts, targets the attribute's values; pairs whose meaning lacks the attribute are left out.

  Args:
    train: a file of pairs.
    validation: a file of references, each of which is an example.
    attribute: for example 'family friendly' or 'Type'.
    mentions: a regular expression, case-insensitive; texts without a match are left out. One E2E text in ten does not
      mention whether the place is family friendly: 'famil|kid|child|adult' leaves those out.
    limit: maximum number of training examples, chosen by a hash of their texts; None means all.
    validation_limit: the same for validation examples.
    title: the task's name.

  Raises:
    ValueError: a line cannot be read, or no meaning has the attribute.
  """
  pairs = {'train': (train, read_pairs(train)),
           'validation': (validation, [(e['meaning'], text) for e in read_references(validation)
                                       for text in e['references']])}
  splits, limits = {}, {'train': limit, 'validation': validation_limit}
  for split, (path, texts) in pairs.items():
    found = [{'inputs': text, 'targets': value, 'targets_ends': False} for meaning, text in texts
             if (value := _attributes(meaning).get(attribute)) is not None
             and trees.occurs(mentions, text, re.IGNORECASE)]
    if not found:
      known = sorted({each for meaning, _ in texts for each in _attributes(meaning)})
      raise ValueError(f'No meaning of {path} has the attribute {attribute!r}.{nearest(attribute, known)} '
                       f'Use one of {", ".join(known)}.')
    if limits[split] is not None:
      found = sorted(found, key=lambda each: files.share(each['inputs']))[:limits[split]]
    splits[split] = found
  return Task(title, splits, source=train)


def _attributes(meaning: str) -> dict[str, str]:
  """Returns a meaning as a dict: attribute -> value."""
  return {key.strip(): value.strip() for key, _, value in (part.partition(':') for part in meaning.split('|'))}


def corpus_bleu(targets: Sequence[str | Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
  """Returns sacrebleu's corpus BLEU as 'corpus_bleu', to tell it from the mean of sentence BLEU."""
  return {'corpus_bleu': metrics.bleu(targets, predictions)['bleu']}


def anchors(references: Sequence[Example]) -> dict[str, dict[str, float]]:
  """Returns the scores of two baselines without a model, to compare a model's score with.

  'copy': the table itself without its marks ` | ` and ` : `, against all references of its meaning.
  'human': the first reference of each meaning against the others; meanings with one reference do not count.

  Args:
    references: examples with 'meaning' and 'references', such as the split 'validation'.

  Returns:
    The task's metrics 'sentence_bleu' and 'corpus_bleu' for each baseline.
  """
  several = [example['references'] for example in references if len(example['references']) > 1]
  answers = {'copy': ([e['references'] for e in references],
                      [e['meaning'].replace(' | ', ' ').replace(' : ', ' ') for e in references]),
             'human': ([texts[1:] for texts in several], [texts[0] for texts in several])}
  return {name: metrics.sentence_bleu(*compared) | corpus_bleu(*compared) for name, compared in answers.items()}


def read_pairs(path: str) -> list[tuple[str, str]]:
  """Returns the meaning and the text of every line, without surrounding white space.

  Raises:
    ValueError: a line is not a pair, or there are no lines; the message names file and line.
  """
  return [(meaning, text) for _, (meaning, text) in _read(path, ('meaning', 'text'))]


def read_references(path: str) -> list[Example]:
  """Returns each meaning once, in the file's order: 'id', 'meaning' and its 'references'.

  Raises:
    ValueError: a line cannot be read, there are no lines, or two meanings share an id; the message names file and line.
  """
  found: dict[str, Example] = {}
  owners: dict[str, str] = {}
  for number, (key, meaning, text) in _read(path, ('id', 'meaning', 'text')):
    if owners.setdefault(key, meaning) != meaning:
      raise ValueError(f'{path}:{number}: the id {key!r} belongs to {meaning!r}, but above to {owners[key]!r}. '
                       'Give each meaning a unique id.')
    found.setdefault(meaning, {'id': key, 'meaning': meaning, 'references': []})['references'].append(text)
  return list(found.values())


def read_meanings(path: str) -> list[str]:
  """Returns the meanings of a file with one meaning per line.

  Raises:
    ValueError: a line holds more than a meaning, or there are no lines; the message names file and line.
  """
  return [meaning for _, (meaning,) in _read(path, ('meaning',))]


def _read(path: str, names: Sequence[str]) -> list[tuple[int, list[str]]]:
  """Returns the number and the parts of every line; blank lines are skipped."""
  wanted, lines = _MARK.join(names), []
  for number, line in files.read_lines(path):
    parts = [part.strip() for part in line.split(_MARK)]
    if not line.strip():
      continue
    if len(parts) != len(names) or not all(parts):
      raise ValueError(f'{path}:{number}: found {line.strip()[:60]!r}, expected a line of the form {wanted} without '
                       'empty parts. Fix the line, or choose a file of this form.')
    lines.append((number, parts))
  if not lines:
    raise ValueError(f'{path} holds no examples. Write lines of the form {wanted}.')
  return lines


def _document(text: str) -> Example:
  first = text.split(maxsplit=1)[0]
  return {'inputs': first, 'targets': text.removeprefix(first)}


def _references(text: str, *, example: Example, is_target: bool) -> Any:
  """Returns the value that metrics compare: all references for a target, the text for a prediction."""
  return example.get('references', [text]) if is_target else text
