"""The runs that are trained together: what each has of its own, and whether they can share a step."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from prompt_tuning import trees
from prompt_tuning.checks import check_fields
from prompt_tuning.data.pipeline import TrainBatches
from prompt_tuning.data.tasks import Mixture, Task
from prompt_tuning.devices import meshes, multihost
from prompt_tuning.evaluation.saved import Trained
from prompt_tuning.losses import Loss
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.names import require_number
from prompt_tuning.rows.layouts import Layout
from prompt_tuning.training import run_files
from prompt_tuning.training.evaluations import Evaluations
from prompt_tuning.training.optimizers import Adafactor, Optimizer, build
from prompt_tuning.training.step import TrainState
from prompt_tuning.tuning.method import Method


@dataclasses.dataclass(frozen=True, kw_only=True)
class Member:
  """One of several runs that share a frozen model. The attributes without a description are arguments of `loop.train`.

  Attributes:
    name: tells it from the others.
    method: must be of one class for all members.
    task: the training task.
    lengths: see `loop.train`.
    model_dir: its folder, which becomes that of an ordinary run.
    train_steps: see `loop.train`.
    optimizer: likewise.
    batch_size: likewise.
    seed: of first values, data order and dropout, as if the member ran alone.
    packed: see `loop.train`.
    buckets: likewise.
    split: likewise.
    evaluations: likewise.
    settings: likewise.
    files: likewise.
    start_from: likewise.
  """

  name: str
  method: Method
  task: Task | Mixture
  lengths: Mapping[str, int]
  model_dir: str
  train_steps: int
  optimizer: Optimizer | optax.GradientTransformation = Adafactor()
  batch_size: int = 128
  seed: int = 0
  packed: bool = False
  buckets: Sequence[int] | None = None
  split: str = 'train'
  evaluations: Evaluations = Evaluations()
  settings: Mapping[str, Any] | None = None
  files: Mapping[str, str] | None = None
  start_from: Trained | None = None

  def __post_init__(self) -> None:
    check_fields(self)

  def first_state(self, model: LanguageModel) -> TrainState:
    """Returns the state before the first step."""
    trained = self.method.initialise(jax.random.key(self.seed), model)
    if self.start_from is not None:
      trained = run_files.started_from(self.start_from, self.method, trained, model)
    return TrainState(jnp.int32(model.step), trained, build(self.optimizer, model.step).init(trained),
                      jnp.uint32(self.seed))

  def train_batches(self, model: LanguageModel, layout: Layout, fields: Sequence[str] = ()) -> TrainBatches:
    """Returns the batches that the member would have alone, with further fields that the loss reads."""
    return TrainBatches(self.task, model.vocabulary, layout, lengths=self.lengths, batch_size=self.batch_size,
                        seed=self.seed, packed=self.packed, buckets=self.buckets, split=self.split, fields=fields)


def require_shared(model: LanguageModel, members: Sequence[Member], loss: Loss, microbatches: int | None) -> None:
  """Ensures that members can share a step.

  Raises:
    ValueError: they cannot; the message names a member, says why, and what to do.
  """
  if not multihost.is_single_process():
    raise ValueError('Runs cannot be trained together by several processes. Start one process; it may use all devices '
                     'of its host by mesh=.')
  if not members:
    raise ValueError('There are no runs to train. Give at least one.')
  if loss.over_pairs:
    raise ValueError(f'The loss {loss.name} compares all rows of a batch, but a batch holds the rows of several runs. '
                     'Use another loss, or train each run alone.')
  for name in ('name', 'model_dir'):
    values = [getattr(each, name) for each in members]
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
      raise ValueError(f'{name}={twice!r} is that of {values.count(twice)} runs. Give each run its own.')
  first, said = members[0], None
  for each in members:
    if not re.fullmatch(r'[^/\x00-\x1f]{1,200}', each.name) or each.name.startswith('.'):
      raise ValueError(f'name={each.name!r} cannot be used: it becomes the name of a folder. Use letters and digits.')
    for name, value, least in (('batch_size', each.batch_size, 1), ('train_steps', each.train_steps, 1)):
      require_number(name, value, least=least, whole=True)
    require_number('seed', each.seed, least=0, below=2**32, whole=True)
    meshes.rows_at_once(model.module.config.mesh, each.batch_size, microbatches)
    found = _shared_facts(each, model)
    said = said or found
    for what, (value, wanted) in {what: (found[what], said[what]) for what in said}.items():
      if value != wanted:
        raise ValueError(f'{first.name} and {each.name} cannot be trained in one run: {what} is {wanted} in the first '
                         f'and {value} in the second. Train them in separate runs.')


def _shared_facts(member: Member, model: LanguageModel) -> dict[str, str]:
  """Returns what must be the same for all members."""
  method = member.method
  if method.layout().cached:
    raise ValueError(f'{member.name} cannot share a run: it caches texts (cached=True), which every run reads for '
                     'itself. Leave out cached=True, or train it alone.')
  if method.tasks is not None:
    raise ValueError(f'{member.name} cannot share a run: its method {type(method).__name__} trains prompts of several '
                     'tasks itself. Train it alone.')
  given = jax.eval_shape(lambda: method.condition(method.initialise(jax.random.key(0), model), model))
  if given.parameters:
    raise ValueError(f'{member.name} cannot share a run: its method {type(method).__name__} changes '
                     f'{next(iter(given.parameters))}, a parameter of the model that all rows of a batch share. Use '
                     'prompts or prefixes, or train it alone.')
  visibility = [stack.visibility for stack in (given.encoder, given.decoder) if stack.prompt is not None]
  return {'the method': type(method).__name__, 'what it conditions': ' and '.join(given.given()),
          'the visibility of the prompt': ' and '.join(map(str, visibility))}


def require_same_lengths(model: LanguageModel, members: Sequence[Member], batches: Sequence[TrainBatches]) -> None:
  """Ensures that dropout, whose mask depends on the shape of a row, is that of each member alone.

  Raises:
    ValueError: the model drops activations, and rows or tensors of two members have different shapes.
  """
  if not model.module.config.dropout_rate:
    return
  advice = (f'With dropout_rate={model.module.config.dropout_rate}, runs can only be trained together if all rows are '
            'as long: give all the same lengths and no buckets, or dropout_rate=0.')
  shapes = [(dict(batch.lengths), {name: tuple(array.shape) for name, array in trees.flatten(jax.eval_shape(
    lambda member=member: member.method.initialise(jax.random.key(0), model))).items()})
    for member, batch in zip(members, batches, strict=True)]
  for member, shape in zip(members, shapes, strict=True):
    if shape != shapes[0]:
      raise ValueError(f'{members[0].name} has rows and tensors of {shapes[0]}, but {member.name} of {shape}. {advice}')
    if member.buckets is not None:
      raise ValueError(f'{member.name} has the buckets {list(member.buckets)}. {advice}')
