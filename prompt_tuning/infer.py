"""Generates predictions for a file of inputs: `python3 -m prompt_tuning.infer --help`."""

import sys

from prompt_tuning.programs import command

if __name__ == '__main__':
  sys.exit(command.run('infer'))
