"""Metrics: functions `(targets, predictions) -> {name: value}`, all values in percent.

`get` finds them by name, also those of users' modules. F1, BLEU and ROUGE come from their reference libraries:
`pip install '.[metrics]'`.

Two texts are equal if their words are: white space at the ends does not count, and any run of it elsewhere counts as
one space; case and punctuation count. Accuracy, F1 and the labels that they name follow this rule. Only
`sequence_match` compares characters, and the metrics of SQuAD, GLUE and SuperGLUE follow their benchmarks.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from prompt_tuning.data.class_metrics import AVERAGES, MEASURES, BinaryF1, classes, ece
from prompt_tuning.data.metric_values import exact, library, mean, normal, pairs, require_library
from prompt_tuning.names import nearest

Metric = Callable[[Sequence[Any], Sequence[Any]], dict[str, float]]


def accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
  """Returns the share of predictions that equal their target, by words."""
  return {'accuracy': mean([normal(t) == normal(p) for t, p in pairs(targets, predictions)])}


def sequence_match(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
  """Returns the share of predictions that equal their target exactly: texts by character, arrays by id."""
  return {'sequence_match': mean([exact(t) == exact(p) for t, p in pairs(targets, predictions)])}


def token_accuracy(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
  """Returns the share of positions with the right token (word of a text, id of an array).

  A pair counts as many positions as its longer side has, so extra words are as wrong as missing words.
  """
  right = places = 0
  for target, prediction in pairs(targets, predictions):
    target, prediction = _words(target), _words(prediction)
    right += sum(t == p for t, p in zip(target, prediction, strict=False))
    places += max(len(target), len(prediction))
  return {'token_accuracy': 100.0 * right / max(1, places)}


f1 = AVERAGES['f1']  # macro F1: the mean F1 of the labels in the targets; other predictions are wrong


def bleu(targets: Sequence[str | Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
  """Returns sacrebleu's corpus BLEU with its default settings; a target may be several references."""
  pairs(targets, predictions)
  references = [_references(target) for target in targets]
  most = max(map(len, references))
  streams = [[r[i] if i < len(r) else None for r in references] for i in range(most)]
  # `force` turns off the warning for texts that are already tokenised, such as E2E's.
  return {'bleu': float(library('sacrebleu', 'bleu').corpus_bleu(list(predictions), streams, force=True).score)}


def sentence_bleu(targets: Sequence[str | Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
  """Returns the mean of sacrebleu's sentence BLEU over predictions; a target may be several references.

  It uses the effective order: n-grams longer than the prediction do not count. Other settings are sacrebleu's
  defaults: tokenisation '13a' on both sides, case-sensitive, smoothing 'exp'.
  """
  score = library('sacrebleu', 'sentence_bleu').sentence_bleu
  found = [score(prediction, _references(target), use_effective_order=True).score
           for target, prediction in pairs(targets, predictions)]
  return {'sentence_bleu': float(np.mean(found))}


def rouge(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
  """Returns the mean F-measures of ROUGE-1, ROUGE-2 and ROUGE-Lsum, without stemming."""
  names = ('rouge1', 'rouge2', 'rougeLsum')
  scorer = library('rouge_score.rouge_scorer', 'rouge').RougeScorer(names)
  scores = [scorer.score(target, prediction) for target, prediction in pairs(targets, predictions)]
  return {name: mean([score[name].fmeasure for score in scores]) for name in names}


METRICS: dict[str, Metric] = {m.__name__: m for m in (
  accuracy, sequence_match, token_accuracy, *AVERAGES.values(), classes, ece, bleu, sentence_bleu, rouge)}
# The packages that metrics need, which are looked for before anything is evaluated.
_PACKAGES = {**dict.fromkeys((*AVERAGES, *MEASURES, 'classes'), 'sklearn'),
             **dict.fromkeys(('bleu', 'sentence_bleu'), 'sacrebleu'), 'rouge': 'rouge_score'}


def get(name: str) -> Metric:
  """Returns the metric of this name.

  'f1:LABEL', 'precision:LABEL' and 'recall:LABEL' are measures of one label, and the names of their values;
  'MODULE:FUNCTION' is a function of a module that can be imported.

  Raises:
    ValueError: the metric does not exist; the message names the nearest.
    ImportError: the module cannot be imported, or a package that the metric needs is not installed.
  """
  measure, colon, rest = name.partition(':')
  if measure in _PACKAGES:
    require_library(_PACKAGES[measure], name)
  if measure in MEASURES and normal(rest):
    return BinaryF1(rest, measure)
  if colon and measure not in MEASURES:
    return _imported(name, measure, rest)
  if name not in METRICS:
    raise ValueError(f'There is no metric {name!r}.{nearest(name, METRICS)} '
                     f'Use one of {", ".join(METRICS)}, f1:LABEL for the F1 of one label, or MODULE:FUNCTION.')
  return METRICS[name]


def functions(metrics: Metric | str | Sequence[Metric | str]) -> tuple[Metric, ...]:
  """Returns metrics that are given as functions or by name; a text may hold several names, joined by commas.

  Raises:
    ValueError: one is neither, does not exist, or is given twice.
    ImportError: a module cannot be imported, or a package that a metric needs is not installed.
  """
  given = metrics.split(',') if isinstance(metrics, str) else metrics
  given = [each.strip() if isinstance(each, str) else each
           for each in (given if isinstance(given, Sequence) else [given])]
  twice = next((metric for metric in given if given.count(metric) > 1), None)
  if twice is not None:
    raise ValueError(f'metrics={",".join(map(str, given))} names {twice} twice. Give each metric once.')
  wrong = next((metric for metric in given if not isinstance(metric, str) and not callable(metric)), None)
  if wrong is not None:
    raise ValueError(f'metrics= has {wrong!r:.60}, expected names of metrics, or functions (targets, predictions) that '
                     'return a number, or numbers by name.')
  return tuple(get(metric) if isinstance(metric, str) else metric for metric in given)


def _imported(name: str, module: str, function: str) -> Metric:
  """Returns a function of a module of the user."""
  try:
    found: Any = importlib.import_module(module) if module else None
  except (Exception, SystemExit) as error:  # a user's module may raise anything
    if isinstance(error, ModuleNotFoundError) and error.name and f'{module}.'.startswith(f'{error.name}.'):
      raise ValueError(f'There is no metric {name!r}: there is no module {module}. Start the program in the folder '
                       f'that holds it, or install it. The metrics of the package are {", ".join(METRICS)}.') from error
    raise ImportError(f'The module {module} of the metric {name!r} cannot be imported: {type(error).__name__}: '
                      f'{error}. Fix the module.') from error
  metric = getattr(found, function, None) if function else None
  if not callable(metric):
    known = [each for each in dir(found) if not each.startswith('_') and callable(getattr(found, each))]
    raise ValueError(f'There is no metric {name!r}: {module or "it"} has no function {function!r}.'
                     f'{nearest(function, known)} Write MODULE:FUNCTION, a function (targets, predictions) that '
                     'returns a number, or numbers by name.')
  return metric


def _references(target: str | Sequence[str]) -> list[str]:
  return [target] if isinstance(target, str) else list(target)


def _words(value: Any) -> list:
  return value.split() if isinstance(value, str) else exact(value)
