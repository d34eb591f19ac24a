"""What the tests of scripts share that start runs elsewhere."""

import pathlib
import time

import pytest

import prompt_tuning

SCRIPTS = pathlib.Path(prompt_tuning.__file__).parent / 'scripts'
LENGTHS = "--gin.TASK_FEATURE_LENGTHS={'inputs': 512, 'targets': 8}"
# On SIGTERM it saves and exits with 0, like a run.
RUN = '''
import json, os, signal, sys, time
def save(*_):
  open('saved', 'w').close()
  sys.exit(0)
signal.signal(signal.SIGTERM, save)
json.dump(sys.argv[1:], open('arguments', 'w'))
time.sleep(60)
'''


def wait_for(condition):
  for _ in range(200):
    if condition():
      return
    time.sleep(0.05)
  pytest.fail('nothing happened for ten seconds')
