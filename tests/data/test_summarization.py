import pytest

pytest.importorskip('seqio')

import seqio
import tensorflow_datasets as tfds
import tfds_folders

from prompt_tuning.data import summarization

# name -> dataset, its features, an example of it
DATASETS = {
  'xsum_v110': ('xsum:1.1.0', ('document', 'summary'), ('A long day.\nIt rained.', 'It rained.')),
  'cnn_dailymail_v310': ('cnn_dailymail:3.1.0', ('article', 'highlights'),
                         ('Ann (34) won. Bob lost.', 'Ann won .\nBob lost .')),
}
SPLITS = ('train', 'validation', 'test')


@pytest.fixture(scope='module', autouse=True)
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp('tfds')
  for dataset, names, texts in DATASETS.values():
    features = tfds.features.FeaturesDict({name: tfds.features.Text() for name in names})
    rows = [dict(zip(names, texts, strict=True)), dict.fromkeys(names, 'Nothing else .')]
    tfds_folders.store(folder, dataset, features, dict.fromkeys(SPLITS, rows))
  seqio.set_tfds_data_dir_override(str(folder))
  yield
  seqio.set_tfds_data_dir_override(None)


@pytest.mark.parametrize('name', DATASETS)
def test_every_task_reads_texts_and_writes_summaries_in_each_split(name):
  assert {f'{prefix}{name}{suffix}' for prefix in ('', 'mt5_', 'byt5_')
          for suffix in ('', '_examples')} <= set(seqio.TaskRegistry.names())
  task = seqio.TaskRegistry.get(name)
  task = task.replace(output_features={name: seqio.Feature(seqio.ByteVocabulary()) for name in task.output_features})
  assert set(task.splits) == set(SPLITS)
  text, summary = DATASETS[name][2]
  for split in SPLITS:
    found = [(example['inputs_pretokenized'].decode(), example['targets_pretokenized'].decode())
             for example in tfds.as_numpy(task.get_dataset(None, split, shuffle=False))]
    assert found == [(f'summarize: {text}', summary), ('summarize: Nothing else .', 'Nothing else .')]


@pytest.mark.parametrize('name', DATASETS)
def test_sentences_are_compared_one_by_one_although_a_vocabulary_loses_line_ends(name):
  pytest.importorskip('rouge_score')
  task = seqio.TaskRegistry.get(name)
  target, answer = (task.postprocess_fn(text, example={}, is_target=is_target)
                    for text, is_target in (('Ann won .\nBob lost .', True), ('Bob lost . Ann won .', False)))
  metric, = task.metric_fns
  scores = metric([target], [answer])
  assert scores == {'rouge1': 100.0, 'rouge2': pytest.approx(200 / 3), 'rougeLsum': 100.0}
  assert metric(['Ann won . Bob lost .'], ['Bob lost . Ann won .'])['rougeLsum'] == 50.0  # as one sentence


def test_full_stops_inside_words_end_no_sentence():
  assert summarization.sentences('The U.S. team won 2.5 points . It left .', {}, False) == (
    'The U.S. team won 2.5 points .\nIt left .')
