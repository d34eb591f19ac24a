"""A frozen language model as users hold it: text or ids in, logits, scores or text out.

A prompt is anything with `vectors` [P, D], `placement` and `visibility` (`saved.SavedPrompt`), a plain array
[P, D], what `load_trained` gives (prefixes and layer prompts too), or a list with one of these, or None, for each row:
all of one kind, of several lengths. A context is a text, or one for each row, that a
decoder-only model has read before (`LanguageModel.read`): prompt, input and answer stand behind it.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from prompt_tuning import trees
from prompt_tuning.data.vocabularies import until_end
from prompt_tuning.devices import sharding
from prompt_tuning.losses import log_likelihood
from prompt_tuning.models.generation import Greedy, Sampler, generate
from prompt_tuning.models.parameters import ready
from prompt_tuning.models.row_prompts import collect_prompts
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning, Context, Visibility
from prompt_tuning.types import Array, Batch, Params

Texts = Sequence[str] | Sequence[Sequence[int]] | np.ndarray
BUCKETS = (8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


def bucket(length: int) -> int:
  """Returns the next of a few lengths, so that few programs are compiled."""
  return next((size for size in BUCKETS if size >= length), -(-length // 512) * 512)


@functools.partial(jax.jit, static_argnames=('module', 'hidden'))
def apply_model(module: nn.Module, params: Params, batch: Batch, conditioning: Conditioning, *,
                hidden: bool = False) -> Array:
  """Returns the logits [B, S, V] of a batch's targets, or `hidden` states [B, S, D], without dropout."""
  return sharding.whole(module.config.mesh, run_model(module, params, batch, conditioning, hidden=hidden))


def run_model(module: nn.Module, params: Params, batch: Batch, conditioning: Conditioning, *,
              hidden: bool = False) -> Array:
  """Is `apply_model` as part of a compiled function; what it returns stays where it was computed."""
  return module.apply({'params': ready(module, params, conditioning.parameters)}, batch, conditioning, hidden=hidden)


@functools.partial(jax.jit, static_argnames='module')
def score_batch(module: nn.Module, params: Params, batch: Batch, conditioning: Conditioning) -> Array:
  """Returns [B], the log-likelihood of each row's targets."""
  logits = run_model(module, params, batch, conditioning)
  scores = log_likelihood(logits, batch['decoder']['targets'], batch['decoder']['loss_weights'])
  return sharding.whole(module.config.mesh, scores)


@functools.partial(jax.jit, static_argnames='module')
def attention_weights(module: nn.Module, params: Params, batch: Batch, conditioning: Conditioning) -> dict[str, Array]:
  """Returns what every position attends to: [L, B, H, T, S] for each attention, by its name in the parameters.

  S counts what stands in front first, then the layer's own positions: 'decoder/layers/self_attention' and the like.
  """
  _, kept = module.apply({'params': ready(module, params, conditioning.parameters)}, batch, conditioning,
                         mutable=['intermediates'])
  # Of a stack that ran a prompt by itself before the rows, the rows' weights are the last.
  found = {name.removesuffix('/weights'): runs[-1] for name, runs in trees.flatten(kept['intermediates']).items()}
  return sharding.whole(module.config.mesh, found)


@functools.partial(jax.jit, static_argnames='module')
def read_batch(module: nn.Module, params: Params, batch: Batch) -> Context:
  """Returns what a decoder-only model makes of a batch of texts."""
  _, fronts, _ = module.apply({'params': ready(module, params, {})}, batch, Conditioning(), method='prefill')
  read = Context(fronts[-1].keys, fronts[-1].values, batch['decoder']['segments'] > 0)
  return sharding.whole(module.config.mesh, read)


@dataclasses.dataclass(frozen=True)
class _Row:
  """One text as ids: what stood in an array of `length`, from `start` on, without the padding around it."""

  ids: list[int]
  start: int
  length: int


