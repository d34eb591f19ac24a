"""Saved prompts, and predictions for whole files."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning.checkpoints.prompt_files import write_numpy_prompt
from prompt_tuning.checkpoints.state import write_state
from prompt_tuning.decoding.samplers import Greedy
from prompt_tuning.evaluation import predictions, saved
from prompt_tuning.evaluation.predictions import infer
from prompt_tuning.evaluation.saved import SavedPrompt, Trained, load_prompt, load_trained
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Visibility

PROMPT = SavedPrompt(np.random.default_rng(0).normal(size=(3, 12)).astype(np.float32), layouts.before_eos,
                     Visibility(input=False), {'model': 'toy', 'step': 7})
EXAMPLES = [{'inputs': '7 8 9', 'targets': '5 6', 'source': 'a'}, {'inputs': '3', 'targets': '4'},
            {'inputs': '10 11', 'targets': '12'}]


@pytest.mark.parametrize('name', ['prompt.safetensors', 'prompt', 'prompt.bin'])
def test_a_saved_prompt_comes_back_with_its_place_and_what_it_sees_whatever_the_file_is_called(tmp_path, name):
  PROMPT.save(str(tmp_path / name))
  found = load_prompt(str(tmp_path / name))
  np.testing.assert_array_equal(found.vectors, PROMPT.vectors)
  assert (found.placement, found.visibility) == (layouts.before_eos, Visibility(input=False))
  assert found.about['model'] == 'toy' and found.about['step'] == 7


def test_a_numpy_prompt_keeps_the_vectors_only(tmp_path):
  PROMPT.save(str(tmp_path / 'prompt.npy'))
  np.testing.assert_array_equal(np.load(tmp_path / 'prompt.npy'), PROMPT.vectors)
  found = load_prompt(str(tmp_path / 'prompt.npy'))
  np.testing.assert_array_equal(found.vectors, PROMPT.vectors)
  assert (found.placement, found.visibility) == (layouts.before, Visibility())


def test_a_runs_folder_gives_its_best_prompt_or_else_its_last(tmp_path):
  SavedPrompt(np.full((1, 2), 1, np.float32)).save(str(tmp_path / 'last.safetensors'))
  assert (load_prompt(str(tmp_path)).vectors == 1).all()
  SavedPrompt(np.full((1, 2), 2, np.float32)).save(str(tmp_path / 'best.safetensors'))
  assert (load_prompt(str(tmp_path)).vectors == 2).all()


@pytest.mark.parametrize('stack', ['encoder', 'decoder'])
def test_the_folder_of_a_run_of_t5x_gives_its_newest_prompt(tmp_path, stack):
  for step in (9, 10, 8):
    write_numpy_prompt(str(tmp_path / f'numpy_checkpoints/checkpoint_{step}/{stack}.prompt.prompt.prompt'),
                       np.full((1, 2), step, np.float32))
  (tmp_path / 'numpy_checkpoints/checkpoint_11').mkdir()  # from a run that was killed before it wrote its prompt
  assert (load_prompt(str(tmp_path)).vectors == 10).all()


@pytest.mark.parametrize('about', [
  {'visibility': {'input': True, 'prompt': True, 'memory': True}}, {'visibility': None}, {'visibility': {'input': 1}},
  {'placement': ['before']}, {'made_for': 'a model'}, {'mode': 5}])
def test_metadata_of_another_version_is_an_error_with_path_and_field(tmp_path, about):
  write_state(str(tmp_path / 'p.safetensors'), {'encoder/prompt/prompt/prompt': PROMPT.vectors}, about)
  with pytest.raises(ValueError, match=rf'p.safetensors sets {next(iter(about))} to '):
    load_prompt(str(tmp_path / 'p.safetensors'))


@pytest.mark.parametrize(('name', 'shape'), [
  ('encoder/prompt/prompt/prompt', ()), ('a/kernel/down', ()), ('decoder/prefix/keys', ()), ('other', ())])
def test_tensors_of_shapes_that_no_method_writes_are_an_error(tmp_path, name, shape):
  tensors = {name: np.ones(shape, np.float32)} | ({'a/kernel/up': np.ones((), np.float32)} if 'down' in name else {})
  write_state(str(tmp_path / 'p.safetensors'), tensors, {})
  with pytest.raises(ValueError, match=r'trained tensors|a prefix needs|no prompt'):
    load_prompt(str(tmp_path / 'p.safetensors'))


def test_trained_tensors_that_are_not_finite_are_an_error_with_path_and_place(tmp_path):
  vectors = PROMPT.vectors.copy()
  vectors[2, 7] = np.nan
  write_state(str(tmp_path / 'last.safetensors'), {'decoder/prefix/keys': vectors[None, None]}, {})
  with pytest.raises(ValueError, match=r'decoder/prefix/keys\[0, 0, 2, 7\] is nan, expected finite numbers'):
    load_trained(str(tmp_path))


def test_a_folder_without_a_prompt_is_an_error(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'holds neither best.safetensors nor last.safetensors. Give the f'):
    load_prompt(str(tmp_path))


def test_retrained_parameters_are_no_prompt(tmp_path):
  write_state(str(tmp_path / 'a.safetensors'), {'encoder/encoder_norm/scale': np.ones(12)}, {})
  with pytest.raises(ValueError, match=r'holds other trained tensors, but no prompt: encoder/.* `pt.load_trained'):
    load_prompt(str(tmp_path / 'a.safetensors'))
  assert list(load_trained(str(tmp_path / 'a.safetensors')).tensors) == ['encoder/encoder_norm/scale']


def test_a_peft_adapter_is_told_how_to_become_a_prompt(tmp_path):
  (tmp_path / 'adapter_config.json').write_text('{"peft_type": "PROMPT_TUNING"}')
  with pytest.raises(FileNotFoundError, match=rf'is a PEFT adapter, not a run. .*`prompt-tuning convert {tmp_path} '):
    load_prompt(str(tmp_path))
  (tmp_path / 'adapter_model.safetensors').write_bytes(b'')
  with pytest.raises(ValueError, match=rf'is a file of a PEFT adapter. .*`prompt-tuning convert {tmp_path} '):
    load_trained(str(tmp_path / 'adapter_model.safetensors'))


def test_a_placement_of_another_program_is_an_error():
  with pytest.raises(ValueError, match=r"unknown placement 'behind_eos'. Did you mean"):
    Trained({saved.PATH: PROMPT.vectors}, {'placement': 'behind_eos'}).prompt()


def test_a_prompt_of_another_width_is_an_error(tiny):
  with pytest.raises(ValueError, match=r'The prompt has shape \(3, 7\), but the model expects \[P, 12\]. Choose one'):
    Trained({saved.PATH: np.zeros((3, 7))}).conditioning(tiny)


def answers(tiny, mode, **settings):
  return list(infer(tiny, PROMPT.as_trained(), EXAMPLES, sampler=Greedy(), mode=mode, batch_size=4, max_length=4,
                    lengths={'inputs': 5, 'targets': 5}, **settings))


def test_answers_stand_in_the_shape_of_t5xs_files_and_are_the_models(tiny):
  lines = answers(tiny, 'predict')
  assert [line['inputs'] for line in lines] == [
    {'inputs_pretokenized': '7 8 9', 'targets_pretokenized': '5 6', 'source': 'a'},
    {'inputs_pretokenized': '3', 'targets_pretokenized': '4'},
    {'inputs_pretokenized': '10 11', 'targets_pretokenized': '12'}]
  wanted = tiny.predict([example['inputs'] for example in EXAMPLES], PROMPT, max_length=4)
  assert [line['prediction'] for line in lines] == wanted
  assert all(set(line) == {'inputs', 'prediction'} for line in lines)


def test_scores_of_answers_stand_beside_them(tiny):
  plain, scored = answers(tiny, 'predict'), answers(tiny, 'predict_with_aux')
  assert [line | {'aux': {'scores': 0.0}} for line in plain] == scored  # T5X scores greedy generations with 0


def test_scores_of_targets_are_their_log_likelihoods(tiny):
  found = [line['score'] for line in answers(tiny, 'score')]
  wanted = tiny.score([e['inputs'] for e in EXAMPLES], [e['targets'] for e in EXAMPLES], PROMPT)
  np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_an_unknown_mode_and_missing_targets_are_errors(tiny):
  with pytest.raises(ValueError, match=r"mode='guess' cannot be used: expected predict, predict_with_aux or score"):
    answers(tiny, 'guess')
  with pytest.raises(ValueError, match=r'needs targets, but an example has none. Add them, or use mode=predict'):
    list(infer(tiny, PROMPT.as_trained(), [{'inputs': '3'}], sampler=Greedy(), mode='score'))


def test_answers_as_texts_have_the_examples_ids_or_their_numbers(tmp_path):
  lines = [{'inputs': {'id': 'a7'}, 'prediction': 'two\n lines '}, {'inputs': {}, 'prediction': ''}]
  predictions.write_lines(str(tmp_path / 'answers.txt'), iter(lines), predictions.text_line)
  assert (tmp_path / 'answers.txt').read_text() == 'a7||two lines\n1||\n'


def test_lines_are_written_whole_or_not_at_all(tmp_path):
  path = tmp_path / 'out/answers.jsonl'
  assert predictions.write_lines(str(path), iter([{'a': 'ä'}, {'a': 2}])) == 2
  assert [json.loads(line) for line in path.read_text().splitlines()] == [{'a': 'ä'}, {'a': 2}]

  def broken():
    yield {'a': 3}
    raise RuntimeError('the model is gone')

  with pytest.raises(RuntimeError):
    predictions.write_lines(str(path), broken())
  assert 'ä' in path.read_text() and [file.name for file in path.parent.iterdir()] == ['answers.jsonl']


def test_bytes_that_are_no_text_and_numbers_that_are_not_finite_are_written_as_json_has_them():
  line = {'a': 'ä'.encode(), 'b': b'\xff\x00', 'c': np.float32('nan'), 'd': np.array([1.5, -np.inf])}
  assert predictions.json_line(line, 0) == '{"a": "ä", "b": {"base64": "/wA="}, "c": null, "d": [1.5, null]}'


def test_an_id_forges_no_line_of_predictions():
  line = {'inputs': {'id': 'a\n7||no\u2028b'}, 'prediction': 'yes'}
  with pytest.raises(ValueError, match=r"The id 'a 7\|\|no b' of example 3 holds \|\|, which ends an id"):
    predictions.text_line(line, 3)
  assert predictions.text_line({**line, 'inputs': {'id': 'a\nb'}}, 3) == 'a b||yes'


def test_a_prompt_of_another_stack_or_other_weights_is_named(tiny, causal, caplog):
  about = {'method': 'PromptTuning', 'weights': tiny.weights_digest}
  found = Trained({'encoder/prompt/prompt/prompt': np.ones((2, 12), np.float32)}, about)
  with pytest.raises(ValueError, match='a prompt of the encoder, but prompts of this model belong to the decoder'):
    found.conditioning(causal)
  found.conditioning(tiny)
  assert 'other weights' not in caplog.text
  found.conditioning(dataclasses.replace(tiny, params=jax.tree.map(lambda x: 2 * x, tiny.params)))
  assert 'The trained tensors were made for other weights of this shape' in caplog.text


def test_a_models_digest_is_the_same_in_half_precision(tiny):
  half = dataclasses.replace(tiny, params=jax.tree.map(lambda x: x.astype(jnp.bfloat16), tiny.params))
  assert half.weights_digest == tiny.weights_digest
