"""Tunes a prompt for the shipped model on one integer task, and shows the result.

  python3 -m prompt_tuning.scripts.demo [--task SortDescending] [--model_dir runs/demo]
"""

import argparse
import os
import time


def main() -> None:
  """Runs the demo from the command line."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--task', default='SortDescending', help='an integer task, such as Add1 or SortAscending')
  parser.add_argument('--model_dir', default='runs/demo', help='the folder of the run; an existing run is resumed')
  parser.add_argument('--steps', type=int, default=1000)
  parser.add_argument('--prompt_length', type=int, default=10)
  options = parser.parse_args()

  began = time.monotonic()
  import prompt_tuning as pt
  from prompt_tuning.devices import compilation

  compilation.use_cache()
  model = pt.load_model('t5_integers')
  print(f'A frozen T5 of {sum(x.size for x in _leaves(model.params)):,} parameters was pretrained on seven tasks '
        f'without being told which. Now it is tuned for {options.task}.')
  before = pt.evaluate(model, options.task, num_examples=800)['accuracy']
  print(f'Accuracy before: {before:.1f} %. Tuning a prompt of {options.prompt_length * model.width:,} parameters:')
  started = time.monotonic()
  run = pt.tune(model, options.task, steps=options.steps, prompt_length=options.prompt_length, batch_size=64,
                model_dir=options.model_dir)
  took = time.monotonic() - started
  prompt = pt.load_prompt(options.model_dir)
  path = os.path.join(options.model_dir, 'prompt.npy')
  prompt.save(path)
  after = pt.evaluate(model, options.task, prompt)['accuracy']
  print(f'Accuracy before {before:.1f} %, after {after:.1f} % (on 3200 lists that are never trained on); '
        f'tuning took {took:.0f} s, everything {time.monotonic() - began:.0f} s.')
  print(f'The prompt is {path} ({os.path.getsize(path):,} bytes, step {run.best["step"]}).')
  questions = ['3 1 2 6 5 4', '6 6 1 2 2 5', '1 4 4 3 6 2']
  for question, answer in zip(questions, model.predict(questions, prompt=prompt, max_length=8), strict=True):
    print(f'  {question}  ->  {answer}')
  _draw(options.model_dir)


def _draw(folder: str) -> None:
  from prompt_tuning.evaluation import reports

  try:
    print(f'A picture of the run: {reports.learning_curve(folder)}')
  except ImportError as error:
    print(f'No picture: {error}')


def _leaves(tree):
  import jax

  return jax.tree.leaves(tree)


if __name__ == '__main__':
  main()
