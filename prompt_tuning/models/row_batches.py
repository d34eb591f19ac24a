"""The batch of rows of ids, and what conditions each of them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from prompt_tuning.data.preprocessing import stand_in
from prompt_tuning.models.ensembles import Ensemble
from prompt_tuning.models.row_prompts import collect_prompts
from prompt_tuning.models.text_rows import Row, bucket
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning, Context
from prompt_tuning.types import Batch


def batch_of(model: Any, rows: Sequence[Row], targets: Sequence[Sequence[int]] | None, prompt: Any = None,
             context: Context | None = None, *, first_id: int = 0) -> tuple[Batch, Conditioning]:
  """Returns the batch of inputs with their targets, or of inputs to generate for, and the conditioning of its rows.

  Args:
    model: the frozen model.
    rows: the inputs.
    targets: their targets' ids; None to generate.
    prompt: see `language_model`.
    context: likewise.
    first_id: the number of the first row in the whole stream.

  Raises:
    ValueError: the numbers of inputs, targets, prompts and contexts differ.
  """
  if targets is not None and len(rows) != len(targets):
    raise ValueError(f'Found {len(rows)} inputs and {len(targets)} targets. Give one target for each input.')
  require_rows(context, len(rows))
  count, members = len(rows), 1
  if isinstance(prompt, Ensemble):
    prompt.require_mean('scores, logits and token by token')
    members = len(prompt.members)
    uses, conditioning = prompt.collect(model)
    chosen, rows = uses * count, [row for row in rows for _ in uses]
    targets = None if targets is None else [target for target in targets for _ in uses]
  else:
    chosen, conditioning = collect_prompts(prompt, count, model)
  of_rows = [model.layout(dataclasses.replace(use.layout, started=context is None)) for use in chosen]
  # One prompt in the rows, and all are.
  within = len({layout.in_front for layout in of_rows}) > 1 or not all(row.ids for row in rows)
  examples = []
  for b, (row, use, layout) in enumerate(zip(rows, chosen, of_rows, strict=True)):
    layout = dataclasses.replace(layout, within=within)
    ids = row.ids or stand_in(model.vocabulary, layout)
    examples.append([layout.question(ids, prompt_id=use.number) if targets is None else
                     layout.example(ids, targets[b], prompt_id=use.number)])
  rows_to_fill = members << (count - 1).bit_length()  # few batch sizes, so few compiled programs
  if context is not None:
    conditioning = conditioning.behind(context.take(np.arange(rows_to_fill) // members % count))
  examples += [[]] * (rows_to_fill - len(examples))
  needed = {stack: max([len(row[0][stack]['tokens']) for row in examples if row]) for stack in layout.stacks}
  # Padding of long rows may exceed the position table of a model that has one.
  room = getattr(model.module.config, 'position_limit', 0) // 2 or 1 << 30
  lengths = {stack: bucket(length) if bucket(length) <= room else length for stack, length in needed.items()}
  # On the side of questions, targets of an ensemble's rows end in one column, whatever the lengths of its prompts.
  side = layout.question_side if targets is None or members > 1 else 'right'
  return layouts.assemble(examples, lengths, side=side, first_id=first_id, members=members), conditioning


def require_rows(context: Context | None, count: int) -> None:
  """Raises ValueError if a context has neither one row nor as many rows as there are inputs."""
  if context is not None and context.keys.shape[1] not in (1, count):
    raise ValueError(f'Found a context of {context.keys.shape[1]} texts for {count} rows. Read one text for each row, '
                     'or a single text for all.')
