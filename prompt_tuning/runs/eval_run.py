"""A run that evaluates, as a value."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from prompt_tuning.data.tasks import is_table
from prompt_tuning.files import hub
from prompt_tuning.runs import run_file
from prompt_tuning.runs.base import FILE_SETTINGS, Count, Positive, Run, Seed, setting
from prompt_tuning.runs.choice import Choice

# Settings that an evaluation takes from the run that trained, unless others are given.
INHERITED = ('model', 'data', 'imports', 'template', 'target_template', 'columns', 'cut', 'labels', 'validation',
             'test', 'metrics', 'max_input_length', 'max_target_length', 'sampler', 'dtype', 'activation_dtype',
             'attention', 'architecture', 'vocabulary', 'ignored', 'random_weights', 'new_layers', 'rotary_length',
             'head', 'head_labels', 'problem', 'verbaliser', 'label_column')
# Setting of a use -> the setting of evaluations in the run that trained.
_EVALUATED = {'data': 'evaluation_data', 'split': 'evaluation_split', 'examples': 'evaluation_examples',
              'max_input_length': 'evaluation_max_input_length', 'max_target_length': 'evaluation_max_target_length'}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Use(Run):
  """What runs that use trained tensors have in common.

  Attributes:
    split: the split of the data; none is the whole of a file, or 'validation' of a task.
    prompt: the trained tensors: a run's folder, a .npy or .safetensors file, or owner/name of the Hugging Face hub;
      none is the model alone, several are an ensemble.
    ensemble: of several prompts: mean, the mean of their probabilities chooses each token; or vote, the prediction that
      most of them make.
    method: without a prompt, the method whose first values are used, drawn by first_values_seed.
    checkpoint_prompt: take the prompt from the model's checkpoint, if it holds one.
    first_values_seed: seed of a method's first values; none forbids drawing them.
    any_model: use trained tensors that were made for another model, if they fit.
    label_words: take the likeliest of these texts instead of generating; task takes those of the task's labels.
    label_score: what decides among them: sum of a text's log-probabilities, or mean.
  """

  reads_text: ClassVar[bool] = False  # a text file may be the data

  split: str | None = setting(None, 'data')
  prompt: str | tuple[str, ...] | None = setting(None, 'model')
  ensemble: Literal['mean', 'vote'] = setting('mean', 'model')
  method: Choice | None = setting(None, 'model')
  checkpoint_prompt: bool = setting(False, 'model')
  first_values_seed: Seed | None = setting(0, 'model')
  any_model: bool = setting(False, 'model')
  label_words: tuple[str, ...] | Literal['task'] | None = setting(None, 'evaluation')
  label_score: Literal['sum', 'mean'] = setting('sum', 'evaluation')

  @classmethod
  def after(cls, prompt: str | Sequence[str], given: Mapping[str, Any]) -> Self:
    """Returns a run that uses what another run trained; settings that are not given are those of that run.

    Args:
      prompt: the folder of the run, or a file; without a `run.toml`, all settings must be given. Or several of them.
      given: settings by name.

    Raises:
      ValueError: several runs have different values of a setting that is not given, or a setting cannot be used.
    """
    if isinstance(prompt, str):
      return cls.of({**cls._inherited(prompt, given), **given, 'prompt': prompt})
    own: dict[str, Any] = {}
    told: dict[str, str] = {}  # setting -> the first prompt whose run has it
    for path in prompt:
      for name, value in cls._inherited(path, given).items():
        if name not in given and own.get(name, value) != value:
          raise ValueError(f'The runs of prompt={told[name]} and {path} have different values of {name}: {own[name]!r} '
                           f'and {value!r}. Give {name}=.')
        own[name] = value
        told.setdefault(name, path)
    return cls.of({**own, **given, 'prompt': tuple(prompt)})

  @classmethod
  def _inherited(cls, prompt: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that the run of a prompt tells."""
    trained = run_file.read_beside(prompt)
    own = {name: value for name, value in trained.items() if name in INHERITED}
    if 'data' not in given:  # what the run was evaluated on, so that its metrics are reproduced
      own |= {'split': 'train' if trained.get('validation') == 0 else 'validation'}
      own |= {'examples': 200} if trained else {}  # TrainRun's default
      own |= {name: trained[theirs] for name, theirs in _EVALUATED.items() if trained.get(theirs, 0) != 0}
      own = {name: value for name, value in own.items() if name in cls.settings()}
    else:  # another file has its own splits, and a task has no columns
      columns = FILE_SETTINGS if is_table(Choice.of(given['data']).name) else ()
      kept = lambda name: name not in ('data', 'test', 'validation') and (
        name not in FILE_SETTINGS or name in columns or (name in ('template', 'cut') and cls.reads_text))
      own = {name: value for name, value in own.items() if kept(name)}
    return own

  def __post_init__(self) -> None:
    super().__post_init__()
    self._check_prompts()
    if self.checkpoint_prompt and self.method is None:
      raise ValueError("checkpoint_prompt=True cannot be used without a method, which gives the prompt's position. "
                       "Give method='prompt'.")
    if self.split is None:
      object.__setattr__(self, 'split', 'all' if self.reads_table else 'validation')
    for name, what in (('model', 'FOLDER, the frozen model'), ('data', 'FILE, or the name of a task')):
      if getattr(self, name) is None and not (name == 'model' and self.architecture):
        for path in self.prompts:
          _require_there(path)
        raise ValueError(f'{name} is missing. Give {name}={what}'
                         + ('; there is no run.toml next to the prompt that gives it.' if self.prompt else '.'))

  @property
  def prompts(self) -> tuple[str, ...]:
    """The trained tensors: none, one, or the members of an ensemble."""
    return (self.prompt,) if isinstance(self.prompt, str) else self.prompt or ()

  def _check_prompts(self) -> None:
    twice = next((path for path in self.prompts if self.prompts.count(path) > 1), None)
    if self.prompt == () or twice is not None:
      raise ValueError(f'prompt={list(self.prompts)} cannot be used: expected one or more different paths'
                       + (f', but {twice} is given twice' if twice else '') + '. Give each once, or none.')
    if len(self.prompts) == 1:
      object.__setattr__(self, 'prompt', self.prompts[0])
    if self.ensemble != 'mean' and len(self.prompts) < 2:
      raise ValueError(f'ensemble={self.ensemble} cannot be used with fewer than two prompts. Give prompt=A B C, or '
                       'leave it out.')


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class EvalRun(Use):
  """A run that evaluates a frozen model, with trained tensors or alone.

  Attributes:
    output: the folder for metrics and predictions; none prints the metrics only.
    examples: evaluate only this many examples, from the first; none is all.
    written_examples: how many predictions are written; none is all.
  """

  executor: ClassVar[str] = 'evaluating'

  output: str | None = setting(None, 'output')
  examples: Positive | None = setting(None, 'data')
  written_examples: Count | None = setting(None, 'output')


def _require_there(prompt: str) -> None:
  """Raises FileNotFoundError if there is nothing at a local path, with or without `.npy`."""
  from prompt_tuning.files import storage

  prompt = prompt if os.path.exists(f'{prompt}.npy') else hub.local(prompt, hub.TRAINED)
  if not storage.is_remote(prompt) and not any(map(os.path.exists, (prompt, f'{prompt}.npy'))):
    raise FileNotFoundError(f'prompt={prompt} cannot be used: there is no such file or folder. Give the folder of a '
                            'run, a .npy or .safetensors file, or a PEFT folder.')
