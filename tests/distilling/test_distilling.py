"""Documents distilled into keys and values, or into prompts, by toy models."""

import dataclasses
import json
import types

import chat_toys
import numpy as np
import pytest

import prompt_tuning as pt
from prompt_tuning.data import teacher_files
from prompt_tuning.data.vocabularies import PassThroughVocabulary
from prompt_tuning.distilling import phases, questions, start
from prompt_tuning.distilling.reading import Reading, pieces
from prompt_tuning.files import progress
from prompt_tuning.models import loading
from prompt_tuning.serving.engine import Engine
from prompt_tuning.serving.requests import Request

DOCUMENT = [5, 9, 3, 7, 12, 20, 4, 8, 11]
QUESTIONS = [([7], [12, 20]), ([3], [7]), ([5], [9, 3]), ([4, 8], [11])]
STUDY = pt.Study(top=4, answer_length=3, held_out=0.25)
KEYS, VALUES = 'decoder/prefix/keys', 'decoder/prefix/values'
QUICK = {'study': STUDY, 'length': 4, 'steps': 3, 'batch_size': 2, 'quiet': True}


class Said(progress.Display):
  """Keeps the lines that it is told to print."""

  def __init__(self, lines):
    self.say = lines.append


@pytest.fixture
def chat(tmp_path):
  """What is read of a chat model with a vocabulary of bytes."""
  return reader(tmp_path)


def reader(folder, template=chat_toys.CHATML):
  found = chat_toys.chat_format(folder / 'words', template)
  return types.SimpleNamespace(vocabulary=found.vocabulary, chat_format=found)


@pytest.fixture(scope='module')
def distilled(causal, tmp_path_factory):
  """A cartridge of four tokens, and its folder."""
  folder = str(tmp_path_factory.mktemp('run'))
  return pt.distill(causal, DOCUMENT, questions=QUESTIONS, model_dir=folder, **QUICK), folder


def test_a_cartridge_starts_from_the_document_and_keeps_its_frozen_rows(causal, distilled):
  trained, _ = distilled
  first = causal.read([DOCUMENT[:4]]).as_prefix()
  assert trained.about['frozen'] == 1 and trained.about['method'] == 'Prefix'
  for name, wanted in zip((KEYS, VALUES), first, strict=True):
    np.testing.assert_array_equal(trained.tensors[name][:, :1], wanted[:, :1])
    assert 0 < np.abs(trained.tensors[name][:, 1:] - wanted[:, 1:]).max() < 0.1
  assert len(causal.predict([[7]], trained, max_length=2)) == 1


def test_the_teacher_is_the_model_that_has_read_the_document(causal, distilled):
  task = teacher_files.task(f'{distilled[1]}/{phases.SCORES}')
  found = [*task.split('train'), *task.split('validation')]
  assert len(task.split('validation')) == 1 and len(found) == 4
  asked = {tuple(question): answer for question, answer in QUESTIONS}
  for example in found:
    question, targets = example['inputs'].tolist(), [*example['targets'].tolist(), 1]
    assert targets == [*asked[tuple(question)], 1]
    logits = np.float64(causal.logits([[*DOCUMENT, *question]], [targets])[0])
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(example['target_log_probs'], np.take_along_axis(
      log_probs, np.array(targets)[:, None], -1)[:, 0], atol=1e-5)
    np.testing.assert_array_equal(example['teacher_ids'], np.argsort(-log_probs, -1)[:, :4])
    np.testing.assert_allclose(example['teacher_log_probs'], -np.sort(-log_probs, -1)[:, :4], atol=1e-5)


def test_held_out_answers_are_compared(causal, distilled):
  nothing, document, cartridge = json.loads(open(f'{distilled[1]}/comparison.json').read())
  assert [each['tokens'] for each in (nothing, document, cartridge)] == [0, 9, 4]
  assert document['divergence'] == 0 and nothing['divergence'] > 0 and cartridge['divergence'] > 0
  assert document['bytes'] == 9 * 2 * 2 * 1 * 4 * 4  # keys and values of two layers, one head of width 4 in float32
  question, = teacher_files.task(f'{distilled[1]}/{phases.SCORES}').split('validation')
  targets = [*question['targets'].tolist(), 1]
  score = lambda before: -causal.score([[*before, *question['inputs'].tolist()]], [targets])[0] / len(targets)
  np.testing.assert_allclose([each['perplexity'] for each in (nothing, document)],
                             np.exp([score([]), score(DOCUMENT)]), rtol=1e-4)


