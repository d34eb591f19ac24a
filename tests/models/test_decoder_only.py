"""Decoder-only models against transformers and T5X, and against themselves: padding, packing, shared prompts."""

import dataclasses
import functools

import golden_models
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning.checkpoints.loading import load
from prompt_tuning.data.vocabularies import PassThroughVocabulary
from prompt_tuning.decoding.samplers import BeamSearch, Greedy
from prompt_tuning.evaluation.saved import SavedPrompt
from prompt_tuning.models import loading
from prompt_tuning.models.compiled import apply_model
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families import t5x_decoder_only
from prompt_tuning.models.generation import generate
from prompt_tuning.models.positions import Rotary
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning, StackConditioning
from prompt_tuning.training.step import Loss, TrainState, make_step

FAMILIES = ('gpt2', 'llama', 'gemma2')


@pytest.fixture(scope='module', params=FAMILIES)
def published(request, shared):
  """A model that transformers saved, with its outputs."""
  folder = shared / 'hf' / request.param
  return loading.load_model(str(folder)), dict(np.load(folder / 'golden.npz'))


def rows_of(golden):
  return [row[mask > 0] for row, mask in zip(golden['input_ids'], golden['attention_mask'], strict=True)]


@pytest.mark.parametrize('side', ['right', 'left'])
def test_logits_are_those_of_transformers(published, side):
  model, golden = published
  layout = model.layout()
  batch = layouts.assemble([[layout.example(row, [5])] for row in rows_of(golden)], {'decoder': 10}, side=side)
  wanted = golden['logits' if side == 'right' else 'left_logits']
  real = batch['decoder']['segments'] > 0
  found = apply_model(model.module, model.params, batch, Conditioning())
  np.testing.assert_allclose(np.asarray(found)[real], wanted[real], atol=2e-4)


def test_greedy_answers_and_beams_are_those_of_transformers(published):
  model, golden = published
  layout = model.layout()
  batch = layouts.assemble([[layout.question(row)] for row in rows_of(golden)], {'decoder': 10}, side='left')
  answer = lambda sampler: generate(model.module, model.params, batch, Conditioning(), jax.random.key(0),
                                    sampler=sampler, max_length=12, end_ids=(1,))
  tokens, _ = answer(Greedy())
  for b, length in enumerate(golden['greedy_lens']):
    assert np.asarray(tokens)[b, 0, :length].tolist() == golden['greedy_ids'][b, 10:10 + length].tolist()
  for count in (3, 5):
    if f'beam{count}_ids' not in golden:
      continue
    tokens, scores = answer(BeamSearch(count, 1.0, 'transformers'))
    best_first = np.asarray(tokens)[:, ::-1].reshape(3 * count, -1)
    for i, length in enumerate(golden[f'beam{count}_lens']):
      assert best_first[i, :length].tolist() == golden[f'beam{count}_ids'][i, 10:10 + length].tolist()
    np.testing.assert_allclose(np.asarray(scores)[:, ::-1].ravel(), golden[f'beam{count}_sequences_scores'], atol=1e-5)


def test_a_model_that_is_written_is_read_as_the_same(published, tmp_path):
  model, _ = published
  loading.save_model(model, str(tmp_path / 'written'))
  again = loading.load_model(str(tmp_path / 'written'))
  assert again.module.config == model.module.config
  jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
  np.testing.assert_array_equal(loading.load_embedding(str(tmp_path / 'written')), model.embeddings())


@functools.cache
def t5x_decoder(source, mode):
  """Returns T5X's decoder-only model, its prompt [P, D], and T5X's outputs for both visibilities of the input."""
  if source == 'own':
    folder = golden_models.OWN / 't5x'
    arrays, golden, furthest = folder / 'decoder_only_parameters.npz', folder / 'decoder_only.npz', 11
  else:
    folder = golden_models.shared_folder() / 't5x/e_decoder_only'
    arrays, golden, furthest = folder / 'params.npz', folder / 'golden.npz', 16
  arrays = dict(np.load(arrays))
  prompt = arrays.pop('decoder/prompt/prompt/prompt')
  reader = loading._Arrays('golden', arrays)
  config = dataclasses.replace(loading.read_config(reader), relative_max_distance=furthest,
                               prefix_lm=mode == 'prefixlm')
  module = loading.module_of(config)
  shapes = loading.parameter_shapes(module)
  return module, load(reader, shapes, t5x_decoder_only.FAMILY.t5x_rules(shapes)), prompt, np.load(golden)


