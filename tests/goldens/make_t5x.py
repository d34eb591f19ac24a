"""Makes `tests/goldens/t5x`: outputs of T5X and Flaxformer for two tiny random models, with and without a prompt.

  python tests/goldens/make_t5x.py

in the environment of docs/t5x.md. The written data does not depend on this package. Made on CPUs with T5X cc342d41,
Flaxformer 399ea3a8, airio 69897df7, jestimator 326824a4, jax 0.10.2, flax 0.12.8, seqio 0.0.20, orbax-checkpoint
0.12.8 and tensorflow 2.21.0. The fields are those of the golden data beside the project, so that tests read both.
"""

import functools
import itertools
import json
import pathlib
import shutil
import tarfile
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import seqio
import t5x_models as make
from flaxformer.components import relative_position_biases
from t5x import adafactor, checkpoints, decoding, partitioning, train_state, trainer
from t5x.examples.t5 import network

FOLDER = pathlib.Path(__file__).parent / 't5x'
SEARCHES = {
  'beam4_a06': (4, functools.partial(decoding.beam_search, alpha=0.6)),
  'beam4_a00': (4, functools.partial(decoding.beam_search, alpha=0.0)),
  'beam1_a06': (1, functools.partial(decoding.beam_search, alpha=0.6)),
  'greedy_temp0': (1, functools.partial(decoding.temperature_sample, temperature=0.0)),
  'greedy_topk1': (1, functools.partial(decoding.temperature_sample, topk=1)),
}


def rows_of(seed, inputs, targets):
  """Returns rows of random ids of the given lengths, each with its end token."""
  random = np.random.default_rng(seed)
  ids = lambda length: np.array([*random.integers(2, make.VOCAB, length - 1), 1], np.int32)
  return [{'inputs': ids(i), 'targets': ids(t)} for i, t in zip(inputs, targets, strict=True)]


def outputs(model, params, batch, asked=None):
  """Returns logits, losses, scores, and decodes, of another batch if one is given."""
  loss, metrics = model.loss_fn(params, batch, None)
  found = {'logits': model._compute_logits(params, batch), 'score_batch': model.score_batch(params, batch),
           'loss': loss, **{name: metrics[name].compute() for name in ('z_loss', 'cross_ent_loss', 'accuracy')}}
  for name, (count, search) in SEARCHES.items():
    model._decode_fn = search
    predict = jax.jit(functools.partial(model.predict_batch_with_aux, num_decodes=count, return_all_decodes=True))
    tokens, aux = predict(params, batch if asked is None else asked, rng=jax.random.PRNGKey(0))
    found |= {f'{name}_tokens': tokens, f'{name}_scores': aux['scores']}
  return found


def make_encoder_decoder():
  """Writes `encoder_decoder.npz`, `parameters.npz` and `training.npz`; returns the content of checkpoints."""
  model = make.make_model()
  converter = seqio.EncDecFeatureConverter(pack=False)
  rows = rows_of(1, (9, 4, 7, 9, 2, 6, 8), (7, 8, 3, 5, 8, 2, 6))
  batch = make.converted(converter, rows, {'inputs': 9, 'targets': 8})
  arrays, axes = make.first_variables(model, batch)
  shapes = {name: array.shape for name, array in arrays.items()}
  shapes['token_embedder/embedding'] = (make.VOCAB, make.WIDTH)
  arrays = make.random_parameters(shapes, seed=5, ends=1.4)
  prompt = np.random.default_rng(2).normal(size=(make.P, make.WIDTH)).astype(np.float32)
  plain, prompted = make.nested(arrays), make.nested({**arrays, make.ENCODER_PROMPT: prompt})
  golden = {**batch, 'prompt': prompt}
  for kind, params in (('plain', plain), ('prompt', prompted)):
    golden |= {f'{kind}_{name}': value for name, value in (
      outputs(model, params, batch) | {'encoder_outputs': model.encode(params, batch)}).items()}
  gradient = jax.grad(lambda params: model.loss_fn(params, batch, None)[0])(prompted)
  golden['prompt_grad'] = make.flat(gradient)[make.ENCODER_PROMPT]
  real = batch['decoder_loss_weights'] > 0
  np.testing.assert_allclose(golden['plain_logits'][real], of_the_example_network(arrays, batch)[real], atol=2e-5)
  save('encoder_decoder.npz', golden)
  save('parameters.npz', arrays)
  state, training = train(model, prompted, make.prompt_axes(axes, make.ENCODER_PROMPT), batch, prompt)
  save('training.npz', training)
  return plain, axes, state


