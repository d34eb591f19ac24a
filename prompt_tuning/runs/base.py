"""What every run has: the frozen model, the data, the machine."""

import dataclasses
import importlib
import typing
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from msgspec import Meta

from prompt_tuning.data.tasks import is_table
from prompt_tuning.names import require_known, require_number
from prompt_tuning.runs.choice import Choice, plain
from prompt_tuning.runs.values import check_fields

Positive = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
Seed = Annotated[int, Meta(ge=0, lt=2**32)]
Rate = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, lt=1)]
AXES = ('data', 'fsdp', 'model')
MOST_VECTORS = 2**16  # of a method: each may have a position in every row
_TEMPLATES = {'template': '{inputs}', 'target_template': '{targets}'}
# What only a file of examples reads.
FILE_SETTINGS = ('template', 'target_template', 'labels', 'test', 'metrics', 'loss_weight', 'cut', 'train_on',
                 'columns', 'label_column')


def setting(default: Any, group: str, *, learnt: bool = True, flag: str | None = None) -> Any:
  """Returns a field of a run.

  Args:
    default: its value if it is not given.
    group: the heading that `--help` lists it under.
    learnt: whether it affects what is learnt; if so, a run is not resumed with another value.
    flag: its flag, if that is not its name.
  """
  return dataclasses.field(default=default, metadata={'group': group, 'learnt': learnt, 'flag': flag})


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Run:
  """What every run has.

  Attributes:
    model: the frozen model: a Hugging Face folder, a GGUF file, a T5X checkpoint (local or gs://), the name of a model
      that comes with the package, or owner/name of the Hugging Face hub, which @revision may follow.
    data: a .jsonl, .tsv, .csv or .parquet file, hf://datasets/OWNER/NAME of the Hugging Face hub, or the name of a task
      or mixture.
    imports: Python modules to import first, which register tasks, methods, model families, losses or optimizers.
    split: the split of the data that is read.
    template: the input text, with the columns of the file in braces: "Review: {text}".
    target_template: the target text, likewise.
    columns: columns of the file for inputs, targets, messages, prompt or completion, such as messages=conversations.
    cut: the side, left or right, at which a column's text, or the user's last turn, is cut if an example is too long.
    labels: texts for the values of the target's columns, such as 0=negative,1=positive.
    validation: the share of the file's rows kept for validation, or another file.
    test: a file for the split 'test'.
    metrics: metrics of a file's task, by name.
    max_input_length: most tokens of an input, end token included; none is the longest found.
    max_target_length: most tokens of a target or a prediction, end token included; none is the longest found.
    batch_size: rows that are run together, on all devices.
    sampler: how tokens are chosen: greedy, sampling or beam_search.
    seed: seed of first values, data order, dropout and sampling; none draws one.
    dtype: type of the frozen parameters in memory; int8 keeps the layers' matrices in 8 bits.
    activation_dtype: type of the activations.
    attention: the program that computes attention.
    mesh: devices along each axis, such as data=2,model=4; data=-1 uses all that are left.
    architecture: the shape of a new model, or the one that the checkpoint must have: t5 or gpt2 with options.
    vocabulary: a vocabulary other than the one in the model's folder: a file, bytes for ByT5's, or pass_through for
      token ids.
    ignored: regular expressions of parameters of the checkpoint that are not read.
    random_weights: freeze random weights of the model's shape instead of its own.
    new_layers: new input and output layers around a decoder-only model: classes, and tokens or features; seed.
    head: a classification head on an encoder-only model, which every method then trains too: it reads the first
      position of a row (cls) or the mean over the tokens (mean); none keeps the head of the model's folder.
    head_labels: the labels of the head; none takes those of the data that is learnt.
    problem: what the head predicts: single (one label; the same as none), multi (several, separated by commas) or
      regression (a number).
    verbaliser: predicts labels by the words that an encoder-only model fills in at the mask, such as
      positive=great,negative=terrible; the template has a mask, as in "{text} It was [MASK].".
    label_column: the column of the file with the labels or numbers; short for columns=targets=COLUMN.
    rotary_length: positions that rows may have, in models that scale rotary positions by it (longrope, dynamic); none
      is the length that the model was first trained with.
  """

  executor: ClassVar[str]  # the module that executes such runs

  model: str | None = setting(None, 'model', learnt=False)
  data: Choice | None = setting(None, 'data', learnt=False)
  imports: tuple[str, ...] = setting((), 'data', learnt=False, flag='import')
  split: str = setting('train', 'data')
  template: str = setting(_TEMPLATES['template'], 'data')
  target_template: str = setting(_TEMPLATES['target_template'], 'data')
  columns: Mapping[str, str] | None = setting(None, 'data')
  cut: Literal['left', 'right'] = setting('right', 'data')
  labels: Mapping[str, str] | None = setting(None, 'data')
  validation: Share | str = setting(0.1, 'data')
  test: str | None = setting(None, 'data', learnt=False)
  metrics: tuple[str, ...] = setting(('accuracy',), 'data', learnt=False)
  max_input_length: Positive | None = setting(None, 'data', learnt=False)
  max_target_length: Positive | None = setting(None, 'data', learnt=False)
  batch_size: Positive = setting(32, 'data')
  sampler: Choice = setting(Choice('greedy'), 'evaluation', learnt=False)
  seed: Seed | None = setting(0, 'data')
  dtype: Literal['float32', 'bfloat16', 'float16', 'int8'] = setting('float32', 'model')
  activation_dtype: Literal['float32', 'bfloat16', 'float16'] = setting('float32', 'model')
  attention: Literal['auto', 'xla', 'cudnn', 'pallas'] = setting('xla', 'machine', learnt=False)
  mesh: Mapping[str, int] | None = setting(None, 'machine', learnt=False)
  architecture: Choice | None = setting(None, 'model')
  vocabulary: Choice | None = setting(None, 'model')
  ignored: tuple[str, ...] = setting((), 'model')
  random_weights: bool = setting(False, 'model')
  new_layers: Mapping[str, int] | None = setting(None, 'model')
  head: Literal['cls', 'mean'] | None = setting(None, 'model')
  head_labels: tuple[str, ...] | None = setting(None, 'model')
  problem: Literal['single', 'multi', 'regression'] | None = setting(None, 'model')
  verbaliser: Mapping[str, str] | None = setting(None, 'model')
  label_column: str | None = setting(None, 'data')
  rotary_length: Positive | None = setting(None, 'model')

  def __post_init__(self) -> None:
    check_fields(self)
    method: Choice | None = getattr(self, 'method', None)
    if method is not None:
      require_number('length', method.options.get('length'), least=1, most=MOST_VECTORS, whole=True, none=True)
    if self.mesh is not None:
      require_known(self.mesh, AXES, 'mesh')
      if any(count < 1 and (axis, count) != ('data', -1) for axis, count in self.mesh.items()):
        raise ValueError(f'mesh={dict(self.mesh)} cannot be used: expected numbers of at least 1, or data=-1 for as '
                         'many copies of the model as the devices hold.')
    if isinstance(self.validation, str) and _is_number(self.validation):
      raise ValueError(f'validation={self.validation} cannot be used: expected a share of at least 0 and '
                       'below 1, or a file.')
    self._take_label_column()
    given = [f'{name}={getattr(self, name)!r}' for name in FILE_SETTINGS if name in self.settings()
             and getattr(self, name) != getattr(type(self), name) and name not in self.file_settings()]
    if self.data is not None and given:
      raise ValueError(f'{" and ".join(given)} cannot be used: {self.data.name} is not a .jsonl, .tsv or .csv file '
                       'or another table with columns. Leave them out, or give data=FILE.')

  def _take_label_column(self) -> None:
    """Lets `columns` name the label column, so that whatever reads the file needs only that."""
    there = (self.columns or {}).get('targets', self.label_column)
    if self.label_column is not None and there != self.label_column:
      raise ValueError(f'label_column={self.label_column} and columns=targets={there} cannot be used together. Give '
                       'one of them.')
    if self.label_column is not None and self.data is not None and self.reads_table:
      object.__setattr__(self, 'columns', {**(self.columns or {}), 'targets': self.label_column})

  def __repr__(self) -> str:
    return f'{type(self).__name__}({", ".join(f"{name}={value!r}" for name, value in self.given().items())})'

  @property
  def reads_table(self) -> bool:
    """Whether the data is a file of rows with columns."""
    return self.data is not None and is_table(self.data.name)

  def file_settings(self) -> tuple[str, ...]:
    """Returns the settings that say how a file's rows become examples, if the data has such rows."""
    return FILE_SETTINGS if self.reads_table else ()

  @classmethod
  def settings(cls) -> dict[str, dataclasses.Field]:
    """Returns the fields by name."""
    return {field.name: field for field in dataclasses.fields(cls)}

  @classmethod
  def hints(cls) -> dict[str, Any]:
    """Returns the fields' types by name."""
    return typing.get_type_hints(cls, include_extras=True)

  @classmethod
  def of(cls, given: Mapping[str, Any]) -> Self:
    """Returns the run of settings by name, as a TOML file holds them.

    Raises:
      ValueError: a name is unknown, or a value cannot be used.
    """
    require_known(given, cls.settings(), cls.__name__)
    return cls(**given)

  def given(self) -> dict[str, Any]:
    """Returns the settings that differ from their defaults, as a TOML file holds them."""
    return {name: plain(getattr(self, name)) for name, field in self.settings().items()
            if getattr(self, name) != field.default}

  def decides(self) -> dict[str, Any]:
    """Returns the settings that decide what is learnt, as a TOML file holds them."""
    return {name: plain(getattr(self, name)) for name, field in self.settings().items() if field.metadata['learnt']}

  def build(self) -> Any:
    """Returns the library's objects of a run that trains, see `training.Training`; reads the model.

    Raises:
      ValueError, OSError, ImportError: something does not fit or cannot be read; the message says what to change.
    """
    return self.executing().build(self)

  def run(self) -> Any:
    """Executes the run; returns the finished run, task -> metrics, or the path of the predictions."""
    return self.executing().run(self)

  def executing(self) -> Any:
    """Imports the modules that the run names, and returns the module that executes it.

    Raises:
      ImportError: a module cannot be imported.
    """
    from prompt_tuning.data import registry  # loads JAX

    for module in self.imports:
      registry.import_module(module)
    return importlib.import_module(f'prompt_tuning.runs.{self.executor}')  # loads JAX


def _is_number(text: str) -> bool:
  try:
    float(text)
  except ValueError:
    return False
  return True
