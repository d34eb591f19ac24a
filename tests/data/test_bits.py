"""Tasks on bits and on images: their labels, and that the same seed gives the same examples."""

import numpy as np
import pytest

from prompt_tuning.data import bits, digits


def test_exclusive_or_is_the_label_of_the_second_string():
  for example in map(bits.task('BitXor', length=4).split('train').__getitem__, range(50)):
    x = example['inputs']
    assert x.shape == (8,) and set(x.tolist()) <= {0, 1}
    np.testing.assert_array_equal(example['targets'], x[:4] ^ x[4:])
    assert not (example['inputs_ends'] or example['targets_ends'])


def test_the_masked_string_is_one_of_those_before_and_its_bits_are_the_labels():
  masked = 0
  for example in map(bits.task('BitMemory', length=6, strings=3).split('train').__getitem__, range(200)):
    shown, last = example['inputs'][:18].reshape(3, 6), example['inputs'][18:]
    assert (shown == example['targets']).all(axis=1).any()
    assert (last == np.where(last == 2, 2, example['targets'])).all()
    masked += (last == 2).sum()
  assert 0.45 < masked / (200 * 6) < 0.55


def test_draws_depend_on_the_seed_alone_and_no_seed_draws_the_validation_split():
  task = bits.task('BitXor')
  train, held = task.split('train'), task.split('validation')
  again = bits.task('BitXor').split('train')
  np.testing.assert_array_equal(train.draw(3)[1500]['inputs'], again.draw(3)[1500]['inputs'])
  assert (train.draw(3)[7]['inputs'] != train.draw(4)[7]['inputs']).any()
  assert len(held) == 800
  with pytest.raises(IndexError):
    held[800]


@pytest.mark.parametrize(('name', 'arguments', 'message'), [
  ('BitXer', {}, 'Did you mean BitXor'), ('BitXor', {'length': 0}, 'Both must be at least 1')])
def test_bits_that_cannot_be_drawn(name, arguments, message):
  with pytest.raises(ValueError, match=message):
    bits.task(name, **arguments)


def test_digits_are_patches_of_real_numbers_in_two_splits_without_a_common_image():
  pytest.importorskip('sklearn', reason='scikit-learn is not installed: pip install scikit-learn')
  task = digits.task(4)
  train, validation = task.split('train'), task.split('validation')
  assert len(train) + len(validation) == 1797 and 250 < len(validation) < 450
  example = train[0]
  assert example['inputs'].shape == (4, 16) and example['inputs'].dtype == np.float32
  assert 0 <= example['inputs'].min() and example['inputs'].max() <= 1
  assert {int(each['targets'][0]) for each in validation} == set(range(10))
  images = {each['inputs'].tobytes() for each in train}
  assert not images & {each['inputs'].tobytes() for each in validation}
  # Patches are squares: the first holds the image's upper left corner.
  np.testing.assert_array_equal(digits.task(8).split('train')[0]['inputs'].reshape(8, 8)[:4, :4].ravel(),
                                example['inputs'][0])
  with pytest.raises(ValueError, match='Use 1, 2, 4 or 8'):
    digits.task(3)
