"""Texts that describe tables, as E2E has them (Novikova, Dušek and Rieser 2017): name : The Mill | Type : pub | …

Three forms of files, a line each, plain or compressed (.gz), local or `gs://`:

  pairs       meaning||text
  references  id||meaning||text, several lines for each meaning
  meanings    meaning

References belong to a meaning by what it says, never by a line's number: in E2E's development files the meanings and
their references are in different orders from the 276th meaning on.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prompt_tuning import trees
from prompt_tuning.data import files, metrics
from prompt_tuning.data.tasks import Example, Mixture, Task

SEPARATOR = '\n'  # a token of its own in most vocabularies, so a text has the same tokens behind it as alone
HELD_OUT = 0.02  # of the pairs, for the loss of a pretrained model
_MARK = '||'


def task(train: str, validation: str | None = None, *, test: str | None = None, instruction: str = '',
         separator: str = SEPARATOR, title: str = 'e2e') -> Task:
  """Returns the task of saying in words what a table says.

  Inputs are the instruction, the meaning and the separator; targets are the text. An example of 'validation' is a
  meaning with all its 'references', against which answers are scored, and its 'id'; its target, whose loss is
  measured, is the first of them. Examples of 'test' have inputs and ids only.

  Args:
    train: a file of pairs.
    validation: a file of references.
    test: a file of meanings.
    instruction: stands in front of the meaning, as it is.
    separator: stands behind the meaning, as it is.
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
  """Returns the equal mixture of three kinds of documents for a decoder-only model; nothing marks which is which.

  They are `meaning separator text`, `text separator meaning` and `text`, each with an end token. A row needs a first
  token from which the next is predicted, so a document's first word is the input and the rest of it the target: the
  loss is on everything but the first word.

  Args:
    train: a file of pairs.
    separator: stands between meaning and text, as it is.
    validation: the share of the meanings whose pairs are the split 'validation' and not 'train', by a hash.
    title: the mixture's name.

  Raises:
    ValueError: a line cannot be read, or the share is not from 0 to below 1.
  """
  if not 0 <= validation < 1:
    raise ValueError(f'{title} is given the validation share {validation}. Give one from 0 to below 1.')
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
  """Returns the task of telling from a text what an attribute of its meaning is: 'yes' or 'no'.

  Inputs are texts, targets the values; pairs whose meaning lacks the attribute are left out.

  Args:
    train: a file of pairs.
    validation: a file of references, each of which is an example.
    attribute: such as 'family friendly' or 'Type'.
    mentions: a regular expression; texts in which it is not found are left out, whatever their case. One text in ten
      of E2E does not say whether the place is family friendly: for these give 'famil|kid|child|adult'.
    limit: at most so many examples to learn from, chosen by a hash of their texts; None is all.
    validation_limit: the same of those to judge by.
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
             if (value := _attributes(meaning).get(attribute)) is not None and re.search(mentions, text, re.IGNORECASE)]
    if not found:
      known = sorted({each for meaning, _ in texts for each in _attributes(meaning)})
      raise ValueError(f'No meaning of {path} has the attribute {attribute!r}.{trees.nearest(attribute, known)} '
                       f'There are {", ".join(known)}.')
    if limits[split] is not None:
      found = sorted(found, key=lambda each: files.share(each['inputs']))[:limits[split]]
    splits[split] = found
  return Task(title, splits, source=train)


def _attributes(meaning: str) -> dict[str, str]:
  """Returns what a meaning says: attribute -> value."""
  return {key.strip(): value.strip() for key, _, value in (part.partition(':') for part in meaning.split('|'))}


def corpus_bleu(targets: Sequence[str | Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
  """Returns sacrebleu's corpus BLEU under the name of what it is, beside the mean of sentences."""
  return {'corpus_bleu': metrics.bleu(targets, predictions)['bleu']}


def anchors(references: Sequence[Example]) -> dict[str, dict[str, float]]:
  """Returns what two answers without a model score, to be read beside a model's score.

  'copy': the table itself without its marks ` | ` and ` : `, against all references of its meaning.
  'human': the first reference of each meaning against the others; meanings with a single one do not count.

  Args:
    references: examples with 'meaning' and 'references', such as the split 'validation'.

  Returns:
    For each the task's metrics: 'sentence_bleu' and 'corpus_bleu'.
  """
  several = [example['references'] for example in references if len(example['references']) > 1]
  answers = {'copy': ([e['references'] for e in references],
                      [e['meaning'].replace(' | ', ' ').replace(' : ', ' ') for e in references]),
             'human': ([texts[1:] for texts in several], [texts[0] for texts in several])}
  return {name: metrics.sentence_bleu(*compared) | corpus_bleu(*compared) for name, compared in answers.items()}


def read_pairs(path: str) -> list[tuple[str, str]]:
  """Returns the meaning and the text of every line; blanks around them are taken off.

  Raises:
    ValueError: a line is no pair, or there is none; the message names file and line.
  """
  return [(meaning, text) for _, (meaning, text) in _read(path, ('meaning', 'text'))]


def read_references(path: str) -> list[Example]:
  """Returns each meaning once, in the file's order: 'id', 'meaning' and its 'references'.

  Raises:
    ValueError: a line cannot be read, there is none, or two meanings have one id; the message names file and line.
  """
  found: dict[str, Example] = {}
  owners: dict[str, str] = {}
  for number, (key, meaning, text) in _read(path, ('id', 'meaning', 'text')):
    if owners.setdefault(key, meaning) != meaning:
      raise ValueError(f'{path}:{number}: the id {key!r} stands for {meaning!r}, but above for {owners[key]!r}. '
                       'Give each meaning its own id.')
    found.setdefault(meaning, {'id': key, 'meaning': meaning, 'references': []})['references'].append(text)
  return list(found.values())


def read_meanings(path: str) -> list[str]:
  """Returns the meanings of a file that has one a line.

  Raises:
    ValueError: a line has more than a meaning, or there is none; the message names file and line.
  """
  return [meaning for _, (meaning,) in _read(path, ('meaning',))]


def _read(path: str, names: Sequence[str]) -> list[tuple[int, list[str]]]:
  """Returns the number and the parts of every line; blank lines are passed over."""
  wanted, lines = _MARK.join(names), []
  for number, line in files.read_lines(path):
    parts = [part.strip() for part in line.split(_MARK)]
    if not line.strip():
      continue
    if len(parts) != len(names) or not all(parts):
      raise ValueError(f'{path}:{number}: found {line.strip()[:60]!r}, wanted a line of the form {wanted}, none of '
                       'them empty. Mend the line, or choose the file that has this form.')
    lines.append((number, parts))
  if not lines:
    raise ValueError(f'{path} holds no example. Write lines of the form {wanted}.')
  return lines


def _document(text: str) -> Example:
  first = text.split(maxsplit=1)[0]
  return {'inputs': first, 'targets': text.removeprefix(first)}


def _references(text: str, *, example: Example, is_target: bool) -> Any:
  """Returns what metrics compare: an answer, and of a target all references."""
  return example.get('references', [text]) if is_target else text
