"""The engine over HTTP, as OpenAI's clients speak it; needs the extra `serve`."""

try:
  import starlette  # noqa: F401
except ImportError as error:
  raise ImportError("The server needs starlette, uvicorn and prometheus_client: `pip install '.[serve]'`.") from error
