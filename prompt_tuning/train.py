"""Tunes a prompt, or retrains parts of a model: `python3 -m prompt_tuning.train --help`."""

import sys

from prompt_tuning.programs import current_folder

if __name__ == '__main__':
  current_folder.put_last()  # before anything that a file there could stand in for is imported
  from prompt_tuning.programs import command

  sys.exit(command.run('train'))
