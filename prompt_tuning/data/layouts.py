# Moved: import prompt_tuning.layouts instead (it is ground: tuning and models use it too). Delete this file.
from prompt_tuning.layouts import *
