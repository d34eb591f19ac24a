"""`prompt-tuning serve` says what is wrong with its flags before anything is loaded."""

import socket

import pytest

pytest.importorskip('starlette', reason="needs `pip install '.[serve]'`")

from prompt_tuning.programs import serve


@pytest.mark.parametrize('flags, words', [
  ([], '--model'), (['--model', 'm', '--slots', '0'], '--slots=0'), (['--model', 'm', '--port', '65536'], '--port='),
  (['--model', 'm', '--prompt_memory', '1XB'], '--prompt_memory=1XB'), (['--model', 'm', '--max_body', '0'], '--max_b'),
  (['--model', 'm', '--watch'], '--prompts FOLDER'), (['--model', 'm', '--prompts', 'nowhere'], '--prompts=nowhere'),
  (['--model', 'm', '--loadable', 'nowhere'], '--loadable=nowhere'), (['--model', 'm', '--api_key', 'a b\n'], 'key'),
  (['--model', 'm', '--max_m', '1'], '--max_n'), (['--model', 'm', '--served_model_name', ' '], '--served_model_name'),
  (['--model', 'm', '--timeout', '0'], '--timeout=0'), (['--model', 'm', '--cache_memory', 'x'], '--cache_memory=x'),
  (['--model', 'm', '--model_parallel', '0'], '--model_parallel=0'),
  (['--model', 'm', '--host', 'no.such.host.invalid'], '--host=no.such.host.invalid')])
def test_a_flag_that_cannot_be_used_is_named(flags, words, capsys):
  assert serve.main(flags) == 2
  assert words in capsys.readouterr().err


def test_an_address_in_use_is_said_before_the_model_is_read(capsys):
  with socket.create_server(('127.0.0.1', 0)) as taken:
    port = taken.getsockname()[1]
    assert serve.main(['--model', 'm', '--port', str(port)]) == 2
  assert f'--port={port}' in capsys.readouterr().err


def test_a_model_that_is_not_there_ends_the_server(capsys):
  assert serve.main(['--model', 'nowhere', '--port', '0']) == 2
  assert 'nowhere' in capsys.readouterr().err


@pytest.mark.parametrize('text, count', [('1GiB', 2**30), ('1.5KiB', 1536), ('500MB', 5 * 10**8), ('7', 7), ('2k', 0)])
def test_bytes_are_written_with_units(text, count):
  if count:
    assert serve._bytes('max_body', text) == count
  else:
    with pytest.raises(ValueError, match='max_body=2k'):
      serve._bytes('max_body', text)
