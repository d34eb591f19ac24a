"""Targets that no answer can equal, or that a metric lacks, and cut inputs: found before training, not after it."""

from collections.abc import Iterator, Mapping, Sequence

from prompt_tuning.data.metrics import BinaryF1
from prompt_tuning.data.preprocessing import FEATURES, Preprocessor
from prompt_tuning.data.tasks import Example, Mixture, Task
from prompt_tuning.data.vocabularies import Vocabulary
from prompt_tuning.rows.layouts import Layout

_MOST, _INPUTS = 1000, 100  # examples of each task whose targets, and whose inputs, are looked at


def check_targets(task: Task | Mixture, split: str, vocabulary: Vocabulary, layout: Layout,
                  lengths: Mapping[str, int], *, refuse: bool = False) -> list[str]:
  """Looks at the first thousand examples of each task whose targets are texts, and at the inputs of the first hundred.

  Args:
    task: the training task.
    split: its split.
    vocabulary: the model's.
    layout: the model's; without an end token after inputs, input and target are one text.
    lengths: most tokens of 'inputs' and 'targets', the end token included.
    refuse: it is an error if most targets of a task with metrics are empty, changed, ended or cut.

  Returns:
    A warning for each kind of targets, with their number and an example, and one if most inputs are cut.

  Raises:
    ValueError: see `refuse`; or the model cannot read the token ids or vectors of an example.
  """
  warnings = []
  for part, _ in task.parts(split):
    examples = part.split(split)
    endless = hasattr(examples, 'draw')
    if endless:  # made by a program
      drawn = examples.draw(0)
      examples = [drawn[i] for i in range(100)]
    looked_at = [examples[i] for i in range(min(_MOST, len(examples)))]
    texts = list(filter(_is_text, looked_at))
    lay_out = Preprocessor(vocabulary, layout, lengths)
    if getattr(layout, 'labels', ()):
      require_labels_of_head(part, split, layout)
      texts = []
    for example in looked_at:
      if not all(isinstance(example.get(name, ''), str) for name in FEATURES) and len(example.get('inputs', ())):
        lay_out(example)  # finds ids without a row of the embedding
    found: dict[str, list[str]] = {}
    for example in texts:
      for kind, shown in _faults(example, vocabulary, layout, lengths):
        found.setdefault(kind, []).append(shown)
    for kind, shown in found.items():
      message = f'{len(shown)} of {len(texts)} targets of {part.name} {kind.format(shown[0])}'
      serious = kind in _SERIOUS and (not endless or lengths.get('targets', 2) < 2)  # no token remains
      if refuse and serious and part.metrics and len(shown) > len(texts) / 2:
        raise ValueError(message)
      warnings.append(message)
    warnings += _cut_inputs(part, texts[:_INPUTS], vocabulary, layout, lengths)
  return warnings


def _cut_inputs(task: Task, examples: Sequence[Example], vocabulary: Vocabulary, layout: Layout,
                lengths: Mapping[str, int]) -> Iterator[str]:
  """Yields a warning if most inputs that are texts are cut."""
  texts = [example['inputs'] for example in examples if isinstance(example.get('inputs'), str)]
  if 'inputs' not in lengths:
    return
  counts = [len(vocabulary.encode(text)) + layout.input_ends for text in texts]
  cut = [count for count in counts if count > lengths['inputs']]
  if len(cut) > len(texts) / 2:
    yield (f'{len(cut)} of the first {len(texts)} inputs of {task.name} are cut: they have up to {max(cut)} tokens, '
           f'but max_input_length={lengths["inputs"]}. Increase it to keep them whole.')


def require_labels(task: Task, split: str, count: int | None) -> None:
  """Ensures that each metric of one label, such as f1:yes, can be computed, if all targets are texts.

  Args:
    task: the task to evaluate on.
    split: its split.
    count: the examples to evaluate on, from the first; None means all.

  Raises:
    ValueError: no target has the label.
  """
  single = [metric for metric in task.metrics if isinstance(metric, BinaryF1)]
  chosen = evaluated(task, split, count) if single else []
  if chosen and all(isinstance(example.get('targets'), str) for example in chosen):
    targets = [task.value(example['targets'], example, is_target=True) for example in chosen]
    for metric in single:
      metric.require(targets)


def require_labels_of_head(task: Task, split: str, layout: Layout, count: int | None = None) -> None:
  """Ensures that every target is a label of the model's classification head, if the model has one.

  Args:
    task: the task.
    split: its split.
    layout: the model's, which knows the labels.
    count: how many examples are looked at, from the first; None means all.

  Raises:
    ValueError: a target is not a label; the message says where it stands.
  """
  if not getattr(layout, 'labels', ()):
    return
  for i, example in enumerate(evaluated(task, split, count)):
    if isinstance(example.get('targets'), str):
      try:
        layout.target_ids(example['targets'])
      except ValueError as error:
        place = task.place_of(example) if hasattr(task, 'place_of') else None
        place = place or f'{task.source or task.name}, example {i} of the split {split!r}'
        raise ValueError(f'{place}: {error}') from error


def evaluated(task: Task, split: str, count: int | None) -> list[Example]:
  """Returns the examples that are evaluated, the first `count` or all; [] of an endless split, whose seed decides."""
  examples = task.split(split)
  if hasattr(examples, 'draw'):
    return []
  return [examples[i] for i in range(len(examples) if count is None else min(count, len(examples)))]


_EMPTY = 'are empty: nothing but the end of a text is learnt from them. Fill them in, or remove these rows.'
_LOST = ('cannot be given back by the vocabulary, such as {}: no answer equals them. Write them without these '
         'characters, or use another model.')
_BLANKS = 'have white space that the vocabulary changes, such as {}. Metrics that compare every character count it.'
_ENDED = 'already hold the end token, such as {}. It is added to every target: leave it out.'
_CUT = 'are longer than max_target_length= allows and are cut, such as {}. Increase it to keep them whole.'
_JOINED = ('follow their input without a blank, such as {}. In this model input and target are one text: begin the '
           'target with a blank, as in target_template=" {{label}}", or end the input with one.')
_SERIOUS = (_EMPTY, _LOST, _ENDED, _CUT)


def _is_text(example: Example) -> bool:
  return isinstance(example.get('targets'), str) and example.get('targets_ends', True)


def _faults(example: Example, vocabulary: Vocabulary, layout: Layout,
            lengths: Mapping[str, int]) -> Iterator[tuple[str, str]]:
  """Yields what is wrong with a target, and how it is shown."""
  target, ids = example['targets'], vocabulary.encode(example['targets'])
  if not target.strip():
    yield _EMPTY, ''
  elif set(ids) & set(vocabulary.end_ids):
    yield _ENDED, _shown(target)
  else:
    back = vocabulary.decode(ids)
    if back.split() != target.split():
      yield _LOST, f'{_shown(target)}, which comes back as {_shown(back)}'
    elif back.strip() != target.strip():
      yield _BLANKS, _shown(target)
  if len(ids) >= lengths.get('targets', len(ids) + 1):
    yield _CUT, f'{_shown(target)} of {len(ids) + 1} tokens for a length of {lengths["targets"]}'
  inputs = example.get('inputs')
  apart = layout.input_ends or 'encoder' in layout.stacks
  if not apart and isinstance(inputs, str) and inputs and target:
    joined = vocabulary.decode([*vocabulary.encode(inputs), *ids])
    if joined == inputs + target and not (inputs[-1].isspace() or target[0].isspace()):
      yield _JOINED, _shown(inputs[-20:] + target)


def _shown(text: str) -> str:
  return repr(text if len(text) <= 60 else f'{text[:59]}…')