def of_the_example_network(arrays, batch):
  """Returns the logits of T5X's own small network, another implementation."""
  config = network.T5Config(
    vocab_size=make.VOCAB, dtype='float32', emb_dim=make.WIDTH, num_heads=make.HEADS, num_encoder_layers=make.ENCODER,
    num_decoder_layers=make.DECODER, head_dim=make.HEAD_DIM, mlp_dim=make.HIDDEN, mlp_activations=('gelu', 'linear'),
    dropout_rate=0.0, logits_via_embedding=False)
  other = network.Transformer(config)
  # Its biases have 32 buckets up to 128: these distances must map to the same buckets as ours.
  return other.apply({'params': make.nested(with_wide_biases(arrays))}, batch['encoder_input_tokens'],
                     batch['decoder_input_tokens'], batch['decoder_target_tokens'], enable_dropout=False)


def with_wide_biases(arrays):
  """Returns parameters whose biases have T5X's 32 buckets, with our values at each distance of a row."""
  wide, distances = dict(arrays), np.arange(-8, 9)
  for stack in ('encoder', 'decoder'):
    name, bucket = f'{stack}/relpos_bias/rel_embedding', buckets_of(stack == 'encoder')
    table = np.zeros((make.HEADS, 32), np.float32)
    seen = distances if stack == 'encoder' else distances[distances <= 0]
    table[:, bucket(seen, 32, 128)] = arrays[name][:, bucket(seen, make.BUCKETS, make.MAX_DISTANCE)]
    np.testing.assert_array_equal(table[:, bucket(seen, 32, 128)],
                                  arrays[name][:, bucket(seen, make.BUCKETS, make.MAX_DISTANCE)])
    wide[name] = table
  return wide


def buckets_of(bidirectional):
  return lambda distances, buckets, furthest: np.asarray(
    relative_position_biases.RelativePositionBiases._relative_position_bucket(
      np.asarray(distances), bidirectional=bidirectional, num_buckets=buckets, max_distance=furthest))


def train(model, params, axes, batch, prompt, steps=8):
  """Returns the state after steps from 0, and the prompts, losses and states of runs from several first steps."""
  variables = {'params': params, 'params_axes': axes}
  first = train_state.FlaxOptimTrainState.create(model.optimizer_def, variables)
  step = jax.jit(lambda state: trainer.train_with_lr(
    state, batch, learning_rate=0.3, dropout_rng=None, model=model, num_microbatches=None))
  golden, last = {**batch, 'prompt0': prompt}, None
  golden['hyper_params'] = json.dumps(make.HYPER)
  for start in (0, 3, 1100000):
    optimizer = first._optimizer
    state = first.replace(_optimizer=optimizer.replace(state=optimizer.state.replace(step=jnp.int32(start))))
    prompts, figures = [prompt], []
    for _ in range(steps):
      state, metrics = step(state)
      prompts.append(make.flat(state.params)[make.ENCODER_PROMPT])
      figures.append([float(metrics[name].compute()) for name in ('loss', 'z_loss', 'accuracy')])
    losses = dict(zip(('loss', 'z_loss', 'accuracy'), np.array(figures, np.float32).T, strict=True))
    kept = state.param_states['encoder']['prompt']['prompt']['prompt']
    frozen = {name: array for name, array in make.flat(params).items() if name != make.ENCODER_PROMPT}
    assert all((make.flat(state.params)[name] == array).all() for name, array in frozen.items())
    golden |= {f'start{start}_{name}': value for name, value in {
      **losses, 'prompts': np.stack(prompts), 'final_v': kept.v,
      'loss_after': model.loss_fn(state.params, batch, None)[0]}.items()}
    last = last or state
  return last, golden


