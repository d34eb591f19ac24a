"""Cartridges in a small world where what is right is known: key-value recall.

  python benchmarks/recall.py [--folder runs/recall]   # pretrains a small GPT first, and keeps it in the folder
  python benchmarks/recall.py --quick                  # toy size, few steps: does it run?

A document is 16 pairs of a key and a value, 32 tokens; a question is a key, its answer the value. The GPT is pretrained
on random documents, so it knows none of the pairs, but answers from a document before the question. Printed: the share
of the 16 questions of a document that are answered right, means over documents,

* with nothing, and with the document before the question,
* with cartridges of several lengths, distilled from questions about the document,
* with keys and values trained to predict the document itself, instead of answers,
* with one prefix for two documents: two cartridges that were trained apart and joined, or one that was trained on both.
"""

import argparse
import os
import pathlib
import statistics
import tempfile
import time

import jax.numpy as jnp
import numpy as np

import prompt_tuning as pt
from prompt_tuning.data import teacher_files
from prompt_tuning.data.tasks import Task
from prompt_tuning.data.vocabularies import PassThroughVocabulary
from prompt_tuning.distilling.phases import SCORES
from prompt_tuning.evaluation.saved import Trained, load_trained
from prompt_tuning.losses import Loss, cross_entropy
from prompt_tuning.models import loading
from prompt_tuning.models.decoder_config import DecoderConfig
from prompt_tuning.models.parameters import merged
from prompt_tuning.models.positions import Rotary
from prompt_tuning.runs.distilling import LOSS
from prompt_tuning.training.loop import Evaluations
from prompt_tuning.training.optimizers import AdamW
from prompt_tuning.training.schedules import create_schedule
from prompt_tuning.tuning.prefix import Prefix
from prompt_tuning.tuning.retrained import Retrained

KEYS, VALUES = 64, 128
FIRST = 2  # the first id of a key; 0 is padding, 1 ends a target
VOCABULARY = PassThroughVocabulary(FIRST + KEYS + VALUES)
PAIRS = 16  # of a document
NOT_EVALUATED = Evaluations(examples=0, loss_steps=0)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--folder', help='where the pretrained model is kept; by default a temporary folder')
  parser.add_argument('--pretraining_steps', type=int, default=4000)
  parser.add_argument('--width', type=int, default=64)
  parser.add_argument('--lengths', type=int, nargs='+', default=[2, 4, 8], help='of cartridges')
  parser.add_argument('--steps', type=int, default=1000, help='of training a cartridge')
  parser.add_argument('--documents', type=int, default=2, help='an even number')
  parser.add_argument('--quick', action='store_true', help='toy size, few steps')
  options = parser.parse_args()
  if options.quick:
    options.pretraining_steps, options.width, options.lengths, options.steps = 20, 32, [4], 20
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(options.folder or temporary)
    model = pretrained(folder / 'model', options.width, options.pretraining_steps)
    print('\n'.join(table(model, folder, options)))


