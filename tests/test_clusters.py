"""Class separation of rows with known results, and compared with formulas in NumPy."""

import numpy as np
import pytest

from prompt_tuning.evaluation import clusters, reports

pytest.importorskip('sklearn', reason="scikit-learn is not installed: pip install '.[metrics]'")
D = 7


def rows(count, distance, seed=0):
  """Returns rows of two classes with a given distance between their means, and their labels."""
  labels = np.array(['good', 'bad'] * count)
  noise = np.random.default_rng(seed).normal(size=(2 * count, D))
  noise[:, 0] += distance * (labels == 'good')
  return noise, labels


def test_classes_far_apart_are_told_apart_by_everything_and_equal_ones_by_nothing():
  far = clusters.separation(*rows(20, 50.0), *rows(15, 50.0, seed=1))
  assert (far['class_mean'], far['neighbours'], far['linear_probe']) == (100.0, 100.0, 100.0)
  assert far['silhouette'] > 0.85 and far['explained_variance'] > 95
  same = clusters.separation(*rows(100, 0.0), *rows(100, 0.0, seed=1))
  assert all(30 < same[name] < 70 for name in ('class_mean', 'neighbours', 'linear_probe'))
  assert abs(same['silhouette']) < 0.05 and same['explained_variance'] < 5


def test_each_figure_is_its_definition():
  (train, names), (judged, wanted) = rows(9, 1.5), rows(8, 1.5, seed=1)
  found = clusters.separation(train, names, judged, wanted, neighbours=3)
  means = {name: train[names == name].mean(0) for name in ('bad', 'good')}
  nearest = [min(means, key=lambda name: np.linalg.norm(row - means[name])) for row in judged]
  assert found['class_mean'] == 100 * np.mean(nearest == wanted)
  votes, silhouettes = [], []
  for i, row in enumerate(judged):
    distance = np.linalg.norm(judged - row, axis=1)
    others = [j for j in np.argsort(distance) if j != i]
    votes.append(max(means, key=lambda name: sum(wanted[others[:3]] == name)))
    own, other = (np.mean([distance[j] for j in others if (wanted[j] == wanted[i]) == same]) for same in (True, False))
    silhouettes.append((other - own) / max(other, own))
  assert found['neighbours'] == 100 * np.mean(votes == wanted)
  np.testing.assert_allclose(found['silhouette'], np.mean(silhouettes))
  total = ((judged - judged.mean(0)) ** 2).sum()
  within = sum(((judged[wanted == n] - judged[wanted == n].mean(0)) ** 2).sum() for n in means)
  np.testing.assert_allclose(found['explained_variance'], 100 * (1 - within / total))


def test_the_probe_of_wide_rows_is_scikit_learns():
  from sklearn.linear_model import LogisticRegression
  from sklearn.pipeline import make_pipeline
  from sklearn.preprocessing import StandardScaler

  (train, names), (judged, wanted) = rows(9, 1.0), rows(20, 1.0, seed=1)
  lift = np.random.default_rng(2).normal(size=(D, 60))  # more columns than rows
  train, judged = train @ lift, judged @ lift
  plain = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(train, names)
  assert clusters.separation(train, names, judged, wanted)['linear_probe'] == 100 * plain.score(judged, wanted)


def test_the_vote_of_neighbours_that_are_even_is_the_nearests():
  classes = np.array(['a', 'b', 'c'])
  np.testing.assert_array_equal(clusters._votes(np.array([[2, 0, 1], [1, 0, 0]]), classes), ['c', 'a'])


@pytest.mark.parametrize(('change', 'message'), [
  (lambda a: a | {'train_labels': None}, 'Some training examples have no label. Give a class'),
  (lambda a: a | {'validation_labels': [*a['validation_labels'][:-1], None]}, 'Some validation examples have no label'),
  (lambda a: a | {'train_labels': a['train_labels'][:-1]}, r'shape \(8, 7\), but there are 7 labels. Give rows'),
  (lambda a: a | {'train_labels': ['good'] * 7 + ['bad']}, "The class 'bad' has one training example, expected at"),
  (lambda a: a | {'validation_labels': ['good'] * 8}, r"validation examples have the classes \['good'\]. Give"),
  (lambda a: a | {'train_labels': ['good', 'fair'] * 4}, "No training example has the class 'bad', but others do"),
  (lambda a: a | {'validation_labels': ['good', 'bad'] * 3 + ['fair'] * 2}, "No training example has the class 'fair'"),
  (lambda a: a | {'train': a['train'][:, :3]}, 'have width 3, those of validation 7. Use one model'),
  (lambda a: a | {'train': a['train'] * np.nan}, 'training representations hold values that are not finite'),
  (lambda a: a | {'neighbours': 8}, 'neighbours=8 is out of range for 8 validation examples. Use 1 to 7'),
])
def test_what_cannot_be_judged_is_a_clear_error(change, message):
  (train, names), (judged, wanted) = rows(4, 1.0), rows(4, 1.0, seed=1)
  given = change({'train': train, 'train_labels': list(names), 'validation': judged, 'validation_labels': list(wanted),
                  'neighbours': 3})
  with pytest.raises(ValueError, match=message):
    clusters.separation(given.pop('train'), given.pop('train_labels'), **given)


def test_principal_components_keep_the_variance_and_name_their_share():
  points = np.random.default_rng(0).normal(size=(30, 3)) * [5.0, 2.0, 0.5]
  turned = points @ np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0] + 7
  found, shares = reports.principal_components(turned)
  variance = np.linalg.eigvalsh(np.cov(points.T))[::-1]
  np.testing.assert_allclose(found.var(0, ddof=1), variance[:2])
  np.testing.assert_allclose(shares, 100 * variance[:2] / variance.sum())
  np.testing.assert_allclose(reports.principal_components(np.ones((3, 4)))[1], 0)


def test_the_scatter_is_a_picture_of_both_sides(tmp_path):
  pytest.importorskip('matplotlib')
  before, labels = rows(20, 0.5)
  path = reports.scatter(before, rows(20, 6.0)[0], labels, str(tmp_path / 'deep' / 'scatter.png'), title='toy')
  assert open(path, 'rb').read(8) == b'\x89PNG\r\n\x1a\n'
  with pytest.raises(ValueError, match=r'shapes \(40, 7\) before, \(39, 7\) after and 40 labels. Give two arrays'):
    reports.scatter(before, before[1:], labels, path)
