"""Verbalisers against transformers' heads of masked words; `make_encoder_goldens.py` made the folders."""

import pathlib

import jax
import numpy as np
import pytest
import tokenizers

import prompt_tuning as pt
from prompt_tuning import trees
from prompt_tuning.checkpoints.huggingface import read_arrays, write_arrays
from prompt_tuning.data.vocabularies import PassThroughVocabulary
from prompt_tuning.data.vocabulary_folders import load_vocabulary
from prompt_tuning.models import heads, loading
from prompt_tuning.models.compiled import apply_model
from prompt_tuning.models.masked_words import words_of
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning
from prompt_tuning.tuning.layer_prompts import LayerPrompts
from prompt_tuning.tuning.low_rank import LowRank
from prompt_tuning.tuning.prefix import Prefix
from prompt_tuning.tuning.retrained import Retrained

MEMBERS = pathlib.Path(__file__).parent / 'masked_encoders'
NAMES = sorted(path.name for path in MEMBERS.iterdir())
MASK = 4
PAIRS = {f'label {i}': f'{i} {(i + 7) % 40}' for i in range(40)}  # of two tokens each
each = pytest.mark.parametrize('name', NAMES)


def load(name, verbaliser=None, **options):
  ids = PassThroughVocabulary(40, eos_id=3, pad_id=1 if name == 'roberta' else 0)
  model = loading.load_model(MEMBERS / name, vocabulary=ids, **options)
  return pt.with_verbaliser(model, verbaliser, mask_id=MASK) if verbaliser else model


def golden_of(name):
  """Returns the rows of a member, and the score of each of `PAIRS` for each row."""
  golden = np.load(MEMBERS / name / 'golden.npz')
  scores = [golden[f'logits_{b}'][0] + np.roll(golden[f'logits_{b}'][1], -7) for b in range(3)]
  return [golden[f'input_{b}'].astype(np.int32) for b in range(3)], np.stack(scores)


@each
def test_scores_are_transformers_logits_of_the_words_at_the_masks(name):
  model, (inputs, wanted) = load(name, PAIRS), golden_of(name)
  texts = [model.layout().example(row, [0]) for row in inputs]
  for side, rows in (('right', [[text] for text in texts]), ('left', [[text] for text in texts]),
                     ('right', [texts[:2], texts[2:]])):
    batch = layouts.assemble(rows, {'decoder': 20}, side=side)
    logits = np.asarray(apply_model(model.module, model.params, batch, Conditioning()))
    np.testing.assert_allclose(logits[batch['decoder']['loss_weights'] > 0], wanted, atol=2e-4 * np.abs(wanted).max())


@each
def test_a_folder_with_a_head_of_masked_words_is_written_as_it_was_read(name, tmp_path):
  plain, model = load(name), load(name, PAIRS)
  assert plain.module.config.mask_activation and not plain.module.config.classes
  for number, given in enumerate((plain, model)):
    loading.save_model(given, str(tmp_path / str(number)))
    again = loading.load_model(tmp_path / str(number))
    assert again.module.config == plain.module.config
    jax.tree.map(np.testing.assert_array_equal, again.params, plain.params)


@pytest.mark.slow
@each
def test_transformers_reads_a_written_folder_with_equal_logits(name, tmp_path):
  transformers, torch = pytest.importorskip('transformers'), pytest.importorskip('torch')
  loading.save_model(load(name, PAIRS), str(tmp_path))
  theirs, golden = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path).eval(), np.load(
    MEMBERS / name / 'golden.npz')
  with torch.no_grad():
    found = theirs(input_ids=torch.tensor(golden['input_0'][None], dtype=torch.int64)).logits[0].numpy()
  wanted = golden['logits_0']
  np.testing.assert_allclose(found[golden['input_0'] == MASK], wanted, atol=2e-4 * np.abs(wanted).max())


@pytest.mark.slow
@each
@pytest.mark.parametrize(('dtype', 'within'), [('bfloat16', 0.06), ('int8', 0.1)])
def test_rounded_weights_give_nearly_transformers_scores(name, dtype, within):
  model, (inputs, wanted) = load(name, PAIRS, dtype=dtype, activation_dtype='bfloat16' if dtype == 'bfloat16' else (
    'float32')), golden_of(name)
  found = np.stack([model.logits([row], [[0]])[0][0] for row in inputs])
  assert np.sqrt(np.mean((found - wanted)**2)) < within * np.sqrt(np.mean(wanted**2))


@pytest.mark.slow
@each
def test_rows_with_different_prompts_are_as_alone(name):
  model, (inputs, _) = load(name, PAIRS), golden_of(name)
  vectors = np.random.default_rng(0).normal(size=(3, model.width)).astype(np.float32)
  given = [vectors, None, vectors[:1]]
  found = model.logits(inputs, [[0]] * 3, given)
  for row, one, logits in zip(inputs, given, found, strict=True):
    wanted = model.logits([row], [[0]], one)[0]
    np.testing.assert_allclose(logits, wanted, atol=1e-4 * np.abs(wanted).max())


def test_a_word_has_the_tokens_that_it_has_within_a_text(tmp_path):
  letters = tokenizers.pre_tokenizers.ByteLevel.alphabet()
  tokens = {token: i for i, token in enumerate([*sorted(letters), 'Ġg', 'Ġgo'])}
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(tokens, [('Ġ', 'g'), ('Ġg', 'o')]))
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.add_special_tokens(['</s>', '<mask>'])
  tokenizer.save(str(tmp_path / 'tokenizer.json'))
  (tmp_path / 'tokenizer_config.json').write_text('{"mask_token": "<mask>", "eos_token": "</s>"}')
  vocabulary = load_vocabulary(str(tmp_path))
  assert vocabulary.mask_id == 259 and vocabulary.encode('It is<mask>')[-1] == 259
  assert words_of(vocabulary, ['a', 'b'], ['go', ' g']) == ((257,), (256,))