@pytest.mark.parametrize('source', ['own', 'e'])
@pytest.mark.parametrize('mode', ['causal', 'prefixlm'])
@pytest.mark.parametrize('kind', ['plain', 'prompt'])
def test_logits_are_those_of_t5xs_decoder_only_model(source, mode, kind):
  module, params, prompt, golden = t5x_decoder(source, mode)
  length = len(prompt) if kind == 'prompt' else 0
  layout = module.layout(layouts.Layout(length))
  rows = []
  for targets, inputs, seen in zip(golden['decoder_target_tokens'], golden['decoder_input_tokens'],
                                   golden['decoder_causal_attention'], strict=True):
    count, known = int((targets > 0).sum()), int(seen.sum())
    example = layout.example(inputs[1:known], [*inputs[known:count], targets[count - 1]])
    rows.append([example])
  batch = layouts.assemble(rows, {'decoder': golden['decoder_target_tokens'].shape[1] + len(prompt)})
  given = StackConditioning(prompt=jnp.asarray(prompt)[None]) if kind == 'prompt' else StackConditioning()
  found = np.asarray(jax.jit(module.apply)({'params': params}, batch, Conditioning(decoder=given)))
  wanted = golden[f'{mode}_{kind}_logits']
  for b, targets in enumerate(golden['decoder_target_tokens']):
    count = int((targets > 0).sum())
    start = length if 'prompt_slots' in batch['decoder'] else 0
    np.testing.assert_allclose(found[b, start:start + count], wanted[b, :count], atol=2e-4)


@pytest.mark.parametrize(('mode', 'kind', 'name', 'sampler'), [
  ('causal', 'plain', 'beam4_a00', BeamSearch(4, alpha=0.0)), ('causal', 'prompt', 'greedy_temp0', Greedy()),
  ('prefixlm', 'plain', 'greedy_temp0', Greedy()), ('prefixlm', 'prompt', 'beam4_a00', BeamSearch(4, alpha=0.0))])
def test_answers_are_those_of_t5xs_decoder_only_model(mode, kind, name, sampler):
  module, params, prompt, golden = t5x_decoder('own', mode)
  length = len(prompt) if kind == 'prompt' else 0
  layout = module.layout(layouts.Layout(length))
  # Without a length penalty: T5X's counts the input and the prompt, ours the generation.
  given = StackConditioning(prompt=jnp.asarray(prompt)[None]) if kind == 'prompt' else StackConditioning()
  inputs = golden['asked_tokens'].astype(np.int32)
  batch = layouts.assemble([[layout.question(row)] for row in inputs], {'decoder': inputs.shape[1] + 1 + length},
                           side='left')
  tokens, scores = generate(module, params, batch, Conditioning(decoder=given), jax.random.key(0), sampler=sampler,
                            max_length=9)
  np.testing.assert_array_equal(tokens, golden[f'{mode}_{kind}_{name}_tokens'][:, :, :9])
  np.testing.assert_allclose(scores, golden[f'{mode}_{kind}_{name}_scores'], atol=1e-4)


# All dimensions differ; grouped heads, normed queries, windows, caps and two rotary bases.
MIXED = DecoderConfig(
  vocab_size=29, layers=3, width=12, heads=4, kv_heads=2, head_dim=6, mlp_dim=14, mlp_activations=('silu', 'linear'),
  query_scale=6**-0.5, rotary=(Rotary(100.0), Rotary(1000.0, 2.0), Rotary(500.0, 8.0, 16)), windows=(3, 0, 4),
  query_norms=True, post_norms=True, norm_offset=1.0, attention_cap=4.0, output_cap=3.0, embedding_scale=1.5)
LEARNED = DecoderConfig(
  vocab_size=29, layers=2, width=12, heads=3, head_dim=5, mlp_dim=14, mlp_activations=('gelu',), norm='layer',
  bias=True, query_scale=5**-0.5, position_count=40, tied=True, family='gpt2')


@pytest.fixture(scope='module', params=[MIXED, pytest.param(LEARNED, marks=pytest.mark.slow)],
                ids=['rotary', 'learned'])
def toy(request):
  return loading.random_model(request.param, vocabulary=PassThroughVocabulary(29), seed=3)


PROMPTS = [SavedPrompt(np.random.default_rng(i).normal(0, 1, (length, 12)).astype(np.float32))
           for i, length in enumerate((4, 2))]
INPUTS, TARGETS = ['5 6 7 8 9', '11', '20 3 4'], ['4 9', '12 13 14', '5']


@pytest.mark.parametrize('placement', [
  'before', *(pytest.param(name, marks=pytest.mark.slow) for name in ('after_bos', 'before_eos', 'after_eos'))])
