"""Predictions for whole files: generated texts, scores, and the lines of output files."""

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from prompt_tuning.data.pipeline import EvalBatches, eval_batches
from prompt_tuning.data.tasks import RESERVED, Example, columns_of
from prompt_tuning.decoding.samplers import Sampler
from prompt_tuning.devices import multihost
from prompt_tuning.evaluation.ranking import Ranked, rank
from prompt_tuning.evaluation.saved import Trained
from prompt_tuning.files import json_files, storage
from prompt_tuning.models import heads
from prompt_tuning.models.abilities import require_writing
from prompt_tuning.models.compiled import score_batch
from prompt_tuning.models.ensembles import Ensemble
from prompt_tuning.models.generation import generate
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.rows.conditioning import Conditioning
from prompt_tuning.types import Batch


def conditioned(model: LanguageModel, trained: Trained | Ensemble, task: str | None = None) -> tuple[Conditioning, Any]:
  """Returns the model's conditioning, and the layout of examples: of an ensemble one for each member."""
  if isinstance(trained, Ensemble):
    uses, conditioning = trained.collect(model)
    return conditioning, [(use.number, model.layout(use.layout)) for use in uses]
  return trained.conditioning(model, task=task), model.layout(trained.layout())


def generate_answers(model: LanguageModel, conditioning: Conditioning, batches: EvalBatches, *, sampler: Sampler,
                     max_length: int, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields tokens [N, S] and scores [N] for each example in turn, best last."""
  for batch, examples in batches.questions():
    tokens, scores = generate(model.module, model.params, batch, conditioning, jax.random.key(seed), sampler=sampler,
                              max_length=max_length, end_ids=model.end_ids, layers=model.layers)
    yield from zip(np.asarray(tokens)[:len(examples)], np.asarray(scores)[:len(examples)], strict=True)


def score_targets(model: LanguageModel, conditioning: Conditioning, batches: EvalBatches) -> Iterator[float]:
  """Yields the log-likelihood of each example's target in turn."""
  for batch, examples in batches:
    scores = np.asarray(score_batch(model.module, model.params, batch, conditioning))
    yield from scores[:len(examples)].tolist()


def infer(model: LanguageModel, trained: Trained | Ensemble, examples: Sequence[Mapping[str, Any]], *, sampler: Sampler,
          lengths: Mapping[str, int] | None = None, batch_size: int = 32, mode: str = 'predict',
          max_length: int = 64, seed: int = 0, ranked: Ranked | None = None) -> Iterator[dict[str, Any]]:
  """Yields a line of output for each example, in order, in the format of T5X's inference files.

  Args:
    model: the frozen model, with a vocabulary.
    trained: the trained tensors that condition it, or an ensemble of kind 'mean'.
    examples: with 'inputs', and with 'targets' if they are scored.
    sampler: chooses the tokens.
    lengths: maximum tokens of 'inputs' and 'targets'; an absent one is the longest found.
    batch_size: rows per batch.
    mode: 'predict', 'predict_with_aux' (adds scores) or 'score' (log-likelihood of the targets).
    max_length: maximum number of generated tokens.
    seed: for samplers that draw.
    ranked: predict the likeliest of its words, without generation; lines then have the `scores` of all words and the
      `confidence` in the prediction.

  Raises:
    ValueError: the mode is unknown, or targets are missing.
  """
  if mode not in ('predict', 'predict_with_aux', 'score'):
    raise ValueError(f'mode={mode!r} cannot be used: expected predict, predict_with_aux or score.')
  if mode == 'score':
    require_writing(model.module, 'score texts')
  if mode == 'score' and any('targets' not in example for example in examples):
    raise ValueError('mode=score needs targets, but an example has none. Add them, or use mode=predict.')
  conditioning, layout = conditioned(model, trained)
  batches = eval_batches(examples, model.vocabulary, layout, batch_size=batch_size, lengths=lengths)
  cut = batches.truncated
  if cut['inputs'] or cut['targets']:
    logging.warning('Of %d examples, %d inputs and %d targets are longer than %s and were truncated.', cut['examples'],
                    cut['inputs'], cut['targets'], dict(lengths or {}))
  if mode == 'score':
    for example, score in zip(examples, score_targets(model, conditioning, batches), strict=True):
      yield {'inputs': readable(example, model.vocabulary), 'score': score}
    return
  if heads.described(model):
    yield from _of_head(model, conditioning, batches, ranked)
    return
  if ranked is not None:
    for example, scores in zip(examples, rank(model, conditioning, batches, ranked), strict=True):
      yield {'inputs': readable(example, model.vocabulary), 'prediction': ranked.words[int(scores.argmax())],
             **ranked.told(scores)}
    return
  answers = generate_answers(model, conditioning, batches, sampler=sampler, max_length=max_length, seed=seed)
  for example, (tokens, scores) in zip(examples, answers, strict=True):
    line = {'inputs': readable(example, model.vocabulary), 'prediction': model.vocabulary.decode(tokens[-1].tolist())}
    if mode == 'predict_with_aux':
      line['aux'] = {'scores': float(scores[-1])}
    yield line


def _of_head(model: LanguageModel, conditioning: Conditioning, batches: EvalBatches,
             ranked: Ranked | None) -> Iterator[dict[str, Any]]:
  """Yields a line for each example with the label, or number, that the model's head predicts, and all scores."""
  if ranked is not None:
    raise ValueError('label_words cannot be used with a classification head, which predicts its own labels. Leave them '
                     'out.')
  found = label_answers(model, conditioning, batches.questions())
  for example, (label, scores) in zip(batches.examples, found, strict=True):
    yield {'inputs': readable(example, model.vocabulary), 'prediction': label, 'scores': scores}


def label_answers(model: LanguageModel, conditioning: Conditioning,
                  batches: Iterable[tuple[Batch, Sequence[Example]]]) -> Iterator[tuple[str, dict[str, float]]]:
  """Yields for each example the label, or number, that the model's head predicts, and the score of each label."""
  for batch, examples in batches:
    for values in heads.outputs(model, batch, conditioning)[:len(examples)]:
      yield heads.predicted(model, values)


def json_line(line: Mapping[str, Any], number: int) -> str:
  """Returns a line of output as JSON: bytes that are no text as an object with `base64`, NaN and infinities as null."""
  return json_files.spelled(line, ensure_ascii=False, default=_as_python)


def text_line(line: Mapping[str, Any], number: int) -> str:
  """Returns `id||text` of a prediction, with white space as single blanks; without an 'id', the example's number.

  Raises:
    ValueError: the id holds '||', so that the line could not be read back.
  """
  name = ' '.join(str(line['inputs'].get('id', number)).split())
  if '||' in name:
    raise ValueError(f'The id {name!r} of example {number} holds ||, which ends an id. Change it, or write rows.')
  return f'{name}||{" ".join(line["prediction"].split())}'


def write_lines(path: str, lines: Iterator[Mapping[str, Any]],
                spell: Callable[[Mapping[str, Any], int], str] = json_line) -> int:
  """Writes lines, as JSON or as `spell` formats them; the file is written whole or not at all. Returns their number.

  On hosts other than the main one they are computed and not written.
  """
  if not multihost.is_main():
    return sum(1 for _ in lines)
  count = 0
  with storage.whole_file(path) as temporary, open(temporary, 'w', encoding='utf-8') as file:
    for line in lines:
      file.write(spell(line, count) + '\n')
      count += 1
  return count


def text_of(example: Mapping[str, Any], feature: str, vocabulary: Any) -> str:
  """Returns the text of an example's 'inputs' or 'targets', before tokenisation if that text is kept."""
  value = example.get(f'{feature}_pretokenized', example.get(feature, ''))
  if isinstance(value, bytes):
    return value.decode()
  if isinstance(value, str):
    return value
  if np.ndim(value) == 0:
    raise ValueError(f'An example has {value!r:.60} as its {feature}, expected a text or token ids. Fix it.')
  return vocabulary.decode(np.asarray(value).tolist())


def readable(example: Mapping[str, Any], vocabulary: Any) -> dict[str, Any]:
  """Returns an example as in T5X's files: its texts are `inputs_pretokenized` and `targets_pretokenized`.

  The columns of its row follow, except for one that equals a text; a name that is taken gets `row.` before it.
  """
  texts = {feature: text_of(example, feature, vocabulary) for feature in ('inputs', 'targets') if feature in example}
  shown = {f'{feature}_pretokenized': text for feature, text in texts.items()}
  shown |= {name: value for name, value in example.items() if name not in RESERVED}
  row = {name: value for name, value in (columns_of(example) if 'row' in example else {}).items()
         if name not in texts or (isinstance(value, str) and value != texts[name])}
  return shown | {f'row.{name}' if name in shown else name: value for name, value in row.items()}


def _as_python(value: Any) -> Any:
  """Returns a replacement for a value that JSON cannot represent."""
  if isinstance(value, bytes):
    try:
      return value.decode()
    except UnicodeDecodeError:
      return {'base64': base64.b64encode(value).decode()}
  return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)
