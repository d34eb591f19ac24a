import numpy as np
import pytest

pytest.importorskip('seqio')

import seqio
import tensorflow_datasets as tfds
import tfds_folders

from prompt_tuning.data import c4

SIZE = 1000  # vocabulary size; ids above 899 are sentinels
TEXTS = ['The cat sat on the mat, and the dog on the rug: both slept.', 'Short.', 'x']


def document(length: int) -> np.ndarray:
  return np.random.default_rng(length).integers(3, 900, length).astype(np.int32)


def fill_in(inputs: np.ndarray, targets: np.ndarray) -> list[int]:
  """Replaces the sentinels of the inputs with the spans of the targets."""
  spans, current = {}, None
  for token in targets.tolist():
    if token >= SIZE - c4.SENTINELS:
      current = spans.setdefault(token, [])
    else:
      current.append(token)
  return [each for token in inputs.tolist() for each in spans.get(token, [token])]


@pytest.mark.parametrize('length', [2, 3, 7, 40, 568])
def test_filling_in_the_spans_gives_back_the_piece(length):
  ids = document(length)
  inputs, targets = c4.span_corruption(ids, np.random.default_rng(1), SIZE)
  assert fill_in(inputs, targets) == ids.tolist()
  assert inputs.dtype == targets.dtype == np.int32


def test_sentinels_are_the_last_ids_downwards_and_open_their_spans():
  inputs, targets = c4.span_corruption(document(100), np.random.default_rng(2), SIZE)
  wanted = [999, 998, 997, 996, 995]  # 15 tokens in 5 spans
  assert [token for token in inputs if token >= 900] == [token for token in targets if token >= 900] == wanted
  assert targets[0] == 999 and inputs[0] < 900 and inputs[-1] == 995


def test_spans_have_three_tokens_on_average_and_differ():
  rng = np.random.default_rng(3)
  lengths = []
  for _ in range(20):
    targets = c4.span_corruption(document(568), rng, SIZE)[1]
    lengths.extend(np.diff([*np.flatnonzero(targets >= 900), len(targets)]) - 1)
  assert np.mean(lengths) == pytest.approx(85 / 28)  # round(0.15 * 568) tokens in 28 spans
  assert min(lengths) == 1 and max(lengths) > 6


def test_pieces_fill_the_lengths_that_t5_was_trained_with():
  assert c4.raw_length(512, 114) == c4.raw_length(512, 512) == 568
  inputs, targets = c4.span_corruption(document(568), np.random.default_rng(4), SIZE)
  assert (len(inputs) + 1, len(targets) + 1) == (512, 114)


@pytest.mark.parametrize('inputs, targets', [(16, 16), (33, 9), (64, 5), (4096, 4096)])
def test_the_longest_piece_that_fits_is_taken(inputs, targets):
  def lengths(length: int) -> tuple[int, int, int]:
    noise, spans = c4.noise_and_spans(length)
    return length - noise + spans + 1, noise + spans + 1, spans

  def fits(length: int) -> bool:
    found = lengths(length)
    return found[0] <= inputs and found[1] <= targets and found[2] <= 100

  length = c4.raw_length(inputs, targets)
  assert fits(length) and not fits(length + 1)


def test_lengths_too_short_for_any_piece_are_refused():
  with pytest.raises(ValueError, match=r'inputs of 2 and targets of 9.*Increase the lengths'):
    c4.raw_length(2, 9)
  with pytest.raises(ValueError, match='inputs of 7 and targets of 1'):
    list(c4.prefix_lm_examples(document(5), {'inputs': 7, 'targets': 1}, SIZE))


def test_prefix_and_rest_are_the_piece_cut_anywhere():
  ids, cuts = document(6), set()
  rng = np.random.default_rng(5)
  for _ in range(100):
    prefix, rest = c4.prefix_lm(ids, rng)
    np.testing.assert_array_equal(np.concatenate([prefix, rest]), ids)
    cuts.add(len(prefix))
  assert cuts == {1, 2, 3, 4, 5}


@pytest.mark.parametrize('examples, length, join', [
  (c4.prefix_lm_examples, 24, lambda inputs, targets: [*inputs, *targets]),
  (c4.span_corruption_examples, 26, fill_in)])
def test_a_long_document_gives_a_piece_after_the_other_and_what_remains(examples, length, join):
  ids = document(2 * length + 5)
  found = [(example['inputs'], example['targets']) for example in examples(ids, {'inputs': 24, 'targets': 30}, SIZE)]
  assert [len(join(*example)) for example in found] == [length, length, 5]
  assert [token for example in found for token in join(*example)] == ids.tolist()
  assert max(len(inputs) + 1 for inputs, _ in found) <= 24


@pytest.mark.parametrize('examples', [c4.prefix_lm_examples, c4.span_corruption_examples])
def test_examples_are_the_same_every_time_and_differ_between_documents(examples):
  def cuts(ids: np.ndarray) -> list[int]:
    return [place for example in examples(ids, {'inputs': 40, 'targets': 40}, SIZE)
            for place in [len(example['inputs']), *np.flatnonzero(example['inputs'] >= 900)]]

  assert cuts(document(400)) == cuts(document(400).astype(np.int64))
  assert cuts(document(400)) != cuts(document(400)[::-1])


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp('tfds')
  names = ('text', 'url', 'content-type', 'content-length', 'timestamp')
  features = tfds.features.FeaturesDict({name: tfds.features.Text() for name in names})
  for version in c4.VERSIONS.values():
    rows = [dict.fromkeys(names, '') | {'text': text} for text in TEXTS]
    tfds_folders.store(folder, f'c4/en:{version}', features, {'train': rows, 'validation': rows[:1]})
  seqio.set_tfds_data_dir_override(str(folder))
  yield
  seqio.set_tfds_data_dir_override(None)


@pytest.mark.parametrize('name', [f'c4_{version}_{objective}' for version in c4.VERSIONS
                                  for objective in ('prefix_lm', 'span_corruption')])
def test_every_task_gives_token_ids_with_end_tokens_in_each_split(data, name):
  assert {f'{prefix}{name}' for prefix in ('', 'mt5_', 'byt5_')} <= set(seqio.TaskRegistry.names())
  task = seqio.TaskRegistry.get(f'byt5_{name}')
  lengths = {'inputs': 20, 'targets': 20}
  for split, texts in (('train', TEXTS), ('validation', TEXTS[:1])):
    found = list(tfds.as_numpy(task.get_dataset(lengths, split, shuffle=False)))
    length = 20 if 'prefix' in name else c4.raw_length(20, 20)
    assert len(found) == sum(len(c4.pieces(np.arange(len(text)), length)) for text in texts)
    assert all(example[key][-1] == 1 and len(example[key]) <= 20 for example in found for key in lengths)
    assert set(found[0]) == {'inputs', 'targets'}


def test_the_prefix_and_the_rest_are_the_text(data):
  task = seqio.TaskRegistry.get('byt5_c4_v220_prefix_lm')
  found = [example for example in tfds.as_numpy(task.get_dataset(None, 'train', shuffle=False))]
  decode = seqio.ByteVocabulary().decode
  texts = [decode([*example['inputs'][:-1], *example['targets'][:-1]]) for example in found]
  assert texts == TEXTS[:2]  # one token cannot be cut