def test_rows_that_use_different_prompts_and_none_equal_the_separate_runs(toy, placement):
  prompts = [dataclasses.replace(prompt, placement=layouts.PLACEMENTS[placement]) for prompt in PROMPTS]
  chosen = [prompts[0], prompts[1], None if placement == 'before' else prompts[0]]  # None is a prompt of length 0
  together = toy.logits(INPUTS, TARGETS, prompt=chosen)
  answers = toy.predict(INPUTS, prompt=chosen, max_length=6)
  for b, prompt in enumerate(chosen):
    alone = toy.logits(INPUTS[b:b + 1], TARGETS[b:b + 1], prompt=prompt)
    np.testing.assert_allclose(together[b, :alone.shape[1]], alone[0], atol=1e-5)
    assert toy.predict(INPUTS[b:b + 1], prompt=prompt, max_length=6) == answers[b:b + 1]


def test_a_prompt_in_front_equals_one_that_runs_in_every_row(toy):
  vectors = jnp.asarray(PROMPTS[0].vectors)[None]
  shared, in_rows = toy.layout(layouts.Layout(4)), dataclasses.replace(toy.layout(layouts.Layout(4)), placement=first)
  assert shared.in_front and not in_rows.in_front
  ids = [([int(i) for i in text.split()], [int(i) for i in target.split()])
         for text, target in zip(INPUTS, TARGETS, strict=True)]

  def run(layout, length):
    batch = layouts.assemble([[layout.example(*row)] for row in ids], {'decoder': length})

    def loss(vectors):
      given = Conditioning(decoder=StackConditioning(prompt=vectors))
      logits = toy.module.apply({'params': toy.params}, batch, given)[batch['decoder']['loss_weights'] > 0]
      return jnp.sum(logits**2), logits

    return jax.jit(jax.grad(loss, has_aux=True))(vectors)

  (gradient, logits), (wanted, other) = run(shared, 8), run(in_rows, 12)
  np.testing.assert_allclose(logits, other, atol=1e-5)
  np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-4)


def first(count, length):
  """The placement `before` under another name, so that the prompt runs in the rows."""
  return layouts.before(count, length)


def test_packed_rows_equal_rows_of_their_own(toy):
  layout = toy.layout(layouts.Layout(4))
  examples = [layout.example([5, 6, 7], [8, 1]), layout.example([9], [3, 1]), layout.example([4, 4], [1])]
  given = Conditioning(decoder=StackConditioning(prompt=jnp.asarray(PROMPTS[0].vectors)[None]))
  read = lambda batch: np.asarray(apply_model(toy.module, toy.params, batch, given))[
    batch['decoder']['loss_weights'] > 0]
  alone = read(layouts.assemble([[example] for example in examples], {'decoder': 5}))
  np.testing.assert_allclose(read(layouts.assemble([examples], {'decoder': 9})), alone, atol=1e-5)
  np.testing.assert_allclose(read(layouts.assemble([examples], {'decoder': 12}, side='left')), alone, atol=1e-5)


def test_teacher_forced_likeliest_tokens_are_the_greedy_answer(toy):
  for prompt in (None, PROMPTS[0], dataclasses.replace(PROMPTS[0], placement=layouts.after_eos)):
    for text in INPUTS:
      given = [int(i) for i in text.split()]
      ids = toy.predict([given], prompt=prompt, max_length=5)[0].tolist()
      if all(ids):  # a list of ids that ends with 0 would be taken as padded
        logits = toy.logits([given], [ids], prompt=prompt)
        assert np.argmax(logits[0], axis=-1).tolist() == ids


def test_targets_alone_are_scored_from_their_second_token_on(toy):
  logits = toy.logits(None, [[5, 6, 7]])
  assert logits.shape == (1, 3, 29) and not logits[0, 0].any()
  np.testing.assert_allclose(logits[0, 1:], toy.logits([[5]], [[6, 7]])[0], atol=1e-5)


@pytest.mark.parametrize('toy', [LEARNED, pytest.param(MIXED, marks=pytest.mark.slow)], ids=['learned', 'rotary'],
                         indirect=True)
