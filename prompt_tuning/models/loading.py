"""Reads a frozen model from a folder or checkpoint of any supported format, and writes one."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from prompt_tuning import trees
from prompt_tuning.checkpoints.huggingface import HuggingFaceFolder, write_huggingface
from prompt_tuning.checkpoints.loading import Reader, load, save
from prompt_tuning.checkpoints.scanned import Layers, is_scanned
from prompt_tuning.checkpoints.t5x import write_t5x
from prompt_tuning.checks import typed
from prompt_tuning.data.token_files import end_ids
from prompt_tuning.data.vocabularies import ByteVocabulary
from prompt_tuning.data.vocabulary_folders import COPIED, load_vocabulary
from prompt_tuning.devices import meshes, sharding
from prompt_tuning.files import model_files
from prompt_tuning.models.families.registry import family_of_folder, family_of_t5x, get_family
from prompt_tuning.models.family import OUTPUT, Config
from prompt_tuning.models.finding import find_model, open_checkpoint
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.models.quantised import INT8, is_quantisable, quantise
from prompt_tuning.names import nearest
from prompt_tuning.rows import layouts
from prompt_tuning.types import Flat, Params


@typed
def load_model(path: str, *, dtype: Any = None, activation_dtype: Any = jnp.float32, vocabulary: Any = None,
               config: Config | None = None, ignore: Iterable[str] = (), mesh: Mesh | None = None,
               **changes: Any) -> LanguageModel:
  """Returns the frozen model of a checkpoint.

  Args:
    path: a Hugging Face folder (with `config.json`), a GGUF file, a T5X checkpoint (local or `gs://`), the name of a
      model that comes with the package, or `owner/name` of the Hugging Face hub, which `@revision` may follow.
    dtype: type of the parameters, such as `jnp.bfloat16`; None is float32, and 'int8' stores the layers' matrices in 8
      bits and all else in bfloat16.
    activation_dtype: type of the activations.
    vocabulary: a vocabulary; None looks for one in the folder.
    config: the model's shape; None reads it from the folder.
    ignore: regular expressions of checkpoint names that are not read, such as a prompt's.
    mesh: the devices that the model is spread over (`meshes.make_mesh`); each host reads only the parts of its devices.
    changes: other fields of the config, such as `dropout_rate` and `rematerialise`.

  Raises:
    FileNotFoundError: there is no checkpoint at `path`.
    ImportError: a package that reads it is not installed.
    ValueError: it is damaged or has another shape, or the vocabulary is too large; the message names the mismatch.
  """
  for name, value in (('dtype', dtype), ('activation_dtype', activation_dtype)):
    _require_dtype(name, value)
  if vocabulary is not None and not (hasattr(vocabulary, 'encode') and hasattr(vocabulary, 'size')):
    raise ValueError(f'vocabulary={vocabulary!r:.80} cannot be used: expected a vocabulary, which '
                     'prompt_tuning.data.vocabulary_folders.load_vocabulary reads from a folder or file.')
  path = find_model(os.fspath(path))
  reader, ignore = _layer_by_layer(open_checkpoint(path)), tuple(ignore)
  in_folder = isinstance(reader, HuggingFaceFolder)
  if config is None:
    config = read_config(reader, ignore)
  elif in_folder:
    stored = read_config(reader)
    config = get_family(stored.family).agreed(config, stored, reader.path)
  config = changed(config, path, dtype=activation_dtype, mesh=mesh, **changes)
  meshes.require_fit(mesh, config)
  family, module = get_family(config.family), module_of(config)
  shapes, rounded = parameter_shapes(module), {}
  if in_folder:
    reader, rules, ignore = family.parts(reader, config), family.rules(), (*ignore, *family.unread,
                                                                           *family.unread_of(config))
  else:
    rules = family.t5x_rules(shapes)
  if dtype == INT8:
    shapes = {path: jax.ShapeDtypeStruct(array.shape, jnp.float32 if is_quantisable(path) else jnp.bfloat16)
              for path, array in shapes.items()}
    dtype, rounded = None, {'finish': _rounded(mesh)}
  params = load(reader, shapes, rules, dtype=dtype, ignore=ignore, mesh=mesh, **rounded)
  if vocabulary is None and (os.path.isdir(path) or model_files.is_gguf(path)):
    with contextlib.suppress(FileNotFoundError):
      vocabulary = load_vocabulary(path)
  if vocabulary is not None and vocabulary.size > config.vocab_size:
    raise ValueError(f'{path}: the vocabulary {vocabulary} has {vocabulary.size} tokens, but the embedding of the '
                     f'model has {config.vocab_size} rows. Use the vocabulary of this model.')
  ends = (in_folder and end_ids(path)) or LanguageModel.ends
  return LanguageModel(module, params, vocabulary, path, getattr(reader, 'step', 0) or 0, ends)


def changed(config: Config, path: str, **changes: Any) -> Any:
  """Returns the config of the model at `path` with other fields; raises ValueError if it has no field of that name."""
  known = [field.name for field in dataclasses.fields(config)]
  for name in changes.keys() - set(known):
    raise ValueError(f'{name}={changes[name]!r} cannot be used: {path} is {config.kind}, whose config has no such '
                     f'field.{nearest(name, known)} Leave it out.')
  return dataclasses.replace(config, **changes)


def _require_dtype(name: str, value: Any) -> None:
  """Raises ValueError if a value is not the name of a type of numbers."""
  try:
    known = value in (None, INT8) or jnp.issubdtype(jnp.dtype(value), jnp.floating)
  except TypeError:
    known = False
  if not known:
    raise ValueError(f'{name}={value!r} cannot be used: expected float32, bfloat16 or float16'
                     f'{", or int8" if name == "dtype" else ""}.')


def _rounded(mesh: Mesh | None) -> Callable[[str, jax.Array], Any]:
  """Returns a function that quantises each array of the layers' matrices to 8 bits."""
  def finish(path: str, array: jax.Array) -> Any:
    if not is_quantisable(path):
      return array
    shapes = jax.eval_shape(quantise, array)
    places = None if mesh is None else jax.tree.map(lambda x: sharding.parameter_sharding(path, x.shape, mesh), shapes)
    return jax.block_until_ready(jax.jit(quantise, out_shardings=places)(array))

  return finish


