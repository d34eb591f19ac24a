"""Pictures of runs. The only file that imports matplotlib."""

import json
import os
from typing import Any

from prompt_tuning.training.metric_log import FILE


def learning_curve(folder: str, path: str | None = None) -> str:
  """Draws a run's training loss and its evaluations over the steps, as a PNG.

  Args:
    folder: the run's folder, with its `metrics.jsonl`.
    path: where the picture goes; None is `learning_curve.png` in the folder.

  Returns:
    The picture's path.

  Raises:
    ImportError: matplotlib is not installed.
    FileNotFoundError: the folder has no figures.
  """
  plt = _pyplot()
  with open(os.path.join(folder, FILE), encoding='utf-8') as file:
    lines = [json.loads(line) for line in file]
  training = [line for line in lines if line['folder'] == 'train']
  figure, loss_axis = plt.subplots(figsize=(7, 4), layout='constrained')
  loss_axis.plot([line['step'] for line in training], [line['loss'] for line in training], color='tab:gray',
                 label='training loss')
  loss_axis.set(xlabel='step', ylabel='loss for each token', yscale='log')
  metric_axis = loss_axis.twinx()
  metric_axis.set(ylabel='validation, %', ylim=(0, 102))
  names = sorted({line['folder'] for line in lines if line['folder'].startswith('inference_eval/')})
  for name in names:
    points = [line for line in lines if line['folder'] == name]
    for metric in [key for key in points[0] if key not in ('step', 'folder')]:
      metric_axis.plot([p['step'] for p in points], [p[metric] for p in points], marker='o',
                       label=f'{name.removeprefix("inference_eval/")} {metric}')
  handles = [axis.get_legend_handles_labels() for axis in (loss_axis, metric_axis)]
  figure.legend(handles[0][0] + handles[1][0], handles[0][1] + handles[1][1], loc='outside upper center', ncols=3)
  path = path or os.path.join(folder, 'learning_curve.png')
  figure.savefig(path, dpi=120)
  plt.close(figure)
  return path


def _pyplot() -> Any:
  try:
    import matplotlib
  except ImportError as error:
    raise ImportError('Pictures need matplotlib: `pip install prompt-tuning[plots]`.') from error
  matplotlib.use('Agg')
  import matplotlib.pyplot

  return matplotlib.pyplot
