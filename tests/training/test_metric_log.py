"""The logs of a run during training."""

import json
import os
import re
import types

import jax
import pytest

from prompt_tuning.files import progress
from prompt_tuning.training import metric_log
from prompt_tuning.training.metric_log import MetricLog

FIGURES = {'loss': 1.5, 'token_accuracy': 0.25, 'steps_per_second': 2.0, 'examples_per_second': 8.0}


def test_figures_are_lines_with_step_and_folder(tmp_path):
  with MetricLog(str(tmp_path), start_step=3, total_steps=9, quiet=True) as log:
    log.write(4, {'loss': 1.5})
    log.write(4, {'accuracy': 50.0}, folder='inference_eval/a')
  assert [json.loads(line) for line in open(tmp_path / 'metrics.jsonl')] == [
    {'step': 4, 'folder': 'train', 'loss': 1.5}, {'step': 4, 'folder': 'inference_eval/a', 'accuracy': 50.0}]


def test_what_a_tasks_metrics_say_also_stands_in_a_file_of_its_own(tmp_path):
  for start in (0, 4):  # the second run resumes at step 4
    with MetricLog(str(tmp_path), start_step=start, total_steps=9, quiet=True) as log:
      for step in (3, 6, 9)[start // 3:]:
        log.write(step, {'f1': 10.0 * step}, folder='inference_eval/a')
        log.write(step, {'loss': 1.5}, folder='training_eval/a')
  assert [json.loads(line) for line in open(tmp_path / 'inference_eval/a-metrics.jsonl')] == [
    {'step': 3, 'f1': 30.0}, {'step': 6, 'f1': 60.0}, {'step': 9, 'f1': 90.0}]
  assert [path.name for path in (tmp_path / 'training_eval').iterdir()] == ['a']


def test_a_phase_that_compiles_says_how_many_of_its_seconds_that_took():
  said, display = [], progress.Display()
  display.say = said.append
  with metric_log.phase_that_compiles('Predicting', display):
    jax.monitoring.record_event_duration_secs('/jax/core/compile/backend_compile_duration', 2.25)
    jax.monitoring.record_event_duration_secs('/jax/core/compile/jaxpr_trace_duration', 1.0)
  assert said[0] == 'Predicting, after compiling …'
  assert re.fullmatch(r'Predicting: \d+\.\d s, 2\.2 s of it compiling', said[1])


def test_tags_are_those_of_t5x(tmp_path):
  with MetricLog(str(tmp_path), start_step=0, total_steps=9, quiet=True) as log:
    for folder in ('train', 'training_eval/a', 'inference_eval/a'):
      log.write(4, {'accuracy': 50.0}, folder=folder)
  tags = {folder: next((tmp_path / folder).glob('events*')).read_bytes() for folder in (
    'train', 'training_eval/a', 'inference_eval/a')}
  assert {folder: (b'\x08accuracy' in text, b'eval/accuracy' in text)
          for folder, text in tags.items()} == {
    'train': (True, False), 'training_eval/a': (True, False), 'inference_eval/a': (False, True)}


def test_a_resumed_log_drops_lines_of_later_steps_and_half_a_line_at_the_end(tmp_path):
  kept = ['{"step": 1, "folder": "train"}\n', '{"step": 2, "folder": "train"}\n']
  dropped = ['{"step": 3, "folder": "train"}\n', '{"st']
  (tmp_path / 'metrics.jsonl').write_text(''.join(kept + dropped))
  MetricLog(str(tmp_path), start_step=2, total_steps=9, quiet=True).close()
  assert (tmp_path / 'metrics.jsonl').read_text() == ''.join(kept)


def test_a_whole_line_without_its_line_feed_gets_one(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1, "folder": "train"}')
  with MetricLog(str(tmp_path), start_step=1, total_steps=9, quiet=True) as log:
    log.write(2, {'loss': 1.5})
  assert [json.loads(line)['step'] for line in open(tmp_path / 'metrics.jsonl')] == [1, 2]


@pytest.mark.parametrize('damaged', [
  '[1]', '5', 'null', '{"step": "x"}', '{"step": null}', '{"step": true}', '{"rtep": 1}', '{"step": 1', '[' * 10**5,
  '\xff'])
def test_damaged_lines_are_kept_and_counted(tmp_path, caplog, damaged):
  lines = [b'{"step": 1, "folder": "train"}\n', damaged.encode('latin-1') + b'\n', b'{"step": 2, "folder": "train"}\n']
  (tmp_path / 'metrics.jsonl').write_bytes(b''.join(lines))
  MetricLog(str(tmp_path), start_step=2, total_steps=9, quiet=True).close()
  assert (tmp_path / 'metrics.jsonl').read_bytes() == b''.join(lines)
  assert 'metrics.jsonl: 1 of 3 lines are damaged and kept as they are, first line 2: ' in caplog.text


def test_a_picture_leaves_damaged_lines_out(tmp_path, caplog):
  pytest.importorskip('matplotlib')
  from prompt_tuning.evaluation import reports

  lines = [{'step': 1, 'folder': 'train', 'loss': 2.0}, {'step': 2, 'folder': 'train'}, {'step': 2},
           {'step': 2, 'folder': 'inference_eval/a', 'f1': 3.0},
           {'step': 3, 'folder': 'inference_eval/a', 'other': None}]
  (tmp_path / 'metrics.jsonl').write_text('\n'.join([*map(json.dumps, lines), '[]', '{"step": 4, "f']))
  path = reports.learning_curve(str(tmp_path))
  assert open(path, 'rb').read(4) == b'\x89PNG'
  assert 'metrics.jsonl: 2 of 6 lines are damaged and not shown' in caplog.text


def test_a_full_disk_under_tensorboards_files_is_told_once_and_ends_nothing(tmp_path, capsys, monkeypatch):
  from tensorboardX import event_file_writer

  write, calls = event_file_writer.EventsWriter.write_event, []

  def fail_twice(self, event):
    calls.append(event)
    if len(calls) in (3, 6):
      raise OSError(28, 'No space left on device')
    return write(self, event)

  monkeypatch.setattr(event_file_writer.EventsWriter, 'write_event', fail_twice)
  with MetricLog(str(tmp_path), start_step=0, total_steps=60) as log:
    for step in range(60):
      log.write(step, {'loss': 1.5})
  assert len((tmp_path / 'metrics.jsonl').read_text().splitlines()) == 60
  said = capsys.readouterr().err.splitlines()
  assert said == [
    f'{tmp_path}/train: a file for TensorBoard cannot be written (No space left on device). metrics.jsonl has all '
    'figures.', "TensorBoard's files lack the figures of 2 lines of metrics.jsonl."]


def test_two_files_for_tensorboard_of_one_second_are_two(tmp_path):
  for _ in range(2):
    with MetricLog(str(tmp_path), start_step=0, total_steps=9, quiet=True) as log:
      log.write(1, {'loss': 1.5})
  assert len(list((tmp_path / 'train').glob('events*'))) == 2


def test_a_full_disk_is_told_with_the_path_of_the_figures(tmp_path, full_disk):
  log = MetricLog(str(tmp_path), start_step=0, total_steps=9, quiet=True)
  with full_disk(20), pytest.raises(OSError, match=rf'{tmp_path}/metrics.jsonl cannot be written: File too large'):
    log.write(1, {'loss': 1.5})
  log.close()


def test_figures_that_were_removed_are_told_and_a_new_file_begins(tmp_path, capsys):
  with MetricLog(str(tmp_path), start_step=0, total_steps=9) as log:
    log.write(1, {'loss': 1.5})
    (tmp_path / 'metrics.jsonl').unlink()
    log.write(2, {'loss': 1.5})
  assert [json.loads(line)['step'] for line in open(tmp_path / 'metrics.jsonl')] == [2]
  said = capsys.readouterr().err
  assert 'metrics.jsonl was removed while the run writes it: the figures before step 2 are lost' in said


@pytest.mark.parametrize('stream', [None, 'closed', 'broken'])
@pytest.mark.parametrize('terminal', [True, False])
def test_a_terminal_that_is_closed_ends_nothing(tmp_path, monkeypatch, stream, terminal):
  reading, writing = os.pipe()
  broken = open(writing, 'w')
  os.close(reading)
  if stream == 'closed':
    broken.close()
  monkeypatch.setattr('sys.stderr', None if stream is None else broken)
  if terminal and stream == 'broken':
    monkeypatch.setattr('sys.stderr.isatty', lambda: True)
  with MetricLog(str(tmp_path), start_step=0, total_steps=9) as log:
    for step in (8, 9):
      log.show(step, FIGURES)
      log.say('Something of its own.')
  broken.close()


def test_plain_lines_say_how_far_and_how_long(tmp_path, capsys):
  with MetricLog(str(tmp_path), start_step=0, total_steps=9) as log:
    log.show(5, FIGURES)
    log.show(6, FIGURES)  # too soon after the last line
    log.say('Something of its own.')
  assert capsys.readouterr().err == (
    'step 5/9  loss 1.5000  token accuracy 25.0 %  2 steps/s  8 examples/s  ETA 2 s\nSomething of its own.\n')


@pytest.mark.parametrize('quiet', [True, False])
def test_a_terminal_gets_one_line_that_moves(tmp_path, capsys, monkeypatch, quiet):
  monkeypatch.setattr('sys.stderr.isatty', lambda: True)
  with MetricLog(str(tmp_path), start_step=0, total_steps=9, quiet=quiet) as log:
    log.show(9, FIGURES)
    log.say('[Not] markup.')
  said = capsys.readouterr().err
  assert said == '' if quiet else ('step 9/9' in said and 'loss 1.5000' in said and '[Not] markup.' in said)


def test_in_a_bucket_figures_are_put_at_evaluations_after_a_while_and_at_the_end(store, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(metric_log, 'time', types.SimpleNamespace(monotonic=lambda: now[0], time=lambda: 0.0))
  there = lambda: [json.loads(line)['step'] for line in open(store.folder / 'bucket/run/metrics.jsonl')]
  with MetricLog('gs://bucket/run', start_step=0, total_steps=9, quiet=True) as log:
    log.write(1, {'loss': 1.5})
    assert store.asked[-1].startswith('HEAD')  # nothing was uploaded
    log.write(2, {'loss': 1.5}, folder='training_eval/a')
    assert there() == [1, 2]
    for now[0], step in ((29, 3), (31, 4), (50, 5)):
      log.write(step, {'loss': 1.5})
    assert there() == [1, 2, 3, 4]
  assert there() == [1, 2, 3, 4, 5]
  assert all(b'loss' in next((store.folder / 'bucket/run' / name).glob('events*')).read_bytes()
             for name in ('train', 'training_eval/a'))


def test_a_resumed_log_in_a_bucket_goes_on_with_what_is_there(store):
  with MetricLog('gs://bucket/run', start_step=0, total_steps=9, quiet=True) as log:
    for step in (1, 2, 3):
      log.write(step, {'loss': 1.5})
      log.write(step, {'f1': 10.0 * step}, folder='inference_eval/a')
  with MetricLog('gs://bucket/run', start_step=2, total_steps=9, quiet=True) as log:
    log.write(4, {'loss': 1.5})
  steps = lambda name: [json.loads(line)['step'] for line in open(store.folder / 'bucket/run' / name)]
  assert steps('metrics.jsonl') == [1, 1, 2, 2, 4] and steps('inference_eval/a-metrics.jsonl') == [1, 2]