def test_every_kind_of_rematerialisation_gives_the_same_gradient(toy):
  from prompt_tuning.prompts import Prompt, PromptTuning
  from prompt_tuning.training.optimizers import Adafactor

  layout, method = toy.layout(layouts.Layout(3)), PromptTuning(Prompt(3))
  batch = layouts.assemble([[layout.example([5, 6], [7, 1])], [layout.example([8], [9, 1])]], {'decoder': 4})
  trained = method.initialise(jax.random.key(0), toy)
  after = []
  for kind, microbatches in (('none', 1), ('full', 1), ('none', 2)):
    module = toy.module.clone(config=dataclasses.replace(toy.module.config, rematerialise=kind))
    optimizer = Adafactor().build(0)
    step = jax.jit(make_step(module, method, optimizer, loss=Loss(), microbatches=microbatches))
    state, sums = step(toy.params, TrainState(jnp.int32(0), trained, optimizer.init(trained), jnp.uint32(0)), batch)
    after.append((float(sums['loss']), state.trained['decoder']['prompt']['prompt']['prompt']))
  for loss, vectors in after[1:]:
    assert loss == pytest.approx(after[0][0], rel=1e-5)
    np.testing.assert_allclose(vectors, after[0][1], atol=1e-5)


def test_what_does_not_fit_is_a_clear_error(toy, shared, tmp_path):
  with pytest.raises(ValueError, match=r'got encoder.prompt. Use decoder.prefix and decoder.prompt, or decoder'):
    toy.module.apply({'params': toy.params}, layouts.assemble([[toy.layout().example([5], [6])]], {'decoder': 1}),
                     Conditioning(encoder=StackConditioning(prompt=jnp.zeros((1, 2, 12)))))
  with pytest.raises(ValueError, match='An input has no token'):
    toy.layout().example([], [3])
  (tmp_path / 'config.json').write_text('{"model_type": "mamba"}')
  (tmp_path / 'model.safetensors').write_bytes((shared / 'hf/gpt2/model.safetensors').read_bytes())
  with pytest.raises(ValueError, match=r"a model of type 'mamba'; supported types are t5, mt5, .*gpt2, llama"):
    loading.load_model(str(tmp_path))


def test_rows_beyond_the_position_table_are_a_clear_error():
  model = loading.random_model(LEARNED)  # 40 positions
  fits, too_long = np.ones((1, 30), np.int32), np.ones((1, 38), np.int32)
  prompt = SavedPrompt(np.zeros((6, 12), np.float32))
  assert model.logits(fits, [[5, 6, 7]], prompt=prompt).shape == (1, 3, 29)
  with pytest.raises(ValueError, match=r'The rows need 46 positions \(6 of prompt or prefix \+ 40 of text\), but the '
                                       r'model has a table of 40. Shorten the prompt'):
    model.logits(too_long, [[5, 6, 7]], prompt=prompt)
  with pytest.raises(ValueError, match=r'need 41 positions \(6 of prompt or prefix \+ 30 of text \+ 5 of generation\)'):
    model.predict(fits, prompt=prompt, max_length=6)
  assert len(model.predict(fits, prompt=prompt, max_length=5)) == 1


def test_layer_prompts_are_what_each_layer_makes_keys_and_values_of(toy):
  vectors = jnp.asarray(np.random.default_rng(0).normal(0, 1, (toy.module.config.layers, 1, 4, 12)), jnp.float32)
  keys, values = toy.module.apply({'params': toy.params}, vectors, method='run_layer_prompts')
  config, layers = toy.module.config, toy.params['decoder']['layers']
  for i in range(config.layers):
    of = jax.tree.map(lambda array, i=i: np.asarray(array[i]), layers)
    x, norm = np.asarray(vectors[i, 0]), of['pre_self_attention_layer_norm']
    if config.norm == 'layer':
      x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * norm['scale'] + norm['bias']
    else:
      x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * (norm['scale'] + config.norm_offset)
    dense = of['self_attention']['value']
    made = (x @ dense['kernel'] + dense.get('bias', 0)).reshape(4, -1, config.head_dim).swapaxes(0, 1)
    np.testing.assert_allclose(values[i, 0], made, atol=1e-5)
  assert keys.shape == values.shape


def test_in_a_model_of_one_layer_a_prompt_and_layer_prompts_are_the_same(toy):
  config = dataclasses.replace(toy.module.config, layers=1, rotary=toy.module.config.rotary[:1],
                               windows=toy.module.config.windows[:1])
  model = loading.random_model(config, seed=2)
  prompt = jnp.asarray(PROMPTS[0].vectors)[None]
  layout = model.layout(layouts.Layout(4))
  batch = layouts.assemble([[layout.example([5, 6, 7], [8, 9])], [layout.example([11], [3])]], {'decoder': 4})
  run = lambda **given: apply_model(model.module, model.params, batch,
                                    Conditioning(decoder=StackConditioning(**given)))
  placed = model.module.apply({'params': model.params}, prompt, jnp.arange(4), method='placed')
  np.testing.assert_allclose(run(layer_prompts=placed[None]), run(prompt=prompt), atol=1e-5)
