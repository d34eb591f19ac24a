"""The engine over HTTP, with OpenAI's API; needs the extra `serve`."""

try:
  import starlette  # noqa: F401
except ImportError as error:
  raise ImportError("The server needs starlette, uvicorn and prometheus_client: `pip install '.[serve]'`.") from error
