"""Answers in lm-evaluation-harness are those of its own model of the same folder; needs `.[harness,peers]`."""

import importlib.util
import json

import numpy as np
import pytest

if not all(map(importlib.util.find_spec, ('lm_eval', 'torch', 'transformers', 'peft'))):
  pytest.skip("needs `pip install '.[harness,peers]'`", allow_module_level=True)

import local_tasks

from prompt_tuning.harness.command import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module', params=['llama', 't5'])
def folder(request, tmp_path_factory):
  """A random model of transformers with a byte-level tokenizer."""
  import torch
  import transformers
  from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

  folder = str(tmp_path_factory.mktemp('models') / request.param)
  tokenizer = Tokenizer(models.BPE())
  tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
  tokenizer.train_from_iterator(local_tasks.TEXTS, trainers.BpeTrainer(
    vocab_size=320, special_tokens=['<pad>', '</s>'], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
  if request.param == 't5':
    from tokenizers.processors import TemplateProcessing
    tokenizer.post_processor = TemplateProcessing('$A </s>', special_tokens=[('</s>', 1)])
  transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token='</s>',
                                       pad_token='<pad>').save_pretrained(folder)
  torch.manual_seed(0)
  sizes = {'vocab_size': tokenizer.get_vocab_size(), 'pad_token_id': 0, 'eos_token_id': 1}
  if request.param == 'llama':
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
      hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
      max_position_embeddings=40, bos_token_id=None, initializer_range=0.3, **sizes))
  else:
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(
      d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0, initializer_factor=3.0,
      **sizes))
  model.save_pretrained(folder)
  return folder


def require_equal(ours, theirs, *, longer=False):
  """Raises AssertionError if answers differ; with `longer`, of T5, their texts may go on where ours end."""
  close = {'atol': 1e-3, 'rtol': 2e-4 if longer else 5e-5}  # torch's own sums of this T5 differ by 6e-5 from float64
  for task, answers in theirs[1].items():
    for ours_of_row, of_row in zip(ours[1][task], answers, strict=True):
      for own, other in zip(ours_of_row, of_row, strict=True):
        if isinstance(other, str):
          own = own.rstrip('\ufffd') if longer else own  # a character that was cut
          assert own == (other[:len(own)] if longer else other), task
        elif isinstance(other, float):
          np.testing.assert_allclose(own, other, **close, err_msg=task)
        else:
          np.testing.assert_allclose(own[0], other[0], **close, err_msg=task)
          assert own[1] == other[1], task


def ours_and_theirs():
  """Returns our class of models and the harness's own; they take seconds to import."""
  from lm_eval.models.huggingface import HFLM

  from prompt_tuning.harness import PromptedLM

  return PromptedLM, HFLM


def test_answers_are_those_of_the_harness_own_model(folder, tmp_path):
  PromptedLM, HFLM = ours_and_theirs()
  local_tasks.write(tmp_path)
  theirs = local_tasks.answers(HFLM(pretrained=folder, device='cpu', dtype='float32', batch_size=1,
                                    max_length=40), tmp_path)
  ours = local_tasks.answers(PromptedLM(folder, batch_size=4, max_length=40), tmp_path)
  require_equal(ours, theirs, longer='t5' in folder)  # theirs adds the input's length to max_gen_toks
  assert len({str(each) for each in theirs[1]['until']}) > 1  # not all texts are alike


def test_answers_with_a_peft_prompt_are_those_of_the_harness_with_peft(folder, tmp_path):
  import peft
  import torch
  import transformers

  PromptedLM, HFLM = ours_and_theirs()
  is_t5 = 't5' in folder
  kind = transformers.AutoModelForSeq2SeqLM if is_t5 else transformers.AutoModelForCausalLM
  torch.manual_seed(1)
  tuned = peft.get_peft_model(kind.from_pretrained(folder), peft.PromptTuningConfig(
    task_type='SEQ_2_SEQ_LM' if is_t5 else 'CAUSAL_LM', num_virtual_tokens=3))
  tuned.save_pretrained(tmp_path / 'adapter')
  local_tasks.write(tmp_path / 'tasks')
  given = {'batch_size': 1, 'max_length': 30}
  theirs = local_tasks.answers(HFLM(pretrained=folder, peft=str(tmp_path / 'adapter'), device='cpu', dtype='float32',
                                    **given), tmp_path / 'tasks')
  require_equal(local_tasks.answers(PromptedLM(folder, tmp_path / 'adapter', **given), tmp_path / 'tasks'), theirs,
                longer=is_t5)


def test_the_command_passes_on_the_flags_of_the_harness(folder, tmp_path, capsys):
  local_tasks.write(tmp_path / 'tasks')
  assert main(['--model', folder, '--tasks', 'choice,until', '--include_path', str(tmp_path / 'tasks'), '--limit', '3',
               '--output_path', str(tmp_path / 'out'), '--log_samples']) == 0
  assert '|choice' in capsys.readouterr().out
  [results] = (tmp_path / 'out').rglob('results_*.json')
  assert json.loads(results.read_text())['n-samples']['choice']['effective'] == 3
  assert len(list((tmp_path / 'out').rglob('samples_*.jsonl'))) == 2


def test_chat_templates_are_applied_as_by_the_harness(folder, tmp_path):
  import pathlib

  PromptedLM, HFLM = ours_and_theirs()
  template = ("{% for m in messages %}<{{ m.role }}> {{ m.content }}</s>{% endfor %}"
              "{% if add_generation_prompt %}<a>{% endif %}")
  (pathlib.Path(folder) / 'chat_template.jinja').write_text(template)
  ours, theirs = PromptedLM(folder), HFLM(pretrained=folder, device='cpu', dtype='float32')
  for history, opens in (([{'role': 'user', 'content': 'a warm film'}], True),
                         ([{'role': 'user', 'content': 'dull'}, {'role': 'assistant', 'content': 'It is '}], False)):
    assert ours.apply_chat_template(history, opens) == theirs.apply_chat_template(history, opens)
  assert ours.chat_template(True) == template and ours.chat_template(False) is None


def test_what_cannot_be_used_is_said(folder, tmp_path, capsys):
  local_tasks.write(tmp_path)
  assert main(['--model', 'nowhere', '--tasks', 'choice', '--include_path', str(tmp_path)]) == 2
  assert 'nowhere' in capsys.readouterr().err
  PromptedLM, _ = ours_and_theirs()
  with pytest.raises(ValueError, match='num_beams'):
    PromptedLM(folder)._question('a', {'until': ['\n'], 'num_beams': 4})
  with pytest.raises(ValueError, match='max_length=1'):
    PromptedLM(folder, max_length=1)
  if 'llama' in folder:
    with pytest.raises(ValueError, match='max_gen_toks'):
      PromptedLM(folder, max_length=20)._question('a', {'max_gen_toks': 20})