def make_decoder_only():
  """Writes `decoder_only.npz` and `decoder_only_parameters.npz`."""
  rows = rows_of(3, (8, 3, 6, 5, 7), (4, 7, 5, 2, 6))
  batch = make.converted(seqio.DecoderFeatureConverter(pack=False), rows, {'inputs': 8, 'targets': 7})
  arrays, _ = make.first_variables(make.make_model(decoder_only=True), batch)
  shapes = {name: array.shape for name, array in arrays.items()}
  shapes['decoder/token_embedder/embedding'] = (make.VOCAB, make.WIDTH)
  arrays = make.random_parameters({**shapes, make.DECODER_PROMPT: (make.P, make.WIDTH)}, seed=11, ends=1.4)
  # T5X ends a row at the length of the batch: these rows have the same space.
  asked = make.converted(seqio.DecoderFeatureConverter(pack=False), rows_of(8, (6,) * 5, (2,) * 5),
                         {'inputs': 6, 'targets': 9})
  golden = {**batch, 'asked_tokens': asked['decoder_target_tokens'][:, :6]}
  for mode, kind in itertools.product(('prefixlm', 'causal'), ('plain', 'prompt')):
    model = make.make_model(decoder_only=True, prefix_lm=mode == 'prefixlm')
    params = make.nested({name: array for name, array in arrays.items()
                          if kind == 'prompt' or name != make.DECODER_PROMPT})
    golden |= {f'{mode}_{kind}_{name}': value for name, value in outputs(model, params, batch, asked).items()}
  save('decoder_only.npz', golden)
  save('decoder_only_parameters.npz', arrays)


def make_scanned():
  """Writes `scanned.npz` and `scanned_parameters.npz`: layers stacked along the second axis, each with its biases."""
  model = make.make_model(scanned=True)
  rows = rows_of(4, (9, 5, 7), (6, 8, 3))
  batch = make.converted(seqio.EncDecFeatureConverter(pack=False), rows, {'inputs': 9, 'targets': 8})
  arrays, _ = make.first_variables(model, batch)
  shapes = {name: array.shape for name, array in arrays.items()}
  shapes['token_embedder/embedding'] = (make.VOCAB, make.WIDTH)
  arrays = make.random_parameters(shapes, seed=6, ends=1.4)
  save('scanned_parameters.npz', arrays)
  save('scanned.npz', {**batch, **outputs(model, make.nested(arrays), batch)})


def make_bfloat16():
  """Writes `bfloat16.npz`: logits for `encoder_decoder.npz` of activations in bfloat16; 'tied' as in T5 1.0."""
  golden, arrays = np.load(FOLDER / 'encoder_decoder.npz'), dict(np.load(FOLDER / 'parameters.npz'))
  batch = {name: golden[name].astype(np.int32) for name in golden
           if name.startswith(('encoder_input', 'decoder_')) and name != 'decoder_loss_weights'}
  found = {}
  for dtype, tied in itertools.product(('float32', 'bfloat16'), (False, True)):
    params = {name: array for name, array in arrays.items() if not (tied and 'logits_dense' in name)}
    logits = make.make_model(dtype=dtype, tied=tied)._compute_logits(make.nested(params), batch)
    assert logits.dtype == jnp.float32
    found[f'{dtype}_{"tied" if tied else "plain"}_logits'] = logits[..., :make.VOCAB]
  save('bfloat16.npz', found)


