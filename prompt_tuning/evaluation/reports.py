"""Plots of runs, attention and representations. The only file that imports matplotlib."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prompt_tuning.evaluation import metric_lines
from prompt_tuning.evaluation.saved import METRICS
from prompt_tuning.files import storage


def learning_curve(folder: str, path: str | None = None) -> str:
  """Plots a run's training loss and evaluations by step, as a PNG.

  Args:
    folder: the run's folder, with its `metrics.jsonl`.
    path: the PNG file; None means `learning_curve.png` in the folder.

  Returns:
    The path of the PNG file.

  Raises:
    ImportError: matplotlib is not installed.
    FileNotFoundError: the folder has no metrics.
  """
  plt = _pyplot()
  lines = metric_lines.figures_of(storage.join(folder, METRICS))
  figure, loss_axis = plt.subplots(figsize=(7, 4), layout='constrained')
  loss_axis.plot(*_training_losses(lines), color='tab:gray', label='training loss')
  loss_axis.set(xlabel='step', ylabel='loss for each token', yscale='log')
  metric_axis = loss_axis.twinx()
  metric_axis.set(ylabel='validation, %', ylim=(0, 102))
  names = sorted({line['folder'] for line in lines if line['folder'].startswith('inference_eval/')})
  for name in names:
    points = [line for line in lines if line['folder'] == name]
    for metric in dict.fromkeys(key for point in points for key in point if key not in ('step', 'folder')):
      shown = [(point['step'], point[metric]) for point in points if _is_number(point.get(metric))]
      metric_axis.plot(*zip(*shown, strict=True), marker='o', label=f'{name.removeprefix("inference_eval/")} {metric}')
  handles = [axis.get_legend_handles_labels() for axis in (loss_axis, metric_axis)]
  figure.legend(handles[0][0] + handles[1][0], handles[0][1] + handles[1][1], loc='outside upper center', ncols=3)
  return _saved(figure, path or storage.join(folder, 'learning_curve.png'))


def curves(folders: Mapping[str, str], path: str) -> str:
  """Plots the training losses of several runs by step, and beside them their evaluations, as a PNG.

  Args:
    folders: name of a run -> its folder, with its `metrics.jsonl`.
    path: the PNG file.

  Returns:
    The path of the PNG file.

  Raises:
    ImportError: matplotlib is not installed.
  """
  plt = _pyplot()
  figure, axes = plt.subplots(1, 2, figsize=(11, 4.5 + 0.08 * len(folders)), layout='constrained')
  for i, (name, folder) in enumerate(folders.items()):
    lines = metric_lines.figures_of(storage.join(folder, METRICS))
    style = {'color': plt.get_cmap('turbo')((i + 0.5) / len(folders)), 'linewidth': 1}
    axes[0].plot(*_training_losses(lines), label=name, **style)
    points = {line['step']: line for line in lines if line['folder'].startswith('inference_eval/')}
    names = [key for point in points.values() for key in point if key not in ('step', 'folder')]
    points = points or {line['step']: line for line in lines if line['folder'].startswith('training_eval/')}
    metric = names[0] if names else 'loss'
    shown = [(step, point[metric]) for step, point in sorted(points.items()) if _is_number(point.get(metric))]
    if shown:
      axes[1].plot(*zip(*shown, strict=True), marker='o', markersize=3, **style)
      axes[1].set_ylabel(f'evaluation: {metric}')
  axes[0].set(xlabel='step', ylabel='training loss for each token', yscale='log')
  axes[1].set(xlabel='step')
  figure.legend(*axes[0].get_legend_handles_labels(), loc='outside lower center', ncols=3, fontsize=7)
  return _saved(figure, path)


def loss_by_rate(points: Sequence[tuple[float, float]], path: str) -> str:
  """Plots losses by learning rate, as a PNG; NaN leaves a gap.

  Args:
    points: pairs of a rate and a loss.
    path: the PNG file.

  Returns:
    The path of the PNG file.

  Raises:
    ImportError: matplotlib is not installed.
  """
  plt = _pyplot()
  figure, axis = plt.subplots(figsize=(6, 4), layout='constrained')
  axis.plot(*zip(*sorted(points), strict=True), marker='o')
  axis.set(xlabel='learning rate', ylabel='loss for each token', xscale='log')
  return _saved(figure, path)


def bars(figures: Mapping[str, Mapping[str, float]], path: str) -> str:
  """Plots name -> figure of each thing, a chart of bars for each name, as a PNG. Raises ImportError: no matplotlib."""
  figure, axes = _pyplot().subplots(1, len(figures), figsize=(4 * len(figures), 3), layout='constrained', squeeze=False)
  for axis, (name, values) in zip(axes[0], figures.items(), strict=True):
    axis.bar_label(axis.bar(list(values), list(values.values()), color='tab:blue'), fmt='{:,.4g}')
    axis.set_title(name)
  return _saved(figure, path)


def attention_grid(weights: Any, tokens: Sequence[str], path: str, *, front: int = 0, borders: Sequence[int] = (),
                   rescaled: bool = False, title: str = '', names: Sequence[str] | None = None) -> str:
  """Plots the attention of every layer (rows) and head (columns) as heat maps, as a PNG.

  Args:
    weights: [L, H, T, P + T], attention of T positions to P prefix positions and to one another.
    tokens: names of the T positions.
    path: the PNG file.
    front: P, the number of prefix positions.
    borders: indices of the T positions before which a line is drawn, such as the start of the output.
    rescaled: leave the prefix out and renormalise, to show how the content attends to itself.
    title: title of the plot.
    names: titles of the maps, row by row; None means their layers and heads.

  Returns:
    The path of the PNG file.

  Raises:
    ImportError: matplotlib is not installed.
    ValueError: the shapes do not fit.
  """
  weights = np.asarray(weights)
  if weights.ndim != 4 or weights.shape[2:] != (len(tokens), front + len(tokens)):
    raise ValueError(f'The weights have shape {weights.shape}, expected [L, H, {len(tokens)}, {front + len(tokens)}]. '
                     f'Give the weights of {len(tokens)} tokens after {front} prefix positions.')
  if rescaled:
    weights = weights[..., front:] / np.maximum(weights[..., front:].sum(-1, keepdims=True), 1e-30)
    front = 0
  plt = _pyplot()
  layers, heads = weights.shape[:2]
  side = 0.16 * max(12, front + len(tokens))
  size = max(5, heads * side + 1.2), layers * side * 0.9 + 1
  figure, axes = plt.subplots(layers, heads, figsize=size, squeeze=False, layout='constrained')
  keys = [f'p{i + 1}' for i in range(front)] + list(tokens)
  for layer in range(layers):
    for head in range(heads):
      axis = axes[layer, head]
      image = axis.imshow(weights[layer, head], vmin=0, vmax=1, cmap='magma', aspect='auto')
      axis.set_xticks(range(len(keys)), keys, fontsize=6)
      axis.set_yticks(range(len(tokens)), tokens, fontsize=6)
      axis.tick_params(length=0, pad=1)
      name = f'layer {layer + 1}, head {head + 1}' if names is None else names[layer * heads + head]
      axis.set_title(name, fontsize=7)
      for border in borders:
        axis.axhline(border - 0.5, color='white', linewidth=0.8)
      for border in [*([0] if front else []), *borders]:
        axis.axvline(front + border - 0.5, color='white', linewidth=0.8)
  figure.colorbar(image, ax=axes, shrink=0.6, label='share of attention')
  figure.supxlabel('attended position', fontsize=8)
  figure.supylabel('position', fontsize=8)
  figure.suptitle(title, fontsize=9)
  return _saved(figure, path)


def matrix(values: Any, rows: Sequence[str], columns: Sequence[str], path: str, *, title: str = '',
           axes: tuple[str, str] = ('', '')) -> str:
  """Plots a table of percentages as a heat map with its values, as a PNG.

  Args:
    values: [rows, columns], 0 to 100.
    rows: names of the rows.
    columns: names of the columns.
    path: the PNG file.
    title: title of the plot.
    axes: labels of rows and columns.

  Returns:
    The path of the PNG file.

  Raises:
    ImportError: matplotlib is not installed.
  """
  plt = _pyplot()
  values = np.asarray(values)
  figure, axis = plt.subplots(figsize=(0.8 * len(columns) + 2.6, 0.5 * len(rows) + 2), layout='constrained')
  image = axis.imshow(values, vmin=0, vmax=100, cmap='viridis', aspect='auto')
  axis.set_xticks(range(len(columns)), columns, rotation=35, ha='right', fontsize=8)
  axis.set_yticks(range(len(rows)), rows, fontsize=8)
  for (i, j), value in np.ndenumerate(values):
    axis.text(j, i, f'{value:.1f}', ha='center', va='center', fontsize=7, color='black' if value > 60 else 'white')
  axis.set(ylabel=axes[0], xlabel=axes[1])
  axis.set_title(title, fontsize=9)
  figure.colorbar(image, label='%')
  return _saved(figure, path)


def similarities(maps: Mapping[str, Any], names: Sequence[str], path: str) -> str:
  """Plots similarities among prompts as heat maps side by side with their values, as a PNG.

  Args:
    maps: title -> [N, N], -1 to 1.
    names: those of the N prompts.
    path: the PNG file.

  Returns:
    The path of the PNG file.

  Raises:
    ImportError: matplotlib is not installed.
  """
  plt = _pyplot()
  side, margin = 0.62 * len(names) + 0.8, 0.075 * max(map(len, names))
  figure, axes = plt.subplots(1, len(maps), figsize=(len(maps) * side + margin + 1.2, side + 0.7 * margin + 0.5),
                              squeeze=False, layout='constrained', sharey=True)
  for axis, (title, values) in zip(axes[0], maps.items(), strict=True):
    image = axis.imshow(values, vmin=-1, vmax=1, cmap='RdBu_r')
    axis.set_xticks(range(len(names)), names, rotation=35, ha='right', fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    for (i, j), value in np.ndenumerate(np.asarray(values)):
      axis.text(j, i, f'{value:.2f}', ha='center', va='center', fontsize=7,
                color='white' if abs(value) > 0.6 else 'black')
    axis.set_title(title, fontsize=9)
  figure.colorbar(image, ax=axes, shrink=0.7, label='cosine')
  return _saved(figure, path)


def scatter(before: Any, after: Any, labels: Sequence[Any], path: str, *, title: str = '') -> str:
  """Plots representations before and after tuning side by side along their principal components, as a PNG.

  Each side has separate components; an axis label gives its share of the variance.

  Args:
    before: [N, D].
    after: [N, D'], of the same examples.
    labels: their classes, one colour and one marker each.
    path: the PNG file.
    title: title of the plot.

  Returns:
    The path of the PNG file.

  Raises:
    ImportError: matplotlib is not installed.
    ValueError: the numbers of rows and labels differ, or are below two.
  """
  before, after, labels = np.asarray(before, np.float64), np.asarray(after, np.float64), np.asarray(labels)
  if before.ndim != 2 or after.ndim != 2 or not len(before) == len(after) == len(labels) or len(labels) < 2:
    raise ValueError(f'A scatter plot got shapes {before.shape} before, {after.shape} after and {len(labels)} labels. '
                     'Give two arrays [N, D] of the same examples, and N labels.')
  plt = _pyplot()
  figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.6), layout='constrained')
  names = np.unique(labels)
  for axis, rows, side in zip(axes, (before, after), ('before tuning', 'after tuning'), strict=True):
    points, shares = principal_components(rows)
    for i, name in enumerate(names):
      axis.scatter(*points[labels == name].T, s=22, alpha=0.7, linewidths=0, color=f'C{i % 10}',
                   marker='os^Dv*'[i % 6], label=str(name))
    axis.set(xlabel=f'first component ({shares[0]:.1f} % of the variance)',
             ylabel=f'second component ({shares[1]:.1f} %)')
    axis.set_title(side, fontsize=10)
  figure.legend(*axes[0].get_legend_handles_labels(), loc='outside lower center', ncols=min(len(names), 6))
  figure.suptitle(title, fontsize=11)
  return _saved(figure, path)


def principal_components(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns rows [N, D] along their first two principal components [N, 2], and the variance share of each in %."""
  left, sizes, _ = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
  points, squares = np.zeros((len(rows), 2)), np.zeros(2)
  count = min(2, len(sizes))
  points[:, :count], squares[:count] = (left * sizes)[:, :count], sizes[:count] ** 2
  return points, 100 * squares / max(np.sum(sizes**2), 1e-300)


def _training_losses(lines: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[float]]:
  """Returns the steps and training losses among the figures of a run."""
  found = [line for line in lines if line['folder'] == 'train' and _is_number(line.get('loss'))]
  return [line['step'] for line in found], [line['loss'] for line in found]


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float)


def _saved(figure: Any, path: str) -> str:
  with storage.whole_file(path) as temporary:
    figure.savefig(temporary, dpi=130, format=os.path.splitext(path)[1][1:] or 'png')
  _pyplot().close(figure)
  return path


def _pyplot() -> Any:
  try:
    import matplotlib
  except ImportError as error:
    raise ImportError("Plots need matplotlib: `pip install '.[plots]'`.") from error
  matplotlib.use('Agg')
  import matplotlib.pyplot

  return matplotlib.pyplot
