"""Evaluates a frozen model with a prompt: `python3 -m prompt_tuning.eval --help`."""

import sys

from prompt_tuning.programs import command

if __name__ == '__main__':
  sys.exit(command.run('eval'))
