"""Log-probabilities of tokens in the two forms of OpenAI's API."""

from collections.abc import Iterable, Sequence
from typing import Any

from prompt_tuning.data.token_texts import TokenTexts
from prompt_tuning.serving.requests import Token

_LEAST = -9999.0  # what OpenAI returns for a token that is impossible; JSON has no infinity


class Completions:
  """Makes the `logprobs` of completions, piece by piece.

  Args:
    texts: of the model's tokens.
  """

  def __init__(self, texts: TokenTexts):
    self._texts, self._place, self._first = texts, 0, True

  def restart(self) -> None:
    """Notes that a new text begins: the answer after an echoed input."""
    self._first = True

  def of(self, tokens: Iterable[Token]) -> dict[str, list[Any]]:
    """Returns the scores of the next tokens; a token that nothing precedes has None."""
    found: dict[str, list[Any]] = {'tokens': [], 'token_logprobs': [], 'top_logprobs': [], 'text_offset': []}
    for token in tokens:
      text, first = self._texts.text_of(token.id, self._first), self._first
      found['tokens'].append(text)
      found['text_offset'].append(self._place)
      if not self._texts.is_hidden(token.id):
        self._place += sum(byte & 0xC0 != 0x80 for byte in self._texts.bytes_of(token.id, first))  # characters
        self._first = False
      found['token_logprobs'].append(_number(token.log_prob))
      top: dict[str, float] = {}
      for each, log_prob in [*token.top, (token.id, token.log_prob)]:
        if log_prob is not None:
          top.setdefault(self._texts.text_of(each, first), _number(log_prob))  # the likelier one of equal texts
      found['top_logprobs'].append(top or None)
    return found


def chat(texts: TokenTexts, tokens: Iterable[Token], first: bool) -> dict[str, Sequence[Any]]:
  """Returns the `logprobs` of a chat: every token with its bytes."""
  def entry(token: int, log_prob: float | None, first: bool) -> dict[str, Any]:
    found = texts.bytes_of(token, first)
    return {'token': texts.text_of(token, first), 'logprob': _number(log_prob), 'bytes': list(found)}

  content = []
  for place, token in enumerate(tokens):
    start = first and place == 0
    content.append({**entry(token.id, token.log_prob, start),
                    'top_logprobs': [entry(*each, start) for each in token.top]})
  return {'content': content}


def _number(log_prob: float | None) -> float | None:
  return None if log_prob is None else max(float(log_prob), _LEAST)
