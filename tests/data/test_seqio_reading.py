"""User-defined tasks in SeqIO's registry are read like all other tasks."""

import os

import numpy as np
import pytest

pytest.importorskip('seqio', reason="SeqIO is not installed: pip install '.[seqio]'")

import seqio
import tensorflow as tf
import toy_run

from prompt_tuning.data import pipeline, records, registry, seqio_reading
from prompt_tuning.data.vocabularies import PassThroughVocabulary
from prompt_tuning.decoding.samplers import Greedy
from prompt_tuning.evaluation.evaluate import evaluate
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning

VOCABULARY = PassThroughVocabulary(29)
ROWS = {'train': ['3 4 5', '6 7', '8 9 10 11', '12', '13 14'], 'validation': ['15 16', '17']}
BYTES = seqio.Feature(seqio.ByteVocabulary(), add_eos=True)


def source(rows=ROWS):
  def dataset(split, shuffle_files=False, seed=None):
    return tf.data.Dataset.from_tensor_slices({'text': rows[split], 'idx': list(range(len(rows[split])))})

  return seqio.FunctionDataSource(dataset, splits=tuple(rows), num_input_examples={k: len(v) for k, v in rows.items()})


def copied(dataset):
  return dataset.map(lambda row: {'inputs': row['text'], 'targets': row['text'], 'idx': row['idx']})


def exact(targets, predictions):
  return {'exact': 100.0 * float(np.mean([t == p for t, p in zip(targets, predictions, strict=True)]))}


def mean_score(targets, scores):
  return {'score': float(np.mean(scores))}


@pytest.fixture
def add(monkeypatch, tmp_path):
  """Adds tasks to an empty registry; files go to an empty cache."""
  monkeypatch.setattr(seqio.TaskRegistry, '_REGISTRY', {})
  monkeypatch.setattr(seqio.MixtureRegistry, '_REGISTRY', {})
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))

  def add(name='copy', *, steps=(copied, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim),
          rows=ROWS, features=('inputs', 'targets'), **settings):
    return seqio.TaskRegistry.add(name, source(rows), {f: BYTES for f in features}, steps, **settings)

  return add


def files():
  return sorted(os.listdir(seqio_reading.cache_folder()))


def test_a_task_is_tokenised_with_the_models_vocabulary_and_keeps_what_else_its_examples_hold(add):
  add(metric_fns=[exact])
  task = registry.get('copy', VOCABULARY)
  assert list(task.splits) == ['train', 'validation'] and task.metrics == (exact,)
  example = task.split('train')[1]
  assert example['inputs'].tolist() == [6, 7, 1]
  assert example['inputs_pretokenized'] == b'6 7' and example['idx'] == 1


def test_a_split_is_written_once_and_anew_where_task_or_vocabulary_changed(add):
  add()
  assert len(registry.get('copy', VOCABULARY).split('train')) == 5
  assert len(files()) == 1
  registry.get('copy', VOCABULARY).split('train')
  assert len(files()) == 1, 'the same file is read again'
  registry.get('copy', PassThroughVocabulary(30)).split('train')
  assert len(files()) == 2, 'another vocabulary'
  seqio.TaskRegistry.remove('copy')
  add(rows={'train': ['3', *ROWS['train']]})
  assert len(registry.get('copy', VOCABULARY).split('train')) == 6
  assert len(files()) == 3, 'other examples under the same name'


def test_of_two_processes_that_prepare_a_split_both_read_it(add, monkeypatch):
  add()
  write = records.write

  def slowly(path, examples):  # another process prepares the same split meanwhile
    monkeypatch.setattr(records, 'write', write)
    assert len(registry.get('copy', VOCABULARY).split('train')) == 5
    return write(path, examples)

  monkeypatch.setattr(records, 'write', slowly)
  assert len(registry.get('copy', VOCABULARY).split('train')) == 5
  assert len(files()) == 1, 'one whole folder, and no temporary one'


def test_a_cache_on_a_full_disk_is_named_with_the_variable_that_moves_it(add, full_disk):
  add(rows={'train': ['3 4 5'] * 200})
  with full_disk(1000), pytest.raises(OSError, match=r'split train of copy cannot be prepared. .*cache/prompt_tuning/'
                                                     r'tasks/.* cannot be written: File too large.*XDG_CACHE_HOME'):
    registry.get('copy', VOCABULARY).split('train')
  assert files() == []


