"""Makes `tests/goldens/hf`: scores of searches, losses and trained prompts of two T5 and a GPT-2 of `models/families`.

  python tests/goldens/make_hugging_face.py

Made on the CPU with torch 2.13.0, transformers 5.23.0 and peft 0.21.2, in float32. The written data does not depend on
this package. The fields are those of the golden data beside the project, so that tests read both.
"""

import pathlib
import shutil

import numpy as np
import peft
import torch
import transformers

HERE = pathlib.Path(__file__).parent
FOLDER, FAMILIES = HERE / 'hf', HERE.parent / 'models/families'
NEW, BEAMS, P, STEPS = 12, 4, 5, 8  # of generations, searches, prompts and training
torch.set_num_threads(1)
SEARCHES = {  # kind: settings, and whether a likelier token than T5's ends the generations
  'greedy': ({}, False), 'greedy_eos2': ({}, True), 'beam4': ({'length_penalty': 1.0}, False),
  'beam4_eos2': ({'length_penalty': 1.0}, True), 'beam4_eos2_lp2': ({'length_penalty': 2.0}, True),
  'beam4_lp06_es': ({'length_penalty': 0.6, 'early_stopping': True}, False),
  'beam4_eos2_lp0_es': ({'length_penalty': 0.0, 'early_stopping': True}, True)}


def read(name):
  kind = transformers.AutoModelForSeq2SeqLM if name.startswith('t5') else transformers.AutoModelForCausalLM
  return kind.from_pretrained(FAMILIES / name, dtype=torch.float32, attn_implementation='eager').eval()


def padded(rows, filler):
  longest = max(map(len, rows))
  return torch.tensor([row + [filler] * (longest - len(row)) for row in rows])


def batch_of(seed, encoder_decoder):
  random = np.random.default_rng(seed)
  rows = lambda lengths: [[*random.integers(3, 40, length - 1).tolist(), 1] for length in lengths]
  inputs = rows((9, 4, 7))
  targets = rows((5, 8, 3)) if encoder_decoder else [[-100, -100, *row[2:]] for row in inputs]
  return {'input_ids': padded(inputs, 0), 'attention_mask': padded([[1] * len(row) for row in inputs], 0),
          'labels': padded(targets, -100)}


def searches(model, batch):
  """Returns generations, their lengths and scores; the second end token is the most frequent one in greedy decoding."""
  given = {'input_ids': batch['input_ids'], 'attention_mask': batch['attention_mask']}
  found, other = {}, None
  for name, (settings, early) in SEARCHES.items():
    count = BEAMS if 'beam' in name else 1
    end = other if early else 1
    # Without a cache: transformers' has as many layers as the encoder.
    answer = model.generate(**given, max_new_tokens=NEW, do_sample=False, num_beams=count, num_return_sequences=count,
                            use_cache=False, eos_token_id=end, return_dict_in_generate=True, output_scores=True,
                            **settings)
    ids = torch.nn.functional.pad(answer.sequences, (0, 1 + NEW - answer.sequences.shape[1]), value=end)
    if name == 'greedy':
      later = ids[:, 2:].flatten()
      other = int(torch.bincount(later[later > 1]).argmax())
    ended = [row[1:].index(end) + 1 if end in row[1:] else NEW for row in ids.tolist()]
    found |= {f'{name}_ids': ids.numpy().astype(np.int16), f'{name}_lens': np.array(ended, np.int16)}
    if count > 1:
      found[f'{name}_sequences_scores'] = answer.sequences_scores.numpy()
  return found | {'eos2': other}


def make_model(name, seed):
  """Writes the logits, loss and generations of a T5."""
  model, batch = read(name), batch_of(seed, encoder_decoder=True)
  with torch.no_grad():
    out = model(**batch)
    golden = {'logits': out.logits.numpy(), 'loss': out.loss.numpy(), **searches(model, batch)}
  np.savez_compressed(FOLDER / f'{name}.npz', **{key: value.numpy() for key, value in batch.items()}, **golden)


def make_training(name, seed, rate=0.3, decay=0.01):
  """Writes the prompts, gradients and losses of steps of torch's AdamW with a prompt of PEFT."""
  encoder_decoder = name.startswith('t5')
  more = {'num_transformer_submodules': 1} if encoder_decoder else {}
  task = 'SEQ_2_SEQ_LM' if encoder_decoder else 'CAUSAL_LM'
  model = peft.get_peft_model(read(name), peft.PromptTuningConfig(task_type=task, num_virtual_tokens=P, **more)).eval()
  (prompt,) = [parameter for parameter in model.parameters() if parameter.requires_grad]
  batch, now = batch_of(seed, encoder_decoder), lambda: prompt.detach().numpy().copy()
  with torch.no_grad():
    prompt.copy_(0.5 * torch.randn(prompt.shape, generator=torch.Generator().manual_seed(seed)))
  optimizer = torch.optim.AdamW([prompt], lr=rate, weight_decay=decay)
  losses, gradients, prompts = [], [], [now()]
  for _ in range(STEPS):
    optimizer.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    gradients.append(prompt.grad.numpy().copy())
    optimizer.step()
    losses.append(loss.item())
    prompts.append(now())
  np.savez_compressed(FOLDER / f'{name}_training.npz', loss=np.array(losses), grads=np.stack(gradients),
                      prompts=np.stack(prompts), **{key: value.numpy() for key, value in batch.items()})


if __name__ == '__main__':
  shutil.rmtree(FOLDER, ignore_errors=True)
  FOLDER.mkdir()
  transformers.logging.set_verbosity_error()
  for seed, name in enumerate(('t5_v10', 't5_v11')):
    make_model(name, seed)
  for name in ('t5_v11', 'gpt2_bare'):
    make_training(name, 7)