@dataclasses.dataclass(frozen=True, eq=False)
class LanguageModel:
  """A frozen model with its vocabulary.

  Attributes:
    module: the Linen module.
    params: θ, layers stacked.
    vocabulary: encodes and decodes texts; None where only ids are used.
    path: where it was read from, for messages and files.
    step: the step of its checkpoint, 0 where it has none.
  """

  module: nn.Module
  params: Params
  vocabulary: Any = None
  path: str = ''
  step: int = 0

  @property
  def width(self) -> int:
    """D."""
    return self.module.config.width

  @property
  def prompted(self) -> str:
    """The stack that prompts belong to: 'encoder', or 'decoder' where there is no other."""
    return self.module.prompted

  def prefix_shapes(self) -> dict[str, tuple[int, int, int]]:
    """Returns layers, heads of keys and values, and their width for each attention: encoder, decoder, cross."""
    return self.module.prefix_shapes()

  def layout(self, asked: layouts.Layout = layouts.Layout()) -> layouts.Layout:
    """Returns how this model's examples are laid out for what a method asks."""
    return self.module.layout(asked)

  @property
  def eos_id(self) -> int:
    """The token that ends a text that is learnt."""
    return 1 if self.vocabulary is None else self.vocabulary.eos_id

  @property
  def end_ids(self) -> tuple[int, ...]:
    """The tokens that end an answer."""
    return (1,) if self.vocabulary is None else self.vocabulary.end_ids

  def embeddings(self) -> Array:
    """Returns the embedding [V, D]; where it is spread over hosts, a copy on this one."""
    embedding = self.params['token_embedder']['embedding']
    return embedding if self.module.config.mesh is None else sharding.on_host(embedding)

  def read(self, texts: Texts) -> Context:
    """Reads texts once, for many batches that shall stand behind them; give one for all rows, or one for each.

    `jax.device_get` takes what is returned to the host. In a prefix-LM a text does not see what stands behind it.

    Args:
      texts: texts, without an end token, or token ids.

    Raises:
      ValueError: the model has an encoder, to which all of an input is visible.
    """
    if self.prompted == 'encoder':
      raise ValueError('A text can be read before what follows it only by a decoder-only model, but this one has an '
                       'encoder. Put the text into the inputs.')
    rows = self._rows(texts, 'texts')
    batch, _ = self._batch(rows, None, None)
    context = read_batch(self.module, self.params, batch)
    longest = max(1, (batch['decoder']['segments'] > 0).sum(1).max())  # texts end in the last column
    return Context(*(array[:, :len(rows), :, -longest:] for array in (context.keys, context.values)),
                   context.seen[:len(rows), -longest:])

  def logits(self, inputs: Texts, targets: Texts, prompt: Any = None, *, context: Context | None = None) -> np.ndarray:
    """Scores every vocabulary entry at every target position.

    Args:
      inputs: texts, or token ids, `[B, T]` padded with 0 on either side or a list of rows; None where a decoder-only
        model has nothing but targets, the first of which then only stands in front (not in T5X's models, in which the
        token 0 does).
      targets: likewise; texts get an end token.
      prompt: see the top of this file.
      context: likewise; texts behind it get no begin token.

    Returns:
      [B, S, V] float32, aligned with the targets as given; 0 at padding, and where nothing stood in front.
    """
    rows = self._rows(targets, 'targets')
    batch, conditioning = self._batch(*self._split(inputs, rows, context), prompt, context)
    logits = np.asarray(apply_model(self.module, self.params, batch, conditioning))
    aligned = np.zeros((len(rows), max(row.length for row in rows), logits.shape[-1]), np.float32)
    for b, row in enumerate(rows):
      places = np.flatnonzero(batch['decoder']['loss_weights'][b])
      end = row.start + len(row.ids)
      aligned[b, end - len(places):end] = logits[b, places]
    return aligned

  def score(self, inputs: Texts, targets: Texts, prompt: Any = None, *, context: Context | None = None) -> np.ndarray:
    """Returns [B], the log-likelihood of each target given its input; the arguments are those of `logits`."""
    rows = self._rows(targets, 'targets')
    batch, conditioning = self._batch(*self._split(inputs, rows, context), prompt, context)
    return np.asarray(score_batch(self.module, self.params, batch, conditioning))[:len(rows)]

  def predict(self, inputs: Texts, prompt: Any = None, *, sampler: Sampler = Greedy(), max_length: int = 64,
              batch_size: int = 32, seed: int = 0, context: Context | None = None) -> list[Any]:
    """Answers each input.

    Args:
      inputs: texts, or token ids (with their end token where the model expects one).
      prompt: see the top of this file.
      sampler: how tokens are chosen: `Greedy()`, `Sampling(...)` or `BeamSearch(...)`; the best sequence counts.
      max_length: the most tokens of an answer, its end token included; inputs, prompts and contexts do not count.
      batch_size: how many inputs are run together.
      seed: for samplers that draw.
      context: as in `logits`.

    Returns:
      A text for each input, or, where ids were given, an array of ids without the end token.
    """
    if inputs is None:
      raise ValueError('inputs is None, so there is nothing to answer. Give texts or token ids.')
    require_rows(context, len(inputs))
    answers = []
    given_text = len(inputs) > 0 and isinstance(inputs[0], str)
    for start in range(0, len(inputs), batch_size):
      part = inputs[start:start + batch_size]
      chosen = prompt[start:start + batch_size] if isinstance(prompt, (list, tuple)) else prompt
      read = None if context is None else context.take(np.arange(start, start + len(part)))
      batch, conditioning = self._batch(self._rows(part, 'inputs', behind=read), None, chosen, read, first_id=start)
      tokens, _ = generate(self.module, self.params, batch, conditioning, jax.random.key(seed), sampler=sampler,
                           max_length=max_length, end_ids=self.end_ids)
      for ids in np.asarray(tokens)[:len(part), -1]:
        answers.append(self.vocabulary.decode(ids.tolist()) if given_text else
                       np.asarray(until_end(ids, self.end_ids), ids.dtype))
    return answers

  def _split(self, inputs: Texts | None, targets: list[_Row],
             context: Context | None) -> tuple[list[_Row], list[list[int]]]:
    """Returns inputs and targets; without inputs each target's first token stands for one, if nothing else does."""
    if inputs is not None:
      return self._rows(inputs, 'inputs', behind=context), [row.ids for row in targets]
    if self.prompted == 'encoder':
      raise ValueError('inputs is None, but this model reads inputs with its encoder and targets with its decoder. '
                       'Give texts or token ids.')
    first = 0 if self.layout().started and context is None else 1
    return [dataclasses.replace(row, ids=row.ids[:first]) for row in targets], [row.ids[first:] for row in targets]

  def _rows(self, texts: Texts, what: str, behind: Context | None = None) -> list[_Row]:
    if texts is None:
      raise ValueError(f'{what} is None. Give texts or token ids.')
    if isinstance(texts, str):
      raise ValueError(f'Found one text where a list of texts was wanted as {what}. Write [text].')
    if len(texts) == 0:
      raise ValueError(f'{what} is empty. Give at least one row.')
    rows = []
    for text in texts:
      if isinstance(text, str):
        if self.vocabulary is None:
          raise ValueError('This model was loaded without a vocabulary, so it takes token ids, not text. '
                           'Give load_model(..., vocabulary=...).')
        ends = what == 'targets' or (what == 'inputs' and self.layout().input_ends)
        starts = [] if what == 'targets' or behind is not None else getattr(self.vocabulary, 'start', [])
        ids = [*starts, *self.vocabulary.encode(text), *([self.eos_id] if ends else [])]
        rows.append(_Row(ids, 0, len(ids)))
        continue
      ids = np.asarray(text, np.int32)
      if ids.ndim != 1:
        raise ValueError(f'Found one row of token ids where a list of rows was wanted as {what}. Write [ids].')
      real = np.flatnonzero(ids)
      first, last = (int(real[0]), int(real[-1]) + 1) if len(real) else (0, 0)
      rows.append(_Row(ids[first:last].tolist(), first, len(ids)))
    size = self.module.config.vocab_size
    for b, row in enumerate(rows):
      wrong = [i for i in row.ids if not 0 <= i < size]
      if wrong:
        raise ValueError(f'Row {b} of {what} holds the token id {wrong[0]}, but the model has {size} rows in its '
                         'embedding. Use the vocabulary that belongs to this model.')
    return rows

  def _batch(self, rows: Sequence[_Row], targets: Sequence[Sequence[int]] | None, prompt: Any,
             context: Context | None = None, *, first_id: int = 0) -> tuple[Batch, Conditioning]:
    """Returns the batch of inputs with their targets, or of inputs that are to be answered."""
    if targets is not None and len(rows) != len(targets):
      raise ValueError(f'Found {len(rows)} inputs and {len(targets)} targets. Give one target for each input.')
    require_rows(context, len(rows))
    chosen, conditioning = collect_prompts(prompt, len(rows), self)
    examples = []
    for b, (row, (prompt_id, length, placement)) in enumerate(zip(rows, chosen, strict=True)):
      layout = self.layout(layouts.Layout(placement=placement, alone=not self._visibility(conditioning).input,
                                          started=context is None))
      used = {'prompt_length': length, 'prompt_id': prompt_id}
      examples.append([layout.question(row.ids, **used) if targets is None else
                       layout.example(row.ids, targets[b], **used)])
    if len({'prompt_slots' in row[0][self.prompted] for row in examples}) > 1:
      raise ValueError('Some prompts of this batch stand in front and others within the text. Run them in separate '
                       'batches.')
    rows_to_fill = 1 << (len(examples) - 1).bit_length()  # few batch sizes, so few programs
    if context is not None:
      conditioning = conditioning.behind(context.take(np.arange(rows_to_fill) % len(rows)))
    examples += [[]] * (rows_to_fill - len(examples))
    needed = {stack: max([len(row[0][stack]['tokens']) for row in examples if row]) for stack in layout.stacks}
    # In long rows of a model with a position table, padding might not find room there.
    room = getattr(self.module.config, 'position_count', 0) // 2 or 1 << 30
    lengths = {stack: bucket(length) if bucket(length) <= room else length for stack, length in needed.items()}
    side = layout.question_side if targets is None else 'right'
    return layouts.assemble(examples, lengths, side=side, first_id=first_id), conditioning

  def _visibility(self, conditioning: Conditioning) -> Visibility:
    return getattr(conditioning, self.prompted).visibility


def require_rows(context: Context | None, count: int) -> None:
  """Raises ValueError where a context has neither one row nor as many as there are inputs."""
  if context is not None and context.keys.shape[1] not in (1, count):
    raise ValueError(f'Found a context of {context.keys.shape[1]} texts for {count} rows. Read one text for each row, '
                     'or a single one for all.')