def test_a_mixture_trains_on_the_tasks_that_have_the_split(add):
  add('first')
  add('second', rows={'validation': ['9']})
  add('third', rows={'train': ['20']})
  seqio.MixtureRegistry.add('all', [('first', 3), ('second', 5), ('third', 1)])
  mixture = registry.get('all', VOCABULARY)
  assert [(task.name, rate) for task, rate in mixture.parts('train')] == [('first', 3), ('third', 1)]
  assert [task.name for task, _ in mixture.parts('validation')] == ['first', 'second']
  stream = pipeline.stream(mixture, 'train', 0)
  drawn = [stream[i]['inputs'].tolist() == [20, 1] for i in range(400)]
  assert sum(drawn) == 100
  with pytest.raises(ValueError, match=r"No task of the mixture all has a split 'test'. Choose one of train, valid"):
    mixture.parts('test')


def test_preprocessing_that_makes_examples_of_given_lengths_gets_them(add):
  def windows(dataset, sequence_length):
    return dataset.map(lambda row: row | {'targets': row['targets'][:sequence_length['targets'] - 2]})

  add(steps=(copied, seqio.preprocessors.tokenize, windows, seqio.preprocessors.append_eos))
  for length, wanted in ((3, [8, 1]), (5, [8, 9, 10, 1])):
    task = registry.get('copy', VOCABULARY, {'inputs': 9, 'targets': length})
    assert task.split('train')[2]['targets'].tolist() == wanted


def test_texts_longer_than_the_lengths_are_cut_once_and_counted(add):
  add()
  task = registry.get('copy', VOCABULARY, {'inputs': 3, 'targets': 3})
  assert task.split('train')[2]['inputs'].tolist() == [8, 9, 10, 11, 1]
  batches = pipeline.eval_batches(task.split('train'), VOCABULARY, layouts.Layout(), batch_size=5,
                                  lengths={'inputs': 3, 'targets': 4})
  assert batches.truncated == {'inputs': 2, 'targets': 1, 'examples': 5}
  assert next(iter(batches))[0]['encoder']['tokens'][2].tolist() == [8, 9, 1]


def test_inputs_without_an_end_token_stay_so(add):
  task = seqio.TaskRegistry.add(
    'open', source(), {'inputs': seqio.Feature(seqio.ByteVocabulary(), add_eos=False), 'targets': BYTES},
    (copied, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim))
  batches = pipeline.eval_batches(registry.get(task.name, VOCABULARY).split('validation'), VOCABULARY, layouts.Layout(),
                                  batch_size=2, lengths={'inputs': 3, 'targets': 3})
  batch, _ = next(iter(batches))
  assert batch['encoder']['tokens'].tolist() == [[15, 16, 0], [17, 0, 0]]
  assert batch['decoder']['targets'].tolist() == [[15, 16, 1], [17, 1, 0]]


def test_metrics_get_what_the_task_makes_of_texts_with_the_example_at_hand(add, tiny):
  seen = []

  def postprocess(text, example, is_target):
    seen.append(is_target)
    return int(example['idx']) if is_target else len(text)

  add(metric_fns=[exact, mean_score], postprocess_fn=postprocess)
  task = registry.get('copy', VOCABULARY)
  found = evaluate(tiny, Conditioning(), layouts.Layout(), task, sampler=Greedy(), split='train', num_examples=3,
                   batch_size=2, max_length=4)
  assert [line['target'] for line in found.lines] == [0, 1, 2]
  assert [line['prediction'] for line in found.lines] == [len(line['output']) for line in found.lines]
  assert seen.count(True) == seen.count(False) == 3
  assert found.metrics['score'] == pytest.approx(np.mean(tiny.score(ROWS['train'][:3], ROWS['train'][:3])))
  assert found.lines[2]['input'] == {'inputs_pretokenized': '8 9 10 11', 'targets_pretokenized': '8 9 10 11', 'idx': 2}


def test_a_run_on_a_seqio_task_that_goes_on_equals_one_that_was_not_stopped(add, tmp_path):
  add(metric_fns=[exact])
  task = registry.get('copy', VOCABULARY, {'inputs': 6, 'targets': 5})
  whole = toy_run.train(tmp_path / 'whole', task=task, train_steps=104)
  toy_run.train(tmp_path / 'parts', task=task, train_steps=102)
  parts = toy_run.train(tmp_path / 'parts', task=registry.get('copy', VOCABULARY), train_steps=104)
  for name, array in whole.trained.items():
    np.testing.assert_array_equal(array, parts.trained[name])


