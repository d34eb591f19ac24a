import http.server
import json
import pathlib
import threading
import urllib.parse

import numpy as np
import pytest

from prompt_tuning.checkpoints.t5x import T5XCheckpoint


class _Bucket(http.server.BaseHTTPRequestHandler):
  """Serves the files of a folder through Google Cloud Storage's JSON API."""

  protocol_version = 'HTTP/1.1'
  wbufsize = -1  # one packet for head and body
  root: pathlib.Path
  headers_seen: list

  def do_GET(self):
    self.headers_seen.append(self.headers)
    address = urllib.parse.urlparse(self.path)
    query = urllib.parse.parse_qs(address.query)
    _, _, name = urllib.parse.unquote(address.path).removeprefix('/storage/v1/b/').partition('/o')
    file = self.root / name.lstrip('/')
    if not name:
      first, last = query['startOffset'][0], query['endOffset'][0]
      names = [str(path.relative_to(self.root)) for path in self.root.rglob('*') if path.is_file()]
      content = json.dumps({'items': [{'name': name} for name in names if first <= name < last]}).encode()
    else:
      content = file.read_bytes() if file.is_file() else b''
    status = 200 if not name or file.is_file() else 404
    self.send_response(206 if 'Range' in self.headers else status)
    if 'Range' in self.headers:
      first, last = map(int, self.headers['Range'].removeprefix('bytes=').split('-'))
      self.send_header('Content-Range', f'bytes {first}-{last}/{len(content)}')
      content = content[first:last + 1]
    self.send_header('Content-Length', str(len(content)))
    self.send_header('x-goog-generation', '1')
    self.end_headers()
    self.wfile.write(content)

  def log_message(self, *arguments):
    del arguments


@pytest.fixture
def bucket(shared, monkeypatch):
  handler = type('Bucket', (_Bucket,), {'root': shared / 't5x', 'headers_seen': []})
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
  thread = threading.Thread(target=server.serve_forever, args=(0.01,))
  thread.start()
  monkeypatch.setenv('TENSORSTORE_GCS_HTTP_URL', f'http://127.0.0.1:{server.server_port}')
  monkeypatch.setenv('GCE_METADATA_ROOT', '127.0.0.1:1')
  monkeypatch.delenv('GOOGLE_APPLICATION_CREDENTIALS', raising=False)
  yield handler
  server.shutdown()
  thread.join()
  server.server_close()


@pytest.mark.parametrize('folder', ['ckpt_native', 'ckpt_native/checkpoint_1234/checkpoint', 'ckpt_orbax'])
def test_a_checkpoint_in_a_public_bucket_is_read_without_credentials(shared, bucket, folder):
  checkpoint = T5XCheckpoint(f'gs://bucket/d_small/{folder}')
  assert checkpoint.step == 1234
  assert checkpoint.path == f'gs://bucket/d_small/{folder.split("/")[0]}/checkpoint_1234'
  params = np.load(shared / 't5x/d_small/params.npz')
  assert checkpoint.names().keys() == set(params)
  for name in params:
    np.testing.assert_array_equal(checkpoint.read(name), params[name], strict=True)
  assert not any('Authorization' in headers for headers in bucket.headers_seen)


def test_a_bucket_without_a_checkpoint_is_an_error(bucket):
  del bucket
  with pytest.raises(FileNotFoundError, match='gs://bucket/d_small/absent is not a T5X checkpoint'):
    T5XCheckpoint('gs://bucket/d_small/absent')
