"""`prompt-tuning convert --to vllm`, read with torch and compared with the model's embedding."""


import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning.checkpoints.peft import read_adapter
from prompt_tuning.checkpoints.state import write_state
from prompt_tuning.checkpoints.torch_file import write_tensor
from prompt_tuning.data.vocabularies import ByteVocabulary
from prompt_tuning.evaluation.saved import SavedPrompt, Trained
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.loading import load_model, random_model, save_model
from prompt_tuning.models.positions import Rotary
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Visibility
from prompt_tuning.runs import run_file

torch = pytest.importorskip('torch', reason="torch is not installed: pip install '.[peers]'")

DECODER = 'decoder/prompt/prompt/prompt'
PROMPT = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)  # P=3, D=16
LLAMA = DecoderConfig(vocab_size=400, layers=2, width=16, heads=4, kv_heads=2, head_dim=6, mlp_dim=14, family='llama',
                      mlp_activations=('silu', 'linear'), query_scale=6**-0.5, rotary=(Rotary(),) * 2, windows=(0, 0))

@pytest.fixture(scope='module')
def llama(tmp_path_factory):
  folder = tmp_path_factory.mktemp('models') / 'llama'
  save_model(random_model(LLAMA, vocabulary=ByteVocabulary()), str(folder))
  return folder


def read(path):
  """Returns the tensor of a file as an array, and its type."""
  tensor = torch.load(path, weights_only=True)
  return tensor.float().numpy(), str(tensor.dtype).removeprefix('torch.')


@pytest.fixture
def refused(script):
  def run(*arguments):
    status, printed, message = script('convert', '--to=vllm', *arguments)
    assert (status, printed) == (2, '')
    return message.removeprefix('prompt-tuning convert: ')

  return run


def saved(path, trained=None):
  trained = trained or SavedPrompt(PROMPT, path=DECODER)
  trained = trained if isinstance(trained, Trained) else trained.as_trained()
  write_state(str(path), trained.tensors, trained.about)
  return path


@pytest.mark.parametrize('dtype', [np.float32, np.float16, jnp.bfloat16])
def test_torch_reads_what_is_written_also_as_a_mapped_file(tmp_path, dtype):
  array = np.arange(15).reshape(3, 5).astype(dtype)
  write_tensor(str(tmp_path / 'a.pt'), array)
  for mapped in (False, True):
    tensor = torch.load(tmp_path / 'a.pt', weights_only=True, mmap=mapped)
    assert (str(tensor.dtype), tensor.stride()) == (f'torch.{np.dtype(dtype).name}', (5, 1))
    np.testing.assert_array_equal(tensor.float().numpy(), array.astype(np.float32))
  write_tensor(str(tmp_path / 'b.pt'), array)
  assert (tmp_path / 'a.pt').read_bytes() == (tmp_path / 'b.pt').read_bytes()
  with pytest.raises(ValueError, match=r'a\.pt cannot hold int64: expected float32, float16, bfloat16'):
    write_tensor(str(tmp_path / 'a.pt'), np.arange(3))


def test_a_prompt_alone_is_written_for_a_part_of_a_chat(script, llama, tmp_path):
  run_file.write(str(tmp_path / 'run.toml'), {'model': str(llama), 'data': 'Add1', 'steps': 3}, program='train')
  prompt = SavedPrompt(PROMPT, layouts.at_user, path=DECODER)
  saved(tmp_path / 'best.safetensors', prompt)
  status, printed, _ = script('convert', '--to=vllm', tmp_path, tmp_path / 'a.pt')
  assert status == 0 and printed.endswith('for the first part of the user message of a chat.\n')
  vectors, dtype = read(tmp_path / 'a.pt')
  np.testing.assert_array_equal(vectors, PROMPT)
  assert dtype == 'float32'


@pytest.mark.parametrize(('placement', 'slots'), [
  (layouts.before, [0, 1, 2, -1, -1]), (layouts.after_bos, [-1, 0, 1, 2, -1]), (layouts.after_eos, [-1, -1, 0, 1, 2])])
def test_a_whole_row_has_the_prompt_where_it_was_trained_to_stand(script, llama, tmp_path, placement, slots):
  source = saved(tmp_path / 'a.safetensors', SavedPrompt(PROMPT, placement, path=DECODER))
  (tmp_path / 'text.txt').write_text('hi\n')
  embedding = np.asarray(load_model(str(llama)).embeddings())
  wanted = [PROMPT[slot] if slot >= 0 else None for slot in slots]
  ids = iter(ByteVocabulary().encode('hi'))
  wanted = np.stack([embedding[next(ids)] if row is None else row for row in wanted])
  for text in ('hi', tmp_path / 'text.txt'):
    assert script('convert', '--to=vllm', source, tmp_path / 'a.pt', f'--model={llama}', f'--text={text}')[0] == 0
    np.testing.assert_array_equal(read(tmp_path / 'a.pt')[0], wanted)
  script('convert', '--to=vllm', source, tmp_path / 'b.pt', f'--model={llama}', '--text=hi', '--dtype=bfloat16')
  vectors, dtype = read(tmp_path / 'b.pt')
  assert dtype == 'bfloat16'
  np.testing.assert_array_equal(vectors, wanted.astype(jnp.bfloat16).astype(np.float32))