def test_a_document_that_was_distilled_is_not_studied_again(causal, distilled):
  trained, folder = distilled
  again = pt.distill(causal, DOCUMENT, questions=QUESTIONS, model_dir=folder, **QUICK)
  np.testing.assert_array_equal(again.tensors[KEYS], trained.tensors[KEYS])


def test_other_columns_of_questions_are_named_and_not_read(caplog):
  found = questions.given([{'question': 'Where?', 'id': 3}, {'question': 'When?', 'answer': 'At 4.', 'source': 'x'}], 0)
  assert [(row['question'], row.get('answer')) for row in found] == [('Where?', None), ('When?', 'At 4.')]
  assert 'the columns id, source are not read' in caplog.text


@pytest.mark.parametrize(('changes', 'message'), [
  ({'document': [*DOCUMENT, 6]}, r"something else \(document: '5 9 3.* there, '5 9 3 .*10 tokens.* here\). Choose"),
  ({'questions': QUESTIONS[:3]}, 'something else .questions: '),
  ({'study': dataclasses.replace(STUDY, top=5)}, 'something else .top: 4 there, 5 here'),
  ({'seed': 3}, 'something else .seed: 0 there, 3 here'),
])
def test_another_study_in_the_folder_is_an_error_that_says_both(causal, distilled, changes, message):
  given = {'document': DOCUMENT, 'questions': QUESTIONS, **QUICK, **changes}
  with pytest.raises(ValueError, match=message):
    pt.distill(causal, given.pop('document'), model_dir=distilled[1], **given)


def other_model():
  from prompt_tuning.models.decoder_only import DecoderConfig

  return loading.random_model(DecoderConfig(
    vocab_size=29, layers=2, width=12, heads=3, head_dim=4, mlp_dim=14, kv_heads=1, position_count=30),
    vocabulary=PassThroughVocabulary(29), seed=4)


def test_the_scores_of_another_model_are_an_error_that_says_both(causal, distilled, tmp_path):
  other, path = other_model(), f'{distilled[1]}/{phases.SCORES}'
  with pytest.raises(ValueError, match=f'{other.weights_digest} here|weights of .* are {other.weights_digest}'):
    pt.tune(other, path, model_dir=str(tmp_path), quiet=True, steps=1)
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / phases.SCORES).write_bytes(open(path, 'rb').read())
  with pytest.raises(ValueError, match=rf'model: {causal.weights_digest} there, {other.weights_digest} here'):
    pt.distill(other, DOCUMENT, questions=QUESTIONS, model_dir=str(tmp_path / 'run'), **QUICK)
  (tmp_path / 'broken.teacher').write_bytes(b'nothing')
  with pytest.raises(ValueError, match=r'broken.teacher is no teacher file'):
    teacher_files.task(str(tmp_path / 'broken.teacher'))


@pytest.mark.slow
@pytest.mark.parametrize('method', ['prompt', 'residual', 'factored'])
def test_the_same_loss_trains_prompts(causal, tmp_path, distilled, method):
  folder = tmp_path / 'run'
  folder.mkdir()
  for name in (phases.STUDY, phases.SCORES):
    (folder / name).write_bytes(open(f'{distilled[1]}/{name}', 'rb').read())
  found = pt.distill(causal, DOCUMENT, questions=QUESTIONS, model_dir=str(folder), method=method,
                     **QUICK | {'length': 3, 'steps': 1})
  assert found.tensors['decoder/prompt/prompt/prompt'].shape == (3, 12)


def test_two_documents_answer_in_one_batch(causal, distilled):
  first = distilled[0]
  second = start.as_trained(causal, [6, 6, 10], prefix=True)
  rows, targets = [[7], [7], [3, 4], [7]], [[12, 20], [12, 20], [7, 1], [12, 1]]
  together = causal.logits(rows, targets, [first, second, None, second])
  for i, prompt in enumerate([first, second, None, second]):
    np.testing.assert_allclose(together[i], causal.logits(rows[i:i + 1], targets[i:i + 1], prompt)[0], atol=1e-5)


# --- How texts are read ----------------------------------------------------------------------------------------------


def test_a_chat_model_reads_the_document_as_the_system_and_the_student_only_the_question(chat):
  reading = Reading(chat, 'Ask me.')
  words = lambda ids: chat_toys.words(chat.chat_format, ids)
  turns = '<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n'
  assert words(reading.ids) == '<|im_start|>system\nAsk me.<|im_end|>\n<|im_start|>user\n'
  assert words(reading.asked('Why?')) == f'<|im_start|>system\nAsk me.<|im_end|>\n{turns}'
  assert words(reading.plain('Why?')) == turns
  ids, end = reading.answer('Why?', 'Yes.')
  assert words([*ids, end]) == 'Yes.<|im_end|>'


