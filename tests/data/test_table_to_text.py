import gzip
import statistics

import numpy as np
import pytest

from prompt_tuning.data import byte_level_bpe, files, pipeline, table_to_text, tasks, vocabularies, vocabulary_folders
from prompt_tuning.rows import layouts

PAIRS = 'name : Mill | Type : pub||The Mill is a pub . \nname : Vaults||Vaults it is .\n'
REFERENCES = ('7||name : Mill||The Mill .\n7||name : Mill||It is The Mill .\n'
              '\n9||name : Café | near : Mill||Café , near Mill .\n')


@pytest.fixture
def write(tmp_path):
  """Returns a function `(name, content) -> path`, which compresses files that end in .gz."""

  def write(name: str, content: str) -> str:
    data = content.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith('.gz') else data)
    return str(tmp_path / name)

  return write


def test_a_task_has_pairs_meanings_with_all_references_and_meanings_alone(write):
  task = table_to_text.task(write('train.txt.gz', PAIRS), write('dev.out', REFERENCES),
                            test=write('test.txt', 'name : Mill\nname : Vaults\n'), instruction='say: ', separator=' =')
  assert task.split('train') == [{'inputs': 'say: name : Mill | Type : pub =', 'targets': 'The Mill is a pub .'},
                                 {'inputs': 'say: name : Vaults =', 'targets': 'Vaults it is .'}]
  first, second = task.split('validation')
  assert first == {'inputs': 'say: name : Mill =', 'targets': 'The Mill .', 'id': '7', 'meaning': 'name : Mill',
                   'references': ['The Mill .', 'It is The Mill .']}
  assert (second['id'], second['references']) == ('9', ['Café , near Mill .'])
  assert [(e['inputs'], e['id'], 'targets' in e) for e in task.split('test')] == [
    ('say: name : Mill =', '0', False), ('say: name : Vaults =', '1', False)]


def test_answers_are_compared_with_all_references(write):
  pytest.importorskip('sacrebleu')
  task = table_to_text.task(write('train.txt', PAIRS), write('dev.out', REFERENCES))
  examples = task.split('validation')
  targets = [task.value(e['targets'], e, is_target=True) for e in examples]
  answers = [task.value(text, e, is_target=False) for text, e in zip(['It is The Mill .', ''], examples, strict=True)]
  found = {name: value for metric in task.metrics for name, value in metric(targets, answers).items()}
  assert found['sentence_bleu'] == pytest.approx((100 + 0) / 2)
  assert 0 < found['corpus_bleu'] < 100
  train = task.split('train')[0]
  assert task.value(train['targets'], train, is_target=True) == ['The Mill is a pub .']


def test_documents_are_whole_and_unmarked_and_their_first_word_is_the_input(write):
  mixture = table_to_text.pretraining(write('train.txt', PAIRS.splitlines()[0]), separator=' -> ', validation=0)
  assert (mixture.name, mixture.rates) == ('e2e_pretrain', (1, 1, 1))
  found = {task.name: task.split('train') for task in mixture.tasks}
  assert found == {
    'e2e_pretrain_meaning_text': [{'inputs': 'name', 'targets': ' : Mill | Type : pub -> The Mill is a pub .'}],
    'e2e_pretrain_text_meaning': [{'inputs': 'The', 'targets': ' Mill is a pub . -> name : Mill | Type : pub'}],
    'e2e_pretrain_text': [{'inputs': 'The', 'targets': ' Mill is a pub .'}]}


def test_the_loss_of_a_document_is_on_all_but_its_first_word(write):
  vocabulary = vocabularies.PassThroughVocabulary(40)
  mixture = table_to_text.pretraining(write('train.txt', '5 6||7 8 9'), separator=' 3 ', validation=0)
  batches = pipeline.TrainBatches(mixture, vocabulary, layouts.CausalLayout(), lengths={'inputs': 1, 'targets': 7},
                                  batch_size=3, block=3)
  batch = next(batches)['decoder']
  rows = {tuple(row[weights > 0]) for row, weights in zip(batch['targets'], batch['loss_weights'], strict=True)}
  assert rows == {(6, 3, 7, 8, 9, 1), (8, 9, 3, 5, 6, 1), (8, 9, 1)}
  assert {int(first) for first in batch['tokens'][:, 0]} == {5, 7}