def test_a_large_split_stays_a_stream_that_a_seed_repeats(add, monkeypatch):
  monkeypatch.setattr(seqio_reading, 'LARGE', 4)
  add()
  examples = registry.get('copy', VOCABULARY).split('train')
  assert len(examples) == 5 and examples[3]['idx'] == 3
  drawn = examples.draw(7)
  first = [int(drawn[i]['idx']) for i in range(15)]
  assert sorted(first[:5]) == sorted(first[5:10]) == [0, 1, 2, 3, 4] and first[:5] != first[5:10]
  assert int(drawn[4]['idx']) == first[4], 'going back starts anew'
  assert [int(examples.draw(7)[i]['idx']) for i in range(15)] == first
  assert not os.path.exists(seqio_reading.cache_folder())


def test_records_come_back_as_they_were_written(tmp_path):
  examples = [{'ids': np.array([3, 1], np.int32), 'text': b'\xc3\xa9', 'name': 'é', 'none': [], 'score': 0.5,
               'answers': np.array([b'a', b'bc'], object)}, {'ids': np.zeros([0], np.int32)}]
  assert records.write(tmp_path / 'a', examples) == 2
  read = records.Records(str(tmp_path / 'a'))
  assert len(read) == 2 and read[-1]['ids'].shape == (0,)
  assert read[0]['ids'].tolist() == [3, 1] and read[0]['answers'] == [b'a', b'bc'] and read[0]['name'] == 'é'
  with pytest.raises(IndexError, match=r'holds 2 examples; index 2 is out of range'):
    read[2]


def test_a_task_without_data_or_features_or_with_an_error_of_its_own_is_a_clear_error(add):
  seqio.TaskRegistry.add('absent', seqio.TfdsDataSource('glue/nothing:1.0.0'), {'inputs': BYTES, 'targets': BYTES})
  with pytest.raises(ValueError, match=r'The SeqIO task absent yields no examples: .*It reads glue/nothing:1.0.0 .*'
                                       r'Set --tfds_data_dir to the folder that holds it'):
    registry.get('absent', VOCABULARY).split('train')

  def broken(dataset):
    return dataset.map(lambda row: row['no_such_column'])

  add('broken', steps=(broken,))
  with pytest.raises(ValueError, match=r"The SeqIO task broken yields no examples: KeyError: 'no_such_column'. Fix"):
    registry.get('broken', VOCABULARY).split('train')
  add('half', features=('targets',))
  with pytest.raises(ValueError, match=r"The SeqIO task half has the features .'targets'. and lacks .'inputs'."):
    registry.get('half', VOCABULARY)
  add('lazy', steps=(seqio.preprocessors.tokenize,))
  with pytest.raises(ValueError, match=r'The SeqIO task lazy yields no examples: .*missing expected output feature'):
    registry.get('lazy', VOCABULARY).split('train')
  with pytest.raises(ValueError, match=r"There is no task 'lazi'. Did you mean lazy\?"):
    registry.get('lazi', VOCABULARY)
  with pytest.raises(ValueError, match=r"Task broken has no split 'test'. Choose one of train, validation"):
    registry.get('broken', VOCABULARY).split('test')


def test_a_task_without_metrics_can_be_learned_but_not_judged(add, tiny, tmp_path):
  add()
  task = registry.get('copy', VOCABULARY)
  run = toy_run.train(tmp_path, task=task, train_steps=102)
  assert list(run.metrics) == ['copy/loss']
  with pytest.raises(ValueError, match=r'The task copy has no metrics. Give some'):
    evaluate(tiny, Conditioning(), layouts.Layout(), task, sampler=Greedy(), split='train')


def test_a_change_anywhere_in_the_source_rebuilds_the_file(add):
  rows = {'train': [f'{i % 20 + 3}' for i in range(2 * seqio_reading._LOOKED_AT)]}
  add(rows=rows)
  registry.get('copy', VOCABULARY).split('train')
  seqio.TaskRegistry.remove('copy')
  add(rows={'train': [*rows['train'][:-1], '28']})
  assert registry.get('copy', VOCABULARY).split('train')[-1]['inputs'].tolist() == [28, 1]


def test_a_damaged_file_is_rebuilt(add):
  add()
  registry.get('copy', VOCABULARY).split('train')
  path = os.path.join(seqio_reading.cache_folder(), files()[0], 'examples.array_record')
  assert records.is_whole(path)
  with open(path, 'r+b') as file:
    content = file.read()
    file.seek(len(content) // 2)
    file.write(bytes([content[len(content) // 2] ^ 1]))
  assert not records.is_whole(path)
  assert [e['idx'] for e in registry.get('copy', VOCABULARY).split('train')] == [0, 1, 2, 3, 4]
  assert records.is_whole(path)
