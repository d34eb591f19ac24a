"""One measurement of methods.py with this package: trains by flags, then predicts.

Of reviews the likelier label is taken; of lists of integers, a prompt for each task, the text that is generated.
"""

import contextlib
import json
import os
import pathlib
import random
import re
import shlex
import sys
import tempfile
import time
from typing import Any

import contest
import methods_rows

import prompt_tuning as pt
from prompt_tuning.programs import command


def main() -> None:
  options = methods_rows.options(__doc__)
  job, model, rows = options.job, options.model, options.rows
  with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
    if 'tasks' in job['protocol']:
      found = measure_tasks(job, model, methods_rows.integers_of(rows, job['protocol']), folder)
    else:
      found = measure(job, model, methods_rows.split(rows, job['protocol'], folder), os.path.join(folder, 'run'))
  print(json.dumps(found))


def measure(job: dict[str, Any], model: str, rows: dict[str, str], output: str) -> dict[str, Any]:
  """Returns accuracies, trained parameters, bytes of their file, processor seconds of training, and peak memory."""
  protocol, arguments = job['protocol'], shlex.split(job['settings'])
  template, inputs = methods_rows.TEMPLATE, protocol['inputs']
  shots = next((int(each.partition('=')[2]) for each in arguments if each.startswith('--shots=')), None)
  began, trained, size, prompt = time.process_time(), 0, 0, None
  if shots is not None:
    template, inputs = _shots(rows['train'], shots, job['seed']) + template, None
  else:
    arguments = [each.replace('TOKENS', str(_tokens(model, arguments))) for each in arguments]
    trained, size = _train(job, model, rows['train'], output, [
      f'--template={template}', '--target_template= {label}', f'--max_input_length={inputs}', *arguments])
    prompt = output
  seconds, memory = time.process_time() - began, contest.peak_memory()
  found = {}
  for split in ('validation', 'test'):
    ((_, metrics),) = pt.EvalRun(
      model=model, prompt=prompt, data=rows[split], split='all', template=template, target_template=' {label}',
      label_words=tuple(f' {label}' for label in methods_rows.LABELS), max_input_length=inputs,
      batch_size=protocol['batch_size']).run().items()
    found[split] = metrics['accuracy']
  return {**found, 'trained': trained, 'bytes': size, 'seconds': seconds, 'memory': memory}


def measure_tasks(job: dict[str, Any], model: str, tasks: dict[str, dict[str, str]], output: str) -> dict[str, Any]:
  """Returns the same for tasks of texts: means over the tasks, the largest peak, and each task's accuracy."""
  arguments, found = shlex.split(job['settings']), {}
  trains = not arguments[0].startswith('--shots=')
  for task, rows in tasks.items():
    run, began = os.path.join(output, task), time.process_time()
    trained, size = _train(job, model, rows['train'], run, arguments) if trains else (0, 0)
    found[task] = {'trained': trained, 'bytes': size, 'seconds': time.process_time() - began}
    for split in ('validation', 'test'):
      ((_, metrics),) = pt.EvalRun(
        model=model, prompt=run if trains else None, data=rows[split], split='all').run().items()
      found[task][split] = metrics['accuracy']
  return {**methods_rows.means(found), 'memory': contest.peak_memory()}


def _train(job: dict[str, Any], model: str, data: str, output: str, arguments: list[str]) -> tuple[int, int]:
  """Trains by flags; returns the number of trained parameters, and the bytes of their file."""
  protocol = job['protocol']
  status = command.main([
    'train', '--model', model, '--data', data, '--output', output, '--validation=0', '--compare=false',
    '--evaluation_examples=0', '--loss_steps=0', f'--steps={protocol["steps"]}',
    f'--batch_size={protocol["batch_size"]}', f'--seed={job["seed"]}', *arguments])
  if status != 0:
    raise SystemExit(status)
  info = pathlib.Path(output, 'model-info.txt').read_text()
  return (int(re.search(r'^Trained: (\d+)$', info, re.MULTILINE)[1]),
          os.path.getsize(os.path.join(output, 'last.safetensors')))


def _shots(path: str, count: int, seed: int) -> str:
  """Returns examples in the form of the template, half of each label in turn."""
  rows = [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]
  random.Random(seed).shuffle(rows)
  of = {label: iter([row for row in rows if row['label'] == label]) for label in methods_rows.LABELS}
  chosen = [next(of[methods_rows.LABELS[i % 2]]) for i in range(count)]
  escaped = lambda text: text.replace('{', '{{').replace('}', '}}')
  return ''.join(f'Review: {escaped(row["text"])}\nSentiment: {row["label"]}\n\n' for row in chosen)


def _tokens(model: str, arguments: list[str]) -> int:
  """Returns the number of tokens of the text that a prefix starts from."""
  text = next((each.partition('=')[2] for each in arguments if each.startswith('--text=')), '')
  from prompt_tuning.data.vocabulary_folders import load_vocabulary

  return len(load_vocabulary(model).encode(text)) if text else 0


if __name__ == '__main__':
  main()
