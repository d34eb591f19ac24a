"""Measures what frozen weights of fewer bits cost: accuracy and loss of prompts tuned on them, and of one that was not.

  python benchmarks/int8.py

The shipped model learns an integer task, once for each type of its frozen weights; activations and prompts are float32.
"""

import argparse

import jax

import prompt_tuning as pt
from prompt_tuning.data import registry
from prompt_tuning.devices import compilation
from prompt_tuning.evaluation.evaluate import evaluate_loss

TYPES = ('float32', 'bfloat16', 'int8')


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--task', default='SortDescending', help='an integer task, such as Add1 or SortAscending')
  parser.add_argument('--steps', type=int, default=600)
  parser.add_argument('--seeds', type=int, default=3, help='so many prompts are tuned for each type')
  options = parser.parse_args()
  compilation.use_cache()
  models = {dtype: pt.load_model('t5_integers', dtype=dtype) for dtype in TYPES}
  tuned = {dtype: [tune(model, options, seed) for seed in range(options.seeds)] for dtype, model in models.items()}
  print('| frozen weights | bytes | prompts tuned on float32: accuracy, % | loss | tuned on the same weights: '
        'accuracy, % | loss |\n|---|---|---|---|---|---|')
  for dtype, model in models.items():
    size = sum(array.nbytes for array in jax.tree.leaves(model.params))
    found = [mean_and_range([judge(model, prompt, options.task)[name] for prompt in prompts])
             for prompts in (tuned['float32'], tuned[dtype]) for name in ('accuracy', 'loss')]
    print(f'| {dtype} | {size:,} | {" | ".join(found)} |', flush=True)


def tune(model: pt.LanguageModel, options: argparse.Namespace, seed: int) -> pt.SavedPrompt:
  """Returns the best prompt of a run, tuned as the demo does it."""
  run = pt.tune(model, options.task, steps=options.steps, prompt_length=10, batch_size=64, seed=seed, quiet=True)
  return run.prompt


def judge(model: pt.LanguageModel, prompt: pt.SavedPrompt, name: str) -> dict[str, float]:
  """Returns accuracy and loss on the lists that training never shows."""
  trained, task = prompt.as_trained(), registry.get(name, model.vocabulary, None)
  loss = evaluate_loss(model, trained.conditioning(model), model.layout(trained.layout()), task,
                       lengths={'inputs': 8, 'targets': 8})['loss']
  return {'accuracy': pt.evaluate(model, name, prompt)['accuracy'], 'loss': loss}


def mean_and_range(values: list[float]) -> str:
  """Returns the mean, and behind it the least and the greatest."""
  return f'{sum(values) / len(values):.3f} ({min(values):.3f} to {max(values):.3f})'


if __name__ == '__main__':
  main()
