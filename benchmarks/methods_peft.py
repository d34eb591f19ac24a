"""One measurement of methods.py with PEFT on torch; needs the extra `peers`, or --peer_python."""

import argparse
import json
import os
import pathlib
import random
import shlex
import tempfile
import time
from collections.abc import Callable
from typing import Any

import contest
import methods_rows
import peft
import torch
import transformers

LENGTH = {'prompt': 20, 'prefix': 10}  # as this package's methods have it


def main() -> None:
  options = methods_rows.options(__doc__)
  job, model, rows = options.job, options.model, options.rows
  with tempfile.TemporaryDirectory() as folder:
    if 'tasks' in job['protocol']:
      found = measure_tasks(job, model, methods_rows.integers_of(rows, job['protocol']), folder)
    else:
      found = measure(job, model, methods_rows.split(rows, job['protocol'], folder), folder)
  print(json.dumps(found))


def measure(job: dict[str, Any], folder: str, paths: dict[str, str], output: str) -> dict[str, Any]:
  """Returns what `methods_ours.measure` does."""
  protocol, rows, began = job['protocol'], read(paths), time.process_time()
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  model = adapted(job, transformers.AutoModelForCausalLM, folder)
  trained = train(job, model, rows['train'], lambda batch: batch_of(
    tokenizer, [(row, row['label']) for row in batch], protocol['inputs']), output)
  trained |= {'seconds': time.process_time() - began, 'memory': contest.peak_memory()}
  return {**trained, **{split: accuracy(model, tokenizer, rows[split], protocol) for split in ('validation', 'test')}}


def measure_tasks(job: dict[str, Any], folder: str, tasks: dict[str, dict[str, str]], output: str) -> dict[str, Any]:
  """Returns what `methods_ours.measure_tasks` does."""
  found = {task: _measure_texts(job, folder, paths, os.path.join(output, task)) for task, paths in tasks.items()}
  return {**methods_rows.means(found), 'memory': contest.peak_memory()}


def _measure_texts(job: dict[str, Any], folder: str, paths: dict[str, str], output: str) -> dict[str, Any]:
  """Returns the figures of one task of an encoder-decoder model, whose predictions are generated."""
  rows, began = read(paths), time.process_time()
  tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_file=os.path.join(folder, 'tokenizer.json'), pad_token='<pad>', eos_token='</s>', padding_side='right')
  model = adapted(job, transformers.AutoModelForSeq2SeqLM, folder)
  encode = lambda texts: tokenizer([f'{text}</s>' for text in texts], padding=True, add_special_tokens=False,
                                   return_tensors='pt', return_token_type_ids=False)

  def batch(chosen: list[dict[str, str]]) -> dict[str, torch.Tensor]:
    targets = encode([row['targets'] for row in chosen])
    return {**encode([row['inputs'] for row in chosen]),
            'labels': targets.input_ids.masked_fill(targets.attention_mask == 0, -100)}

  found = train(job, model, rows['train'], batch, output)
  found |= {'seconds': time.process_time() - began}
  for split in ('validation', 'test'):
    right = 0
    for first in range(0, len(rows[split]), 128):
      chunk = rows[split][first:first + 128]
      with torch.no_grad():
        texts = tokenizer.batch_decode(model.generate(**encode([row['inputs'] for row in chunk]), max_new_tokens=16,
                                                      do_sample=False), skip_special_tokens=True)
      right += sum(text.split() == row['targets'].split() for text, row in zip(texts, chunk, strict=True))
    found[split] = 100 * right / len(rows[split])
  return found


def read(paths: dict[str, str]) -> dict[str, list[dict[str, str]]]:
  """Returns the rows of each split."""
  return {name: [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]
          for name, path in paths.items()}


def settings_of(job: dict[str, Any]) -> argparse.Namespace:
  """Returns the settings of a job."""
  own = argparse.ArgumentParser()
  own.add_argument('--kind', choices=('prompt', 'prefix', 'lora'), required=True)
  own.add_argument('--text')
  own.add_argument('--init', choices=('zero',), help='of a prefix, instead of a standard normal distribution')
  own.add_argument('--learning_rate', type=float, required=True)
  return own.parse_args(shlex.split(job['settings']))


def adapted(job: dict[str, Any], kind: Any, folder: str) -> Any:
  """Returns a frozen model with an adapter."""
  torch.manual_seed(job['seed'])
  frozen = kind.from_pretrained(folder, dtype=torch.float32)
  task = 'SEQ_2_SEQ_LM' if frozen.config.is_encoder_decoder else 'CAUSAL_LM'
  return peft.get_peft_model(frozen, config_of(settings_of(job), folder, task))


