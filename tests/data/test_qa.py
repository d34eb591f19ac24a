import numpy as np
import pytest

pytest.importorskip('seqio')

import seqio
import tensorflow_datasets as tfds
import tfds_folders

from prompt_tuning.data import qa

TEXT = tfds.features.Text()
SPANS = tfds.features.Sequence({'start': np.int32, 'end': np.int32})
TOKENS = tfds.features.Sequence({'tokens': TEXT, 'offsets': np.int32})
SQUAD = tfds.features.FeaturesDict({
  'id': TEXT, 'title': TEXT, 'context': TEXT, 'question': TEXT,
  'answers': tfds.features.Sequence({'text': TEXT, 'answer_start': np.int32})})
MRQA = tfds.features.FeaturesDict({
  'subset': TEXT, 'context': TEXT, 'context_tokens': TOKENS, 'qid': TEXT, 'question': TEXT, 'question_tokens': TOKENS,
  'detected_answers': tfds.features.Sequence({'text': TEXT, 'char_spans': SPANS, 'token_spans': SPANS}),
  'answers': tfds.features.Sequence(TEXT)})

MRQA_TASKS = [f'mrqa_{name}_v100' for name in ('bio_asq', 'drop', 'duo_rc', 'race', 'relation_extraction',
                                               'textbook_qa')]
MIXTURES = ['squad_to_mrqa', *(f'squad_to_{name}' for name in MRQA_TASKS),
            'squad_to_drop', 'squad_to_textbook_qa']
SPLITS = {'squad_v010_allanswers': ('train', 'validation'), 'squad_v010_allanswers_train': ('train',),
          **dict.fromkeys(MRQA_TASKS, ('test', 'validation'))}


def squad(question: str, context: str, *answers: str) -> dict:
  return {'id': '7', 'title': 'Lungs', 'context': context, 'question': question,
          'answers': {'text': list(answers), 'answer_start': [context.find(answer) for answer in answers]}}


def mrqa(question: str, context: str, *answers: str) -> dict:
  span = {'start': [0, 2], 'end': [1, 3]}
  return {'subset': 'Toy', 'context': context, 'context_tokens': {'tokens': context.split()[:1], 'offsets': [0]},
          'qid': '7', 'question': question, 'question_tokens': {'tokens': [], 'offsets': []},
          'detected_answers': {'text': list(answers), 'char_spans': [span] * len(answers),
                               'token_spans': [span] * len(answers)},
          'answers': list(answers)}


@pytest.fixture(scope='module', autouse=True)
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp('tfds')
  lungs = squad("What does O\n2 in the patient's  lungs displace?", 'Hyperbaric (high-pressure) medicine.',
                'carbon monoxide', 'CO', "the patient's CO")
  tfds_folders.store(folder, 'squad/v1.1:3.0.0', SQUAD, {
    'train': [lungs, squad('Where?', 'In Ulm.', 'Ulm')], 'validation': [squad('Who?', 'Ann did.', 'Ann', 'Ann did')]})
  for name in qa.MRQA:
    tfds_folders.store(folder, f'mrqa/{name}:1.0.0', MRQA, {
      'test': [mrqa(f'Which is {name}?', '[PAR] It is U.S. made', 'U.S.', 'it'), mrqa('How many?', 'Nine', 'Nine')]})
  seqio.set_tfds_data_dir_override(str(folder))
  yield
  seqio.set_tfds_data_dir_override(None)


def examples(task: seqio.Task, split: str) -> list[dict]:
  """Returns the examples of a split, tokenised as bytes."""
  task = task.replace(output_features={name: seqio.Feature(seqio.ByteVocabulary()) for name in task.output_features})
  return list(tfds.as_numpy(task.get_dataset(None, split, shuffle=False)))


def texts(name: str, split: str) -> list[tuple[str, str, list[str]]]:
  return [(found['inputs_pretokenized'].decode(), found['targets_pretokenized'].decode(),
           [answer.decode() for answer in found['answers']]) for found in examples(seqio.TaskRegistry.get(name), split)]


@pytest.mark.parametrize('name', [*SPLITS, *MIXTURES])
def test_every_name_is_known_in_all_vocabularies_with_and_without_logging(name):
  registry = seqio.MixtureRegistry if name in MIXTURES else seqio.TaskRegistry
  assert {f'{prefix}{name}{suffix}' for prefix in ('', 'mt5_', 'byt5_')
          for suffix in ('', '_examples')} <= set(registry.names())


@pytest.mark.parametrize('name', [  # MRQA's differ in their files alone
  pytest.param(name, marks=[pytest.mark.slow] * (name in MRQA_TASKS[2:])) for name in SPLITS])
def test_every_task_gives_examples_whose_own_answers_score_100(name):
  task = seqio.TaskRegistry.get(name)
  assert set(task.splits) == set(SPLITS[name])
  for split in SPLITS[name]:
    found = examples(task, split)
    answers = [example['targets_pretokenized'].decode() for example in found]
    targets = [task.postprocess_fn(text, example=example, is_target=True)
               for text, example in zip(answers, found, strict=True)]
    predictions = [task.postprocess_fn(text, example=example, is_target=False)
                   for text, example in zip(answers, found, strict=True)]
    assert predictions == answers
    assert [metric(targets, predictions) for metric in task.metric_fns] == [{'em': 100.0, 'f1': 100.0}]


def test_squad_reads_question_and_context_and_keeps_all_answers():
  assert texts('squad_v010_allanswers', 'train') == [
    ("question: What does O 2 in the patient ' s lungs displace ? context: Hyperbaric ( high - pressure ) medicine .",
     'carbon monoxide', ['carbon monoxide', 'CO', "the patient ' s CO"]),
    ('question: Where ? context: In Ulm .', 'Ulm', ['Ulm'])]
  assert texts('squad_v010_allanswers_train', 'train') == texts('squad_v010_allanswers', 'train')


def test_mrqa_reads_as_squad_does_and_its_validation_is_its_test():
  wanted = [('question: Which is drop ? context: [ PAR ] It is U . S . made', 'U . S .', ['U . S .', 'it']),
            ('question: How many ? context: Nine', 'Nine', ['Nine'])]
  assert texts('mrqa_drop_v100', 'test') == texts('mrqa_drop_v100', 'validation') == wanted


def test_any_accepted_answer_counts():
  task = seqio.TaskRegistry.get('squad_v010_allanswers')
  example = {'answers': [b'carbon monoxide', b'CO']}
  target = task.postprocess_fn('carbon monoxide', example=example, is_target=True)
  assert target == ['carbon monoxide', 'CO']
  assert task.metric_fns[0]([target], ['the co.']) == {'em': 100.0, 'f1': 100.0}


@pytest.mark.parametrize('name, judges', [
  ('squad_to_mrqa', MRQA_TASKS), ('squad_to_mrqa_race_v100', ['mrqa_race_v100']),
  ('squad_to_race', ['mrqa_race_v100'])])
def test_mixtures_train_on_squad_and_judge_by_mrqa(name, judges):
  mixture = seqio.MixtureRegistry.get(name)
  having = {split: [task.name for task in mixture.tasks if split in task.splits] for split in mixture.splits}
  assert having == {'train': ['squad_v010_allanswers_train'], 'validation': judges, 'test': judges}


def test_a_question_without_an_answer_is_refused():
  with pytest.raises(ValueError, match=r"'Who\?' has no answer.*Leave out"):
    list(qa.mrqa_example({'question': 'Who?', 'context': 'None.', 'answers': []}))