def test_a_template_without_a_system_turn_puts_the_document_before_the_question(tmp_path):
  template = chat_toys.CHATML.replace('{% for message', "{% if messages[0].role == 'system' %}{{ raise_exception('no')"
                                      ' }}{% endif %}{% for message', 1)
  model = reader(tmp_path, template)
  words = chat_toys.words(model.chat_format, Reading(model, 'Ask me.').asked('Why?'))
  assert words == '<|im_start|>user\nAsk me.\n\nWhy?<|im_end|>\n<|im_start|>assistant\n'


def test_without_a_chat_template_texts_follow_one_another(chat):
  reading = Reading(chat, 'Ask me.', template='Q: {question} A:')
  words = lambda ids: chat_toys.words(chat.chat_format, ids)
  assert words(reading.ids) == 'Ask me.' and words(reading.asked('Why?')) == 'Ask me.Q: Why? A:'
  assert words(reading.plain('Why?')) == 'Q: Why? A:'


def test_a_token_that_spans_the_border_is_read_with_its_whole_row(causal):
  rows = [[*DOCUMENT, 7], [5, 6, 7], [*DOCUMENT, 3]]
  assert [(context is None, numbers) for context, numbers in questions.shared(causal, DOCUMENT, rows)] == [
    (False, [0, 2]), (True, [1])]


@pytest.mark.parametrize('text', ['one two three four five six seven', 'x' * 90, list(range(23))])
def test_pieces_are_the_whole_text_in_equal_parts(chat, text):
  found = pieces(text, 10, chat.vocabulary)
  joined = ''.join if isinstance(text, str) else lambda parts: [each for part in parts for each in part]
  squeezed = lambda each: each.replace(' ', '') if isinstance(each, str) else each
  assert squeezed(joined(found)) == squeezed(text) and len(found) > 1
  assert max(map(len, found)) <= 41


@pytest.mark.slow
def test_a_chat_model_asks_itself(tmp_path):
  chat = loading.load_model(chat_toys.write_model(tmp_path / 'model'))
  how = pt.Study(count=5, chunk_length=24, question_length=5, answer_length=4, top=3)
  lines = []
  found = phases.study(chat, 'A gem is a stone. It is cut, and worn by kings.', str(tmp_path), how, batch_size=4,
                       display=Said(lines))
  rows = [json.loads(line) for line in (tmp_path / phases.ANSWERS).read_text().split('\n') if line]
  assert 2 <= len(rows) <= 5 and all(row['question'].strip() == row['question'] for row in rows)
  assert found.lengths['targets'] <= 5 and len(found.task.split('validation')) == 1
  assert (tmp_path / phases.QUESTIONS).exists() and any('Asking 5 questions' in line for line in lines)
  (tmp_path / phases.ANSWERS).unlink()
  (tmp_path / phases.SCORES).rename(tmp_path / 'before')
  phases.study(chat, 'A gem is a stone. It is cut, and worn by kings.', str(tmp_path), how, batch_size=4,
               display=Said(lines))
  assert (tmp_path / phases.SCORES).read_bytes() == (tmp_path / 'before').read_bytes()


@pytest.mark.slow
def test_a_document_longer_than_the_window_is_studied_in_parts_with_a_warning(causal, tmp_path):
  lines, document = [], [*range(2, 28)] * 2
  found = phases.study(causal, document, str(tmp_path), STUDY, questions=[([7], [8, 9]), ([10], [11]), ([20], [21])],
                       batch_size=2, display=Said(lines))
  assert 'the document has 52 tokens, but the teacher reads at most' in lines[0]
  assert len(found.readings) > 1 and found.tokens == 52
  rows = [json.loads(line) for line in (tmp_path / phases.QUESTIONS).read_text().split('\n') if line]
  scores = np.array([[causal.score([[*reading.ids][:1]], [[*reading.ids[1:], *row['question']]], end_token=False)[0]
                      - causal.score([[*reading.ids][:1]], [reading.ids[1:]], end_token=False)[0]
                      for reading in found.readings] for row in rows])
  assert [row['part'] for row in rows] == scores.argmax(axis=1).tolist()


