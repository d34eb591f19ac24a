"""One process of a run on several hosts: trains, resumes, evaluates and predicts. Run by test_pods.py."""

import argparse
import dataclasses
import json
import os
import signal

import toy_run
from eight_devices import CONFIGS

from prompt_tuning import trees
from prompt_tuning.checkpoints.huggingface import HuggingFaceFolder
from prompt_tuning.data.vocabularies import PassThroughVocabulary
from prompt_tuning.decoding.samplers import Greedy
from prompt_tuning.devices import meshes, multihost, preemption
from prompt_tuning.evaluation import predictions, saved
from prompt_tuning.models.loading import load_model, random_model, save_model
from prompt_tuning.training import loop, run_files
from prompt_tuning.training.optimizers import Adafactor
from prompt_tuning.tuning.retrained import Retrained

INPUTS = [{'inputs': text} for text in ('7 8 9', '3', '12 2 5 6', '28 20', '4 4 4', '17 2', '9 11')]


class Telling(list):
  """Examples that send SIGTERM to this process when one is read for the 40th time: those of a run are checked first."""

  read = 0

  def __getitem__(self, index):
    self.read += 1
    if self.read == 40:
      os.kill(os.getpid(), signal.SIGTERM)
    return super().__getitem__(index)


def make_model(folder):
  save_model(random_model(CONFIGS['gpt2']), str(folder))


def play(model_folder, folder, shape=(), *, steps=(6,), judged=True, told=False, retrained=False):
  """Returns the results of this process; the main process has written `folder`.

  Args:
    model_folder: from `make_model`.
    folder: the MODEL_DIR.
    shape: the mesh shape.
    steps: the steps at which to stop and resume.
    judged: also evaluate during training, and write predictions for some inputs into the folder.
    told: also preempt the last process and resume, and train as far uninterrupted, in two subfolders of `folder`.
    retrained: also retrain parameters that are sharded over the processes.
  """
  model, found = load(model_folder, shape)
  of_model = {'params': model.params, 'module': model.module}

  def train(step, name='', **settings):
    nothing = {} if judged and not name else {'loss_steps': 0, 'examples': 0}
    return toy_run.train(os.path.join(folder, name), **{
      'changes': of_model, 'evaluations': nothing, 'train_steps': toy_run.START + step, 'optimizer': Adafactor(1e-3),
      'saving': loop.Saving(1, keep=None), 'packed': False} | settings)

  for step in steps:
    run = train(step)
  found |= {'metrics': dict(run.metrics), 'prompt': next(iter(run.trained.values())).tolist()}
  if judged:
    lines = list(predictions.infer(model, saved.Trained(run.trained), INPUTS, sampler=Greedy(), batch_size=4,
                                 lengths={'inputs': 6, 'targets': 5}, max_length=5, mode='predict_with_aux'))
    predictions.write_lines(os.path.join(folder, 'answers.jsonl'), iter(lines))
    found['answers'] = [[line['inputs']['inputs_pretokenized'], line['prediction'], line['aux']['scores']]
                        for line in lines]
  if told:
    splits = {**toy_run.TASK.splits, 'train': Telling(toy_run.TASK.splits['train'])}
    last = multihost.is_single_process() or not multihost.is_main()
    task = dataclasses.replace(toy_run.TASK, splits=splits) if last else toy_run.TASK
    rarely = {'saving': loop.Saving(1000)}
    try:
      train(3000, 'told', task=task, quiet=False, **rarely)
    except SystemExit as ended:
      found['status'] = ended.code
    at = multihost.from_main(json.dumps(run_files.saved_steps(os.path.join(folder, 'told'))).encode())
    (found['stopped'],) = json.loads(at)
    preemption.Preemption.told = lambda self: False  # JAX reports it until the process ends
    for name in ('told', 'straight'):
      train(found['stopped'] + 2 - toy_run.START, name, **rarely)
  if retrained:
    run = train(2, 'retrained', method=Retrained('decoder/layers_1/mlp/.*'))
    found['retrained'] = {name: array.tolist() for name, array in run.trained.items()}
  return found


def load(folder, shape):
  """Returns the model, and the bytes that this process read and holds."""
  read, taken = HuggingFaceFolder.read, []

  def counted(self, name, part=...):
    found = read(self, name, part)
    taken.append(found.nbytes)
    return found

  HuggingFaceFolder.read = counted
  model = load_model(folder, vocabulary=PassThroughVocabulary(29),
                     mesh=meshes.make_mesh(meshes.MeshShape(*shape)) if shape else None)
  HuggingFaceFolder.read = read
  return model, {'read': sum(taken), 'held': sum(map(_held, trees.flatten(model.params).values()))}


def _held(array):
  """Returns the bytes of an array that this process holds, counting replicas once."""
  return sum(part.nbytes for part in {str(each.index): each.data for each in array.addressable_shards}.values())


if __name__ == '__main__':
  parser = argparse.ArgumentParser()
  parser.add_argument('--coordinator_address')
  parser.add_argument('--process_count', type=int)
  parser.add_argument('--process_index', type=int)
  parser.add_argument('--settings', type=json.loads, help='arguments of `play`; {} in `folder` is the process')
  flags = parser.parse_args()
  multihost.PIECE = 999  # states are sent in several pieces, as those above 256 MiB are
  multihost.start(flags.coordinator_address, flags.process_count, flags.process_index)
  settings = flags.settings | {'folder': flags.settings['folder'].format(flags.process_index)}
  print('\n' + json.dumps(play(**settings)), flush=True)
