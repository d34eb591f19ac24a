"""Evaluates a frozen model and a prompt with lm-evaluation-harness.

  prompt-tuning lm-eval --model FOLDER --prompt runs/reviews --tasks hellaswag,arc_easy
  prompt-tuning lm-eval --model FOLDER --tasks my_task --include_path my_tasks --limit 100 --output_path results

All other flags are those of `lm-eval run` (--num_fewshot, --limit, --apply_chat_template, --output_path, --log_samples,
--gen_kwargs, ...).
"""

import argparse
import importlib
import json
import sys
from collections.abc import Sequence

from prompt_tuning.names import printable
from prompt_tuning.programs import arguments

_NAME = 'prompt_tuning'  # what the harness calls our model


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit status."""
  parser = arguments.Parser(prog='prompt-tuning lm-eval', description=__doc__,
                            formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--model', metavar='FOLDER', required=True, help='the frozen model')
  parser.add_argument('--prompt', metavar='PATH', help="a run's folder, a .npy or .safetensors file, or a PEFT folder")
  parser.add_argument('--batch_size', type=int, default=8, metavar='ROWS', help='rows that are run together (8)')
  parser.add_argument('--max_length', type=int, metavar='TOKENS', help='most tokens of a row; longer ones are cut')
  parser.add_argument('--dtype', default='float32', help='type of the frozen parameters in memory (float32)')
  parser.add_argument('--seed', type=int, default=0, metavar='NUMBER', help='seed of sampling (0)')
  try:
    return _run(*parser.parse_known_args(argv))
  except (ValueError, OSError, ImportError) as error:
    print(f'prompt-tuning lm-eval: {printable(str(error))}', file=sys.stderr)
    return 2


def _run(flags: argparse.Namespace, others: Sequence[str]) -> int:
  ours = importlib.import_module('prompt_tuning.harness.model').PromptedLM  # says how to install the harness
  from lm_eval._cli import HarnessCLI
  from lm_eval.api.registry import MODEL_REGISTRY, register_model

  if _NAME not in MODEL_REGISTRY:
    register_model(_NAME)(ours)
  settings = {name: getattr(flags, name) for name in ('model', 'prompt', 'max_length', 'dtype', 'seed')
              if getattr(flags, name) is not None}
  before, sys.argv = sys.argv, ['prompt-tuning lm-eval', 'run', '--model', _NAME, '--model_args', json.dumps(settings),
                                '--batch_size', str(flags.batch_size), *others]
  try:
    harness = HarnessCLI()
    harness.execute(harness.parse_args())
  finally:
    sys.argv = before
  return 0
