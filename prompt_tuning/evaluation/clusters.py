"""Class separation of representations, in numbers. Needs scikit-learn."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def separation(train: Any, train_labels: Sequence[Any], validation: Any, validation_labels: Sequence[Any], *,
               neighbours: int = 5) -> dict[str, float]:
  """Returns how well representations separate their classes.

  Args:
    train: [N, D].
    train_labels: their N classes.
    validation: [M, D], the rows to evaluate on.
    validation_labels: their M classes.
    neighbours: k.

  Returns:
    'class_mean': accuracy of the nearest mean of a training class, in percent.
    'neighbours': leave-one-out accuracy of the vote of the k nearest neighbours among the validation rows, in percent.
    'linear_probe': accuracy of a logistic regression fitted on the standardised training rows, in percent.
    'silhouette': scikit-learn's silhouette score of the validation rows, -1 to 1.
    'explained_variance': Σ_c n_c ‖μ_c − μ‖² / Σ_i ‖z_i − μ‖², the between-class share of the validation rows'
      variance, in percent.
    Distances are Euclidean, between unscaled representations.

  Raises:
    ImportError: scikit-learn is not installed.
    ValueError: rows and labels do not fit, or a class has one member or is missing in one split.
  """
  train, train_classes = _checked('training', train, train_labels)
  validation, classes = _checked('validation', validation, validation_labels)
  if train.shape[1] != validation.shape[1]:
    raise ValueError(f'The training representations have width {train.shape[1]}, those of validation '
                     f'{validation.shape[1]}. Use one model and one of="logits" or of="hidden" for both.')
  for there, wanted, missing in ((train_classes, classes, 'training'), (classes, train_classes, 'validation')):
    absent = sorted({*wanted.tolist()} - {*there.tolist()}, key=str)
    if absent:
      raise ValueError(f'No {missing} example has the class {absent[0]!r}, but others do. Split the examples so that '
                       'both splits have every class.')
  if not 0 < neighbours < len(validation):
    raise ValueError(f'neighbours={neighbours} is out of range for {len(validation)} validation examples. Use 1 to '
                     f'{len(validation) - 1}.')
  from_mean, from_others = _sklearn('metrics').pairwise.euclidean_distances, _sklearn('neighbors')
  names = np.unique(train_classes)
  means = np.stack([train[train_classes == name].mean(0) for name in names])
  nearest = names[from_mean(validation, means).argmin(1)]
  voter = from_others.KNeighborsClassifier(neighbours).fit(validation, classes)
  votes = _votes(voter.kneighbors(return_distance=False), classes)  # excludes each row from its own neighbours
  share = lambda right: 100.0 * float(np.mean(right == classes))
  return {'class_mean': share(nearest), 'neighbours': share(votes),
          'linear_probe': share(_probe(train, train_classes, validation)),
          'silhouette': float(_sklearn('metrics').silhouette_score(validation, classes)),
          'explained_variance': explained_variance(validation, classes)}


def explained_variance(rows: Any, labels: Sequence[Any]) -> float:
  """Returns the between-class share of the variance of rows [N, D], in percent."""
  rows, classes = _checked('given', rows, labels)
  centred = rows - rows.mean(0)
  between = sum((classes == name).sum() * np.sum(centred[classes == name].mean(0) ** 2) for name in np.unique(classes))
  total = np.sum(centred**2)
  return 100.0 * float(between / total) if total > 0 else 0.0


def _probe(train: np.ndarray, classes: np.ndarray, validation: np.ndarray) -> np.ndarray:
  """Returns the predictions of a logistic regression for the validation rows."""
  scaler = _sklearn('preprocessing').StandardScaler().fit(train)
  train, validation = scaler.transform(train), scaler.transform(validation)
  # The weights lie in the span of the training rows, whose dimension is far below the vocabulary size.
  _, _, axes = np.linalg.svd(train, full_matrices=False)
  probe = _sklearn('linear_model').LogisticRegression(max_iter=2000)
  return probe.fit(train @ axes.T, classes).predict(validation @ axes.T)


def _votes(neighbours: np.ndarray, classes: np.ndarray) -> np.ndarray:
  """Returns the most common class of neighbours [N, k], nearest first; ties go to the class of the nearest."""
  found = classes[neighbours]
  counts = (found[:, :, None] == found[:, None, :]).sum(2)
  return np.take_along_axis(found, counts.argmax(1)[:, None], axis=1)[:, 0]


def _checked(which: str, rows: Any, labels: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
  rows = np.asarray(rows, np.float64)
  if labels is None or any(label is None for label in labels):
    raise ValueError(f'Some {which} examples have no label. Give a class for each.')
  classes = np.asarray(labels)
  if rows.ndim != 2 or len(rows) != len(classes):
    raise ValueError(f'The {which} representations have shape {rows.shape}, but there are {len(classes)} labels. Give '
                     'rows [N, D] and N labels.')
  if not np.isfinite(rows).all():
    raise ValueError(f'The {which} representations hold values that are not finite. Check the model and the prompt.')
  names, counts = np.unique(classes, return_counts=True)
  if len(names) < 2:
    raise ValueError(f'The {which} examples have the classes {names.tolist()}. Give examples of at least two.')
  if counts.min() < 2:
    raise ValueError(f'The class {names[counts.argmin()].item()!r} has one {which} example, expected at least two. '
                     'Give more, or leave the class out.')
  return rows, classes


def _sklearn(part: str) -> Any:
  try:
    import sklearn.linear_model
    import sklearn.metrics
    import sklearn.neighbors
    import sklearn.preprocessing
  except ImportError as error:
    raise ImportError("Class separation needs scikit-learn: `pip install '.[metrics]'`.") from error
  return getattr(sklearn, part)