# --- What cannot be distilled ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(('changes', 'message'), [
  ({'document': ''}, 'The document is empty'),
  ({'document': []}, 'The document is empty'),
  ({'length': 10}, 'length=10 cannot be used: the document has 9 tokens'),
  ({'frozen': 4}, 'frozen=4 cannot be used'),
  ({'method': 'low_rank'}, 'low_rank has no setting .length|LowRank cannot be used'),
  ({'method': pt.Prefix(3), 'length': 4}, 'length=4 cannot be used with a method that has been made'),
  ({'method': 'prompt', 'frozen': 1}, "prompt has no setting 'frozen'"),
  ({'first': 'last'}, "first='last' cannot be used"),
  ({'questions': [([7], [8])]}, 'only 1 question, expected two or more'),
  ({'questions': [{'question': ''}, {'question': 'x'}]}, 'there is no question'),
  ({'questions': [{'text': 'x'}]}, 'there is no question, but text'),
  ({'questions': [{'question': 4.5}, {'question': 'x'}]}, 'question is 4.5, expected a text or token ids'),
  ({'questions': [([7] * 27, [8]), ([7], [8])]}, r'Question 0 .* take 30 tokens, which leaves no room .* 30 tokens'),
  ({'study': pt.Study(top=40)}, 'top=40 cannot be used'),
])
def test_what_cannot_be_distilled_is_a_clear_error(causal, tmp_path, changes, message):
  given = {'document': DOCUMENT, 'questions': QUESTIONS, **QUICK, **changes}
  if isinstance(given['method'] if 'method' in given else '', pt.Method) and 'length' not in changes:
    del given['length']
  with pytest.raises(ValueError, match=message):
    pt.distill(causal, given.pop('document'), model_dir=str(tmp_path / 'run'), **given)


def test_a_t5_is_told_what_to_do_instead(tiny, tmp_path):
  with pytest.raises(ValueError, match=r'model with an encoder.* tune a prompt on questions and answers'):
    pt.distill(tiny, DOCUMENT, questions=QUESTIONS, model_dir=str(tmp_path), **QUICK)


@pytest.mark.parametrize(('settings', 'message'), [
  ({'count': 1}, 'count=1'), ({'held_out': 1.0}, 'held_out=1.0'), ({'top': 0}, 'top=0'),
  ({'question_template': 'Q'}, "question_template='Q' cannot be used: expected a text with {question}"),
  ({'answer_temperature': -1.0}, 'answer_temperature=-1.0'), ({'context_length': 2}, 'context_length=2')])
def test_a_study_that_cannot_be_is_a_clear_error(settings, message):
  with pytest.raises(ValueError, match=message):
    pt.Study(**settings)


def test_a_sampled_start_keeps_the_frozen_tokens_and_the_order():
  ids = list(range(100, 140))
  found = start.tokens_of(ids, 10, first='sampled', kept=3, seed=1)
  assert found[:3] == ids[:3] and found == sorted(found) and len(set(found)) == 10 and found != ids[:10]


def test_rows_that_were_changed_by_hand_are_read_or_named(causal, tmp_path):
  study = lambda: phases.study(causal, DOCUMENT, str(tmp_path), STUDY, questions=QUESTIONS, batch_size=2,
                               display=progress.Display())
  (tmp_path / phases.ANSWERS).write_text('{"question": [7], "seed": 1, "part": 1, "targets": [3], "answer": "3"}\n')
  with pytest.raises(ValueError, match=r'answers.jsonl:1: found part 1 of 1, counted from 0'):
    study()
  (tmp_path / phases.ANSWERS).write_text('{"question": [7], "seed": 1, "part": 0, "targets": "3"}\n')
  with pytest.raises(ValueError, match=r"answers.jsonl:1 sets targets to '3'"):
    study()
  row = {'question': [7], 'seed': 1, 'part': 0, 'targets': [3], 'answer': '3', 'end': None}
  (tmp_path / phases.ANSWERS).write_text(f'{json.dumps(row)}\n' * 2)
  assert [example['targets'].tolist() for example in study().task.split('train')] == [[3]]


def test_cartridges_of_two_documents_are_served_in_one_batch(causal, distilled):
  other = pt.distill(causal, DOCUMENT[::-1], questions=QUESTIONS, **(QUICK | {'length': 6}))
  asked = [('first', [7, 3]), ('second', [7, 3]), (None, [7, 3]), ('second', [4, 8, 11])]
  prompts = {'first': distilled[0], 'second': other, None: None}
  with Engine(causal, slots=4, max_length=28) as engine:
    for name in ('first', 'second'):
      engine.prompts.load(name, prompts[name])
    answers = [engine.submit(Request(ids, name, max_tokens=6, temperature=0.0)) for name, ids in asked]
    found = [[token.id for token in answer.result().tokens] for answer in answers]
  assert found == [causal.predict([ids], prompts[name], max_length=6, return_scores=True)[0].ids.tolist()
                   for name, ids in asked]
