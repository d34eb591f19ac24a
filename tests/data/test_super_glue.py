import pytest

pytest.importorskip('seqio')
import seqio
import seqio_examples
import tensorflow_datasets as tfds
import tfds_folders
from seqio_examples import FEATURES, FORMS, judge, read, read_tokens, right_answers, texts
from tensorflow_datasets.text import super_glue as tfds_super_glue

from prompt_tuning.data import super_glue, text_to_text

CONFIGS = ('boolq', 'cb', 'copa', 'multirc', 'record', 'rte', 'wic', 'axb', 'axg')
STABLE = ('The stable was very roomy, with four good stalls; a large swinging window opened into the yard , '
          'which made it pleasant and airy.')
WIC = {'start1': 0, 'end1': 1, 'start2': 0, 'end2': 1}

# Config -> examples of each split; the test split has no labels. The first example is the paper's, shortened.
EXAMPLES = {
  'boolq': ({'passage': 'Persian is spoken in Iran.', 'question': 'do iran and afghanistan speak the same language',
             'label': 1, 'idx': 0}, {'passage': 'No.', 'question': 'is it so', 'label': 0, 'idx': 1}),
  'cb': ({'premise': 'Valence the void-brain. Did he think he was helping?', 'hypothesis': 'Valence was helping',
          'label': 1, 'idx': 0}, {'premise': 'It pours.', 'hypothesis': 'It rains.', 'label': 0, 'idx': 1},
         {'premise': 'Who?', 'hypothesis': 'He.', 'label': 2, 'idx': 2}),
  'copa': ({'premise': 'Political violence broke out in the nation.', 'question': 'effect', 'label': 1, 'idx': 0,
            'choice1': 'Many citizens relocated to the capitol.', 'choice2': 'Many citizens took refuge.'},
           {'premise': 'It fell.', 'question': 'cause', 'choice1': 'Wind.', 'choice2': 'Sun.', 'label': 0, 'idx': 1}),
  'multirc': tuple({
    'paragraph': '<b>Sent 1: </b>Once upon a time, there was a squirrel.<br><b>Sent 2: </b>He was Joey.<br>',
    'question': question, 'answer': answer, 'label': label, 'idx': {'paragraph': 3, 'question': index, 'answer': place},
  } for place, (question, index, answer, label) in enumerate((
    ('Why was Joey surprised?', 7, 'There was only pie to eat', 1), ('Why was Joey surprised?', 7, 'It rained', 0),
    ('Who was Joey?', 8, 'A squirrel', 1)))),
  'record': ({'passage': 'Flight 17 crashed\n@highlight\nIt was hit.\n@highlight\nNobody knows',
              'query': '@placeholder fell', 'entities': ['Flight 17', 'MH17', 'Ukraine'],
              'answers': ['Flight 17', 'MH17'], 'idx': {'passage': 1, 'query': 2}},
             {'passage': 'Ann went.', 'query': '@placeholder left', 'entities': ['Ann'], 'answers': ['Ann'],
              'idx': {'passage': 2, 'query': 3}}),
  'rte': ({'premise': 'Italians settled in Slovenia.', 'hypothesis': 'Slovenia has inhabitants.', 'label': 0, 'idx': 0},
          {'premise': 'Yes.', 'hypothesis': 'No.', 'label': 1, 'idx': 1}),
  'wic': ({'word': 'deliberation', 'sentence1': 'It was the deliberation of his act .',
           'sentence2': 'The deliberations of the jury .', 'label': 0, 'idx': 0} | WIC,
          {'word': 'bed', 'sentence1': 'A bed .', 'sentence2': 'The bed .', 'label': 1, 'idx': 1} | WIC),
  'axb': ({'sentence1': 'The cat sat.', 'sentence2': 'The cat did not sit.', 'label': 1, 'idx': 0},
          {'sentence1': 'It sat.', 'sentence2': 'It sat down.', 'label': 0, 'idx': 1}),
  'axg': ({'premise': 'The cook fed the guest.', 'hypothesis': 'The guest was fed.', 'label': 0, 'idx': 0},
          {'premise': 'She sang.', 'hypothesis': 'He sang.', 'label': 1, 'idx': 1}),
  'wsc.fixed': ({'text': STABLE, 'span1_text': 'The stable', 'span1_index': 0, 'span2_text': 'it', 'span2_index': 20,
                 'label': 1, 'idx': 0},
                {'text': STABLE, 'span1_text': 'the yard', 'span1_index': 14, 'span2_text': 'it', 'span2_index': 20,
                 'label': 0, 'idx': 1}),
}
TEXTS = {
  'boolq': ('boolq passage: Persian is spoken in Iran. question: do iran and afghanistan speak the same language',
            'True'),
  'cb': ('cb hypothesis: Valence was helping premise: Valence the void-brain. Did he think he was helping?',
         'contradiction'),
  'copa': ('copa choice1: Many citizens relocated to the capitol. choice2: Many citizens took refuge. premise: '
           'Political violence broke out in the nation. question: effect', 'choice2'),
  'multirc': ('multirc question: Why was Joey surprised? answer: There was only pie to eat paragraph: Sent 1: Once '
              'upon a time, there was a squirrel. Sent 2: He was Joey. ', 'True'),
  'record': ('record query: @placeholder fell entities: Flight 17, MH17, Ukraine passage: Flight 17 crashed. It was '
             'hit. Nobody knows', 'Flight 17'),
  'rte': ('rte hypothesis: Slovenia has inhabitants. premise: Italians settled in Slovenia.', 'entailment'),
  'wic': ('wic sentence1: It was the deliberation of his act . sentence2: The deliberations of the jury . word: '
          'deliberation', 'False'),
  'axb': ('rte hypothesis: The cat did not sit. premise: The cat sat.', 'not_entailment'),
  'axg': ('rte hypothesis: The guest was fed. premise: The cook fed the guest.', 'entailment'),
}
METRICS = {'cb': {'mean_3class_f1', 'accuracy'}, 'multirc': {'f1', 'exact_match'}, 'record': {'em', 'f1'},
           'axb': {'matthews_corrcoef', 'accuracy'}}
