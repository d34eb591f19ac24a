"""A model family as one object: the storage format of its members, and the module that runs them.

A member's `config.json` is read into a config and written from it, and a table of names maps its arrays:

    token_embedder/embedding                              model.embed_tokens.weight
    decoder/layers_{i}/self_attention/query/kernel        model.layers.{i}.self_attn.q_proj.weight    T

A family that resembles another is a `dataclasses.replace` of it with the differences. `families/registry.py` lists all.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from prompt_tuning import trees
from prompt_tuning.checkpoints import experts
from prompt_tuning.checkpoints.fused import Parts, cuts_in, join
from prompt_tuning.checkpoints.loading import Reader, Rule, save
from prompt_tuning.files.json_files import Fields, fields_of, shown
from prompt_tuning.models.decoder_only import DecoderOnly
from prompt_tuning.types import Flat, Params

Names = Mapping[str, tuple[tuple[int, ...], Any]]  # of a checkpoint -> shape and type
OUTPUT = 'decoder/logits_dense/kernel'  # absent if the output layer is the embedding
_CHOSEN = ('dropout_rate', 'rematerialise', 'attention')  # chosen by a run, whatever the stored shape
# Ends of the names of arrays that go with quantised ones.
_QUANTISED = re.compile(r'\.(qweight|SCB|absmax|weight_packed|weight_scale(_inv)?|activation_scale)$|_(blocks|scales)$')


class _Common(Fields):
  """The fields of every `config.json`."""

  text_config: dict[str, Any] | None = None
  quantization_config: dict[str, Any] | None = None
  tie_word_embeddings: bool | None = None
  bos_token_id: int | list[int] | None = None
  eos_token_id: int | list[int] | None = None
  pad_token_id: int | list[int] | None = None


class Config(Protocol):
  """The fields that the configs of all families have. They are frozen dataclasses, such as `DecoderConfig`.

  Attributes:
    kind: a description of the models for messages, such as 'a decoder-only model'.
    family: the name of the family.
    vocab_size: V.
    width: D.
    tied: the output layer is the embedding.
    dtype: type of the activations.
    mesh: the devices that the model is spread over; None means one.
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
  """A model family. The defaults suit most decoder-only families.

  Attributes:
    name: its name in configs and in `facts().family`.
    model_types: the `model_type`s of `config.json` that belong to it; the first is written. Empty if it has no folders.
    architecture: the name of the class in transformers, which is written.
    read: returns the config of a `config.json`; `family` and `tied` are set afterwards. The file's name is put before
      the text of its ValueErrors, such as 'asks for the activation …'.
    write: returns the `config.json` of a config: the inverse of `read`.
    table: the package's names and those of a Hugging Face folder; rows of parameters that a member lacks are not used.
    prefixes: the prefix of the folder's names in the table, then the prefixes that folders may have instead.
    unread: regular expressions of the folder's names that are not parameters.
    unread_of: further ones, given a member's config.
    defaults: the values of keys that a `config.json` leaves out.
    required: keys of `config.json` -> the only supported value, which is also the value of an absent key.
    unpacks: `quant_method` of `config.json` -> the reader that gives the floating-point arrays of such a folder.
    module: returns the Linen module of a config.
    compared: the fields of a config that make up its shape.
    infer: returns the config inferred from the names and shapes of a T5X checkpoint; its path is for messages.
    known_by: a name that only T5X checkpoints of this family have; '' means none.
    t5x_names: the package's names -> T5X's, if they differ.
  """

  name: str
  model_types: tuple[str, ...] = ()
  architecture: str = ''
  read: Callable[[Mapping[str, Any]], Any] | None = None
  write: Callable[[Any], dict[str, Any]] | None = None
  table: tuple[Rule, ...] = ()
  prefixes: tuple[str, ...] = ('',)
  unread: tuple[str, ...] = ()
  unread_of: Callable[[Any], tuple[str, ...]] = lambda config: ()
  defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  required: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  unpacks: Mapping[str, Callable[[Reader], Reader]] = dataclasses.field(default_factory=dict)
  module: Callable[[Any], nn.Module] = DecoderOnly
  compared: tuple[str, ...] = ('vocab_size', 'width', 'heads', 'head_dim', 'mlp_dim', 'layers',
                               'mlp_activations', 'tied', 'relative_buckets')
  infer: Callable[[Names, str], Any] | None = None
  known_by: str = ''
  t5x_names: Mapping[str, str] = dataclasses.field(default_factory=lambda: {
    'token_embedder/embedding': 'decoder/token_embedder/embedding'})

  def read_config(self, stored: Mapping[str, Any], names: Iterable[str], path: str) -> Any:
    """Returns the config of a Hugging Face folder.

    Args:
      stored: its `config.json`.
      names: the names of its arrays. A model without an output layer is tied: `tie_word_embeddings` is not reliable.
      path: for messages.

    Raises:
      ValueError: the config lacks a key, has a value that cannot be used, or uses something that is not supported for
        this family.
    """
    file = f'{path}/config.json'
    outer = fields_of(file, stored, _Common)
    stored = self.defaults | dict(stored if outer.text_config is None else outer.text_config)  # of a multimodal model
    quantised, names = fields_of(file, stored, _Common).quantization_config or outer.quantization_config, set(names)
    packed = sorted(filter(_QUANTISED.search, names)) if quantised else ()
    if packed and quantised.get('quant_method') not in self.unpacks:
      raise ValueError(f'{file} sets quantization_config to {shown(quantised)}, and the folder holds {packed[0]}: '
                       'quantised arrays cannot be read. Get a folder whose arrays are float32, bfloat16 or float16; '
                       'dtype="int8" rounds them in memory.')
    tied = names.isdisjoint(self.their_names(OUTPUT))
    if tied and stored.get('tie_word_embeddings') is False:
      raise ValueError(f'{path} holds no {self.their_names(OUTPUT)[0]}, although its config.json sets '
                       'tie_word_embeddings to False: the output layer is missing. Give the folder of the whole '
                       'language model.')
    for name, supported in self.required.items():
      if stored.get(name) not in (None, supported):
        raise ValueError(f'{file} sets {name} to {stored[name]!r}; the supported value is {supported!r}. '
                         f'Choose a model of the family {self.name} with this value.')
    try:
      return dataclasses.replace(self.read(stored), family=self.name, tied=tied)
    except KeyError as error:
      raise ValueError(f'{file} lacks {error}, which a model of type {self.model_types[0]!r} needs. '
                       'Give a complete folder.') from error
    except ValueError as error:
      raise ValueError(f'{file} {error}') from error
    except (TypeError, AttributeError, ArithmeticError) as error:  # of a registered family, whose reader checks less
      raise ValueError(f'{file} holds a value that a model of type {self.model_types[0]!r} cannot have '
                       f'({type(error).__name__}: {error}). Download it again.') from error

  def write_config(self, config: Any) -> dict[str, Any]:
    """Returns the `config.json` of a model: the inverse of `read_config`.

    Raises:
      ValueError: the family has no Hugging Face format.
    """
    if self.write is None:
      raise ValueError(f'A model of the family {self.name!r} cannot be written as a Hugging Face folder. '
                       'Use layout="t5x".')
    return {
      'model_type': self.model_types[0], **({'architectures': [self.architecture]} if self.architecture else {}),
      'vocab_size': config.vocab_size, 'tie_word_embeddings': config.tied, 'dtype': 'float32', **self.write(config)}

  def rules(self) -> list[Rule]:
    """Returns the whole table of names of a Hugging Face folder; rows with the usual prefix come first."""
    usual, *others = self.prefixes
    return [*self.table, *(dataclasses.replace(rule, theirs=prefix + rule.theirs.removeprefix(usual))
                           for prefix in others for rule in self.table if rule.theirs.startswith(usual))]

  def their_names(self, ours: str) -> list[str]:
    """Returns the possible names of a parameter outside the layers in a Hugging Face folder, the usual one first."""
    return [rule.theirs for rule in self.rules() if rule.ours == ours]

  def parts(self, reader: Reader, config: Any) -> Reader:
    """Returns the reader of a Hugging Face folder: it splits arrays that hold several parameters, and joins experts."""
    for unpack in self.unpacks.values():
      reader = unpack(reader)
    joined = experts.Experts(reader, self.rules(), getattr(config, 'experts', 0))
    return Parts(joined, cuts_in(self.rules(), config))

  def named(self, params: Params, config: Any) -> Flat:
    """Returns the arrays of a Hugging Face folder."""
    return experts.split(join(save(params, self.rules()), cuts_in(self.rules(), config)))

  def t5x_rules(self, paths: Iterable[str]) -> list[Rule]:
    """Returns the table of names of a T5X checkpoint, given the stacked paths of all parameters."""
    named = dict.fromkeys(trees.without_group(path).replace('/layers/', '/layers_{i}/') for path in paths)
    return [Rule(name, self.t5x_names.get(name, name)) for name in named]

  def differences(self, asked: Config, stored: Config) -> list[tuple[str, Any, Any]]:
    """Returns the differences between a stored shape and the requested one: name, stored value, requested value."""
    return [(name, getattr(stored, name), getattr(asked, name)) for name in self.compared
            if getattr(stored, name) != getattr(asked, name)]

  def agreed(self, asked: Config, stored: Config, path: str) -> Any:
    """Returns the config of a stored model, with the values that a run chooses.

    Raises:
      ValueError: the run asks for another model.
    """
    if asked.kind != stored.kind:
      raise ValueError(f'{path}/config.json describes {stored.kind}, but the run asks for {asked.kind}. '
                       'Choose the architecture of the stored model.')
    wrong = [f'{name}: {there} in the folder, {wanted} asked for'
             for name, there, wanted in self.differences(asked, stored)]
    if wrong:
      raise ValueError(f'{path}/config.json describes another model than the run asks for ({"; ".join(wrong)}). '
                       'Choose the architecture of that size.')
    return dataclasses.replace(stored, **{name: getattr(asked, name) for name in _CHOSEN})


def divided(**fields: int) -> int:
  """Returns the first of two fields of a `config.json`, divided by the second.

  Raises:
    ValueError: there is a remainder.
  """
  (whole, size), (part, count) = fields.items()
  if size % count:
    raise ValueError(f'sets {whole} to {size}, but {part} to {count}, which does not divide it. Download it again.')
  return size // count


def table(text: str) -> tuple[Rule, ...]:
  """Returns the rules of a table of names. Each line has our name, theirs, and T if theirs is transposed.

  Raises:
    ValueError: a line has another form.
  """
  rules = []
  for line in text.strip().splitlines():
    words = line.split()
    if len(words) not in (2, 3) or words[2:] not in ([], ['T']):
      raise ValueError(f'A table of names has the line {line.strip()!r}. Write our name, theirs, and T if theirs is '
                       'transposed.')
    rules.append(Rule(words[0], words[1], transpose=len(words) == 3))
  return tuple(rules)