def train(job: dict[str, Any], model: Any, rows: list[dict[str, str]], batch_of: Callable[[list], Any],
          output: str) -> dict[str, int]:
  """Trains an adapter and leaves the model ready to predict; returns trained parameters, and the bytes of its file."""
  protocol, order, left = job['protocol'], random.Random(job['seed']), []
  trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
  optimizer = torch.optim.AdamW(trained, lr=settings_of(job).learning_rate, weight_decay=0.0)
  schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=protocol['steps'])
  model.train()
  for _ in range(protocol['steps']):
    if len(left) < protocol['batch_size']:
      left = rows[:]
      order.shuffle(left)
    batch, left = left[:protocol['batch_size']], left[protocol['batch_size']:]
    loss = model(**batch_of(batch)).loss
    loss.backward()
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    assert torch.isfinite(loss)
  model.save_pretrained(os.path.join(output, 'adapter'))
  model.eval()
  return {'trained': sum(parameter.numel() for parameter in trained),
          'bytes': os.path.getsize(os.path.join(output, 'adapter/adapter_model.safetensors'))}


def config_of(settings: argparse.Namespace, folder: str, task: str) -> peft.PeftConfig:
  """Returns PEFT's config for a kind of adapter."""
  if settings.kind == 'lora':
    return peft.LoraConfig(task_type=task, r=8, lora_alpha=16)
  if settings.kind == 'prefix':
    return peft.PrefixTuningConfig(task_type=task, num_virtual_tokens=LENGTH['prefix'], init_weights=settings.init)
  start = {'prompt_tuning_init': 'SAMPLE_VOCAB'} if settings.text is None else {
    'prompt_tuning_init': 'TEXT', 'prompt_tuning_init_text': settings.text, 'tokenizer_name_or_path': folder}
  return peft.PromptTuningConfig(task_type=task, num_virtual_tokens=LENGTH['prompt'],
                                 num_transformer_submodules=1, **start)


def batch_of(tokenizer: Any, rows: list[tuple[dict[str, str], str]], most: int) -> dict[str, torch.Tensor]:
  """Returns inputs with labels as targets, padded right; of a long review, the last tokens are cut."""
  given = []
  before, after = methods_rows.TEMPLATE.split('{text}')
  for row, label in rows:
    ends = [tokenizer(text, add_special_tokens=False).input_ids for text in (before, after)]
    text = tokenizer(before + row['text'] + after, add_special_tokens=False).input_ids
    if len(text) > most:
      cut = tokenizer(before + row['text'], add_special_tokens=False).input_ids[:most - len(ends[1])]
      text = cut + ends[1]
    given.append((text, [*tokenizer(f' {label}', add_special_tokens=False).input_ids, tokenizer.eos_token_id]))
  longest = max(len(text) + len(target) for text, target in given)
  pad = lambda ids, fill: ids + [fill] * (longest - len(ids))
  arrays = {'input_ids': [pad(text + target, 0) for text, target in given],
            'attention_mask': [pad([1] * (len(text) + len(target)), 0) for text, target in given],
            'labels': [pad([-100] * len(text) + target, -100) for text, target in given]}
  return {name: torch.tensor(array) for name, array in arrays.items()}


@torch.no_grad()
def accuracy(model: Any, tokenizer: Any, rows: list[dict[str, str]], protocol: dict[str, int]) -> float:
  """Returns the percentage of rows whose label is the likelier one, by the sum over its tokens and the end."""
  right, rows = 0, sorted(rows, key=lambda row: len(row['text']))  # little padding
  for first in range(0, len(rows), protocol['batch_size']):
    chunk, scores = rows[first:first + protocol['batch_size']], []
    for label in methods_rows.LABELS:
      batch = batch_of(tokenizer, [(row, label) for row in chunk], protocol['inputs'])
      labels = batch.pop('labels')
      logits = model(**batch).logits[:, -labels.shape[1]:]  # without the positions of a prompt
      chosen = logits[:, :-1].log_softmax(-1).gather(2, labels[:, 1:].clamp(min=0)[..., None])[..., 0]
      scores.append((chosen * (labels[:, 1:] >= 0)).sum(1))
    likelier = torch.stack(scores).argmax(0)
    right += sum(methods_rows.LABELS[int(i)] == row['label'] for i, row in zip(likelier, chunk, strict=True))
  return 100 * right / len(rows)


if __name__ == '__main__':
  main()
