"""The table that a training run prints at its end."""

import os
from collections.abc import Mapping

from prompt_tuning.evaluation import saved
from prompt_tuning.files import storage
from prompt_tuning.training import loop
from prompt_tuning.tuning.method import Method


def table(ended: loop.Run, before: Mapping[str, float], method: Method, command: str) -> str:
  """Returns the metrics before and after a run, the path of its tensors, and the next commands to type."""
  best = ended.best or {}
  after = best.get('metrics') or ended.metrics
  width = max((len(name) for name in after), default=0)
  frozen = lambda text: f'  {text:>12}' if before else ''  # unless it was not evaluated
  lines = [f'{"":{width}}{frozen("frozen model")}  {"tuned":>12}'] if after else []
  lines += [f'{name:{width}}{frozen(f"{before[name]:.4g}" if name in before else "")}  {value:>12.4g}'
            for name, value in after.items()]
  path = storage.join(ended.folder, saved.BEST if best else saved.LAST)
  size = f', {os.path.getsize(path):,} bytes' if os.path.exists(path) else ''
  count = sum(array.size for array in ended.trained.values())
  step = best.get('step', ended.step)
  return '\n'.join([*lines, f'Trained: {count:,} parameters ({type(method).__name__}), step {step}: {path}{size}',
                    'Next:', f'  {command} eval --prompt {ended.folder}',
                    f'  {command} infer --prompt {ended.folder} --data FILE --output predictions.jsonl'])
