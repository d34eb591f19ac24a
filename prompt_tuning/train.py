"""Tunes a prompt, or retrains parts of a model: `python3 -m prompt_tuning.train --help`."""

import sys

from prompt_tuning.programs import command

if __name__ == '__main__':
  sys.exit(command.run('train'))
