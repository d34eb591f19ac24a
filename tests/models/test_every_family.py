"""What every family that writes must do, on the golden members: pack, mix prompts, round, serve, and be written."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_families import FAMILIES, MEMBERS, golden_of, require_logits

from prompt_tuning import trees
from prompt_tuning.data.vocabularies import PassThroughVocabulary
from prompt_tuning.decoding.samplers import BeamSearch
from prompt_tuning.evaluation.saved import SavedPrompt, Trained
from prompt_tuning.models import apart, loading
from prompt_tuning.models.compiled import apply_model
from prompt_tuning.models.parameters import merged
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning
from prompt_tuning.serving import groups
from prompt_tuning.serving.engine import Engine
from prompt_tuning.serving.requests import Request
from prompt_tuning.tuning.layer_prompts import LayerPrompts
from prompt_tuning.tuning.low_rank import LowRank
from prompt_tuning.tuning.prefix import Prefix
from prompt_tuning.tuning.scales import Scales

pytestmark = pytest.mark.slow
# One of every family that other tests do not pack, mix and serve.
DECODERS = ('gemma_1', 'smollm3', 'llama_yarn', 'phi4_mini', 'granite', 'olmo2', 'olmo3', 'ministral3', 'gpt_neox',
            'phi2', 'gptj', 'opt', 'opt_after', 'bloom', 'gpt_neo', 'mixtral', 'qwen3_moe',
            'gpt_oss', 'qwen3_5', 'gemma4', 'gemma4_equal')
BOTH = ('umt5', 't5gemma', 't5gemma2')  # encoder-decoders
each = pytest.mark.parametrize('name', (*DECODERS, *BOTH))
random = np.random.default_rng(0)


def load(name, **options):
  return loading.load_model(str(FAMILIES / name), vocabulary=PassThroughVocabulary(40, eos_id=1), **options)


def trained(method, model, seed):
  """Returns the content of a file of this method, every number of which is random."""
  tensors = trees.flatten(method.initialise(jax.random.key(seed), model))
  noise = np.random.default_rng(seed)
  return Trained({name: (1 + 0.5 * noise.normal(size=array.shape) if isinstance(method, Scales) else
                         0.7 * noise.normal(size=array.shape)).astype(np.float32) for name, array in tensors.items()},
                 {'mode': method.mode} if isinstance(method, LayerPrompts) else {})


def batch_of(model, golden, *rows, lengths=(15, 7), side='right'):
  """Returns a batch; each of its rows is given as the numbers of the golden examples that share it."""
  (_, inputs, targets), layout = golden, model.layout()
  examples = [layout.example(row, [5] if targets is None else targets[b]) for b, row in enumerate(inputs)]
  return layouts.assemble([[examples[b] for b in each] for each in rows],
                          layout.row_lengths(dict(zip(('inputs', 'targets'), lengths, strict=True))), side=side)


def mixed(model):
  """Returns what the rows of one batch may have."""
  vectors = random.normal(size=(3, model.width)).astype(np.float32)
  prefix, scales = trained(Prefix(2), model, 1), trained(Scales(), model, 2)
  found = {'prompt': vectors, 'among': SavedPrompt(vectors[:2], layouts.after_bos), 'prefix': prefix, 'scales': scales,
           'both': Trained({**prefix.tensors, **scales.tensors}), 'nothing': None}
  if model.prompted == 'encoder':
    return found | {'memory': trained(Prefix(2, attentions=('cross',)), model, 3),
                    'added': trained(LayerPrompts(2, mode='add'), model, 4)}
  if not model.facts.layer_width:
    found['replaced'] = trained(LayerPrompts(2, mode='replace'), model, 3)
    found['added'] = trained(LayerPrompts(2, mode='add'), model, 4)
  return found


@each
def test_packed_rows_give_transformers_logits(name):
  golden, model = golden_of(FAMILIES / name), load(name)
  for side in ('right', 'left'):
    batch = batch_of(model, golden, [1, 2], [0], lengths=(15, 1 if golden[2] is None else 10), side=side)
    logits = np.asarray(apply_model(model.module, model.params, batch, Conditioning()))
    for b, row, segment in ((1, 0, 1), (2, 0, 2), (0, 1, 1)):
      wanted = golden[0][f'logits_{b}']
      found = logits[row][batch['decoder']['segments'][row] == segment]
      np.testing.assert_allclose(found, wanted, atol=2e-4 * np.abs(wanted).max())


@each
def test_rows_with_different_prompts_are_as_alone(name):
  model = load(name)
  given = list(mixed(model).values())
  inputs = [random.integers(3, 40, 2 + i % 4).tolist() for i in range(len(given))]
  targets = [random.integers(3, 40, 3).tolist() for _ in given]
  logits = model.logits(inputs, targets, given)
  answers = model.predict(inputs, given, sampler=BeamSearch(3), max_length=5)
  for i, kind in ((0, 'prompt'), (2, 'prefix'), (3, 'scales')):
    alone = model.predict(inputs[i:i + 1], given[i], sampler=BeamSearch(3), max_length=5)[0]
    assert np.array_equal(answers[i], alone), kind
  for i, one in enumerate(given):
    found, wanted = logits[i], model.logits(inputs[i:i + 1], targets[i:i + 1], one)[0]
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max(), err_msg=list(mixed(model))[i])


@each
def test_scales_and_low_rank_updates_can_be_merged_into_the_weights(name):
  model, golden = load(name), golden_of(FAMILIES / name)
  dense = 'query|key|value|out|' + ('router' if getattr(model.module.config, 'experts', 0) else 'wi|wi_0|wi_1|wo')
  method = LowRank(2, (f'.*({dense})/kernel',))
  tensors = trees.unflatten({path: jnp.asarray(0.2 * random.normal(size=array.shape), jnp.float32) for path, array in
                             trees.flatten(method.initialise(jax.random.key(0), model)).items()})
  scales = trained(Scales(), model, 5).conditioning(model)
  given = dataclasses.replace(scales, parameters=method.condition(tensors, model).parameters)
  batch = batch_of(model, golden, [0])
  found = apply_model(model.module, model.params, batch, given)
  wanted = apply_model(model.module, merged(model.params, given), batch, Conditioning())
  np.testing.assert_allclose(found, wanted, atol=2e-4 * np.abs(wanted).max())
  plain = apply_model(model.module, model.params, batch, Conditioning())
  assert np.abs(np.asarray(found) - plain).max() > 0.05 * np.abs(plain).max()


@each
@pytest.mark.parametrize(('dtype', 'within'), [('bfloat16', 0.06), ('int8', 0.1)])
def test_rounded_weights_give_nearly_transformers_logits(name, dtype, within):
  golden = golden_of(FAMILIES / name)
  model = load(name, dtype=dtype, activation_dtype='bfloat16' if dtype == 'bfloat16' else 'float32')
  wanted, batch = golden[0]['logits_0'], batch_of(model, golden, [0])
  found = np.asarray(apply_model(model.module, model.params, batch, Conditioning())[0])[:len(wanted)]
  assert found.dtype == np.float32
  assert np.sqrt(np.mean((found - wanted)**2)) < within * np.sqrt(np.mean(wanted**2))


@each
def test_an_engine_that_reads_layers_apart_answers_as_predict_does(name, monkeypatch):
  monkeypatch.setattr(groups, 'PACK', 16)
  monkeypatch.setattr(groups, 'pack_length', lambda count: 32)
  monkeypatch.setattr(groups, 'front_length', lambda count: count and 32)
  monkeypatch.setattr(groups, 'row_sizes', lambda slots: [slots])
  model, scanned = load(name), load(name)
  served = {key: value for key, value in mixed(model).items() if key not in ('nothing', 'added')}
  inputs = [random.integers(3, 40, 3 + i % 3).tolist() for i in range(len(served))]
  wanted = scanned.predict(inputs, list(served.values()), max_length=6)
  monkeypatch.setattr(apart, 'LEAST', 0)
  with Engine(model, slots=4, max_length=30) as engine:
    for key, value in served.items():
      engine.prompts.load(key, value)
    answers = [engine.submit(Request(ids, key, max_tokens=6)) for ids, key in zip(inputs, served, strict=True)]
    for answer, of_predict, key in zip(answers, wanted, served, strict=True):
      found = [token.id for token in answer.result().tokens]
      ended = [*of_predict, 1][:len(found)]
      assert found == list(ended), key


@pytest.mark.parametrize('name', MEMBERS)
def test_a_written_folder_is_read_by_transformers_with_equal_logits(name, tmp_path):
  transformers, torch = pytest.importorskip('transformers'), pytest.importorskip('torch')
  golden, inputs, targets = golden_of(FAMILIES / name)
  model = load(name)
  start = model.layout().start_id
  loading.save_model(model, str(tmp_path / 'written'))  # with a vocabulary, whose special tokens are written
  kind = transformers.AutoModelForSeq2SeqLM if targets else transformers.AutoModelForCausalLM
  theirs = kind.from_pretrained(tmp_path / 'written', dtype=torch.float32, attn_implementation='eager',
                                experts_implementation='eager').eval()
  for b, row in enumerate(inputs):
    given = {'decoder_input_ids': torch.tensor([[start, *targets[b][:-1]]])} if targets else {}
    with torch.no_grad():
      found = theirs(input_ids=torch.tensor(np.asarray(row)[None], dtype=torch.int64), **given).logits[0].numpy()
    wanted = golden[f'logits_{b}']
    np.testing.assert_allclose(found, wanted, atol=2e-4 * np.abs(wanted).max())


def test_the_length_of_generations_is_limited_as_that_of_rows():
  model = loading.load_model(str(FAMILIES / 'phi4_mini'), vocabulary=PassThroughVocabulary(40, eos_id=1))
  with pytest.raises(ValueError, match=r'scales its rotary positions for rows of 32'):
    model.predict([[5] * 20], max_length=20)
  longer = dataclasses.replace(model, module=model.module.clone(
    config=dataclasses.replace(model.module.config, rotary_length=64)))
  assert len(longer.predict([[5] * 20], max_length=20)[0]) <= 20
  golden, inputs, _ = golden_of(FAMILIES / 'phi4_mini')
  require_logits(model, golden, inputs, None)