def rows(count=32, seed=0):
  """Texts with a mask whose first token decides the label."""
  numbers = np.random.default_rng(seed)
  found = []
  for _ in range(count):
    yes = numbers.integers(2)
    found.append({'inputs': [7 if yes else 8, *map(int, numbers.integers(10, 20, 4)), MASK],
                  'targets': 'yes' if yes else 'no'})
  return found


METHODS = {'prompt': None, 'prefix': Prefix(2), 'layer_prompts': LayerPrompts(2), 'low_rank': LowRank(2),
           'head': Retrained('mask_head/.*'), 'biases': Retrained('.*/bias')}


@pytest.mark.parametrize('kind', [kind if kind == 'prompt' else pytest.param(kind, marks=pytest.mark.slow)
                                  for kind in METHODS])
def test_a_verbaliser_is_used_alone_and_trained_with_any_method(kind, tmp_path):
  words = {'no': '30', 'yes': '31'}
  model, data, folder = load('bert', words), rows(), str(tmp_path / 'run')
  before = trees.flatten(load('bert', words).params)
  run = pt.tune(model, data, method=METHODS[kind], steps=3, batch_size=4, validation=data, quiet=True,
                model_dir=folder)
  texts = [' '.join(map(str, row['inputs'])) for row in data]
  saved = pt.load_trained(folder)
  assert saved.about['head'] == {'labels': ['no', 'yes'], 'pooling': 'mask', 'problem': 'single',
                                 'words': ['30', '31'], 'mask_id': MASK}
  again = pt.with_head(load('bert'), **saved.about['head'])
  used, direct = pt.classify(again, texts, folder), pt.classify(model, texts, run)
  assert used == direct and used != pt.classify(model, texts)
  assert not any('logits_dense' in name for name in saved.tensors)
  assert all(np.array_equal(before[name], array) for name, array in trees.flatten(model.params).items())


@pytest.mark.slow
def test_low_rank_updates_learn_the_words_of_labels(tmp_path):
  model = load('bert', {'no': '30', 'yes': '31'})
  run = pt.tune(model, rows(64), steps=300, method=LowRank(2), validation=rows(seed=1), quiet=True,
                model_dir=str(tmp_path))
  alone, found = pt.evaluate(model, rows(seed=2)), pt.evaluate(model, rows(seed=2), run)
  assert found['accuracy'] > 90 > alone['accuracy']


def headless(folder):
  """Returns a BERT whose folder has no head."""
  arrays = read_arrays(str(MEMBERS / 'bert' / 'model.safetensors'))
  (folder / 'config.json').write_bytes((MEMBERS / 'bert' / 'config.json').read_bytes())
  write_arrays(str(folder / 'model.safetensors'), {
    name: array for name, array in arrays.items() if not name.startswith('cls.')})
  return loading.load_model(folder, vocabulary=PassThroughVocabulary(40))


def test_what_a_verbaliser_cannot_use_is_refused(tmp_path):
  with pytest.raises(ValueError, match=r'has no head of masked words.* lacks cls\.predictions\.bias'):
    pt.with_verbaliser(headless(tmp_path), {'a': '30', 'b': '31'}, mask_id=MASK)
  for verbaliser, message in (({'a': '30', 'b': '30'}, r"labels 'a' and 'b' have the same word"),
                              ({'a': '30', 'b': '31 32'}, r"that of 'a' has 1 \(30\), that of 'b' 2 \(31 32\)"),
                              ({'a': '30'}, 'expected 2 or more different labels'),
                              ({'a': '', 'b': '31'}, "The word '' of the label 'a' is unknown")):
    with pytest.raises(ValueError, match=message):
      load('bert', verbaliser)
  with pytest.raises(ValueError, match='has no vocabulary, which a verbaliser needs'):
    pt.with_verbaliser(loading.load_model(MEMBERS / 'bert'), {'a': '30', 'b': '31'}, mask_id=MASK)
  with pytest.raises(ValueError, match=r'names no mask token.*mask_id='):
    pt.with_verbaliser(load('bert'), {'a': '30', 'b': '31'})
  with pytest.raises(ValueError, match=r'has 0 mask tokens \(id 4\), but the words of the verbaliser have 1 token\.'):
    pt.classify(load('bert', {'a': '30', 'b': '31'}), ['7 8'])
  with pytest.raises(ValueError, match='A verbaliser has nothing to train'):
    pt.Headed(head=heads.described(load('bert', {'a': '30', 'b': '31'})))
  with pytest.raises(ValueError, match=r"expected pooling='mask'"):
    pt.with_head(load('bert'), ['a', 'b'], words=['30', '31'])


def test_a_head_replaces_a_verbaliser_and_that_of_masked_words():
  model = pt.with_head(load('modernbert', {'a': '30', 'b': '31'}), ['x', 'y', 'z'], pooling='mean')
  names = trees.flatten(model.params)
  assert not any('mask_head' in name for name in names) and 'decoder/logits_dense/kernel' in names
  assert len(pt.classify(model, ['7 8'])[0]['scores']) == 3
