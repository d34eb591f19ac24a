"""An engine whose answers are scripted, for what a real one does rarely: it fails, is slow, or has a full queue."""

import dataclasses
import threading
import types

from prompt_tuning.data.chat_format import ChatFormat
from prompt_tuning.data.vocabularies import PassThroughVocabulary
from prompt_tuning.serving.requests import Answer, Draining, EngineFailed, Piece, QueueFull, Stats, Token, UnknownPrompt


class Prompts(dict):
  """Names -> paths."""

  def load(self, name, path):
    self[name] = path

  def names(self):
    return sorted(self)

  def about(self, name):
    return {'path': self[name], 'task': 'toy', 'step': 7}

  def drop(self, name):
    if self.pop(name, None) is None:
      raise UnknownPrompt(f'No prompt named {name!r} is loaded.')


@dataclasses.dataclass
class Model:
  """What the server reads of a model."""

  vocabulary: PassThroughVocabulary
  module: types.SimpleNamespace
  prompted: str = 'decoder'

  @property
  def chat_format(self):
    return ChatFormat.of(self.vocabulary)


class FakeEngine:
  """Answers the tokens 5, 6, 7, … until `max_tokens`, at once; with `held`, when `release` is called."""

  def __init__(self, *, held=False, queue=100):
    self.prompts, self.max_length, self.failed = Prompts({'a/x': 'x.npy', 'a/y': 'y.npy'}), 64, None
    self.wait_failed = threading.Event()
    config = types.SimpleNamespace(vocab_size=50)
    self.model = Model(PassThroughVocabulary(50), types.SimpleNamespace(config=config))
    self.held, self.queue, self.answers, self.draining = held, queue, [], False

  def ids_of(self, text):
    return self.model.vocabulary.encode(text)

  def submit(self, request, deliver=None):
    if self.failed:
      raise EngineFailed('The engine has failed.')
    if self.draining:
      raise Draining('The engine is shutting down.')
    if len(self.waiting) >= self.queue:
      raise QueueFull('100 requests wait.')
    if len(request.ids) + request.max_tokens > self.max_length:
      raise ValueError(f'The request needs too many positions, but max_length is {self.max_length}.')
    answer = Answer(request, deliver)
    answer.input_length = len(request.ids)
    self.answers.append(answer)
    if not self.held:
      self.release(answer)
    return answer

  def room(self, ids, prompt=None):
    return self.max_length - len(ids)

  @property
  def waiting(self):
    return [answer for answer in self.answers if not answer.cancelled.is_set() and not hasattr(answer, 'done')]

  def release(self, answer):
    request = answer.request
    score = lambda token: Token(token, -token / 4, ((4, -0.25), (token, -token / 4))[:request.top]
                                ) if request.top is not None else Token(token)
    answer.done = True
    if request.echo:
      answer.input_tokens = (Token(request.ids[0]), *map(score, request.ids[1:]))
    if not request.max_tokens:
      answer.deliver(Piece(ended='length'))
    for place in range(request.max_tokens):
      answer.deliver(Piece(f' {5 + place}'[place == 0:], (score(5 + place),),
                           'length' if place + 1 == request.max_tokens else None))

  def fail(self):
    self.failed = RuntimeError('a defect')
    for answer in self.waiting:
      answer.error, answer.done = self.failed, True
      answer.deliver(Piece(ended='failed'))
    self.wait_failed.set()

  def stats(self):
    return Stats(len(self.waiting), 0, 64, len(self.prompts), 0, 3, 1)

  def drain(self, timeout=None):
    self.draining = True
    return True
