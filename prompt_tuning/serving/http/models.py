"""`/v1/models`, and the routes that load and unload prompts while the server runs."""

import os
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from prompt_tuning.files.json_files import shown
from prompt_tuning.names import nearest
from prompt_tuning.serving.http.errors import ApiError, Json
from prompt_tuning.serving.http.fields import Load, Unload, read
from prompt_tuning.serving.http.service import Service
from prompt_tuning.serving.requests import UnknownPrompt


async def models(request: HttpRequest) -> Response:
  """Lists the base model and all prompts."""
  service: Service = request.app.state.service
  return Json({'object': 'list', 'data': [_entry(service, name) for name in service.names()]})


async def model(request: HttpRequest) -> Response:
  """Describes one of them."""
  service: Service = request.app.state.service
  prompt = service.prompt_of(request.path_params['name'])
  return Json(_entry(service, service.name if prompt is None else prompt))


def _entry(service: Service, name: str) -> dict[str, Any]:
  is_base = name == service.name
  try:
    about = {} if is_base else service.engine.prompts.about(name)
  except UnknownPrompt:  # dropped since the list was made
    about = {}
  return {'id': name, 'object': 'model', 'created': service.created.get(name, service.created[service.name]),
          'owned_by': 'prompt_tuning', 'root': service.name if is_base else str(about.get('path', name)),
          'parent': None if is_base else service.name, 'max_model_len': service.engine.max_length,
          'about': plain(about)}


def plain(value: Any) -> Any:
  """Returns a value for JSON: objects that are not plain values become texts."""
  if isinstance(value, dict):
    return {str(name): plain(each) for name, each in value.items()}
  if isinstance(value, list | tuple):
    return [plain(each) for each in value]
  return value if value is None or isinstance(value, str | int | float | bool) else str(value)


async def load(request: HttpRequest) -> Response:
  """Loads a prompt, or replaces one."""
  service: Service = request.app.state.service
  fields = read(await request.body(), Load)
  name = fields.prompt_name
  if name == service.name or name.startswith(f'{service.name}:') or not name.isprintable() or name != name.strip():
    raise ApiError(400, f'prompt_name={shown(name)} cannot be used: expected printable characters, not the name of the '
                   'base model, and no space at either end.', param='prompt_name')
  await run_in_threadpool(_load, service, name, fields.prompt_path)
  return Json({'object': 'prompt', 'id': name, 'loaded': True})


def _load(service: Service, name: str, path: str) -> None:
  path = _allowed(service.loadable, path)
  try:
    service.engine.prompts.load(name, path)
  except FileNotFoundError as error:
    raise ApiError(404, f'prompt_path cannot be read: {error}', param='prompt_path') from error
  except (OSError, ValueError) as error:
    raise ApiError(400, f'The prompt cannot be served: {error}', param='prompt_path') from error
  service.loaded(name)


def _allowed(folder: str | None, path: str) -> str:
  """Returns the true path of a file or folder below `folder`; it may be given relative to `folder`.

  Raises:
    ApiError: 403; no folder is allowed, or the path leads out of it, or something below the path does.
  """
  if folder is None:
    raise ApiError(403, 'This server loads no prompts on request. Start it with --loadable FOLDER.')
  root = os.path.realpath(folder)
  if '\0' in path:
    raise ApiError(403, 'prompt_path holds a character that no path can have.', param='prompt_path')
  true = os.path.realpath(os.path.join(root, path))
  below = [os.path.join(where, each) for where, folders, files in os.walk(true) for each in (*folders, *files)]
  if any(os.path.commonpath([root, os.path.realpath(each)]) != root for each in (true, *filter(os.path.islink, below))):
    raise ApiError(403, f'prompt_path={shown(path)} leads out of the folder below which prompts may be loaded. Give a '
                   'path below it.', param='prompt_path')
  if os.path.exists(true) and not (os.path.isfile(true) or os.path.isdir(true)):
    raise ApiError(400, f'prompt_path={shown(path)} is neither a file nor a folder.', param='prompt_path')
  return true


async def unload(request: HttpRequest) -> Response:
  """Drops a prompt; answers that run with it keep it to their end."""
  service: Service = request.app.state.service
  if service.loadable is None:
    raise ApiError(403, 'This server unloads no prompts on request. Start it with --loadable FOLDER.')
  name = read(await request.body(), Unload).prompt_name
  try:
    service.engine.prompts.drop(name)
  except UnknownPrompt as error:
    raise ApiError(404, f'There is no prompt {name!r:.100}.{nearest(name[:200], service.names()[1:])} GET /v1/models '
                   'lists all.', param='prompt_name', code='model_not_found') from error
  service.created.pop(name, None)
  return Json({'object': 'prompt', 'id': name, 'loaded': False})
