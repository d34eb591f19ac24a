"""Shared by the experiments: runs of gin files with their results in one folder."""

import os
from typing import Any

from prompt_tuning.files import json_files

_CONFIGS = 'prompt_tuning/configs/experiments'


class Experiment:
  """The runs of one experiment.

  Args:
    name: the folder of its gin files.
    size: the gin file that comes before every other: the stem of a file in that folder, or a path.
    folder: the folder of the runs.
  """

  def __init__(self, name: str, size: str, folder: str):
    self._files, self._size, self.folder = f'{_CONFIGS}/{name}', size, folder

  def path(self, *names: str) -> str:
    """Returns a path in the folder."""
    return os.path.join(self.folder, *names)

  def described(self, file: str, run: str = 'unused', **values: Any) -> Any:
    """Returns the run that a gin file describes with some macros set, without executing it."""
    from prompt_tuning.programs import launch

    return launch.build('train', self._arguments('train', file, MODEL_DIR=self.path(run), **values))[0]

  def train(self, file: str, run: str, **values: Any) -> str:
    """Runs or resumes the training that a gin file describes; returns its folder."""
    from prompt_tuning.programs import launch

    launch.run('train', self._arguments('train', file, MODEL_DIR=self.path(run), **values))
    return self.path(run)

  def infer(self, file: str, run: str, **values: Any) -> str:
    """Generates predictions as a gin file describes; returns the path of the predictions."""
    from prompt_tuning.programs import launch

    return launch.execute(*launch.build('infer', self._arguments(
      'infer', file, INFER_OUTPUT_DIR=self.path(run), **values)))

  def pretrain(self, file: str, vocabulary: str, **values: Any) -> str:
    """Pretrains a model and writes it to the folder `model`, unless it exists; returns that folder."""
    from prompt_tuning.scripts import export_model

    path = self.path('model')
    if not os.path.exists(os.path.join(path, 'config.json')):
      run = self.train(file, 'pretrain', **values)
      export_model.main([f'--run={run}/last.safetensors', f'--output={path}', f'--vocabulary={vocabulary}'])
    return path

  def write(self, found: Any, text: str) -> None:
    """Writes the results as `results.json` and `results.md`; prints the latter."""
    for name, content in (('results.json', json_files.spelled(found, indent=1)), ('results.md', text)):
      with open(self.path(name), 'w', encoding='utf-8') as file:
        file.write(content)
    print(f'\n{text}\nWrote {self.path("results.md")} and results.json.')

  def _arguments(self, program: str, file: str, **values: Any) -> Any:
    from prompt_tuning.programs import command

    size = self._size if self._size.endswith('.gin') else f'{self._files}/{self._size}.gin'
    return command.parse_flags(program, [f'--gin_file={size}', f'--gin_file={self._files}/{file}.gin',
                                         *(f'--gin.{name}={value!r}' for name, value in values.items())])
