"""How far work is, in plain lines, in a terminal and in a notebook."""

import os
import pathlib
import re
import sys
import types

import pytest

from prompt_tuning.files import progress

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def clock(monkeypatch):
  """A clock that a test moves."""
  now = types.SimpleNamespace(seconds=100.0)
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now.seconds)
  return now


def evaluate(clock, shown, seconds=3, count=4, name='Evaluating'):
  """Goes through `count` batches of 10 examples."""
  with progress.examples_on(shown, name):
    for i in range(count):
      progress.tell(10 * i, 10 * count)
      clock.seconds += seconds
    progress.tell(10 * count, 10 * count)


def test_plain_lines_of_examples_are_seconds_apart_and_short_work_has_none(clock, capsys):
  shown = progress.display()
  evaluate(clock, shown, seconds=1)
  assert capsys.readouterr().err == ''
  evaluate(clock, shown, seconds=3, count=5)
  assert capsys.readouterr().err == 'Evaluating 20/50 examples  ETA 9 s\nEvaluating 40/50 examples  ETA 3 s\n'


def test_work_that_starts_again_has_a_new_estimate(clock, capsys):
  shown = progress.display()
  for done, total, seconds in ((0, 10, 60), (1, 10, 7), (2, 10, 1), (0, 100, 6), (3, 100, 9), (6, 100, 0)):
    shown.show('a', done, total)
    clock.seconds += seconds
  assert capsys.readouterr().err == 'a 1/10\na 2/10  ETA 56 s\na 3/100\na 6/100  ETA 282 s\n'


def test_the_parts_of_work_count_together(capsys):
  told = []
  shown = progress.Display()
  shown.show = lambda name, done, total, **_: told.append((done, total))
  with progress.examples_on(shown, 'Asking'):
    for before in (0, 5):
      with progress.part(before, 9):
        progress.tell(2, 4)
  with progress.part(0, 9):  # nobody waits
    progress.tell(1, 2)
  assert told == [(2, 9), (7, 9)]


def test_who_is_quiet_says_nothing(clock, capsys):
  shown = progress.display(quiet=True)
  shown.say('a')
  evaluate(clock, shown)
  assert capsys.readouterr() == ('', '')


def test_a_terminal_shows_steps_and_examples_together(capsys, monkeypatch):
  monkeypatch.setattr('sys.stderr.isatty', lambda: True)
  monkeypatch.setenv('COLUMNS', '100')
  with progress.display() as shown:
    shown.show('step', 3, 9, figures='loss 1.5' + 100 * 'x')
    with progress.examples_on(shown, 'Evaluating'):
      progress.tell(20, 40)
      progress.tell(0, 10)
      progress.tell(5, 10)
      shown._bar.refresh()
    shown.say('[Not] markup.')
  said = capsys.readouterr().err
  assert 'step 3/9' in said and 'loss 1.5' in said and 'Evaluating 5/10 examples' in said and '[Not] markup.' in said
  assert 'ETA -:--:-- loss 1.5xxx' in re.sub(r'\x1b\[[\d;]*m', '', said)  # only the figures are cut
  assert 'Evaluating' not in said[said.rindex('step 3/9'):]


def test_a_notebook_gets_one_text_that_changes_now_and_then(clock, monkeypatch):
  drawn = []

  class Handle:
    def update(self, shown, raw):
      drawn.append(shown['text/plain'])

  def draw(shown, raw, display_id):
    drawn.append(shown['text/plain'])
    return Handle()

  monkeypatch.setitem(sys.modules, 'IPython', types.SimpleNamespace(
    get_ipython=lambda: types.SimpleNamespace(kernel=None)))
  monkeypatch.setitem(sys.modules, 'IPython.display', types.SimpleNamespace(display=draw))
  with progress.display() as shown:
    shown.show('step', 0, 1000)
    for step in range(1, 1001):
      clock.seconds += 0.01
      shown.show('step', step, 1000, figures='loss 1.5', left=0.01 * (1000 - step))
    evaluate(clock, shown, seconds=0.4, count=2)
  assert drawn[0] == 'step 0/1000' and 30 <= len(drawn) <= 40
  assert 'step 1000/1000  loss 1.5  ETA 0 s\nEvaluating 20/20 examples  ETA 0 s' in drawn
  assert drawn[-1] == 'step 1000/1000  loss 1.5  ETA 0 s'


@pytest.mark.slow
def test_a_run_in_a_notebook_leaves_one_text(tmp_path, monkeypatch):
  nbclient, nbformat = pytest.importorskip('nbclient'), pytest.importorskip('nbformat')
  pytest.importorskip('ipykernel')
  monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(ROOT), *os.environ.get('PYTHONPATH', '').split(os.pathsep)]))
  book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(
    "import prompt_tuning as pt\nmodel = pt.load_model('t5_integers')\n"
    "pt.tune(model, 'Add1', prompt_length=3, steps=40, batch_size=4)")])
  nbclient.NotebookClient(book, timeout=250, resources={'metadata': {'path': str(tmp_path)}}).execute()
  outputs = book.cells[0].outputs
  texts = [output.data for output in outputs if output.output_type == 'display_data']
  assert len(texts) == 1 and [*texts[0]] == ['text/plain']
  assert texts[0]['text/plain'].startswith('step 40/40  loss ') and ' GB  ETA 0 s' in texts[0]['text/plain']
  assert len(''.join(output.text for output in outputs if output.output_type == 'stream').splitlines()) < 40