def test_a_meaning_is_on_one_side_of_the_split_in_all_kinds_of_documents(write):
  lines = ''.join(f'name : N{i % 40}||text {i}\n' for i in range(120))
  mixture = table_to_text.pretraining(write('train.txt', lines), validation=0.3)
  held_out = {f'name : N{i}' for i in range(40) if files.share(f'name : N{i}') < 0.3}
  assert 0 < len(held_out) < 40
  for task in mixture.tasks[:2]:
    for split, wanted in (('validation', True), ('train', False)):
      texts = [example['inputs'] + example['targets'] for example in task.split(split)]
      meanings = [next(part for part in text.split('\n') if part.startswith('name')) for text in texts]
      assert {meaning in held_out for meaning in meanings} == {wanted}
  assert [len(task.split('validation')) for task in mixture.tasks] == [3 * len(held_out)] * 3


def test_the_anchors_are_the_copied_table_and_the_first_reference():
  pytest.importorskip('sacrebleu')
  words = 'the cat sat on the mat today'
  examples = [{'meaning': 'the : cat sat | on the : mat today', 'references': [words, words]},
              {'meaning': 'x', 'references': ['y']}]
  found = table_to_text.anchors(examples)
  assert found['copy']['sentence_bleu'] == pytest.approx((100 + 0) / 2)
  assert found['human'] == {'sentence_bleu': pytest.approx(100), 'corpus_bleu': pytest.approx(100)}


@pytest.mark.slow
def test_the_anchors_of_the_real_data_are_those_that_were_measured(shared):
  pytest.importorskip('sacrebleu')
  small = table_to_text.anchors(table_to_text.read_references(shared / 'e2e/small.out'))
  assert small['copy']['sentence_bleu'] == pytest.approx(15.30, abs=0.01)
  assert small['human']['sentence_bleu'] == pytest.approx(44.3, abs=0.05)
  references = table_to_text.read_references(shared / 'e2e/dev.out')
  dev = table_to_text.anchors(references)
  assert dev['human']['sentence_bleu'] == pytest.approx(56.2, abs=0.05)
  assert dev['copy']['sentence_bleu'] == pytest.approx(20.48, abs=0.01)
  # 16.95 was measured line by line with the meanings of dev.txt, whose order differs from that of the references.
  meanings = table_to_text.read_meanings(shared / 'e2e/dev.txt')
  assert sorted(meanings) == sorted(example['meaning'] for example in references)
  shifted = [example | {'meaning': meaning} for example, meaning in zip(references, meanings, strict=True)]
  assert statistics.mean(m == e['meaning'] for m, e in zip(meanings, references, strict=True)) == 364 / 547
  assert table_to_text.anchors(shifted)['copy']['sentence_bleu'] == pytest.approx(16.95, abs=0.01)


@pytest.mark.parametrize(('read', 'content', 'message'), [
  (table_to_text.read_pairs, PAIRS + 'name : Mill\n', r"data\.txt:3: found 'name : Mill', expected .* meaning\|\|text"),
  (table_to_text.read_pairs, 'a||b||c\n', r'data\.txt:1: .* meaning\|\|text without'),
  (table_to_text.read_pairs, '\na|| \n', r'data\.txt:2: .* without empty parts'),
  (table_to_text.read_pairs, '\n', r'data\.txt holds no examples\. Write lines of the form meaning\|\|text'),
  (table_to_text.read_references, 'a||b\n', r'data\.txt:1: .* id\|\|meaning\|\|text'),
  (table_to_text.read_references, '1||a||b\n1||c||d\n', r"data\.txt:2: the id '1' belongs to 'c', but above to 'a'"),
  (table_to_text.read_meanings, 'a\nb||c\n', r"data\.txt:2: found 'b\|\|c', expected .* meaning without"),
])
def test_a_bad_line_is_named(write, read, content, message):
  with pytest.raises(ValueError, match=message):
    read(write('data.txt', content))


