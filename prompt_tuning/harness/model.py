"""A frozen model with trained tensors, as a model of lm-evaluation-harness."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import prompt_tuning as pt
from prompt_tuning.data.vocabulary import started
from prompt_tuning.decoding.samplers import Sampling
from prompt_tuning.models.abilities import require_writing
from prompt_tuning.models.window import longest_row
from prompt_tuning.names import require_known, require_number

try:
  from lm_eval.api.model import TemplateLM
  from lm_eval.models.utils import normalize_gen_kwargs
  from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
  raise ImportError("Evaluation with lm-evaluation-harness needs its package: `pip install '.[harness]'`.") from error

_LONGEST = 2048  # tokens, if no file says
_TOKENS = 256  # generated, if a task does not say
_GENERATION = ('until', 'max_gen_toks', 'do_sample', 'temperature', 'top_k', 'top_p', 'min_p')


class PromptedLM(TemplateLM):
  """A frozen model with anything that conditions it, for `lm_eval.simple_evaluate(model=PromptedLM(...), tasks=[…])`.

  Log-likelihoods and texts are those of the harness's own `hf` model, for T5 too. Positions of a prompt do not count
  towards `max_length`.

  Args:
    model: a `LanguageModel`, or the path of one.
    prompt: trained tensors as for `pt.evaluate`: a run's folder, a file, a PEFT folder, an array; None for none.
    batch_size: rows that are run together.
    max_length: most tokens of a row; longer contexts lose their beginning. None is what `config.json` says.
    seed: seed of sampling.
    **settings: of `pt.load_model`, if `model` is a path.

  Raises:
    ValueError, OSError: the model or the prompt cannot be used.
  """

  def __init__(self, model: Any, prompt: Any = None, batch_size: int | str = 8, max_length: int | None = None,
               seed: int = 0, **settings: Any):
    super().__init__()
    if isinstance(model, str | os.PathLike):
      model = pt.load_model(str(model), **settings)
    elif settings:
      raise ValueError(f'{", ".join(settings)} cannot be used with a loaded model. Give its path.')
    require_writing(model.module, 'run lm-eval')
    if model.vocabulary is None:
      raise ValueError('The model was loaded without a vocabulary, but tasks are texts. Give vocabulary=.')
    if isinstance(batch_size, str):  # lm_eval's command line
      batch_size = int(batch_size) if batch_size.isdecimal() else 8
    require_number('batch_size', batch_size, least=1, whole=True)
    require_number('max_length', max_length, least=2, whole=True, none=True)
    from prompt_tuning.runs.given import as_trained

    self._model, self._prompt = model, None if prompt is None else as_trained(prompt, model)
    self.batch_size, self._seed = batch_size, seed
    self.max_length = max_length or longest_row(model) or _LONGEST
    self.backend = 'seq2seq' if model.prompted == 'encoder' else 'causal'

  @classmethod
  def create_from_arg_obj(cls, arg_dict: dict[str, Any],
                          additional_config: dict[str, Any] | None = None) -> 'PromptedLM':
    """Returns the model of `--model_args`; of the harness's own settings, only the batch size is read."""
    given = {name: value for name, value in (additional_config or {}).items() if value is not None}
    return cls(**arg_dict, **({'batch_size': given['batch_size']} if 'batch_size' in given else {}))

  @property
  def eot_token_id(self) -> int:
    """The token that ends a text."""
    return self._model.eos_id

  @property
  def prefix_token_id(self) -> int:
    """What comes before a text without context: the begin token, or else the end token."""
    begin = self._model.vocabulary.bos_id
    return self.eot_token_id if begin is None else begin

  @property
  def tokenizer_name(self) -> str:
    """The model's path, for the names of cached requests."""
    return self._model.path.replace('/', '__')

  def chat_template(self, chat_template: bool | str = False) -> str | None:
    """Returns the folder's chat template, for the results' file; None if it is not asked for."""
    if isinstance(chat_template, str):
      raise ValueError(f'--apply_chat_template {chat_template} cannot be used: the default template of the folder is '
                       'applied. Leave out its name.')
    return self._model.chat_format.template.source if chat_template else None

  def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
    """Returns a conversation as its template writes it, up to the next turn's start, or to the last message's end."""
    text = self._model.chat_format.template.render(chat_history, add_generation_prompt=add_generation_prompt).text
    if add_generation_prompt:
      return text
    whole = chat_history[-1]['content'].lstrip()
    place = text.rindex(whole.rstrip())  # a template may strip it
    return text[:place] + (whole if text[place:].startswith(whole) else whole.rstrip())

  def tok_encode(self, string: str, add_special_tokens: bool | None = None, **unused: Any) -> list[int]:
    """Returns the ids of a text; unless forbidden, with its begin token, and for most encoders with its end token."""
    ids = self._model.vocabulary.encode(string)  # `started` adds no begin token that a template has written
    if add_special_tokens is False:
      return list(ids)
    ends = self.backend == 'seq2seq' and self._model.layout().input_ends
    return started(ids, self._model.vocabulary) + [self.eot_token_id] * ends

  def _loglikelihood_tokens(self, requests: Sequence[tuple[Any, list[int], list[int]]],
                            **unused: Any) -> list[tuple[float, bool]]:
    def score(part: Sequence[tuple[Any, list[int], list[int]]]) -> Iterator[tuple[float, bool]]:
      rows = [self._fitted(context, continuation) for _, context, continuation in part]
      found = self._model.score([context for context, _ in rows], [target for _, target in rows], self._prompt,
                                per_token=True)
      for (texts, _, _), each in zip(part, found, strict=True):
        answer = each.total, bool((each.ids == each.top_ids[:, 0]).all())
        if texts is not None:
          self.cache_hook.add_partial('loglikelihood', texts, answer)
        yield answer

    return self._batched(requests, lambda request: len(request[1]) + len(request[2]), score)

  def _fitted(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
    """Returns a context without what exceeds `max_length` at its beginning, and its continuation."""
    if self.backend == 'seq2seq':
      return context[-self.max_length:], continuation[-self.max_length:]
    # The last token of a continuation is predicted and not read.
    row = (context + continuation)[-(self.max_length + 1):]
    count = min(len(continuation), len(row) - 1)
    return row[:-count] if count else row, row[len(row) - count:]

  def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
    """Returns the log-likelihood of each text, in windows of `max_length` tokens, each of which is scored once."""
    windows, owners = [], []
    for number, request in enumerate(requests):
      own = get_rolling_token_windows(
        self.tok_encode(request.args[0]), prefix_token=self.prefix_token_id, max_seq_len=self.max_length, context_len=1)
      for window in map(make_disjoint_window, own):
        windows.append((None, *window))
        owners.append(number)
    totals = [0.0] * len(requests)
    for number, (score, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
      totals[number] += score
    for request, total in zip(requests, totals, strict=True):
      self.cache_hook.add_partial('loglikelihood_rolling', request.args, total)
    return totals

  def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
    """Returns the text generated for each context, up to the first of its stop texts.

    Requests of one batch may have different settings.

    Raises:
      ValueError: a task asks for a way to generate that is not supported.
    """
    rows = [self._question(*request.args) for request in requests]

    def generate(part: Sequence[dict[str, Any]]) -> Iterator[str]:
      column = lambda name: [row[name] for row in part]
      answers = self._model.prefill(
        column('inputs'), self._prompt, max_length=column('max_length'), stop=column('stop'), seed=column('seed'),
        sampler=Sampling(*(column(name) for name in ('temperature', 'top_k', 'top_p', 'min_p'))))
      for row, [answer] in zip(part, answers.finish().predictions(), strict=True):
        self.cache_hook.add_partial('generate_until', row['args'], answer.text)
        yield answer.text

    return self._batched(rows, lambda row: len(row['inputs']), generate)

  def _question(self, context: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the ids of a context, and the settings of its generation by our names."""
    given = normalize_gen_kwargs(settings, _TOKENS)
    require_known(given, _GENERATION, 'generation_kwargs', 'setting')
    until = given.get('until') or []
    length = given['max_gen_toks']
    room = self.max_length - (length if self.backend == 'causal' else 0)
    if room < 1:
      raise ValueError(f'A task generates {length} tokens, but a row has {self.max_length}. Increase max_length=, or '
                       'decrease max_gen_toks in its generation_kwargs.')
    return {'args': (context, settings), 'inputs': self.tok_encode(context)[-room:], 'max_length': length,
            'stop': [until] if isinstance(until, str) else [text for text in until if text], 'seed': self._seed,
            'temperature': float(given.get('temperature') or 0.0) if given.get('do_sample') else 0.0,
            'top_k': int(given.get('top_k') or 0), 'top_p': float(given.get('top_p') or 0),
            'min_p': float(given.get('min_p') or 0)}

  def _batched(self, requests: Sequence[Any], length: Callable[[Any], int],
               run: Callable[[Sequence[Any]], Iterator[Any]]) -> list[Any]:
    """Returns the results of all requests in their order; those of similar length are run together."""
    order = sorted(range(len(requests)), key=lambda number: -length(requests[number]))
    found: list[Any] = [None] * len(requests)
    for first in range(0, len(order), self.batch_size):
      part = order[first:first + self.batch_size]
      for number, result in zip(part, run([requests[number] for number in part]), strict=True):
        found[number] = result
    return found
