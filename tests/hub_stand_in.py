"""A stand-in for the Hugging Face hub on loopback: repositories are folders, of which requests read and write files."""

import base64
import hashlib
import http.server
import json
import pathlib
import re
import urllib.parse

import loopback


class Hub(loopback.Server):
  """Serves `folder/KIND/OWNER/NAME`, where KIND is models or datasets.

  Attributes:
    gated: ids of repositories that this account may not read.
    closed: whether this account may write.
  """

  def __init__(self, folder: pathlib.Path):
    self.gated, self.closed = set(), False
    super().__init__(folder, _Handler)

  @property
  def fetched(self) -> set[str]:
    """The names of the files that were fetched."""
    read = [request for request in self.asked if request.startswith('GET') and '/resolve/' in request]
    return {request.rpartition('/')[2] for request in read}


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'
  wbufsize = -1  # one packet for head and body
  server: Hub

  def do_GET(self):
    self._serve()

  def do_HEAD(self):
    self._serve()

  def do_POST(self):
    self._serve()

  def _serve(self):
    path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
    body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
    self.server.asked.append(f'{self.command} {path}')
    if path == '/api/validate-yaml':
      return self._reply({})
    if path == '/api/repos/create':
      if self.server.closed:
        return self._reply({'error': 'no'}, 403)
      asked = json.loads(body)
      name = f'{asked["organization"]}/{asked["name"]}'
      (self.server.folder / 'models' / name).mkdir(parents=True, exist_ok=True)
      return self._reply({'url': f'{self.server.address}/{name}', 'id': name})
    found = re.fullmatch(r'/api/(models|datasets)/([^/]+/[^/]+)(?:/(\w+)/([^/]+)(.*))?', path)
    if found is None:
      found = re.fullmatch(r'/(?:(datasets)/)?([^/]+/[^/]+)/(resolve)/([^/]+)/(.*)', path)
    kind, name, what, revision, rest = found.groups()
    folder = self.server.folder / (kind or 'models') / name
    if name in self.server.gated:
      return self._fail(403, 'GatedRepo')
    if not folder.is_dir():
      return self._fail(404, 'RepoNotFound')
    files = {str(each.relative_to(folder)): each for each in sorted(folder.rglob('*')) if each.is_file()}
    commit = hashlib.sha1(b''.join(each.read_bytes() for each in files.values())).hexdigest()
    if revision not in (None, 'main', commit):
      return self._fail(404, 'RevisionNotFound')
    if what == 'preupload':
      return self._reply({'files': [{'path': each['path'], 'uploadMode': 'regular', 'shouldIgnore': False}
                                    for each in json.loads(body)['files']]})
    if what == 'commit':
      for line in map(json.loads, body.splitlines()):
        if line['key'] == 'file':
          (folder / line['value']['path']).write_bytes(base64.b64decode(line['value']['content']))
      return self._reply({'commitUrl': f'{self.server.address}/{name}/commit/{commit}', 'commitOid': commit})
    if what == 'tree':
      within = folder / rest.strip('/')
      if not within.is_dir():
        return self._fail(404, 'EntryNotFound')
      listed = within.rglob('*') if 'recursive=true' in self.path.lower() else within.iterdir()
      return self._reply([{'type': 'file' if each.is_file() else 'directory', 'path': str(each.relative_to(folder)),
                           'size': each.stat().st_size, 'oid': hashlib.sha1(str(each).encode()).hexdigest()}
                          for each in sorted(listed)])
    if what == 'resolve':
      if rest not in files:
        return self._fail(404, 'EntryNotFound')
      content = files[rest].read_bytes()
      return self._send(content, {'ETag': f'"{hashlib.sha1(content).hexdigest()}"', 'X-Repo-Commit': commit})
    return self._reply({'id': name, 'sha': commit, 'siblings': [{'rfilename': each} for each in files]})

  def _fail(self, status: int, code: str) -> None:
    self._reply({'error': code}, status, {'X-Error-Code': code, 'X-Error-Message': code})

  def _reply(self, value, status: int = 200, headers=None) -> None:
    self._send(json.dumps(value).encode(), {'Content-Type': 'application/json', **(headers or {})}, status)

  def _send(self, content: bytes, headers, status: int = 200) -> None:
    self.send_response(status)
    for name, value in {**headers, 'Content-Length': str(len(content))}.items():
      self.send_header(name, value)
    self.end_headers()
    if self.command != 'HEAD':
      self.wfile.write(content)

  def log_message(self, *args):
    pass
