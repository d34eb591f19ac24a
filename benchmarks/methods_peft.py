"""One measurement of methods.py with PEFT on torch; needs the extra `peers`, or --peer_python."""

import argparse
import json
import os
import pathlib
import random
import shlex
import tempfile
import time
from typing import Any

import contest
import methods_rows
import peft
import torch
import transformers

LENGTH = {'prompt': 20, 'prefix': 10}  # as this package's methods have it


def main() -> None:
  options = methods_rows.options(__doc__)
  with tempfile.TemporaryDirectory() as folder:
    print(json.dumps(measure(options.job, options.model, methods_rows.split(
      options.rows, options.job['protocol'], folder), folder)))


def measure(job: dict[str, Any], folder: str, paths: dict[str, str], output: str) -> dict[str, Any]:
  """Returns what `methods_ours.measure` does."""
  own = argparse.ArgumentParser()
  own.add_argument('--kind', choices=('prompt', 'prefix', 'lora'), required=True)
  own.add_argument('--text')
  own.add_argument('--learning_rate', type=float, required=True)
  settings, protocol = own.parse_args(shlex.split(job['settings'])), job['protocol']
  began = time.process_time()
  torch.manual_seed(job['seed'])
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  model = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
                              config_of(settings, folder))
  trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
  optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.0)
  schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=protocol['steps'])
  rows = {name: [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]
          for name, path in paths.items()}
  order, left = random.Random(job['seed']), []
  model.train()
  for _ in range(protocol['steps']):
    if len(left) < protocol['batch_size']:
      left = rows['train'][:]
      order.shuffle(left)
    batch, left = left[:protocol['batch_size']], left[protocol['batch_size']:]
    loss = model(**batch_of(tokenizer, [(row, row['label']) for row in batch], protocol['inputs'])).loss
    loss.backward()
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    assert torch.isfinite(loss)
  model.save_pretrained(os.path.join(output, 'adapter'))
  seconds, memory = time.process_time() - began, contest.peak_memory()
  model.eval()
  found = {split: accuracy(model, tokenizer, rows[split], protocol) for split in ('validation', 'test')}
  return {**found, 'trained': sum(parameter.numel() for parameter in trained), 'seconds': seconds, 'memory': memory,
          'bytes': os.path.getsize(os.path.join(output, 'adapter/adapter_model.safetensors'))}


def config_of(settings: argparse.Namespace, folder: str) -> peft.PeftConfig:
  """Returns PEFT's config for a kind of adapter."""
  if settings.kind == 'lora':
    return peft.LoraConfig(task_type='CAUSAL_LM', r=8, lora_alpha=16)
  if settings.kind == 'prefix':
    return peft.PrefixTuningConfig(task_type='CAUSAL_LM', num_virtual_tokens=LENGTH['prefix'])
  start = {'prompt_tuning_init': 'SAMPLE_VOCAB'} if settings.text is None else {
    'prompt_tuning_init': 'TEXT', 'prompt_tuning_init_text': settings.text, 'tokenizer_name_or_path': folder}
  return peft.PromptTuningConfig(task_type='CAUSAL_LM', num_virtual_tokens=LENGTH['prompt'], **start)


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
