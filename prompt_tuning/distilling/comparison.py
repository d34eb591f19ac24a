"""What a distilled document is worth: held-out answers predicted with nothing, the document, and what was distilled."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from prompt_tuning.distilling.phases import Studied
from prompt_tuning.evaluation import reports
from prompt_tuning.evaluation.evaluate import evaluate_loss
from prompt_tuning.evaluation.saved import Trained
from prompt_tuning.files import json_files, storage, terminal
from prompt_tuning.losses import Loss, distillation
from prompt_tuning.models.language_model import LanguageModel

LOSS = Loss(function=distillation, normalizing_factor='tokens')
COMPARISON, PICTURE = 'comparison.json', 'comparison.png'
NOTHING, DOCUMENT, DISTILLED = 'nothing', 'the document', 'distilled'


def compare(model: LanguageModel, studied: Studied, trained: Trained, *, batch_size: int) -> list[dict[str, Any]]:
  """Returns what is before each held-out question, and the figures of the answers then.

  Args:
    model: the frozen model.
    studied: the document.
    trained: what was distilled.
    batch_size: rows that are run together.

  Returns:
    For nothing, the document and what was distilled: 'before'; 'divergence', KL(teacher ‖ model) in nats for each
    token; 'perplexity' of the answers; 'tokens', the positions before a question; 'bytes' of their keys and values.
  """
  found = []
  for name, given in ((NOTHING, Trained({})), (DISTILLED, trained)):
    conditioning, layout = given.conditioning(model), model.layout(given.layout())
    # The lengths and the loss of training, whose compiled function is reused.
    divergence, crossed = (evaluate_loss(model, conditioning, layout, studied.task, lengths=studied.lengths,
                                         batch_size=batch_size, loss=loss) for loss in (LOSS, Loss(z_loss=0.0)))
    own = conditioning.decoder
    count = own.longest('prefix') + own.longest('prompt')
    found.append({'before': name, 'divergence': divergence['divergence'], 'perplexity': _perplexity(crossed['loss']),
                  'tokens': count, 'bytes': count * _bytes(model)})
  scores = [example['target_log_probs'] for example in studied.task.split('validation')]
  mean = -float(np.concatenate(scores).mean(dtype=np.float64))
  found.insert(1, {'before': DOCUMENT, 'divergence': 0.0, 'perplexity': _perplexity(mean), 'tokens': studied.tokens,
                   'bytes': studied.tokens * _bytes(model)})
  return found


def write(folder: str, figures: Sequence[dict[str, Any]]) -> str:
  """Writes figures into a run's folder; returns their table."""
  storage.write_bytes(storage.join(folder, COMPARISON), json_files.spelled(list(figures), indent=2).encode())
  lines = [f'{"before a question":20}  {"divergence":>10}  {"perplexity":>10}  {"tokens":>8}  keys and values']
  lines += [f'{row["before"]:20}  {row["divergence"]:>10.4g}  {row["perplexity"]:>10.4g}  {row["tokens"]:>8,}  '
            f'{row["bytes"]:>14,} bytes' for row in figures]
  document, distilled = (next(row for row in figures if row['before'] == name) for name in (DOCUMENT, DISTILLED))
  return '\n'.join([*lines, f'Saved: {document["tokens"] - distilled["tokens"]:,} tokens and '
                    f'{document["bytes"] - distilled["bytes"]:,} bytes of keys and values for each context.'])


def draw(folder: str, figures: Sequence[dict[str, Any]]) -> None:
  """Writes a picture of figures into a run's folder, or says that it cannot."""
  shown = ('divergence', 'perplexity', 'tokens')
  try:
    reports.bars({name: {row['before']: row[name] for row in figures} for name in shown}, storage.join(folder, PICTURE))
  except ImportError as error:
    terminal.say(f'No picture of the comparison: {error}')


def _perplexity(loss: float) -> float:
  return math.exp(min(loss, 700.0))


def _bytes(model: LanguageModel) -> int:
  """Returns the bytes of the keys and values of one position."""
  layers, heads, width = model.prefix_shapes()['decoder']
  return 2 * layers * heads * width * np.dtype(model.module.config.dtype).itemsize