def test_a_damaged_or_absent_file_is_named(write, tmp_path):
  whole = gzip.compress(PAIRS.encode())
  for content in (whole[:20], PAIRS.encode()):
    (tmp_path / 'train.txt.gz').write_bytes(content)
    with pytest.raises(ValueError, match=r'train\.txt\.gz is not a complete gzip file'):
      table_to_text.read_pairs(str(tmp_path / 'train.txt.gz'))
  with pytest.raises(FileNotFoundError, match=r'gone\.txt: there is no such file'):
    table_to_text.read_pairs(str(tmp_path / 'gone.txt'))


def test_a_share_that_leaves_nothing_to_train_on_is_refused(write):
  with pytest.raises(ValueError, match=r'validation=1\.0'):
    table_to_text.pretraining(write('train.txt', PAIRS), validation=1.0)


def test_the_trained_tokenizer_spells_every_text_and_parts_texts_at_the_separator(write, tmp_path):
  texts = [part for pair in table_to_text.read_pairs(write('train.txt', PAIRS)) for part in pair]
  for name, content in byte_level_bpe.train_tokenizer(texts * 2, 280).items():
    (tmp_path / name).write_text(content)
  vocabulary = vocabulary_folders.load_vocabulary(tmp_path)
  assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.size) == (0, 1, 280)
  for text in [*texts, 'Café £ 20 - 25', ' two  blanks\n', '中']:
    assert vocabulary.decode(vocabulary.encode(text)) == text
  meaning, text = texts[:2]
  whole = vocabulary.encode(f'{meaning}\n{text}')
  np.testing.assert_array_equal(whole, vocabulary.encode(f'{meaning}\n') + vocabulary.encode(text))
  np.testing.assert_array_equal(whole, vocabulary.encode('name') + vocabulary.encode(f'{meaning[4:]}\n{text}'))
  with pytest.raises(ValueError, match=r'size=257 is too small for a tokenizer: .* take 258'):
    byte_level_bpe.train_tokenizer(texts, 257)


def test_a_mixture_of_documents_gives_each_kind_as_often(write):
  mixture = table_to_text.pretraining(write('train.txt', PAIRS), validation=0)
  assert isinstance(mixture, tasks.Mixture)
  stream = pipeline.stream(mixture, 'train', seed=3)
  kinds = [stream[i] for i in range(60)]
  assert sum('\n' not in example['targets'] for example in kinds) == 20


def test_labels_are_the_values_of_an_attribute_of_texts_that_speak_of_it(write):
  lines = [(f'name : Mill | family friendly : {"yes" if i % 3 else "no"} | near : {i}',
            f'A {"Family" if i % 2 else "quiet"} pub .') for i in range(12)]
  train = write('train.txt', ''.join(f'{meaning}||{text}\n' for meaning, text in lines) + 'name : Oak||An oak .\n')
  dev = write('dev.out', ''.join(f'{i}||{meaning}||{text}\n' for i, (meaning, text) in enumerate(lines)))
  task = table_to_text.labelled(train, dev, mentions='famil')
  assert [e['targets'] for e in task.split('train')] == ['yes', 'no', 'yes'] * 2
  assert {e['inputs'] for e in task.split('validation')} == {'A Family pub .'}
  assert not task.split('train')[0]['targets_ends']
  task = table_to_text.labelled(train, dev, limit=5, validation_limit=3)
  few, every = task.split('train'), table_to_text.labelled(train, dev).split('train')
  assert len(few) == 5 and len(task.split('validation')) == 3 and all(example in every for example in few)
  with pytest.raises(ValueError, match=r"No meaning .* has the attribute 'family'\. Did you mean family friendly"):
    table_to_text.labelled(train, dev, attribute='family')
