"""Metrics for Prometheus, under vLLM's names, so that its dashboards work; `model_name` is the prompt's name."""

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

CONTENT_TYPE = exposition.CONTENT_TYPE_PLAIN_0_0_4
_FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_WHOLE = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960)
_REASONS = {'end': 'stop', 'stop': 'stop', 'length': 'length', 'failed': 'error'}


class Metrics:
  """The metrics of one server.

  Args:
    base: the name of the base model, the label of what belongs to no prompt.
  """

  def __init__(self, base: str):
    self._registry, label = CollectorRegistry(), ['model_name']
    own = {'registry': self._registry}
    self._prompt = Counter('vllm:prompt_tokens', 'Tokens of inputs.', label, **own)
    self._generated = Counter('vllm:generation_tokens', 'Generated tokens.', label, **own)
    self._ended = Counter('vllm:request_success', 'Ended generations, by reason.', [*label, 'finished_reason'],
                          **own)
    self._first = Histogram('vllm:time_to_first_token_seconds', 'From the request to its first token.', label,
                            buckets=_FIRST, **own)
    self._token = Histogram('vllm:request_time_per_output_token_seconds', 'Mean time between tokens of a generation.',
                            label, buckets=_TOKEN, **own)
    self._whole = Histogram('vllm:e2e_request_latency_seconds', 'From the request to the end of its generation.', label,
                            buckets=_WHOLE, **own)
    self._http = Counter('prompt_tuning:http_requests', 'HTTP requests.', ['method', 'route', 'status'], **own)
    self._engine = _OfEngine(base)
    self._registry.register(self._engine)

  def watch(self, engine: Any) -> None:
    """Shows the state of an engine from now on."""
    self._engine.engine = engine

  def asked(self, label: str, tokens: int) -> None:
    """Counts the tokens of a request's inputs."""
    self._prompt.labels(label).inc(tokens)

  def ended(self, label: str, reason: str, tokens: int, begun: float, first: float | None, end: float) -> None:
    """Counts an answer; any thread may call this.

    Args:
      label: the prompt's name.
      reason: why it ended, see `Piece`.
      tokens: those generated.
      begun: when it was asked for, in seconds.
      first: when its first token came; None if there is none.
      end: now.
    """
    self._generated.labels(label).inc(tokens)
    self._ended.labels(label, _REASONS.get(reason, 'abort')).inc()
    if first is not None:
      self._first.labels(label).observe(first - begun)
      if tokens > 1:
        self._token.labels(label).observe((end - first) / (tokens - 1))
    if reason in ('end', 'stop', 'length'):
      self._whole.labels(label).observe(end - begun)

  def answered(self, method: str, route: str, status: int) -> None:
    """Counts an HTTP request."""
    self._http.labels(method, route, str(status)).inc()

  def text(self) -> bytes:
    """Returns all metrics in Prometheus' text format."""
    return exposition.generate_latest(self._registry)


class _OfEngine:
  """Metrics that are read from the engine when they are asked for."""

  def __init__(self, base: str):
    self.base, self.engine = base, None

  def describe(self) -> list[Any]:
    """Returns nothing: the names need not be known in advance."""
    return []

  def collect(self) -> Iterator[Any]:
    """Yields the current metrics."""
    if self.engine is None:
      return
    stats = self.engine.stats()
    for name, text, value in (
      ('vllm:num_requests_running', 'Generations in slots.', stats.running),
      ('vllm:num_requests_waiting', 'Requests in the queue.', stats.waiting),
      ('prompt_tuning:slots', 'Generations that can run at once.', stats.slots),
      ('prompt_tuning:prompts', 'Loaded prompts.', stats.prompts),
      ('prompt_tuning:prompt_bytes', 'Memory of keys and values of prompts.', stats.prompt_bytes),
      ('prompt_tuning:programs', 'Compiled programs.', stats.programs)):
      gauge = GaugeMetricFamily(name, text, labels=['model_name'])
      gauge.add_metric([self.base], value)
      yield gauge
    steps = CounterMetricFamily('prompt_tuning:decode_steps', 'Decoding steps.', labels=['model_name'])
    steps.add_metric([self.base], stats.decode_steps)
    yield steps
