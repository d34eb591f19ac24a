"""The trained tensors that a run uses."""

import dataclasses

import jax

from prompt_tuning import trees
from prompt_tuning.evaluation import saved
from prompt_tuning.models import loading
from prompt_tuning.models.ensembles import Ensemble
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.prompts import PATH, Prompt, PromptTuning
from prompt_tuning.runs.eval_run import Use
from prompt_tuning.runs.objects import method
from prompt_tuning.tuning.method import Method


def trained(run: Use, model: LanguageModel) -> saved.Trained | Ensemble:
  """Returns the trained tensors that a run uses: a file's, the checkpoint's own, or first values of its method.

  Several files are an ensemble.

  Raises:
    ValueError: the tensors do not fit, or there are none and first values are forbidden.
  """
  if isinstance(run.prompt, tuple):
    return Ensemble([_member(run, path, model) for path in run.prompt], run.ensemble)
  return _trained(run, model)


def _member(run: Use, path: str, model: LanguageModel) -> saved.Trained:
  found = _trained(dataclasses.replace(run, prompt=path, ensemble='mean'), model)
  try:
    found.conditioning(model)
  except ValueError as error:
    raise ValueError(f'prompt={path} cannot be used. {error}') from error
  return found


def _trained(run: Use, model: LanguageModel) -> saved.Trained:
  chosen = run.method
  if chosen is not None and chosen.name == 'prompt' and run.prompt is not None:
    chosen = chosen.with_options(init='uniform')  # unused; unlike the default, it does not read the embedding
  made = None if chosen is None else method(chosen, model)
  if run.prompt is not None:
    found = saved.load_for(model, run.prompt, any_model=run.any_model)
    return found if made is None else _as_chosen(run, found, made)
  if made is None:
    return saved.Trained({})
  about = {'step': model.step, **made.describe()}
  if run.checkpoint_prompt and run.model:
    reader = loading.open_checkpoint(loading.find_model(run.model))
    if PATH in reader.names():
      return _as_chosen(run, saved.Trained({PATH: reader.read(PATH)}, about), made)
  if run.first_values_seed is None:
    raise ValueError(f'{run.model} holds no {PATH}, and first_values_seed=None forbids drawing one. Give prompt=FILE, '
                     'or another checkpoint.')
  return saved.Trained(trees.flatten(made.initialise(jax.random.key(run.first_values_seed), model)), about)


def _as_chosen(run: Use, found: saved.Trained, made: Method) -> saved.Trained:
  """Returns what a file holds, used as the run's method says if the file does not say.

  Raises:
    ValueError: the file holds a prompt of another length, or says that it is used differently.
  """
  prompt, length = found.prompt(), run.method.options.get('length')
  if prompt is not None and length is not None and len(prompt.vectors) != length:
    raise ValueError(f'{run.prompt or "The checkpoint"} holds a prompt of {len(prompt.vectors)} vectors, but the run '
                     f'asks for length={length}. Set length={len(prompt.vectors)}, or choose another file.')
  chosen, plain = made.describe(), type(made)(Prompt(1)).describe() if isinstance(made, PromptTuning) else {}
  for name in ('placement', 'visibility'):
    there = found.about.get(name, chosen.get(name))
    if chosen.get(name) not in (plain.get(name), there):
      raise ValueError(f'{run.prompt} was trained with the {name} {there}, but the run asks for {chosen[name]}. Leave '
                       f'the {name} to the file.')
  chosen.pop('method')  # the file alone says what trained it, and so which stack its tensors belong to
  return dataclasses.replace(found, about={**chosen, **found.about})