def test_gemma_scales_prompt_and_tokens_alike(script, shared, tmp_path):
  folder = shared / 'hf/gemma2'
  embedding = np.asarray(load_model(str(folder)).embeddings())
  width = embedding.shape[1]
  prompt = np.ones((2, width), np.float32)
  saved(tmp_path / 'best.safetensors', SavedPrompt(prompt, path=DECODER))
  run_file.write(str(tmp_path / 'run.toml'), {'model': str(folder), 'data': 'Add1', 'steps': 3,
                                              'vocabulary': {'name': 'pass_through', 'size': 60}}, program='train')
  assert script('convert', '--to=vllm', tmp_path, tmp_path / 'a.pt', '--text=7 9')[0] == 0
  wanted = np.concatenate([prompt, embedding[[7, 9]]]) * np.float32(width**0.5)
  np.testing.assert_allclose(read(tmp_path / 'a.pt')[0], wanted, rtol=1e-6)


def test_a_row_gives_the_logits_of_the_model_with_the_prompt(script, llama, tmp_path):
  """The row is read like a longer prompt that is followed by the last token."""
  model = load_model(str(llama))
  source = saved(tmp_path / 'a.safetensors')
  script('convert', '--to=vllm', source, tmp_path / 'a.pt', f'--model={llama}', '--text=ab')
  row, _ = read(tmp_path / 'a.pt')
  end = model.vocabulary.encode('c')
  np.testing.assert_allclose(model.logits([end], [[5]], row), model.logits(['abc'], [[5]], PROMPT), atol=1e-5)


def test_a_prompt_of_peft_is_written_too(script, shared, tmp_path):
  source = shared / 'hf/peft_llama_prompt_tuning/adapter'
  assert script('convert', '--to=vllm', source, tmp_path / 'a.pt', f'--model={shared}/hf/llama')[0] == 0
  np.testing.assert_array_equal(read(tmp_path / 'a.pt')[0], read_adapter(source).arrays['prompt_embeddings'])


PREFIX = Trained({f'decoder/prefix/{name}': np.ones((2, 3, 2, 6), np.float32) for name in ('keys', 'values')})
LAYERS = Trained({'decoder/layer_prompts/vectors': np.stack([PROMPT, PROMPT])}, {'mode': 'add'})


@pytest.mark.parametrize(('trained', 'arguments', 'message'), [
  (PREFIX, [], 'holds decoder/prefix/keys, decoder/prefix/values, but vLLM takes only embeddings'),
  (LAYERS, [], 'holds decoder/layer_prompts/vectors, but vLLM takes only embeddings'),
  (SavedPrompt(PROMPT, visibility=Visibility(prompt=False), path=DECODER), [], 'trained with see_prompt=False, but in'),
  (SavedPrompt(PROMPT, layouts.after_eos, Visibility(input=False), path=DECODER), [], 'with see_input=False, but in'),
  (SavedPrompt(PROMPT, layouts.at_user, path=DECODER), ['--text=hi'], 'inside a turn of a conversation (at_user)'),
  (SavedPrompt(1e6 * PROMPT, path=DECODER), ['--dtype=float16'], 'too large for --dtype=float16. Give --dtype='),
  (SavedPrompt(PROMPT[:, 1:], path=DECODER), [], 'the base model needs [any, 16]'),
  (SavedPrompt(PROMPT), [], 'holds encoder/prompt/prompt/prompt, but the given base model has no encoder')])
def test_what_vllm_cannot_read_is_refused(refused, llama, tmp_path, trained, arguments, message):
  assert message in refused(saved(tmp_path / 'a.safetensors', trained), tmp_path / 'a.pt', f'--model={llama}',
                            *arguments)
  assert not (tmp_path / 'a.pt').exists()


def test_what_does_not_belong_together_is_refused(refused, script, llama, tmp_path):
  source = saved(tmp_path / 'a.safetensors')
  assert 't5_integers has an encoder (t5), but vLLM' in refused(source, tmp_path / 'a.pt', '--model=t5_integers')
  assert 'does not name its model. Give --model=FOLDER' in refused(source, tmp_path / 'a.pt')
  assert 'a.npy as a destination cannot be used' in refused(source, tmp_path / 'a.npy', f'--model={llama}')
  assert '--base_model=x cannot be used with --to=vllm' in refused(source, tmp_path / 'a.pt', '--base_model=x')
  (tmp_path / 'image').write_bytes(b'\xff\xd8')
  assert 'image is not a text in UTF-8' in refused(source, tmp_path / 'a.pt', f'--model={llama}',
                                                   f'--text={tmp_path}/image')
  status, _, message = script('convert', source, tmp_path / 'a.npy', '--text=hi', '--dtype=float16')
  assert status == 2 and '--text=hi and --dtype=float16 cannot be used without --to=vllm' in message
