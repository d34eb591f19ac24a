"""Converts trained prompts, prefixes of the decoder, scales, low-rank updates and norms between file formats.

  prompt-tuning convert runs/reviews prompt.npy                                  # from a run to NumPy
  prompt-tuning convert prompt.npy peft/reviews --stack=encoder                  # to Hugging Face PEFT
  prompt-tuning convert runs/prefix peft/prefix --model=/models/t5-v1_1-small    # its config.json gives the shape
  prompt-tuning convert peft/reviews reviews.safetensors                         # from PEFT, for eval and infer
  prompt-tuning convert lora/reviews lora.safetensors --model=/models/llama      # IA3, LoRA and LN_TUNING too
  prompt-tuning convert --to vllm runs/reviews prompt.pt                         # the prompt for a chat part of vLLM
  prompt-tuning convert --to vllm runs/reviews row.pt --text 'Review: a gem'     # a whole row for vLLM's completions

SOURCE is a .npy file, a .safetensors file, the folder of a run, or the folder of a PEFT adapter (prompt tuning,
p-tuning, CPT, multitask prompts, prefix tuning, cartridges, IA3, LoRA, LN_TUNING). The suffix of DESTINATION gives its
format: .npy, .safetensors, or none for a folder that PEFT loads; a prefix with frozen rows is a cartridge there.
--model describes the base model. For a prompt, --stack is enough, except with Gemma: that model scales prompts of this
package, but not of PEFT. For scales, low-rank updates and norms, the base model is the one that the run, the adapter or
the file names, unless --model gives another.

--to vllm writes the tensor of vLLM's `prompt_embeds`: the prompt's vectors, with --text in a row with the embeddings of
the text's tokens. The model is the one that the run, the adapter or the file names, unless --model gives another.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from prompt_tuning.programs import arguments
from prompt_tuning.scripts import _script
from prompt_tuning.scripts._base_model import Base, read_base

_ENCODER, _DECODER = 'encoder', 'decoder'


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit status."""
  flags = arguments.Parser(prog='prompt-tuning convert', description=__doc__,
                           formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_argument('source', metavar='SOURCE', help='what was trained')
  flags.add_argument('destination', metavar='DESTINATION', help='the file or folder to write; a folder must be new or '
                                                                'empty')
  flags.add_argument('--model', metavar='FOLDER', help='the base model, a Hugging Face folder; its config.json is read')
  flags.add_argument('--stack', choices=(_ENCODER, _DECODER),
                     help='the stack that reads the prompt, instead of --model: the encoder of an encoder-decoder, or '
                          'the decoder of a decoder-only model')
  flags.add_argument('--task', type=int, metavar='INDEX', help='the index of the prompt in a multitask adapter')
  flags.add_argument('--base_model', metavar='NAME',
                     help="the base model's name in PEFT's config; default: the source's, else that of --model")
  flags.add_argument('--kind', choices=('PROMPT_TUNING', 'P_TUNING'), default='PROMPT_TUNING',
                     help="the prompt's type in PEFT's config; PEFT treats both the same")
  flags.add_argument('--to', choices=('vllm',), help="write the tensor of vLLM's prompt_embeds, whatever the suffix")
  flags.add_argument('--text', metavar='FILE_OR_TEXT', help='with --to vllm: the text of a whole row; the last line '
                                                            'break of a file is left out')
  flags.add_argument('--dtype', choices=_script.DTYPES, help="with --to vllm: the type of the values; default: "
                                                             "the checkpoint's")
  return _script.run(flags, argv, lambda options: (_convert if options.to is None else _convert_to_vllm)(options))


def _convert_to_vllm(options: Any) -> None:
  from prompt_tuning.models.loading import find_model
  from prompt_tuning.names import translated
  from prompt_tuning.scripts import _vllm

  if options.base_model is not None or options.destination.endswith(('.npy', '.safetensors')):
    found = f'--base_model={options.base_model}' if options.base_model else f'{options.destination} as a destination'
    raise ValueError(f'{found} cannot be used with --to=vllm, which writes a file of torch. Give a name such as '
                     'prompt.pt, without --base_model.')
  try:
    model = _vllm.read_base_model(options)
    options.model = find_model(model.path)
    base = _base(options)
    tensors, about = _read(options, base)
    _require_fit(options.source, tensors, base)
    print(_vllm.write_row(options, tensors, about, model))
  except (ValueError, OSError, ImportError) as error:
    raise type(error)(translated(str(error), {name: f'--{name}' for name in ('model', 'text', 'dtype')})) from error


def _convert(options: Any) -> None:
  from prompt_tuning import trees
  from prompt_tuning.checkpoints import peft, prompt_files, state
  from prompt_tuning.evaluation import cards
  from prompt_tuning.files import hub, storage

  unread = [f'--{name}={value}' for name in ('text', 'dtype') if (value := getattr(options, name)) is not None]
  if unread:
    raise ValueError(f'{" and ".join(unread)} cannot be used without --to=vllm. Add it, or leave them out.')
  base = _base(options)
  tensors, about = _read(options, base)
  base = _with_facts(base, about)
  _require_fit(options.source, tensors, base)
  if options.destination.endswith('.npy'):
    if len(tensors) != 1 or not next(iter(tensors)).endswith('prompt/prompt/prompt'):
      raise ValueError(f'{options.source} holds {", ".join(tensors)}, but a .npy file holds one prompt only. '
                       'Use a destination that ends in .safetensors, or a folder.')
    prompt_files.write_numpy_prompt(options.destination, next(iter(tensors.values())))
    form = 'NumPy'
  elif options.destination.endswith('.safetensors'):
    state.write_state(options.destination, tensors, about)
    form = 'this package'
  else:
    _require_plain(options.source, about)
    if peft.PREFIX_KEYS in tensors and not peft.has_prefixes((about.get('made_for') or {}).get('family')):
      raise ValueError(f'{options.source} holds a prefix of a model whose layers have heads of several shapes; PEFT '
                       "leaves out some of them. Keep this package's file.")
    _require_scale(options.source, tensors, base)
    name = options.base_model or about.get('base_model') or options.model or (
      about['model'] if hub.split(str(about.get('model')))[0] else None)
    modules, encoder_decoder = _modules(options) if peft.needs_modules(tensors) else (None, base.encoder_decoder)
    base = dataclasses.replace(base, encoder_decoder=encoder_decoder)
    config = peft.write_adapter(options.destination, tensors, base_model_name_or_path=name,
                                task_type=_task_type(options, tensors, about, base),
                                embedding_scale=base.embedding_scale or 1.0, kind=options.kind, modules=modules,
                                frozen=about.get('frozen', 0))
    form = f'PEFT, {config["peft_type"]} for {config["task_type"]}'
    title = os.path.basename(os.path.normpath(options.destination))
    storage.write_bytes(os.path.join(options.destination, cards.README), cards.card(
      tensors, {**about, 'task_type': config['task_type']}, title=title, source=title, base=name,
      library='peft').encode())
  print(f'Wrote {options.destination} ({form}):')
  for name, array in trees.flatten(tensors).items():
    print(f'  {name} {list(array.shape)}')


def _base(options: Any) -> Base:
  stack = None if options.stack is None else options.stack == _ENCODER
  if options.model is None:
    return Base(encoder_decoder=stack)
  base = read_base(options.model)
  if stack not in (None, base.encoder_decoder):
    raise ValueError(f'--stack={options.stack} does not fit {options.model}, which is '
                     f'{"an encoder-decoder" if base.encoder_decoder else "a decoder-only model"}. '
                     'Leave out --stack: --model already determines it.')
  return base


def _read(options: Any, base: Base) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
  """Returns the tensors and their metadata."""
  from prompt_tuning.checkpoints import peft, prompt_files
  from prompt_tuning.evaluation import saved
  from prompt_tuning.files import storage

  source = saved.find_trained(options.source)
  if not storage.exists(source):
    raise FileNotFoundError(f'{source} does not exist. Give a prompt file, or the folder of a run or an adapter.')
  if os.path.exists(os.path.join(source, peft.CONFIG)):
    adapter = peft.read_adapter(source)
    named = adapter.config.get('base_model_name_or_path')
    if options.model is None and isinstance(named, str) and os.path.exists(os.path.join(named, 'config.json')):
      base = read_base(named)
    scale = base.embedding_scale or 1.0
    modules = _modules(options)[0] if adapter.changes_modules else None
    tensors = adapter.trained(**dataclasses.asdict(base) | {'embedding_scale': scale}, task=options.task,
                              modules=modules)
    _require_scale(source, tensors, base)
    about = {**adapter.about, 'task_type': adapter.config.get('task_type'),
             'base_model': adapter.config.get('base_model_name_or_path')}
    return tensors, about
  if os.path.isdir(source):
    if not any(os.path.exists(os.path.join(source, name)) for name in (saved.BEST, saved.LAST)):
      inside = ' or '.join(peft.adapters_inside(source))
      raise FileNotFoundError(f'{source} is a folder without {saved.BEST}, {saved.LAST} (of a run) and '
                              f'{peft.CONFIG} (of an adapter). Give {inside or "a folder with one, or a file"}.')
  elif storage.read_bytes(source).startswith(prompt_files.MAGIC):
    return {_numpy_name(options, base): prompt_files.read_prompt(source)}, {}
  trained = saved.load_trained(source)
  return trained.tensors, trained.about


def _modules(options: Any) -> tuple[Any, bool]:
  """Returns the modules of the base model, and whether it is an encoder-decoder."""
  from prompt_tuning import trees
  from prompt_tuning.checkpoints.peft_modules import modules_of
  from prompt_tuning.models.families.registry import get_family
  from prompt_tuning.names import translated
  from prompt_tuning.scripts._base_model import read_base_model

  try:
    model = read_base_model(options.source, options.model, vocabulary=False)
  except (ValueError, OSError) as error:
    raise type(error)(translated(str(error), {'model': '--model'})) from error
  rules = get_family(model.facts.family).rules()
  return modules_of(rules, trees.flatten(model.params), model.config), model.prompted == _ENCODER


def _with_facts(base: Base, about: Mapping[str, Any]) -> Base:
  """Returns the properties with those that the file of a run says: the scale of embedded tokens, and the stacks."""
  from prompt_tuning.checkpoints import peft

  made_for, config = about.get('made_for') or {}, about.get('model_config') or {}
  family = made_for.get('family') or config.get('model_type')
  width = made_for.get('width') or config.get('hidden_size')
  if base.embedding_scale is None and family is not None:
    base = dataclasses.replace(base, embedding_scale=peft.scale_of_embeddings(family, width))
  if base.encoder_decoder is None and isinstance(made_for.get('layers'), list):  # of each stack
    base = dataclasses.replace(base, encoder_decoder=len(made_for['layers']) == 2)
  return base


def _require_scale(source: str, tensors: Mapping[str, Any], base: Base) -> None:
  """Raises ValueError if a decoder-only model's prompt would be converted without knowing if the model scales it."""
  if _has_prompt(tensors, 'decoder') and base.embedding_scale is None:
    raise ValueError(f'{source} does not say which model its prompt belongs to. Gemma multiplies embedded tokens, but '
                     'not the prompts of PEFT, so their vectors differ. Add --model=FOLDER, the base model.')


def _numpy_name(options: Any, base: Base) -> str:
  """Returns the name of a prompt from a file without names."""
  from prompt_tuning.checkpoints import peft

  if base.encoder_decoder is None and not options.destination.endswith('.npy'):
    raise ValueError(f'{options.source} holds a prompt, but does not say which stack reads it. Add --stack=encoder '
                     '(for an encoder-decoder such as T5) or --stack=decoder (for a decoder-only model), or --model.')
  return peft.DECODER_PROMPT if base.encoder_decoder is False else peft.ENCODER_PROMPT


def _require_fit(source: str, tensors: Mapping[str, Any], base: Base) -> None:
  """Raises ValueError if prompts or prefixes do not fit the known properties of the base model."""
  from prompt_tuning.checkpoints import peft

  if _has_prompt(tensors, _ENCODER) and base.encoder_decoder is False:
    raise ValueError(f'{source} holds {", ".join(tensors)}, but the given base model has no encoder. '
                     'Give the model that it was trained for.')
  wanted = dict.fromkeys((peft.ENCODER_PROMPT, peft.DECODER_PROMPT), (None, base.width))
  wanted |= dict.fromkeys((peft.PREFIX_KEYS, peft.PREFIX_VALUES), (base.layers, None, base.kv_heads, base.head_dim))
  for name, shape in wanted.items():
    found = tensors[name].shape if name in tensors else shape
    if len(found) != len(shape) or any(size not in (None, each) for each, size in zip(found, shape, strict=True)):
      raise ValueError(f'{source} holds {name} {list(found)}, but the base model needs '
                       f'[{", ".join("any" if size is None else str(size) for size in shape)}]. '
                       'Give the model that it was trained for.')


def _require_plain(source: str, about: Mapping[str, Any]) -> None:
  """Raises ValueError for a prompt with a placement, visibility or verbaliser that PEFT does not support."""
  if (about.get('head') or {}).get('words'):
    raise ValueError(f'{source} was trained with a verbaliser, and no task type of PEFT predicts words at masks. '
                     "Keep this package's file.")
  placement, visibility = about.get('placement', 'before'), about.get('visibility', {})
  if placement != 'before' or not all(visibility.values()):
    raise ValueError(f'{source} holds a prompt with the placement {placement!r} and the visibility {dict(visibility)}, '
                     'but PEFT puts every prompt before the input, and both see one another. '
                     "Keep this package's file: with PEFT, outputs would differ.")


def _task_type(options: Any, tensors: Mapping[str, Any], about: Mapping[str, Any], base: Base) -> str:
  """Returns PEFT's task type for the base model."""
  from prompt_tuning.checkpoints import peft

  if base.encoder_decoder is not None:
    return peft.SEQ_2_SEQ if base.encoder_decoder else peft.CAUSAL
  if about.get('task_type') in (peft.SEQ_2_SEQ, peft.CAUSAL):
    return about['task_type']
  if peft.PREFIX_KEYS in tensors:
    raise ValueError(f'{options.source} holds a prefix of a decoder, but does not say whether its model has an encoder '
                     'too, which determines how PEFT stores the prefix. Add --model=FOLDER, the base model.')
  return peft.CAUSAL if _has_prompt(tensors, 'decoder') else peft.SEQ_2_SEQ


def _has_prompt(tensors: Mapping[str, Any], stack: str) -> bool:
  """Returns True if a prompt of a stack is among the tensors: one, or the parts of those of several tasks."""
  return any(name.startswith(f'{stack}/prompt/') for name in tensors)


if __name__ == '__main__':
  sys.exit(main())
