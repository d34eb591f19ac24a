import itertools

import pytest

pytest.importorskip('seqio')
import seqio
import seqio_examples
import tfds_folders
from seqio_examples import FEATURES, FORMS, judge, read, read_tokens, right_answers, texts
from tensorflow_datasets.text import glue as tfds_glue

from prompt_tuning.data import glue, glue_transfer

CONFIGS = ('cola', 'sst2', 'mrpc', 'qqp', 'stsb', 'mnli', 'mnli_matched', 'mnli_mismatched', 'qnli', 'rte', 'wnli',
           'ax')
MNLI = (
  {'hypothesis': 'The St. Louis Cardinals have always won.', 'premise': 'yeah well losing is', 'label': 2},
  {'hypothesis': 'It rains.', 'premise': 'It pours.', 'label': 0},
  {'hypothesis': 'He sleeps.', 'premise': 'He is at home.', 'label': 1},
)

# Config -> examples of each split; the test split has no labels. The first example is the paper's.
EXAMPLES = {
  'cola': ({'sentence': 'John made Bill master of himself.', 'label': 1}, {'sentence': 'Himself made.', 'label': 0}),
  'sst2': ({'sentence': 'it confirms fincher ’s status', 'label': 1}, {'sentence': 'dull', 'label': 0}),
  'mrpc': ({'sentence1': 'We acted .', 'sentence2': 'Rather , we acted .', 'label': 1},
           {'sentence1': 'Yes .', 'sentence2': 'No .', 'label': 0}),
  'qqp': ({'question1': 'What attributes?', 'question2': 'How to join?', 'label': 0},
          {'question1': 'Who?', 'question2': 'Who is it?', 'label': 1}),
  'stsb': ({'sentence1': 'Representatives could not be reached.', 'sentence2': 'They could not be located.',
            'label': 3.25}, {'sentence1': 'One.', 'sentence2': 'One.', 'label': 5.0},
           {'sentence1': 'One.', 'sentence2': 'Blue.', 'label': 0.0}),
  'mnli': MNLI, 'mnli_matched': MNLI, 'mnli_mismatched': MNLI[::-1], 'ax': MNLI,
  'qnli': ({'question': 'Where did Jebe die?', 'sentence': 'Genghis Khan recalled Subutai.', 'label': 0},
           {'question': 'When?', 'sentence': 'Here.', 'label': 1}),
  'rte': ({'sentence1': 'A smaller proportion of Italians settled.', 'sentence2': 'Slovenia has 3,000 inhabitants.',
           'label': 1}, {'sentence1': 'It is red.', 'sentence2': 'It has a colour.', 'label': 0}),
  'wnli': ({'sentence1': 'Lily spoke to Donna, breaking her silence.', 'sentence2': 'Lily breaks her silence.',
            'label': 1}, {'sentence1': 'Bob hit Al as he fell.', 'sentence2': 'Al hit.', 'label': 0}),
}

# The first training example (for MNLI's sets, the first example) as text.
TEXTS = {
  'cola': ('cola sentence: John made Bill master of himself.', 'acceptable'),
  'sst2': ('sst2 sentence: it confirms fincher ’s status', 'positive'),
  'mrpc': ('mrpc sentence1: We acted . sentence2: Rather , we acted .', 'equivalent'),
  'qqp': ('qqp question1: What attributes? question2: How to join?', 'not_duplicate'),
  'stsb': ('stsb sentence1: Representatives could not be reached. sentence2: They could not be located.', '3.2'),
  'mnli': ('mnli hypothesis: The St. Louis Cardinals have always won. premise: yeah well losing is', 'contradiction'),
  'mnli_matched': ('mnli hypothesis: The St. Louis Cardinals have always won. premise: yeah well losing is',
                   'contradiction'),
  'mnli_mismatched': ('mnli hypothesis: He sleeps. premise: He is at home.', 'neutral'),
  'qnli': ('qnli question: Where did Jebe die? sentence: Genghis Khan recalled Subutai.', 'entailment'),
  'rte': ('rte sentence1: A smaller proportion of Italians settled. sentence2: Slovenia has 3,000 inhabitants.',
          'not_entailment'),
  'wnli': ('wnli sentence1: Lily spoke to Donna, breaking her silence. sentence2: Lily breaks her silence.',
           'entailment'),
  'ax': ('mnli hypothesis: The St. Louis Cardinals have always won. premise: yeah well losing is', '<unk>'),
}
MNLI_SPLITS = ('train', 'validation_matched', 'validation_mismatched', 'test_matched', 'test_mismatched')
SPLITS = {'mnli': MNLI_SPLITS, 'mnli_matched': ('validation', 'test'), 'mnli_mismatched': ('validation', 'test'),
          'ax': ('test',)}
INDICES = {'cola': 0, 'sst2': 1, 'mrpc': 2, 'qqp': 3, 'stsb': 4, 'mnli': 5, 'mnli_matched': 5, 'mnli_mismatched': 5,
           'qnli': 6, 'rte': 7, 'wnli': 8, 'ax': 5}


def splits_of(config):
  return SPLITS.get(config, ('train', 'validation', 'test'))


