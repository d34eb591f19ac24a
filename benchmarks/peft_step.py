"""Contestant: the same training step by PEFT on torch. Started by train_step.py; needs the extra `peers`."""

import argparse

import contest
import peft
import torch
import transformers
from sizes import SIZES


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('--size', choices=SIZES, required=True)
  parser.add_argument('--rematerialise', default='none')
  parser.add_argument('--dtype', default='float32')
  options = parser.parse_args()
  size = SIZES[options.size]

  if size.family == 't5':
    frozen = transformers.T5ForConditionalGeneration(transformers.T5Config(
      vocab_size=size.vocabulary, d_model=size.width, d_kv=size.head_dim, d_ff=size.mlp_dim, num_layers=size.layers,
      num_heads=size.heads, feed_forward_proj='gated-gelu', dropout_rate=0.0, decoder_start_token_id=0, pad_token_id=0,
      eos_token_id=1, tie_word_embeddings=False))
  else:
    frozen = transformers.GPT2LMHeadModel(transformers.GPT2Config(
      vocab_size=size.vocabulary, n_embd=size.width, n_head=size.heads, n_layer=size.layers, n_inner=size.mlp_dim,
      resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False))
  model = peft.get_peft_model(frozen, peft.PromptTuningConfig(
    task_type='SEQ_2_SEQ_LM' if size.family == 't5' else 'CAUSAL_LM', num_virtual_tokens=size.prompt,
    num_transformer_submodules=1))
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  model.to(device, getattr(torch, options.dtype)).train()
  if options.rematerialise == 'full':
    model.base_model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={'use_reentrant': False})
  trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
  assert sum(parameter.numel() for parameter in trained) == size.prompt * size.width
  optimizer = torch.optim.AdamW(trained, lr=1e-3)
  ids = lambda length: torch.randint(3, size.vocabulary, (size.batch, length), device=device)

  def batch() -> dict[str, torch.Tensor]:
    text = ids(size.inputs)
    return {'input_ids': text, 'attention_mask': torch.ones_like(text),
            'labels': ids(size.targets) if size.targets else text}

  batches = [batch() for _ in range(4)]
  done = 0

  def step() -> None:
    nonlocal done
    loss = model(**batches[done % len(batches)]).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    done += 1
    assert torch.isfinite(loss)

  contest.serve(step, **({'memory': torch.cuda.max_memory_allocated} if device == 'cuda' else {}))


if __name__ == '__main__':
  main()