def module_of(config: Config) -> nn.Module:
  """Returns the module of a config."""
  return get_family(config.family).module(config)


def random_model(config: Config, *, seed: int = 0, vocabulary: Any = None) -> LanguageModel:
  """Returns a model with random parameters, for pretraining and for benchmarks."""
  module, mesh = module_of(config), config.mesh
  meshes.require_fit(mesh, config)
  places = None if mesh is None else trees.unflatten({
    path: sharding.parameter_sharding(path, array.shape, mesh) for path, array in parameter_shapes(module).items()})
  initialise = jax.jit(lambda key: module.init(key, _example_batch(module))['params'], out_shardings=places)
  return LanguageModel(module, initialise(jax.random.key(seed)), vocabulary, 'random')


def model_of_arrays(named: Flat, path: str, *, described: Mapping[str, Any] | None = None,
                    vocabulary: Any = None) -> LanguageModel:
  """Returns the model made of arrays under the checkpoint's names, for a run that trained every parameter.

  Args:
    named: the arrays.
    path: where they were read, for messages.
    described: the model's `config.json` from `describe`; None infers the shape of a T5 from the arrays.
    vocabulary: the model's vocabulary.

  Raises:
    ValueError: some arrays are missing.
  """
  if described:
    family = family_of_folder(described, path)
    stored = () if described['tie_word_embeddings'] else family.their_names(OUTPUT)
    config = family.read_config(described, stored, path)
  else:
    config = read_config(_Arrays(path, named))
  module = module_of(config)
  params = load(_Arrays(path, named), parameter_shapes(module))
  return LanguageModel(module, params, vocabulary, path)


@dataclasses.dataclass(frozen=True)
class _Arrays:
  """Arrays in memory, read like a checkpoint."""

  path: str
  arrays: Flat

  def names(self) -> dict[str, Any]:
    return {name: (tuple(array.shape), array.dtype) for name, array in self.arrays.items()}

  def read(self, name: str, part: Any = ...) -> Any:
    return self.arrays[name][part]


