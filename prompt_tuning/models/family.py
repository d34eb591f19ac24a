"""A family of models as one object: how its members are stored, and the module that runs them.

A member's `config.json` is read into a config and written from it, and a table of names says where its arrays are:

    token_embedder/embedding                              model.embed_tokens.weight
    decoder/layers_{i}/self_attention/query/kernel        model.layers.{i}.self_attn.q_proj.weight    T

A family that resembles another is `dataclasses.replace` of it with what differs; `families/registry.py` knows them all.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from prompt_tuning.checkpoints.fused import Parts, fused_in
from prompt_tuning.checkpoints.loading import Reader, Rule
from prompt_tuning.models.decoder_only import DecoderOnly

Names = Mapping[str, tuple[tuple[int, ...], Any]]  # of a checkpoint -> shape and type
OUTPUT = 'decoder/logits_dense/kernel'  # absent where the output layer is the embedding
_CHOSEN = ('dropout_rate', 'rematerialise', 'attention')  # by a run, whatever the shape


class Config(Protocol):
  """What the configs of all families have: frozen dataclasses, `T5Config` and `DecoderConfig` here.

  Attributes:
    kind: what its models are, for messages: 'a decoder-only model'.
    family: the name of its family.
    vocab_size: V.
    width: D.
    tied: the output layer is the embedding.
    dtype: type of the activations.
    mesh: the devices that the model is spread over; None is one.
  """

  kind: str
  family: str
  vocab_size: int
  width: int
  tied: bool
  dtype: jnp.dtype
  mesh: Mesh | None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Family:
  """A family. What is not given is as most decoder-only families have it.

  Attributes:
    name: what configs and `facts().family` say.
    model_types: the `model_type`s of `config.json` that are its own; the first is written. Empty: it has no folders.
    architecture: the name of the class in transformers, which is written.
    read: returns the config that a `config.json` describes; `family` and `tied` are set for it. Its ValueErrors go on
      after the file's name: 'asks for the activation …'.
    write: returns what `config.json` says of a config: the inverse of `read`.
    table: our names and those of a Hugging Face folder; rows of parameters that a member lacks are not used.
    prefixes: what their names in the table begin with, and what folders may have in its place.
    unread: regular expressions of their names that are not parameters.
    defaults: what a `config.json` that does not say it means.
    required: names in `config.json` -> the only value that is supported here, which is also what its absence means.
    module: makes the Linen module of a config.
    compared: the fields of a config that make up its shape.
    infer: returns the config that the names and shapes of a T5X checkpoint tell, whose path is for messages.
    known_by: a name that T5X checkpoints of this family alone have; '' is none.
    t5x_names: our names -> T5X's, where these differ.
  """

  name: str
  model_types: tuple[str, ...] = ()
  architecture: str = ''
  read: Callable[[Mapping[str, Any]], Any] | None = None
  write: Callable[[Any], dict[str, Any]] | None = None
  table: tuple[Rule, ...] = ()
  prefixes: tuple[str, ...] = ('',)
  unread: tuple[str, ...] = ()
  defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  required: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  module: Callable[[Any], nn.Module] = DecoderOnly
  compared: tuple[str, ...] = ('vocab_size', 'width', 'heads', 'head_dim', 'mlp_dim', 'layers',
                               'mlp_activations', 'tied', 'relative_buckets')
  infer: Callable[[Names, str], Any] | None = None
  known_by: str = ''
  t5x_names: Mapping[str, str] = dataclasses.field(default_factory=lambda: {
    'token_embedder/embedding': 'decoder/token_embedder/embedding'})

  def read_config(self, stored: Mapping[str, Any], names: Iterable[str], path: str) -> Any:
    """Returns the config that a Hugging Face folder describes.

    Args:
      stored: its `config.json`.
      names: its arrays; whether there is an output layer decides if it is tied, since `tie_word_embeddings` cannot be
        trusted.
      path: for messages.

    Raises:
      ValueError: it lacks something, or uses what this family does not have here.
    """
    stored = self.defaults | dict(stored.get('text_config', stored))  # of a model that reads images: its language model
    tied = set(names).isdisjoint(self.their_names(OUTPUT))
    if tied and stored.get('tie_word_embeddings') is False:
      raise ValueError(f'{path} holds no {self.their_names(OUTPUT)[0]}, although its config.json sets '
                       'tie_word_embeddings to False: it is a model without its output layer. Give the folder of the '
                       'whole language model.')
    for name, supported in self.required.items():
      if stored.get(name) not in (None, supported):
        raise ValueError(f'{path}/config.json sets {name} to {stored[name]!r}; supported is {supported!r}. Choose a '
                         f'model of the family {self.name} that has it so.')
    try:
      return dataclasses.replace(self.read(stored), family=self.name, tied=tied)
    except KeyError as error:
      raise ValueError(f'{path}/config.json lacks {error} that a model of type {self.model_types[0]!r} needs. '
                       'Give a folder that is whole.') from error
    except ValueError as error:
      raise ValueError(f'{path}/config.json {error}') from error

  def write_config(self, config: Any) -> dict[str, Any]:
    """Returns the `config.json` of a model: the inverse of `read_config`.

    Raises:
      ValueError: the family has no form in Hugging Face folders.
    """
    if self.write is None:
      raise ValueError(f'A model of the family {self.name!r} has no form in Hugging Face folders. '
                       'Write it in the layout "t5x".')
    return {
      'model_type': self.model_types[0], **({'architectures': [self.architecture]} if self.architecture else {}),
      'vocab_size': config.vocab_size, 'tie_word_embeddings': config.tied, 'dtype': 'float32', **self.write(config)}

  def rules(self) -> list[Rule]:
    """Returns the whole table of names of a Hugging Face folder, those with the usual prefix first."""
    usual, *others = self.prefixes
    return [*self.table, *(dataclasses.replace(rule, theirs=prefix + rule.theirs.removeprefix(usual))
                           for prefix in others for rule in self.table if rule.theirs.startswith(usual))]

  def their_names(self, ours: str) -> list[str]:
    """Returns the names that a parameter outside of the layers may have in a Hugging Face folder, the usual first."""
    return [rule.theirs for rule in self.rules() if rule.ours == ours]

  def parts(self, reader: Reader) -> Reader:
    """Returns the reader of a Hugging Face folder that cuts arrays which hold several of ours."""
    return Parts(reader, fused_in(rule.theirs for rule in self.rules()))

  def t5x_rules(self, paths: Iterable[str]) -> list[Rule]:
    """Returns the table of names of a T5X checkpoint for the stacked paths of all parameters."""
    named = [path.replace('/layers/', '/layers_{i}/') for path in paths]
    return [Rule(name, self.t5x_names.get(name, name)) for name in named]

  def differences(self, asked: Config, stored: Config) -> list[tuple[str, Any, Any]]:
    """Returns what makes a stored model's shape another than the one that is asked for: name, stored, asked."""
    return [(name, getattr(stored, name), getattr(asked, name)) for name in self.compared
            if getattr(stored, name) != getattr(asked, name)]

  def agreed(self, asked: Config, stored: Config, path: str) -> Any:
    """Returns the config of a stored model with what a run chooses of it.

    Raises:
      ValueError: the run asks for another model.
    """
    if asked.kind != stored.kind:
      raise ValueError(f'{path}/config.json describes {stored.kind}, but the run asks for {asked.kind}. '
                       'Choose the model file of that family.')
    wrong = [f'{name}: {there} in the folder, {wanted} asked for'
             for name, there, wanted in self.differences(asked, stored)]
    if wrong:
      raise ValueError(f'{path}/config.json is another model than the run asks for ({"; ".join(wrong)}). '
                       'Choose the model file of that size.')
    return dataclasses.replace(stored, **{name: getattr(asked, name) for name in _CHOSEN})


def table(text: str) -> tuple[Rule, ...]:
  """Returns the rules of a table of names: a line each with ours, theirs, and T where theirs is transposed.

  Raises:
    ValueError: a line is not of that form.
  """
  rules = []
  for line in text.strip().splitlines():
    words = line.split()
    if len(words) not in (2, 3) or words[2:] not in ([], ['T']):
      raise ValueError(f'A table of names has the line {line.strip()!r}. Write our name, theirs, and T if theirs is '
                       'transposed.')
    rules.append(Rule(words[0], words[1], transpose=len(words) == 3))
  return tuple(rules)