INDICES = {'boolq': 0, 'cb': 1, 'copa': 2, 'multirc': 3, 'record': 4, 'rte': 5, 'wic': 6, 'axb': 5, 'axg': 5}
WSC_TEXT = STABLE.replace(' it ', ' *it* ')
PRONOUNS = ({'sentence': 'Bob asked Tom if he can lend some money, and he did.', 'pronoun': 'he',
             'candidates': ['Bob', 'Tom'], 'label': 1},
            {'sentence': 'Ann fed the cat because it was hungry.', 'pronoun': 'it', 'candidates': ['Ann', 'the cat'],
             'label': 1})


def splits_of(config):
  return ('test',) if config in ('axb', 'axg') else ('train', 'validation', 'test')


def unlabelled(config, example):
  if config in ('axb', 'axg'):  # the only test sets with labels
    return example
  return example | ({'answers': []} if config == 'record' else {'label': -1})


@pytest.fixture(scope='session')
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp('super_glue')
  for config, examples in EXAMPLES.items():
    features = tfds_super_glue.SuperGlue(config=config, data_dir=folder / 'none').info.features
    tfds_folders.store(folder, f'super_glue/{config}:1.0.2', features, {
      split: [unlabelled(config, each) for each in examples] if split == 'test' else examples
      for split in splits_of(config)})
  features = tfds.features.FeaturesDict({
    'sentence': tfds.features.Text(), 'pronoun': tfds.features.Text(),
    'candidates': tfds.features.Sequence(tfds.features.Text(), length=2),
    'label': tfds.features.ClassLabel(num_classes=2)})
  tfds_folders.store(folder, 'definite_pronoun_resolution:0.0.1', features, {'train': PRONOUNS, 'test': PRONOUNS[:1]})
  return folder


def test_every_name_of_the_interface_is_there_and_no_other():
  tasks = [f'{form}{name}' for form in FORMS for name in (
    *(f'super_glue_{config}_v102' for config in CONFIGS), 'super_glue_wsc_v102_simple_train',
    'super_glue_wsc_v102_simple_eval', 'super_glue_wsc_and_dev_v102_simple', 'dpr_v001_simple')]
  tasks += ['task_index_super_glue_v102_examples_proportional',
            'task_index_super_glue_with_dpr_v102_examples_proportional']
  assert set(super_glue.NAMES) == seqio_examples.in_all_vocabularies(tasks)
  assert len(super_glue.NAMES) == len(set(super_glue.NAMES))
  assert set(super_glue.NAMES) <= {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}


@pytest.mark.parametrize('config', CONFIGS)
def test_texts_are_the_papers_with_and_without_the_leading_task_text(data, config):
  split = splits_of(config)[0]
  inputs, targets = TEXTS[config]
  assert texts(read(data, f'super_glue_{config}_v102', split))[0] == (inputs, targets)
  assert texts(read(data, f'taskless_super_glue_{config}_v102', split))[0] == (inputs.split(' ', 1)[1], targets)


@pytest.mark.parametrize('config', ['boolq', 'record', 'axg'])
def test_the_indexed_form_begins_with_the_number_of_the_task(data, config):
  indexed = read_tokens(data, f'task_index_super_glue_{config}_v102', splits_of(config)[0])[0]
  inputs = TEXTS[config][0].split(' ', 1)[1]
  assert indexed['inputs'] == [INDICES[config], *FEATURES['inputs'].vocabulary.encode(inputs), 1]


def test_tasks_that_are_one_to_a_model_share_a_number():
  assert {name: super_glue.LEADS.index(task.lead) for name, task in super_glue.TASKS.items()} == INDICES


@pytest.mark.parametrize('config', CONFIGS)
def test_every_split_has_its_examples_and_right_answers_are_worth_100(data, config):
  name = f'super_glue_{config}_v102'
  for split in splits_of(config):
    examples = read(data, name, split)
    assert len(examples) == len(EXAMPLES[config]) + (config == 'record' and split != 'test')
    if '<unk>' in right_answers(examples):
      assert split == 'test'
      assert set(judge(name, examples, ['what?'] * len(examples)).values()) == {0.0}
    else:
      assert judge(f'{name}_examples', examples, right_answers(examples)) == {
        key: pytest.approx(100.0) for key in METRICS.get(config, {'accuracy'})}


