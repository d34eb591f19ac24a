"""Makes `tests/models/encoders` and `masked_encoders`: tiny random encoder-only models, and outputs of other tools.

  python tests/models/make_encoder_goldens.py [FOLDER] [MEMBER]   # a folder that holds both, and one of them

Made with torch 2.13.0, transformers 5.23.0 and peft 0.21.2 on the CPU. Each member's folder holds the model,
`golden.npz` with the last hidden states and the logits of three rows, and adapters that PEFT wrote with their logits.
Those of `masked_encoders` have a head of masked words; their logits are those of all words at each mask.
"""

import pathlib
import shutil
import sys

import numpy as np
import peft
import torch
import transformers

torch.set_num_threads(1)
torch.set_grad_enabled(False)
ROWS, P = (12, 5, 7), 3
WORDS = {'vocab_size': 40, 'pad_token_id': 0}
BERT = {**WORDS, 'hidden_size': 12, 'intermediate_size': 14, 'num_hidden_layers': 2, 'num_attention_heads': 3,
        'max_position_embeddings': 32, 'layer_norm_eps': 1e-3}
# Name: its class, its config, and the adapters of PEFT that can run it.
MEMBERS = {
  'bert': ('Bert', {**BERT, 'num_labels': 3}, ('prompt', 'prefix')),
  'roberta': ('Roberta', {**BERT, 'pad_token_id': 2, 'type_vocab_size': 1, 'hidden_size': 10, 'num_attention_heads': 5,
                          'num_hidden_layers': 1,
                          'hidden_act': 'relu', 'num_labels': 4, 'problem_type': 'multi_label_classification'},
              ('prompt', 'prefix')),
  'distilbert': ('DistilBert', {**WORDS, 'dim': 8, 'hidden_dim': 18, 'n_layers': 3, 'n_heads': 2,
                                'max_position_embeddings': 24, 'num_labels': 1}, ('prompt',)),
  'modernbert': ('ModernBert', {**WORDS, 'hidden_size': 12, 'intermediate_size': 10, 'num_hidden_layers': 4,
                                'num_attention_heads': 3, 'local_attention': 4, 'classifier_pooling': 'mean',
                                'bos_token_id': 1, 'cls_token_id': 1, 'eos_token_id': 2, 'sep_token_id': 2,
                                'num_labels': 2}, ('prompt',)),
}

MASK = 4
MASKED = {
  'bert': ('Bert', {**BERT, 'hidden_size': 8, 'num_attention_heads': 2, 'hidden_act': 'relu'}),
  'roberta': ('Roberta', {**BERT, 'pad_token_id': 1, 'hidden_size': 6, 'num_hidden_layers': 1, 'hidden_act': 'silu'}),
  'distilbert': ('DistilBert', {**WORDS, 'dim': 9, 'hidden_dim': 7, 'n_layers': 1, 'n_heads': 3,
                                'max_position_embeddings': 20}),
  'modernbert': ('ModernBert', {**WORDS, 'hidden_size': 8, 'intermediate_size': 6, 'num_hidden_layers': 2,
                                'num_attention_heads': 2, 'local_attention': 6, 'classifier_bias': True,
                                'classifier_activation': 'silu', 'norm_bias': True, 'bos_token_id': 1,
                                'cls_token_id': 1, 'eos_token_id': 2, 'sep_token_id': 2}),
}


def randomise(model, seed):
  """Gives every parameter values with an effect: no bias is zero, no norm's scale is one."""
  generator = torch.Generator().manual_seed(seed)
  for name, parameter in sorted(model.named_parameters()):
    value = torch.randn(parameter.shape, generator=generator)
    if parameter.dim() == 1:
      value = 0.3 * value + (0.0 if name.endswith('bias') else 1.0)
    elif 'embeddings' not in name:
      value = 1.3 * value / parameter.shape[1]**0.5
    parameter.copy_(value)


def make(name, folder, seed):
  kind, values, adapters = MEMBERS[name]
  shutil.rmtree(folder, ignore_errors=True)
  model = getattr(transformers, f'{kind}ForSequenceClassification')(
    getattr(transformers, f'{kind}Config')(**values)).eval()
  randomise(model, seed)
  model.save_pretrained(folder)
  numbers = np.random.default_rng(seed)
  rows = [torch.tensor(numbers.integers(3, 40, (1, length))) for length in ROWS]
  golden = {}
  for b, row in enumerate(rows):
    found = model(input_ids=row, output_hidden_states=True)
    golden |= {f'input_{b}': row[0].numpy().astype(np.int8), f'hidden_{b}': found.hidden_states[-1][0].numpy(),
               f'logits_{b}': found.logits[0].numpy()}
  np.savez_compressed(folder / 'golden.npz', **golden)
  for each in adapters:
    model = type(model).from_pretrained(folder, attn_implementation='eager').eval()
    shape = model.config  # DistilBERT's names are unknown to PEFT
    geometry = {'token_dim': shape.hidden_size, 'num_layers': shape.num_hidden_layers,
                'num_attention_heads': shape.num_attention_heads}
    config = peft.PromptTuningConfig if each == 'prompt' else peft.PrefixTuningConfig
    adapted = peft.get_peft_model(model, config(task_type='SEQ_CLS', num_virtual_tokens=P, **geometry)).eval()
    torch.manual_seed(seed)
    for part, parameter in adapted.named_parameters():
      if 'prompt_encoder' in part or 'modules_to_save' in part:
        parameter.copy_(0.8 * torch.randn(parameter.shape))
    adapted.save_pretrained(folder / each)
    (folder / each / 'README.md').unlink()
    np.savez_compressed(folder / each / 'golden.npz', **{
      f'logits_{b}': adapted(input_ids=row, attention_mask=torch.ones_like(row)).logits[0].numpy()
      for b, row in enumerate(rows)})


def make_masked(name, folder, seed):
  kind, values = MASKED[name]
  shutil.rmtree(folder, ignore_errors=True)
  model = getattr(transformers, f'{kind}ForMaskedLM')(getattr(transformers, f'{kind}Config')(**values)).eval()
  randomise(model, seed)
  model.save_pretrained(folder)
  numbers = np.random.default_rng(seed)
  golden = {}
  for b, length in enumerate(ROWS):
    row = numbers.integers(5, 40, (1, length))
    row[0, [1, length - 2]] = MASK
    found = model(input_ids=torch.tensor(row)).logits[0]
    golden |= {f'input_{b}': row[0].astype(np.int8), f'logits_{b}': found[[1, length - 2]].numpy()}
  np.savez_compressed(folder / 'golden.npz', **golden)


if __name__ == '__main__':
  target = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
  for maker, members, name in ((make, MEMBERS, 'encoders'), (make_masked, MASKED, 'masked_encoders')):
    for number, member in enumerate(members, start=1):
      if f'{name}/{member}' in sys.argv[2:] or not sys.argv[2:]:
        maker(member, target / name / member, number)
