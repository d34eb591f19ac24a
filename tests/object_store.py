"""A small object store on loopback: Google Cloud Storage's JSON interface over the files of a folder."""

import http.server
import json
import os
import pathlib
import re
import urllib.parse

import loopback

PAGE = 3  # names in one answer of a list, so that lists have several pages


class Store(loopback.Server):
  """Serves `folder`, whose folders are the buckets.

  Attributes:
    public: whether objects are read without an account.
    asked: 'METHOD bucket/object' of every request, in order; a list's object ends with '*'.
    failures: pairs (regular expression, status): requests that match are answered with the status.
    before: called with 'METHOD bucket/object' before a request is served.
    described: address of an object -> what its last put said of it.
  """

  def __init__(self, folder: pathlib.Path):
    self.public, self.failures, self.before = True, [], lambda request: None
    self.described: dict[str, dict] = {}
    self.uploads: dict[str, bytearray] = {}
    super().__init__(folder, _Handler)

  def handle_error(self, request, client_address) -> None:
    """Says nothing: those who asked may have been killed."""


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'
  wbufsize = -1  # one packet for head and body
  server: Store

  def do_GET(self):
    parts = urllib.parse.urlsplit(self.path)
    query = dict(urllib.parse.parse_qsl(parts.query))
    known = re.fullmatch(r'/(upload/|download/)?storage/v1/b/([^/]+)/o/?(.*)', parts.path)
    kind, bucket, name = known.groups() if known else ('public', *parts.path[1:].partition('/')[::2])
    name, body = urllib.parse.unquote(name), self.rfile.read(int(self.headers.get('Content-Length', 0)))
    if kind == 'upload/':
      if query['uploadType'] == 'multipart':
        _, described, body = body.split(b'\n\n', 2)
        described, body = json.loads(described.partition(b'\n')[0]), body.removesuffix(b'\n--==0==--')
        name = described['name']
        self.server.described[f'gs://{bucket}/{name}'] = described
      else:
        name = query['name']
    elif kind != 'public' and not name:
      name = query.get('prefix', '') + '*'
    request = f'{self.command} {bucket}/{name}'
    self.server.asked.append(request)
    self.server.before(request)
    status = next((status for pattern, status in self.server.failures if re.search(pattern, request)), None)
    root, path = self.server.folder / bucket, self.server.folder / bucket / name
    if status is None and kind == 'public' and not self.server.public:
      status = 401
    if status is not None:
      self._answer(status, {'error': {'message': f'The test says {status}.'}})
    elif not root.is_dir() or (name[-1:] != '*' and kind != 'upload/' and not path.is_file()):
      self._answer(404, {'error': {'message': 'Not found.'}})
    elif kind == 'upload/':
      self._upload(path, query, body)
    elif name[-1:] == '*':
      self._list(root, query)
    elif self.command == 'DELETE':
      path.unlink()
      self._answer(204, b'')
    else:
      self._answer(200, {'name': name, 'bucket': bucket, 'size': path.stat().st_size} if kind is None else
                   path.read_bytes())

  do_POST = do_DELETE = do_HEAD = do_GET

  def _upload(self, path, query, body):
    if query.get('ifGenerationMatch') == '0' and path.exists():
      return self._answer(412, {'error': {'message': 'There is an object already.'}})
    if query['uploadType'] == 'resumable' and 'Content-Range' not in self.headers:
      self.server.uploads[str(path)] = bytearray()
      location = f'{self.server.address}{self.path}&uploadType=resumable'
      return self._answer(200, b'', Location=location)
    if query['uploadType'] == 'resumable':
      first, last, size = map(int, re.findall(r'\d+', self.headers['Content-Range']))
      whole = self.server.uploads[str(path)]
      whole[first:] = body
      if last + 1 < size:
        return self._answer(308, b'', Range=f'bytes=0-{last}')
      body = bytes(whole)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.temporary')
    temporary.write_bytes(body)
    os.replace(temporary, path)
    self._answer(200, {'name': path.name})

  def _list(self, root, query):
    prefix, delimiter, first = query.get('prefix', ''), query.get('delimiter'), int(query.get('pageToken', 0))
    found = {}
    for path in root.rglob('*'):
      name = str(path.relative_to(root))
      if path.is_file() and name.startswith(prefix):
        rest = name[len(prefix):]
        folder = delimiter and delimiter in rest
        found[prefix + rest.partition('/')[0] + '/' if folder else name] = 'prefixes' if folder else 'items'
    page = sorted(found)[first:first + PAGE]
    answer = {'items': [{'name': name} for name in page if found[name] == 'items'],
              'prefixes': [name for name in page if found[name] == 'prefixes']}
    self._answer(200, answer | ({'nextPageToken': str(first + PAGE)} if first + PAGE < len(found) else {}))

  def _answer(self, status, content, **headers):
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    self.send_response(status)
    for name, value in {'Content-Length': str(len(content)), **headers}.items():
      self.send_header(name, value)
    self.end_headers()
    self.wfile.write(b'' if self.command == 'HEAD' else content)

  def log_message(self, *arguments):
    del arguments
