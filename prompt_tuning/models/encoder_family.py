"""Families of encoder-only models: what differs from others is the head that a folder may hold."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from prompt_tuning.files.json_files import Fields, fields_of
from prompt_tuning.models.encoder_only import EncoderOnly
from prompt_tuning.models.family import Family

_PROBLEMS = {'single_label_classification': 'single', 'multi_label_classification': 'multi',
             'regression': 'regression'}


class _Head(Fields):
  """The fields of a `config.json` that describe a head."""

  id2label: dict[str, str] | None = None
  num_labels: int | None = None
  problem_type: str | None = None
  architectures: list[str] | None = None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class EncoderFamily(Family):
  """A family of encoder-only models.

  Attributes:
    pooler_activation: of the dense layer before the head, if a folder has that layer and `read` returns no other.
    poolings: what the heads of transformers' class can read.
  """

  module: Any = EncoderOnly
  pooler_activation: str = 'tanh'
  poolings: tuple[str, ...] = ('cls',)

  def read_config(self, stored: Mapping[str, Any], names: Iterable[str], path: str) -> Any:
    """Returns the config of a Hugging Face folder, with its head if the folder holds one; see `Family.read_config`."""
    names = set(names)
    known = {name: value for name, value in stored.items() if name != 'tie_word_embeddings'}  # of masked words' head
    config = super().read_config(known, names, path)
    holds = lambda name: not names.isdisjoint(self.their_names(name))
    config = dataclasses.replace(
      config, pooler=config.pooler or self.pooler_activation if holds('pooler/kernel') else '',
      mask_activation=config.mask_activation if holds('mask_head/bias') else '')
    if config.tied:
      return config
    file = f'{path}/config.json'
    head = fields_of(file, stored, _Head)
    other = next((name for name in head.architectures or () if not name.endswith('ForSequenceClassification')), None)
    if other is not None:
      raise ValueError(f'{file} says that the folder is a {other}, whose head does not classify whole texts. Give a '
                       f'folder of {self.architecture}, or of the model without a head.')
    if head.problem_type not in (None, *_PROBLEMS):
      raise ValueError(f'{file} sets problem_type to {head.problem_type!r}; supported are {", ".join(_PROBLEMS)}.')
    count = len(head.id2label or ()) or head.num_labels or 2
    by_id = head.id2label or {str(i): f'LABEL_{i}' for i in range(count)}
    if set(by_id) != set(map(str, range(count))):
      raise ValueError(f'{file} has labels with the ids {", ".join(sorted(by_id))}, expected 0 to {count - 1}. Fix '
                       'id2label.')
    return dataclasses.replace(
      config, classes=count, labels=tuple(by_id[str(i)] for i in range(count)),
      problem=_PROBLEMS.get(head.problem_type, 'regression' if count == 1 else 'single'))

  def write_config(self, config: Any) -> dict[str, Any]:
    """Returns the `config.json` of a model: the inverse of `read_config`.

    Raises:
      ValueError: transformers has no class with such a head.
    """
    written = super().write_config(config)
    if not config.classes or config.words:
      kind = 'ForMaskedLM' if config.mask_activation else 'Model'
      return written | {'architectures': [self.architecture.removesuffix('ForSequenceClassification') + kind],
                        'tie_word_embeddings': True}
    if config.pooling not in self.poolings or not config.pooler:
      raise ValueError(f'{self.architecture} has a dense layer before its head, which reads '
                       f'{" or ".join(self.poolings)}; this head reads {config.pooling}'
                       f'{"" if config.pooler else " without such a layer"}. Save the run, or the model without the '
                       'head.')
    problem = next(theirs for theirs, ours in _PROBLEMS.items() if ours == config.problem)
    labels = config.labels or tuple(f'LABEL_{i}' for i in range(config.classes))
    return written | {'id2label': {str(i): label for i, label in enumerate(labels)},
                      'label2id': {label: i for i, label in enumerate(labels)}, 'problem_type': problem}
