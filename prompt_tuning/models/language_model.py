"""A frozen language model, the object that users work with: takes texts or token ids, returns logits, scores or texts.

A prompt is anything with `vectors` [P, D], `placement` and `visibility` (`saved.SavedPrompt`), a plain array [P, D], or
the result of `load_trained` (also prefixes and layer prompts). It may also be a list with one of these, or None, for
each row: kinds and lengths may differ. An `Ensemble` of prompts is used as one. A context is a text, or one for each
row, that a decoder-only model has already read (`LanguageModel.read`): prompt, input and prediction follow it.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from prompt_tuning import trees
from prompt_tuning.data.chat_format import ChatFormat
from prompt_tuning.data.messages import are_messages
from prompt_tuning.data.vocabularies import until_end
from prompt_tuning.decoding.samplers import BeamSearch, Greedy, Sampler, require_sampler
from prompt_tuning.devices import sharding
from prompt_tuning.files import hub
from prompt_tuning.models.abilities import require_reading, require_writing
from prompt_tuning.models.apart import apart
from prompt_tuning.models.compiled import apply_model, read_batch, score_batch
from prompt_tuning.models.ensembles import Ensemble, Votes
from prompt_tuning.models.predictions import Answers, Asked, BeamAnswers, of_rows, returning
from prompt_tuning.models.row_batches import batch_of, require_rows
from prompt_tuning.models.text_rows import Row, Texts, text_rows
from prompt_tuning.models.token_scores import TokenScores, score_tokens
from prompt_tuning.models.weights_digest import weights_digest
from prompt_tuning.names import require_number
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Context, Facts
from prompt_tuning.types import Array, Params


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
    name = hub.id_of(self.path) or self.path
    return (f'LanguageModel({name!r}, family {self.module.config.family}, step {self.step}, '
            f'{trees.count(self.params):,} parameters of {types}, vocabulary {self.vocabulary!r})')

  @property
  def width(self) -> int:
    """D."""
    return self.facts.width

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
  def layers(self) -> Params:
    """The parameters as decoding reads them, see `apart`."""
    return apart(self.params, self.module.config.mesh)

  @functools.cached_property
  def weights_digest(self) -> str | None:
    """A digest of the weights, which files of trained tensors keep; None of weights in 8 bits."""
    return weights_digest(self.params, self.module.config.mesh, head=bool(getattr(self.module.config, 'classes', 0)))

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
    require_reading(self.module)
    rows = self._rows(texts, 'texts', mask=mask)
    batch, _ = batch_of(self, rows, None, None)
    context = read_batch(self.module, self.params, batch)
    longest = max(1, (layouts.target_rows(batch)['segments'] > 0).sum(1).max())  # texts end in the last column
    return Context(*(array[:, :len(rows), :, -longest:] for array in (context.keys, context.values)),
                   context.seen[:len(rows), -longest:], context.state and context.state.rows(slice(len(rows))))

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
    batch, conditioning = batch_of(self, *self._split(inputs, rows, context, mask), prompt, context)
    logits = np.asarray(apply_model(self.module, self.params, batch, conditioning))
    aligned = np.zeros((len(rows), max(row.length for row in rows), logits.shape[-1]), np.float32)
    for b, row in enumerate(rows):
      places = np.flatnonzero(layouts.target_rows(batch)['loss_weights'][b * conditioning.members])
      end = row.start + len(row.ids)
      aligned[b, end - len(places):end] = logits[b, places]
    return aligned

  def score(self, inputs: Texts, targets: Texts, prompt: Any = None, *, context: Context | None = None,
            mask: Any = None, target_mask: Any = None, end_token: bool = True, per_token: bool = False,
            top: int = 1) -> np.ndarray | list[TokenScores]:
    """Returns [B], the log-likelihood of each target given its input; or all tokens' scores. See `logits` too.

    Args:
      end_token: the end token of a text is scored too; False for continuations that may go on.
      per_token: return one `TokenScores` for each target, without the token that nothing precedes.
      top: the likeliest tokens that each has.
    """
    require_writing(self.module, 'score texts')
    require_number('top', top, least=1, most=self.module.config.vocab_size, whole=True)
    if top > 1 and not per_token:
      raise ValueError(f'top={top} cannot be used without per_token=True.')
    rows = self._rows(targets, 'targets', mask=target_mask, ends=end_token)
    batch, conditioning = batch_of(self, *self._split(inputs, rows, context, mask), prompt, context)
    if not per_token:
      return np.asarray(score_batch(self.module, self.params, batch, conditioning))[:len(rows)]
    scores = jax.tree.map(np.asarray, score_tokens(self.module, self.params, batch, conditioning, top=top))
    scored = layouts.target_rows(batch)['loss_weights'][::conditioning.members] != 0
    return [jax.tree.map(lambda array, b=b: array[b, scored[b]], scores) for b in range(len(rows))]

  def predict(self, inputs: Texts, prompt: Any = None, *, sampler: Sampler = Greedy(),
              max_length: int | Sequence[int] = 64, batch_size: int = 32, seed: int | Sequence[int] = 0,
              stop: Sequence[str] | Sequence[Sequence[str]] = (), n: int | None = None, return_scores: bool = False,
              top: int = 1, context: Context | None = None, mask: Any = None) -> list[Any]:
    """Generates a prediction for each input.

    Settings of several inputs may differ: `max_length`, `seed`, `stop` and the fields of `Sampling` may be lists with
    a value for each. New values compile nothing, and an input's prediction does not depend on those beside it.
    `context` and `mask` are those of `logits`.

    Args:
      inputs: texts, or token ids (with the end token if the model expects one).
      prompt: see the top of this file.
      sampler: chooses the tokens: `Greedy()`, `Sampling(...)`, `BeamSearch(...)`, or a `decoding.choose.Choose`.
      max_length: maximum number of generated tokens, end token included; inputs, prompts and contexts do not count.
      batch_size: inputs per batch.
      seed: for samplers that draw. Inputs with one seed for all get different noise; the noise of an input with a seed
        of its own depends on that seed alone.
      stop: texts that end a prediction, which goes up to the first of them.
      n: return so many predictions for each input, best first; None returns the best.
      return_scores: return a `Prediction` with the scores of its tokens instead of a text or ids.
      top: the likeliest tokens whose scores it has too.

    Returns:
      A text for each input, or an array of ids without the end token if ids were given. With `n`, a list of these.
    """
    require_number('batch_size', batch_size, least=1, whole=True)
    require_number('n', n, least=1, whole=True, none=True)
    require_number('top', top, least=1, most=self.module.config.vocab_size, whole=True)
    asked = Asked(max_length, seed, stop, top if return_scores else 0)
    sampler = sampler if n is None else returning(sampler, n)
    answers, given_text = [], inputs is not None and len(inputs) > 0 and isinstance(inputs[0], str)
    for start in range(0, 1 if inputs is None else len(inputs), batch_size):
      growing = self._answers(inputs, prompt, sampler, asked, slice(start, start + batch_size), context, mask)
      for found in growing.finish().predictions():
        plain = found if return_scores else [
          each.text if given_text else np.asarray(until_end(each.ids, self.end_ids), each.ids.dtype) for each in found]
        answers.append(plain[-1] if n is None else plain[::-1][:n])
    return answers

  def prefill(self, inputs: Texts, prompt: Any = None, *, sampler: Sampler = Greedy(),
              max_length: int | Sequence[int] = 64, seed: int | Sequence[int] = 0,
              stop: Sequence[str] | Sequence[Sequence[str]] = (), top: int = 0, context: Context | None = None,
              mask: Any = None) -> Answers:
    """Reads a batch of inputs, whose answers then grow token by token: `answers.step()` until `answers.ended.all()`.

    The arguments are those of `predict`, except for beam search, which is not possible, and:

    Args:
      top: so many likeliest tokens are kept at each place, with the log-probabilities; 0 keeps no scores.
    """
    if isinstance(sampler, BeamSearch):
      raise ValueError('BeamSearch cannot be driven token by token, since a beam may be replaced by another one. Use '
                       'Greedy() or Sampling(...).')
    if isinstance(prompt, Ensemble):
      prompt.require_mean('prefill')
    return self._answers(inputs, prompt, sampler, Asked(max_length, seed, stop, top), slice(None), context, mask)

  def _answers(self, inputs: Texts, prompt: Any, sampler: Sampler, asked: Asked, part: slice, context: Context | None,
               mask: Any) -> Any:
    """Returns the answers to a part of the inputs before their first token."""
    require_writing(self.module, 'generate texts')
    if inputs is None:
      raise ValueError('inputs=None cannot be used here. Give texts or token ids.')
    if isinstance(prompt, Ensemble) and prompt.kind == 'vote':
      return Votes(functools.partial(self._answers, inputs, member, sampler, asked, part, context, mask)
                   for member in prompt.members)
    require_rows(context, len(inputs))
    require_sampler(sampler)
    own = range(len(inputs))[part]
    at = lambda values: None if values is None else values[own.start:own.stop]
    read = None if context is None else context.take(np.arange(own.start, own.stop))
    rows = self._rows(at(inputs), 'inputs', behind=read, mask=at(mask))
    chosen = at(prompt) if isinstance(prompt, (list, tuple)) else prompt
    batch, conditioning = batch_of(self, rows, None, chosen, read, first_id=own.start)
    make = BeamAnswers if isinstance(sampler, BeamSearch) else Answers
    return make(self, batch, conditioning, of_rows(sampler, own, len(inputs)), asked.of(own, len(inputs)))

  def chat(self, messages: Any, prompt: Any = None, *, sampler: Sampler = Greedy(), max_length: int = 64,
           batch_size: int = 32, seed: int = 0) -> Any:
    """Writes the assistant's next turn of a conversation, or of each of several. Other arguments: see `predict`.

    Args:
      messages: a list of `{'role': …, 'content': …}` that ends with the user's turn, or a list of such lists.
      prompt: see the top of this file; it stands where it was trained to stand.

    Returns:
      A text, or a list of texts.

    Raises:
      ValueError: the model's folder has no chat template, or the template cannot write the messages.
    """
    require_writing(self.module, 'chat')
    own = {'sampler': sampler, 'max_length': max_length, 'batch_size': batch_size, 'seed': seed}
    replies = self.predict(self.chat_format.questions(messages), prompt, **own)
    texts = [self.vocabulary.decode(ids.tolist()) for ids in replies]
    return texts[0] if are_messages(messages) else texts

  def _split(self, inputs: Texts | None, targets: list[Row], context: Context | None,
             mask: Any) -> tuple[list[Row], list[list[int]]]:
    """Returns inputs and targets; without inputs and context, each target's first token becomes the input."""
    if inputs is not None:
      return self._rows(inputs, 'inputs', behind=context, mask=mask), [row.ids for row in targets]
    if self.prompted == 'encoder':
      raise ValueError('inputs=None cannot be used: this model reads inputs with its encoder. Give texts or token ids.')
    first = 0 if self.layout().started and context is None else 1
    return [dataclasses.replace(row, ids=row.ids[:first]) for row in targets], [row.ids[first:] for row in targets]

  def _rows(self, texts: Texts, what: str, behind: Context | None = None, mask: Any = None,
            ends: bool = True) -> list[Row]:
    return text_rows(texts, what, vocabulary=self.vocabulary, layout=self.layout(),
                     size=self.module.config.vocab_size, started=behind is None, mask=mask, ends=ends)