def save_model(model: LanguageModel, folder: str, *, layout: str = 'huggingface', params: Params | None = None) -> None:
  """Writes a model, with the files of its vocabulary if they are known.

  Args:
    model: the model.
    folder: the output folder; in T5X's layout, `folder/checkpoint_<step>` is written.
    layout: 'huggingface' or 't5x'.
    params: parameters to write instead of the model's, such as retrained ones.

  Raises:
    ValueError: the layout is unknown.
  """
  params = model.params if params is None else params
  family = get_family(model.module.config.family)
  if layout == 't5x':
    write_t5x(folder, model.step, save(params, family.t5x_rules(trees.flatten(params))))
  elif layout == 'huggingface':
    described = family.write_config(model.module.config)
    if model.vocabulary is not None:
      described |= {f'{role}_token_id': getattr(model.vocabulary, f'{role}_id') for role in ('pad', 'eos', 'bos')}
      if isinstance(model.vocabulary, ByteVocabulary):  # which may have no file that tells it
        described['tokenizer_class'] = ByteVocabulary.tokenizer_class
    elif model.ends != LanguageModel.ends:
      described['eos_token_id'] = list(model.ends)
    write_huggingface(folder, described, family.named(params, model.module.config))
  else:
    raise ValueError(f'layout={layout!r} is unknown. Use "huggingface" or "t5x".')
  source = getattr(model.vocabulary, 'path', '')
  for name in COPIED:
    found = os.path.join(os.path.dirname(source), name)
    if source and model_files.exists(found):
      with open(os.path.join(folder, name), 'wb') as file:
        file.write(model_files.read_bytes(found))


def load_embedding(path: str, name: str = 'token_embedder/embedding') -> Any:
  """Returns the embedding [V, D] of a checkpoint, without reading the rest."""
  reader = open_checkpoint(find_model(path))
  if isinstance(reader, HuggingFaceFolder):
    theirs = family_of_folder(reader.config, reader.path).their_names(name)
    name = next((each for each in theirs if each in reader.names()), name)
  else:
    name = family_of_t5x(reader.names()).t5x_names.get(name, name)
  return reader.read(name)


def parameter_shapes(module: nn.Module) -> Flat:
  """Returns stacked path -> shape and type of every parameter, without allocating any."""
  return trees.flatten(jax.eval_shape(module.init, jax.random.key(0), _example_batch(module))['params'])


def _example_batch(module: nn.Module) -> Any:
  layout, features = module.layout(layouts.Layout()), getattr(module.config, 'features', 0)
  masks = [layout.mask_id] * layout.masks if getattr(layout, 'masks', 0) else []  # of a verbaliser
  inputs = np.zeros((1, features)) if features else masks or [1]
  return layouts.assemble([[layout.example(inputs, [1])]], layout.row_lengths({'inputs': len(inputs), 'targets': 1}))


def read_config(reader: Reader, ignore: Iterable[str] = ()) -> Config:
  """Returns the config of a Hugging Face folder, or the one inferred from the names and shapes of a T5X checkpoint.

  Args:
    reader: the checkpoint.
    ignore: regular expressions of names to skip.

  Raises:
    ValueError: it belongs to no known family, or is damaged.
  """
  if isinstance(reader, HuggingFaceFolder):
    return family_of_folder(reader.config, reader.path).read_config(reader.config, reader.names(), reader.path)
  ignore = tuple(ignore)
  names = {name: found for name, found in _layer_by_layer(reader).names().items() if not trees.matches(name, ignore)}
  return family_of_t5x(names).infer(names, reader.path)


def describe(config: Config) -> dict[str, Any]:
  """Returns the `config.json` of a model, for files that state which model they belong to; {} if it has none."""
  family = get_family(config.family)
  return {} if family.write is None or getattr(config, 'classes', 0) else family.write_config(config)


def _layer_by_layer(reader: Reader) -> Reader:
  """Returns the reader of a checkpoint, with one array per layer even if the stored layers are scanned."""
  return Layers(reader) if is_scanned(reader.names()) else reader