def pretrained(folder: pathlib.Path, width: int, steps: int) -> pt.LanguageModel:
  """Returns the GPT of a folder, which is pretrained if it is not there."""
  if not (folder / 'config.json').exists():
    model = loading.random_model(small(width), vocabulary=VOCABULARY)
    rate = create_schedule('linear_warmup * linear_decay', 2e-3, warmup_steps=min(200, steps // 2), total_steps=steps)
    began = time.perf_counter()
    run = str(folder.parent / 'pretraining')
    pt.tune(model, Task('recall', {'train': Documents()}), method=Retrained(), steps=steps, batch_size=64,
            optimizer=AdamW(rate, b2=0.98, weight_decay=0.01, clip=1.0), evaluations=NOT_EVALUATED,
            loss=Loss(function=of_values, normalizing_factor='tokens'),
            lengths={'inputs': 2 * PAIRS, 'targets': 2 * PAIRS}, model_dir=run)
    print(f'Pretrained: {steps} steps in {time.perf_counter() - began:.0f} s')
    loading.save_model(model, str(folder), params=merged(model.params, load_trained(run).conditioning(model)))
  return loading.load_model(str(folder), vocabulary=VOCABULARY)


def small(width: int) -> DecoderConfig:
  """Returns the shape of a small Llama: with rotary positions, looking back by one token is soon learnt."""
  layers, heads = 2, 4
  return DecoderConfig(vocab_size=VOCABULARY.size, width=width, heads=heads, kv_heads=heads, head_dim=width // heads,
                       layers=layers, mlp_dim=2 * width, mlp_activations=('silu', 'linear'), tied=True,
                       query_scale=(width // heads)**-0.5, rotary=(Rotary(base=1000.0),) * layers, initial_scale=0.02)


def of_values(logits, targets, weights):
  """The cross-entropy of values alone: which key is asked for cannot be known."""
  return cross_entropy(logits, targets, weights * (targets >= FIRST + KEYS))


class Documents:
  """Endless examples: a document of some pairs, then questions about it with their answers, in one target."""

  def __init__(self, seed: int = 0):
    self._seed = seed

  def __len__(self) -> int:
    return 1 << 30

  def draw(self, seed: int) -> 'Documents':
    """Returns the examples of a seed."""
    return Documents(seed)

  def __getitem__(self, i: int) -> dict[str, object]:
    random = np.random.default_rng([self._seed, i])
    pairs = document(random, int(random.choice([2, 4, 8, PAIRS])))
    asked = pairs[random.integers(len(pairs), size=PAIRS)]
    return {'inputs': pairs.ravel(), 'targets': asked.ravel(), 'inputs_ends': False, 'targets_ends': False}


def document(random: np.random.Generator, pairs: int) -> np.ndarray:
  """Returns pairs of different keys and any values, [pairs, 2]."""
  keys = random.choice(KEYS, pairs, replace=False)
  return np.stack([FIRST + keys, FIRST + KEYS + random.integers(VALUES, size=pairs)], axis=1).astype(np.int32)


def questions(random: np.random.Generator, pairs: np.ndarray, count: int) -> list[dict[str, list[int]]]:
  """Returns questions about a document: keys, before which up to three further pairs were asked and answered."""
  found = []
  for _ in range(count):
    asked = pairs[random.integers(len(pairs), size=1 + random.integers(4))].ravel().tolist()
    found.append({'question': asked[:-1], 'answer': asked[-1:]})
  return found


def accuracy(model: pt.LanguageModel, pairs: np.ndarray, **given: object) -> float:
  """Returns the share of a document's questions that are answered right, in %."""
  answers = model.predict([[key] for key in pairs[:, 0].tolist()], max_length=1, return_scores=True, **given)
  return 100 * statistics.mean(int(each.ids[0]) == value for each, value in zip(answers, pairs[:, 1].tolist(),
                                                                               strict=True))


def table(model: pt.LanguageModel, folder: pathlib.Path, options: argparse.Namespace) -> list[str]:
  """Returns the results in Markdown."""
  random = np.random.default_rng(7)
  both = [np.split(document(random, 2 * PAIRS), 2) for _ in range(options.documents // 2)]  # no key in common
  documents = [pairs for two in both for pairs in two]
  rows: dict[str, list[float]] = {'nothing': [], f'the document, {2 * PAIRS} tokens': []}
  cartridges: dict[int, list[Trained]] = {length: [] for length in options.lengths}
  runs: dict[tuple[int, int], str] = {}  # of a document's number and a cartridge's length
  longest = max(options.lengths)
  for number, pairs in enumerate(documents):
    rows['nothing'].append(accuracy(model, pairs))
    read = model.read([pairs.ravel().tolist()])
    rows[f'the document, {2 * PAIRS} tokens'].append(accuracy(model, pairs, context=read))
    asked = questions(random, pairs, 640)
    for length in options.lengths:
      run = runs[number, length] = str(folder / f'cartridge_{number}_{length}_{options.steps}')
      found = pt.distill(model, pairs.ravel().tolist(), questions=asked, length=length, frozen=1, steps=options.steps,
                         batch_size=32, study=pt.Study(top=VALUES), model_dir=run, quiet=True)
      cartridges[length].append(found)
      rows.setdefault(f'a cartridge of {length}', []).append(accuracy(model, pairs, prompt=found))
    of_text = trained_on_text(model, pairs, longest, options.steps)
    rows.setdefault(f'{longest} keys and values trained on the document itself', []).append(
      accuracy(model, pairs, prompt=of_text))
  for number, two in enumerate(both):
    own = cartridges[longest][2 * number:2 * number + 2]
    alone = joined(own)
    start = joined([start_of(model, pairs, longest) for pairs in two])
    tasks = [teacher_files.task(os.path.join(runs[2 * number + i, longest], SCORES)) for i in range(2)]
    together = trained_on_both(model, start, tasks, options.steps)
    for name, given in (('two cartridges, trained apart and joined', alone), ('trained on both', together)):
      rows.setdefault(f'two documents: {name}', []).extend(accuracy(model, pairs, prompt=given) for pairs in two)
  lines = ['| before the question | answered right, % | least, most |', '|---|---|---|']
  return lines + [f'| {name} | {statistics.mean(found):.1f} | {min(found):.1f}, {max(found):.1f} |'
                  for name, found in rows.items()]


def start_of(model: pt.LanguageModel, pairs: np.ndarray, length: int) -> Trained:
  """Returns the keys and values of a document's first tokens."""
  keys, values = model.read([pairs.ravel()[:length].tolist()]).as_prefix()
  return Trained({'decoder/prefix/keys': np.asarray(keys), 'decoder/prefix/values': np.asarray(values)}, {})


def joined(prefixes: list[Trained]) -> Trained:
  """Returns prefixes as one, one after the other."""
  return Trained({name: np.concatenate([each.tensors[name] for each in prefixes], axis=1)
                  for name in prefixes[0].tensors}, {})


def trained_on_both(model: pt.LanguageModel, start: Trained, tasks: list[Task], steps: int) -> Trained:
  """Returns a prefix that was trained on the questions about two documents at once."""
  examples = [example for task in tasks for example in task.split('train')]
  return _trained(model, start, Task('both', {'train': examples}), 2 * steps, loss=LOSS)


def trained_on_text(model: pt.LanguageModel, pairs: np.ndarray, length: int, steps: int) -> Trained:
  """Returns a prefix that was trained to predict the document, its first token given."""
  ids = pairs.ravel()
  example = {'inputs': ids[:1], 'targets': ids[1:], 'inputs_ends': False, 'targets_ends': False}
  return _trained(model, start_of(model, pairs, length), Task('document', {'train': [example] * 32}), steps)


def _trained(model: pt.LanguageModel, start: Trained, task: Task, steps: int, **settings: object) -> Trained:
  arrays = tuple(jnp.asarray(start.tensors[f'decoder/prefix/{part}']) for part in ('keys', 'values'))
  method = Prefix(arrays[0].shape[1], init_from=arrays, frozen=1)
  with tempfile.TemporaryDirectory() as run:
    pt.tune(model, task, method=method, steps=steps, batch_size=32, evaluations=NOT_EVALUATED, quiet=True,
            model_dir=run, **settings)
    return load_trained(run)


if __name__ == '__main__':
  main()
