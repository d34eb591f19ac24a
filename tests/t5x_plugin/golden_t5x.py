"""T5X's models from the plug-in's gin files, and the golden data's arrays in the form that they expect."""

import pathlib

import gin
import jax
import jax.numpy as jnp
import numpy as np
from flax import core, traverse_util

ROOT = pathlib.Path(__file__).parents[2]


@gin.configurable(module='golden_t5x')
def hold(model=gin.REQUIRED):
  """Returns the MODEL of gin files."""
  return model


def make(file, *others):
  """Returns the model of a file of `configs/models`, with further gin files and bindings.

  Flaxformer's modules ask gin for their parts whenever they run, so only the last model made can be used.
  """
  gin.clear_config()
  gin.add_config_file_search_path(str(ROOT))
  files = [str(each) for each in others if str(each).endswith('.gin')]
  gin.parse_config_files_and_bindings(
    [f'prompt_tuning/t5x_plugin/configs/models/{file}', *files],
    ['golden_t5x.hold.model = %MODEL', *(each for each in others if not str(each).endswith('.gin'))])
  return hold()


def variables(model, batch):
  """Returns a model's initial variables by collection."""
  return core.unfreeze(model.get_initial_variables(
    jax.random.key(0), {name: array.shape for name, array in batch.items()}, dict.fromkeys(batch, jnp.int32)))


def tree_of(arrays):
  """Returns nested parameters from a golden file's."""
  return traverse_util.unflatten_dict(dict(arrays), sep='/')


def names_of(tree):
  return {*traverse_util.flatten_dict(tree, sep='/')}


def batch_of(golden):
  """Returns the arrays of a golden file that form a batch."""
  return {name: golden[name].astype(np.int32) for name in golden.files
          if name.startswith(('encoder_input', 'decoder_')) and name != 'encoder_outputs'}