@pytest.fixture(scope='session')
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp('glue')
  for config, version in itertools.product(CONFIGS, ('1.0.0', '2.0.0')):
    features = tfds_glue.Glue(config=config, data_dir=folder / 'none').info.features
    labelled = [example | {'idx': index} for index, example in enumerate(EXAMPLES[config])]
    tfds_folders.store(folder, f'glue/{config}:{version}', features, {
      split: [each | {'label': -1} for each in labelled] if split.startswith('test') else labelled
      for split in splits_of(config)})
  return folder


def test_every_name_of_the_interface_is_there_and_no_other():
  tasks = [f'{form}glue_{name}_{version}' for form in FORMS for name in (*CONFIGS, 'mnli_and_dev')
           for version in ('v002', 'v200')]
  assert set(glue.NAMES) == seqio_examples.in_all_vocabularies(tasks)
  assert len(glue.NAMES) == len(set(glue.NAMES))
  assert set(glue.NAMES) <= {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}


@pytest.mark.parametrize('config', CONFIGS)
def test_texts_are_the_papers_with_and_without_the_leading_task_text(data, config):
  split = splits_of(config)[0]
  inputs, targets = TEXTS[config]
  assert texts(read(data, f'glue_{config}_v002', split))[0] == (inputs, targets)
  assert texts(read(data, f'taskless_glue_{config}_v200', split))[0] == (inputs.split(' ', 1)[1], targets)


@pytest.mark.parametrize('config', ['cola', 'wnli', 'ax'])
def test_the_indexed_form_begins_with_the_number_of_the_task(data, config):
  indexed = read_tokens(data, f'task_index_glue_{config}_v200', splits_of(config)[0])[0]
  inputs = TEXTS[config][0].split(' ', 1)[1]
  assert indexed['inputs'] == [INDICES[config], *FEATURES['inputs'].vocabulary.encode(inputs), 1]


def test_tasks_that_are_one_to_a_model_share_a_number():
  assert {name: glue.LEADS.index(task.lead) for name, task in glue.TASKS.items()} == INDICES


@pytest.mark.parametrize('config', CONFIGS)
def test_every_split_has_its_examples_and_right_answers_are_worth_100(data, config):
  for split in splits_of(config):
    examples = read(data, f'glue_{config}_v002', split)
    assert len(examples) == len(EXAMPLES[config])
    if split.startswith('test'):
      assert set(right_answers(examples)) == {'<unk>'}
      assert set(judge(f'glue_{config}_v002', examples, ['what?'] * len(examples)).values()) == {0.0}
    else:
      found = judge(f'glue_{config}_v002_examples', examples, right_answers(examples))
      assert found == {key: pytest.approx(100.0) for key in found} and found


@pytest.mark.parametrize('config', [config for config in CONFIGS if config != 'ax'])
def test_answers_that_are_no_label_are_worth_nothing(data, config):
  examples = read(data, f'glue_{config}_v002', splits_of(config)[1])
  found = judge(f'glue_{config}_v002', examples, ['Entailed!', 'I think so', 'nan'][:len(examples)])
  assert set(found.values()) == {0.0}


@pytest.mark.parametrize(('config', 'names'), [
  ('cola', {'matthews_corrcoef'}), ('sst2', {'accuracy'}), ('mrpc', {'f1', 'accuracy'}),
  ('stsb', {'pearson_corrcoef', 'spearman_corrcoef'})])
def test_metrics_are_those_of_the_benchmark(data, config, names):
  examples = read(data, f'glue_{config}_v002', 'train')
  assert set(judge(f'glue_{config}_v002', examples, right_answers(examples))) == names


def test_the_mixture_of_mnli_trains_on_mnli_and_is_judged_on_both_sets():
  mixture = seqio.MixtureRegistry.get('mt5_taskless_glue_mnli_and_dev_v200_examples')
  assert {task.name: tuple(task.splits) for task in mixture.tasks} == {
    f'mt5_taskless_glue_{name}_v200_examples': splits_of(name) for name in ('mnli', 'mnli_matched', 'mnli_mismatched')}


@pytest.mark.parametrize(('score', 'text'), [(0.0, '0.0'), (0.1, '0.0'), (2.5, '2.4'), (2.75, '2.8'), (4.7, '4.8'),
                                             (5.0, '5.0'), (-1.0, '<unk>')])
def test_similarities_are_rounded_to_the_nearest_fifth(score, text):
  assert glue.TASKS['stsb'].preprocess({'sentence1': '', 'sentence2': '', 'label': score})[0]['targets'] == text


def test_transfer_tasks_exist_for_all_pairs_with_two_classes():
  binary = ('cola', 'sst2', 'mrpc', 'qqp', 'qnli', 'rte', 'wnli')
  tasks = [f'{form}glue_{target}_from_{source}_v002' for form in FORMS
           for target, source in itertools.permutations(binary, 2)]
  assert set(glue_transfer.NAMES) == seqio_examples.in_all_vocabularies(tasks)


def test_a_transfer_task_has_the_inputs_of_one_and_the_words_of_the_other(data):
  examples = read(data, 'taskless_glue_sst2_from_mrpc_v002', 'validation')
  assert texts(examples) == [('sentence: it confirms fincher ’s status', 'equivalent'),
                             ('sentence: dull', 'not_equivalent')]
  name = 'taskless_glue_sst2_from_mrpc_v002'
  assert judge(name, examples, right_answers(examples)) == {'accuracy': 100.0}
  assert judge(name, examples, ['positive', 'negative']) == {'accuracy': 0.0}