@pytest.mark.parametrize('config', CONFIGS)
def test_answers_that_are_no_label_are_worth_nothing(data, config):
  examples = read(data, f'super_glue_{config}_v102', splits_of(config)[:2][-1])
  assert set(judge(f'super_glue_{config}_v102', examples, ['Nothing'] * len(examples)).values()) == {0.0}


def test_record_is_learnt_from_each_answer_and_judged_once_a_query(data):
  examples = read(data, 'super_glue_record_v102', 'validation')
  assert [each['targets'] for each in examples] == ['Flight 17', 'MH17', 'Ann']
  assert judge('super_glue_record_v102', examples, ['MH17', 'Bob', 'Bob']) == {'em': 50.0, 'f1': 50.0}


def test_evaluation_reads_what_the_metrics_need_from_tokenised_examples(data):
  name = 'super_glue_multirc_v102'
  examples = read_tokens(data, name, 'validation')
  decoded = [each | {'targets': FEATURES['targets'].vocabulary.decode(each['targets'])} for each in examples]
  assert judge(name, decoded, ['True', 'True', 'True']) == {'f1': pytest.approx(80.0), 'exact_match': 50.0}


def test_the_winograd_challenge_is_learnt_from_right_nouns_and_judged_on_all(data):
  train = read(data, 'super_glue_wsc_v102_simple_train', 'train')
  assert texts(train) == [(f'wsc: {WSC_TEXT}', 'The stable')]
  examples = read(data, 'taskless_super_glue_wsc_v102_simple_eval', 'validation')
  assert texts(examples) == [(WSC_TEXT, 'The stable'), (WSC_TEXT, 'the yard')]
  name = 'super_glue_wsc_v102_simple_eval_examples'
  assert judge(name, examples, ['stable', 'stable']) == {'accuracy': 100.0}
  assert judge(name, examples, ['the yard', 'the yard']) == {'accuracy': 0.0}
  assert judge(name, examples, ['', '']) == {'accuracy': 50.0}  # "not this noun" is the second's label
  test = read(data, 'task_index_super_glue_wsc_v102_simple_eval', 'test')
  assert judge(name, test, ['stable', '']) == {'accuracy': 0.0}


def test_the_mixture_of_the_challenge_trains_on_one_task_and_is_judged_on_the_other():
  mixture = seqio.MixtureRegistry.get('byt5_super_glue_wsc_and_dev_v102_simple')
  assert {task.name: tuple(task.splits) for task in mixture.tasks} == {
    'byt5_super_glue_wsc_v102_simple_train': ('train',), 'byt5_super_glue_wsc_v102_simple_eval': ('validation', 'test')}


def test_more_pronouns_come_in_the_form_of_the_challenge(data):
  assert texts(read(data, 'dpr_v001_simple', 'train')) == [
    ('wsc: Bob asked Tom if *he* can lend some money, and he did.', 'Tom'),
    ('wsc: Ann fed the cat because *it* was hungry.', 'the cat')]
  examples = read(data, 'task_index_dpr_v001_simple', 'test')
  assert texts(examples) == [('Bob asked Tom if *he* can lend some money, and he did.', 'Tom')]
  assert judge('dpr_v001_simple', examples, ['Tom']) == {'accuracy': 100.0}
  assert judge('dpr_v001_simple', examples, ['Bob']) == {'accuracy': 0.0}


@pytest.mark.parametrize(('text', 'pronoun', 'index', 'marked'), [
  ('it said it is it .', 'it', 2, 'it said *it* is it .'),
  ('John laughed. "Good for him," he said.', 'him', 4, 'John laughed. "Good for *him*," he said.'),
  ('They might use it , but really', 'it', 2, 'They might use *it* , but really'),  # the index is off by one
  ('The items fell on it', 'it', 1, 'The items fell on *it*'),
  ('They scold .', 'they', 0, '*they* scold .'),
])
def test_the_pronoun_nearest_to_the_index_is_marked(text, pronoun, index, marked):
  assert text_to_text.mark(text, pronoun, index) == marked


def test_proportional_mixtures_hold_what_has_training_examples(data):
  plain, more = (seqio.MixtureRegistry.get(f'task_index_super_glue_{name}v102_examples_proportional')
                 for name in ('', 'with_dpr_'))
  trained = {f'task_index_super_glue_{config}_v102' for config in CONFIGS if config not in ('axb', 'axg')}
  trained |= {f'task_index_super_glue_wsc_v102_simple_{part}' for part in ('train', 'eval')}
  assert {task.name for task in plain.tasks} == trained
  assert {task.name for task in more.tasks} == trained | {'task_index_dpr_v001_simple'}
  for name, rate in (('super_glue_cb_v102', 3), ('super_glue_wsc_v102_simple_eval', 0), ('dpr_v001_simple', 2)):
    with seqio_examples.task_in(data, f'task_index_{name}') as task:
      assert more.get_rate(task) == rate