def make_checkpoints(plain, axes, trained):
  """Writes `checkpoints.tar.xz`: T5X's native layout and Orbax's, with and without a prompt."""
  partitioner = partitioning.PjitPartitioner(num_partitions=1, logical_axis_rules=[
    *partitioning.standard_logical_axis_rules(), ('prompt', None), ('relpos_buckets', None)])
  whole = train_state.FlaxOptimTrainState.create(
    adafactor.Adafactor(**make.HYPER, logical_factor_rules=None), {'params': plain, 'params_axes': axes})
  frozen = train_state.FlaxOptimTrainState.create(
    make.prompt_optimizer(), {'params': plain, 'params_axes': axes})
  at = lambda state, step: state.replace(_optimizer=state._optimizer.replace(
    state=state._optimizer.state.replace(step=jnp.int32(step))))
  with tempfile.TemporaryDirectory() as place:
    place = pathlib.Path(place)
    for name, state, dtype in (('ckpt_native', at(whole, 1234), np.float32),
                               ('ckpt_native_prompt', trained, np.float32),
                               ('ckpt_native_bf16', at(frozen, 1234), jnp.bfloat16)):
      (place / name).mkdir()
      checkpoints.Checkpointer(state, partitioner, str(place / name), save_dtype=dtype).save(state)
    for name, state in (('ckpt_orbax', at(frozen, 1234)), ('ckpt_orbax_prompt', trained)):
      (place / name).mkdir()
      manager = checkpoints.OrbaxCheckpointManagerInterface(str(place / name), state, partitioner)
      manager.save(state)
      manager.close()
    with tarfile.open(FOLDER / 'checkpoints.tar.xz', 'w:xz') as file:
      for path in sorted(place.rglob('*')):
        file.add(path, path.relative_to(place), recursive=False, filter=without_owner)


def without_owner(member):
  """Returns a member of an archive without the values that differ between machines."""
  member.uid = member.gid = member.mtime = 0
  member.uname = member.gname = ''
  return member


def make_units():
  """Writes Flaxformer's buckets of distances, and steps of Adafactor with given gradients."""
  distances = np.arange(-150, 151, 3, dtype=np.int16)
  found = {'relative_position': distances}
  for (buckets, furthest), kind in itertools.product(((32, 128), (4, 8), (8, 11)), ('bidirectional', 'causal')):
    found[f'buckets_{buckets}_{furthest}_{kind}'] = buckets_of(kind == 'bidirectional')(
      distances, buckets, furthest).astype(np.int8)
  save('relative_position_buckets.npz', found)
  random = np.random.default_rng(9)
  for name, start, changes in (
      ('unfactored', 0, {}), ('unfactored', 1100000, {}), ('factored', 0, {'min_dim_size_to_factor': 7}),
      ('factored', 1100000, {'min_dim_size_to_factor': 7}), ('beta1', 0, {'beta1': 0.9}),
      ('paramscale', 0, {'multiply_by_parameter_scale': True})):
    first = random.normal(size=(9, 7)).astype(np.float32)
    gradients = (random.normal(size=(6, 9, 7)) * np.logspace(-3, 2, 7)).astype(np.float32)
    tree = lambda array: {'encoder': {'prompt': {'prompt': {'prompt': jnp.asarray(array)}}}}
    definition = make.prompt_optimizer(**changes)
    optimizer = definition.create(tree(first))
    optimizer = optimizer.replace(state=optimizer.state.replace(step=jnp.int32(start)))
    steps = []
    for gradient in gradients:
      optimizer = optimizer.apply_gradient(tree(gradient), learning_rate=0.3)
      steps.append(optimizer.target['encoder']['prompt']['prompt']['prompt'])
    kept = optimizer.state.param_states['encoder']['prompt']['prompt']['prompt']
    save(f'adafactor_{name}_9x7_start{start}.npz', {
      'param0': first, 'grads': gradients, 'params': np.stack(steps), 'learning_rate': 0.3, 'start_step': start,
      **{part: getattr(kept, part) for part in ('v', 'v_row', 'v_col', 'm')}})


def save(name, arrays):
  """Writes arrays, with integers of the narrowest possible type."""
  small = lambda array: array.astype(np.int16) if array.dtype == np.int32 and array.ndim else array
  np.savez_compressed(FOLDER / name, **{key: small(np.asarray(array)) for key, array in arrays.items()})


if __name__ == '__main__':
  shutil.rmtree(FOLDER, ignore_errors=True)
  FOLDER.mkdir()
  made = make_encoder_decoder()
  make_decoder_only()
  make_units()
  make_checkpoints(*made)
  make_scanned()
  make_bfloat16()
