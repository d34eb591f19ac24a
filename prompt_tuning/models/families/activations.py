"""Names of activations in a `config.json`."""

_OURS = {'gelu_new': 'gelu', 'gelu_pytorch_tanh': 'gelu', 'gelu': 'gelu_exact', 'silu': 'silu', 'swish': 'silu',
         'relu': 'relu', 'gelu_fast': 'gelu', 'gelu_python': 'gelu_exact'}


def read_activation(name: str) -> str:
  """Returns the package's name of an activation.

  Raises:
    ValueError: the activation is not supported.
  """
  if name not in _OURS:
    raise ValueError(f'asks for the activation {name!r}; supported are {", ".join(_OURS)}.')
  return _OURS[name]


def write_activation(name: str) -> str:
  """Returns the name of an activation in a `config.json`: the inverse of `read_activation`."""
  return next(theirs for theirs, ours in _OURS.items() if ours == name)
