"""A frozen language model, the object that users work with: takes texts or token ids, returns logits, scores or texts.

A prompt is anything with `vectors` [P, D], `placement` and `visibility` (`saved.SavedPrompt`), a plain array [P, D], or
the result of `load_trained` (also prefixes and layer prompts). It may also be a list with one of these, or None, for
each row: all of one kind, their lengths may differ. A context is a text, or one for each row, that a decoder-only model
has already read (`LanguageModel.read`): prompt, input and prediction follow it.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from prompt_tuning import trees
from prompt_tuning.checks import require_type
from prompt_tuning.data.chat_format import ChatFormat
from prompt_tuning.data.messages import are_messages
from prompt_tuning.data.preprocessing import stand_in
from prompt_tuning.data.vocabularies import until_end
from prompt_tuning.decoding.samplers import Greedy, Sampler
from prompt_tuning.devices import sharding
from prompt_tuning.models.compiled import apply_model, read_batch, score_batch
from prompt_tuning.models.generation import generate
from prompt_tuning.models.row_prompts import collect_prompts
from prompt_tuning.models.text_rows import Row, Texts, bucket, text_rows
from prompt_tuning.models.weights_digest import weights_digest
from prompt_tuning.names import require_number
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning, Context, Facts
from prompt_tuning.types import Array, Batch, Params


@dataclasses.dataclass(frozen=True, eq=False)
class LanguageModel:
  """A frozen model with its vocabulary.

  Attributes:
    module: the Linen module.
    params: θ, layers stacked.
    vocabulary: encodes and decodes texts; None if only ids are used.
    path: the path of the checkpoint, for messages and files.
    step: the step of the checkpoint, or 0.
    ends: the ids that end a generation if there is no vocabulary; the first also ends a target.
  """

  module: nn.Module
  params: Params
  vocabulary: Any = None
  path: str = ''
  step: int = 0
  ends: tuple[int, ...] = (1,)

  def __repr__(self) -> str:
    types = ' and '.join(sorted({str(array.dtype) for array in jax.tree.leaves(self.params)}))
    return (f'LanguageModel({self.path!r}, family {self.module.config.family}, step {self.step}, '
            f'{trees.count(self.params):,} parameters of {types}, vocabulary {self.vocabulary!r})')

  @property
  def width(self) -> int:
    """D."""
    return self.module.config.width

  @property
  def facts(self) -> Facts:
    """The properties of the model that do not need its weights."""
    return self.module.facts()

  @property
  def prompted(self) -> str:
    """The stack that prompts belong to: 'encoder', or 'decoder' if there is no other."""
    return self.module.prompted

  def prefix_shapes(self) -> dict[str, tuple[int, int, int]]:
    """Returns layers, KV heads and head width of each attention: encoder, decoder, cross."""
    return self.module.prefix_shapes()

  def layout(self, asked: layouts.Layout = layouts.Layout()) -> layouts.Layout:
    """Returns the layout of this model's examples, given the layout that a method asks for."""
    return self.module.layout(asked)

  @functools.cached_property
  def weights_digest(self) -> str | None:
    """A digest of the weights, which files of trained tensors keep; None of weights in 8 bits."""
    return weights_digest(self.params, self.module.config.mesh)

  @functools.cached_property
  def chat_format(self) -> ChatFormat:
    """How conversations become tokens; reads the chat template that is beside the vocabulary."""
    return ChatFormat.of(self.vocabulary)

  @property
  def eos_id(self) -> int:
    """The token that ends a target."""
    return self.ends[0] if self.vocabulary is None else self.vocabulary.eos_id

  @property
  def end_ids(self) -> tuple[int, ...]:
    """The tokens that end a generation."""
    return self.ends if self.vocabulary is None else self.vocabulary.end_ids

  def embeddings(self) -> Array:
    """Returns the embedding [V, D]; if it is sharded over hosts, a whole copy on this host."""
    embedding = self.params['token_embedder']['embedding']
    return embedding if self.module.config.mesh is None else sharding.on_host(embedding)

  def read(self, texts: Texts, *, mask: Any = None) -> Context:
    """Reads texts once, as the context of many batches: one text for all rows, or one for each row.

    `jax.device_get` moves the result to the host. In a prefix-LM too, a text does not see what comes after it.

    Args:
      texts: texts without an end token, or token ids.
      mask: of an array of ids, as in `logits`.

    Raises:
      ValueError: the model has an encoder, in which every position sees the whole input.
    """
    if self.prompted == 'encoder':
      raise ValueError('Only a decoder-only model can read a text as a context, but this one has an encoder. Put the '
                       'text into the inputs.')
    rows = self._rows(texts, 'texts', mask=mask)
    batch, _ = self._batch(rows, None, None)
    context = read_batch(self.module, self.params, batch)
    longest = max(1, (layouts.target_rows(batch)['segments'] > 0).sum(1).max())  # texts end in the last column
    return Context(*(array[:, :len(rows), :, -longest:] for array in (context.keys, context.values)),
                   context.seen[:len(rows), -longest:])

  def logits(self, inputs: Texts, targets: Texts, prompt: Any = None, *, context: Context | None = None,
             mask: Any = None, target_mask: Any = None) -> np.ndarray:
    """Scores every vocabulary entry at every target position.

    Args:
      inputs: texts; or a list of rows of token ids, which are read as they are; or an array of ids [B, T], padded on
        either side with the vocabulary's padding token (`vocabulary.pad_id`) or as `mask` says. None if a decoder-only
        model gets only targets; their first token is then only context (except in T5X's models, in which the token 0
        comes first).
      targets: likewise; texts get an end token. If the padding token is the end token, a row of an array keeps one.
      prompt: see the top of this file.
      context: likewise; texts after it get no begin token.
      mask: [B, T] of inputs that are an array: 1 for tokens, 0 for padding (a tokenizer's `attention_mask`).
      target_mask: the same of targets.

    Returns:
      [B, S, V] float32, aligned with the given targets; 0 for padding, and for a token that nothing precedes.
    """
    rows = self._rows(targets, 'targets', mask=target_mask)
    batch, conditioning = self._batch(*self._split(inputs, rows, context, mask), prompt, context)
    logits = np.asarray(apply_model(self.module, self.params, batch, conditioning))
    aligned = np.zeros((len(rows), max(row.length for row in rows), logits.shape[-1]), np.float32)
    for b, row in enumerate(rows):
      places = np.flatnonzero(layouts.target_rows(batch)['loss_weights'][b])
      end = row.start + len(row.ids)
      aligned[b, end - len(places):end] = logits[b, places]
    return aligned

  def score(self, inputs: Texts, targets: Texts, prompt: Any = None, *, context: Context | None = None,
            mask: Any = None, target_mask: Any = None) -> np.ndarray:
    """Returns [B], the log-likelihood of each target given its input; the arguments are those of `logits`."""
    rows = self._rows(targets, 'targets', mask=target_mask)
    batch, conditioning = self._batch(*self._split(inputs, rows, context, mask), prompt, context)
    return np.asarray(score_batch(self.module, self.params, batch, conditioning))[:len(rows)]

  def predict(self, inputs: Texts, prompt: Any = None, *, sampler: Sampler = Greedy(), max_length: int = 64,
              batch_size: int = 32, seed: int = 0, context: Context | None = None, mask: Any = None) -> list[Any]:
    """Generates a prediction for each input.

    Args:
      inputs: texts, or token ids (with the end token if the model expects one).
      prompt: see the top of this file.
      sampler: chooses the tokens: `Greedy()`, `Sampling(...)` or `BeamSearch(...)`; the best sequence is returned.
      max_length: maximum number of generated tokens, end token included; inputs, prompts and contexts do not count.
      batch_size: inputs per batch.
      seed: for samplers that draw.
      context: as in `logits`.
      mask: likewise.

    Returns:
      A text for each input; or, if ids were given, an array of ids without the end token.
    """
    if inputs is None:
      raise ValueError('inputs=None cannot be used here. Give texts or token ids.')
    require_rows(context, len(inputs))
    require_type('sampler', sampler, Sampler)
    for name, value in (('max_length', max_length), ('batch_size', batch_size)):
      require_number(name, value, least=1, whole=True)
    require_number('seed', seed, least=0, below=2**32, whole=True)
    answers = []
    given_text = len(inputs) > 0 and isinstance(inputs[0], str)
    for start in range(0, len(inputs), batch_size):
      part = inputs[start:start + batch_size]
      chosen = prompt[start:start + batch_size] if isinstance(prompt, (list, tuple)) else prompt
      read = None if context is None else context.take(np.arange(start, start + len(part)))
      rows = self._rows(part, 'inputs', behind=read, mask=None if mask is None else mask[start:start + batch_size])
      batch, conditioning = self._batch(rows, None, chosen, read, first_id=start)
      tokens, _ = generate(self.module, self.params, batch, conditioning, jax.random.key(seed), sampler=sampler,
                           max_length=max_length, end_ids=self.end_ids)
      for ids in np.asarray(tokens)[:len(part), -1]:
        answers.append(self.vocabulary.decode(ids.tolist()) if given_text else
                       np.asarray(until_end(ids, self.end_ids), ids.dtype))
    return answers

  def chat(self, messages: Any, prompt: Any = None, *, sampler: Sampler = Greedy(), max_length: int = 64,
           batch_size: int = 32, seed: int = 0) -> Any:
    """Writes the assistant's next turn of a conversation, or of each of several.

    Args:
      messages: a list of `{'role': …, 'content': …}` that ends with the user's turn, or a list of such lists.
      prompt: see the top of this file; it stands where it was trained to stand.
      sampler, max_length, batch_size, seed: as in `predict`.

    Returns:
      A text, or a list of texts.

    Raises:
      ValueError: the model's folder has no chat template, or the template cannot write the messages.
    """
    if not isinstance(messages, list | tuple) or not messages:
      raise ValueError(f'messages={messages!r:.60} cannot be used: expected a list of messages, or of conversations.')
    chats = [messages] if are_messages(messages) else messages
    asked = [self.chat_format.question(each, f'Conversation {i}') for i, each in enumerate(chats)]
    replies = self.predict(asked, prompt, sampler=sampler, max_length=max_length, batch_size=batch_size, seed=seed)
    texts = [self.vocabulary.decode(ids.tolist()) for ids in replies]
    return texts[0] if chats is not messages else texts

  def _split(self, inputs: Texts | None, targets: list[Row], context: Context | None,
             mask: Any) -> tuple[list[Row], list[list[int]]]:
    """Returns inputs and targets; without inputs and context, each target's first token becomes the input."""
    if inputs is not None:
      return self._rows(inputs, 'inputs', behind=context, mask=mask), [row.ids for row in targets]
    if self.prompted == 'encoder':
      raise ValueError('inputs=None cannot be used: this model reads inputs with its encoder and targets with its '
                       'decoder. Give texts or token ids.')
    first = 0 if self.layout().started and context is None else 1
    return [dataclasses.replace(row, ids=row.ids[:first]) for row in targets], [row.ids[first:] for row in targets]

  def _rows(self, texts: Texts, what: str, behind: Context | None = None, mask: Any = None) -> list[Row]:
    return text_rows(texts, what, vocabulary=self.vocabulary, layout=self.layout(),
                     size=self.module.config.vocab_size, started=behind is None, mask=mask)

  def _batch(self, rows: Sequence[Row], targets: Sequence[Sequence[int]] | None, prompt: Any,
             context: Context | None = None, *, first_id: int = 0) -> tuple[Batch, Conditioning]:
    """Returns the batch of inputs with their targets, or of inputs to generate for."""
    if targets is not None and len(rows) != len(targets):
      raise ValueError(f'Found {len(rows)} inputs and {len(targets)} targets. Give one target for each input.')
    require_rows(context, len(rows))
    chosen, conditioning = collect_prompts(prompt, len(rows), self)
    given = getattr(conditioning, self.prompted)
    of_rows = [self.layout(layouts.Layout(length, placement, isolated=not given.visibility.input,
                                          started=context is None,
                                          prefixed=given.prefix is not None or given.layer_prompts is not None))
               for _, length, placement in chosen]
    # One prompt in the rows, and all are.
    within = len({layout.in_front for layout in of_rows}) > 1 or not all(row.ids for row in rows)
    examples = []
    for b, (row, (prompt_id, length, _), layout) in enumerate(zip(rows, chosen, of_rows, strict=True)):
      layout = dataclasses.replace(layout, within=within)
      ids, used = row.ids or stand_in(self.vocabulary, layout), {'prompt_length': length, 'prompt_id': prompt_id}
      examples.append([layout.question(ids, **used) if targets is None else layout.example(ids, targets[b], **used)])
    rows_to_fill = 1 << (len(examples) - 1).bit_length()  # few batch sizes, so few compiled programs
    if context is not None:
      conditioning = conditioning.behind(context.take(np.arange(rows_to_fill) % len(rows)))
    examples += [[]] * (rows_to_fill - len(examples))
    needed = {stack: max([len(row[0][stack]['tokens']) for row in examples if row]) for stack in layout.stacks}
    # Padding of long rows may exceed the position table of a model that has one.
    room = getattr(self.module.config, 'position_count', 0) // 2 or 1 << 30
    lengths = {stack: bucket(length) if bucket(length) <= room else length for stack, length in needed.items()}
    side = layout.question_side if targets is None else 'right'
    return layouts.assemble(examples, lengths, side=side, first_id=first_id), conditioning


def require_rows(context: Context | None, count: int) -> None:
  """Raises ValueError if a context has neither one row nor as many rows as there are inputs."""
  if context is not None and context.keys.shape[1] not in (1, count):
    raise ValueError(f'Found a context of {context.keys.shape[1]} texts for {count} rows. Read one text for each row, '
                     'or a single text for all.')
