"""Adapts frozen language models with a few kilobytes of trained tensors.

  import prompt_tuning as pt

  model = pt.load_model('t5_integers')
  run = pt.tune(model, 'SortDescending', steps=600)
  model.predict(['3 1 2 6 5 4'], prompt=run.prompt)

Importing the package loads no JAX: every name below is loaded when it is first used.
"""

import importlib
from typing import Any

__version__ = '0.1.0'

_HOME = {
  'load_model': 'models.loading', 'save_model': 'models.loading', 'random_model': 'models.loading',
  'LanguageModel': 'models.language_model', 'Ensemble': 'models.ensembles', 'T5Config': 'models.t5',
  'Family': 'models.family', 'register_family': 'models.families.registry',
  'Greedy': 'decoding.samplers', 'Sampling': 'decoding.samplers', 'BeamSearch': 'decoding.samplers',
  'Prompt': 'prompts', 'PromptTuning': 'prompts', 'Prefix': 'tuning.prefix', 'Retrained': 'tuning.retrained',
  'Method': 'tuning.method', 'register_method': 'tuning.registry', 'register_loss': 'losses.registry',
  'register_optimizer': 'training.registry', 'register_tracker': 'training.trackers',
  'TrainRun': 'runs.train_run', 'EvalRun': 'runs.eval_run', 'InferRun': 'runs.infer_run', 'Choice': 'runs.choice',
  'SavedPrompt': 'evaluation.saved', 'load_prompt': 'evaluation.saved', 'load_trained': 'evaluation.saved',
  'FileTask': 'data.files', 'Task': 'data.tasks', 'Mixture': 'data.tasks',
  'Adafactor': 'training.optimizers', 'AdamW': 'training.optimizers',
  'nearest_words': 'evaluation.nearest_words', 'similarities': 'evaluation.similarities',
  'recycle': 'evaluation.recycling',
  'distill': 'runs.distilling', 'Study': 'distilling.settings',
  'tune': 'api', 'tune_many': 'api', 'evaluate': 'api', 'rank_sources': 'api',
  'with_head': 'models.heads', 'with_verbaliser': 'models.heads', 'classify': 'api', 'Headed': 'tuning.headed',
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
  if name in _HOME:
    return getattr(importlib.import_module(f'prompt_tuning.{_HOME[name]}'), name)
  raise AttributeError(f'prompt_tuning has no attribute {name!r}. It offers {", ".join(__all__)}.')


def __dir__() -> list[str]:
  return [*globals(), *__all__]
