"""What replaces `__main__` in files that configure a program of T5X."""

from prompt_tuning.t5x_names.eval_script import evaluate
from prompt_tuning.t5x_names.infer_script import infer
from prompt_tuning.t5x_names.train_script import train

__all__ = ['evaluate', 'infer', 'train']
