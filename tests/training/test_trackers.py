"""Trackers of experiments: what they are handed, what resumes them, and that their failures end nothing."""

import json
import sys
import types

import pytest
import toy_run

import prompt_tuning as pt
from prompt_tuning.training import trackers
from prompt_tuning.training.metric_log import MetricLog
from prompt_tuning.training.trackers import TRACKERS, make_tracker


class Recorder:
  """A tracker that records its calls; it fails at some."""

  def __init__(self, fails=()):
    self.calls, self.fails = [], fails

  def _record(self, *call):
    self.calls.append(call)
    if call[0] in self.fails:
      raise RuntimeError(f'{call[0]} failed\nat length')

  def start(self, run):
    self.run = run
    self._record('start')
    return 'id-7'

  def log(self, step, values):
    self._record('log', step, values)

  def end(self):
    self._record('end')


def test_a_tracker_gets_what_metrics_jsonl_gets(tmp_path):
  tracker = Recorder()
  toy_run.train(tmp_path / 'run', tracker=tracker, train_steps=toy_run.START + 3, evaluations={'examples': 0})
  written = [json.loads(line) for line in open(tmp_path / 'run/metrics.jsonl')]
  expected = [(line['step'], {f'{line["folder"]}/{name}': value for name, value in line.items()
                              if name not in ('step', 'folder')}) for line in written]
  assert tracker.calls == [('start',), *(('log', *each) for each in expected), ('end',)]
  assert (tracker.run.name, tracker.run.id, tracker.run.settings['method']) == ('run', None, 'PromptTuning')

  resumed = Recorder()
  toy_run.train(tmp_path / 'run', tracker=resumed, train_steps=toy_run.START + 4, extend=True,
                evaluations={'examples': 0})
  assert resumed.run.id == 'id-7' and resumed.calls[1][1] == toy_run.START + 4
  ended = Recorder()
  toy_run.train(tmp_path / 'run', tracker=ended, train_steps=toy_run.START + 4, extend=True,
                evaluations={'examples': 0})
  assert ended.calls == []  # nothing is trained


@pytest.mark.parametrize('fails, logged, lacks', [(('start',), 0, 'lacks 2 lines'), (('log',), 2, 'lacks 2 lines'),
                                                  (('end',), 2, '')])
def test_a_tracker_that_fails_is_said_once_and_ends_nothing(tmp_path, capsys, fails, logged, lacks):
  tracker = Recorder(fails)
  with MetricLog(str(tmp_path), start_step=0, total_steps=2, tracker=tracker) as log:
    for step in (1, 2):
      log.write(step, {'loss': 1.0})
  errors = capsys.readouterr().err
  assert errors.count(f'The tracker Recorder failed (RuntimeError: {fails[0]} failed); the run goes on') == 1
  assert lacks in errors and ('lacks' in errors) == bool(lacks)
  assert len([call for call in tracker.calls if call[0] == 'log']) == logged
  assert len((tmp_path / 'metrics.jsonl').read_text().splitlines()) == 2


def stand_in(monkeypatch, name, **functions):
  """Puts a module on the path whose functions record their calls."""
  calls = []

  def recording(function, result):
    def call(*given, **options):
      calls.append((function, given, options))
      return result
    return call

  module = types.ModuleType(name)
  for function, result in functions.items():
    setattr(module, function, recording(function, result))
  monkeypatch.setitem(sys.modules, name, module)
  return calls, recording


def follow(tracker, folder):
  said = []
  guarded = trackers.Guarded(tracker, str(folder), {'seed': 1}, said.append)
  guarded.log(3, {'inference_eval/a/f1:good film': 50.0})
  guarded.end()
  assert said == [f'Starting the tracker {type(tracker).__name__} …']


def test_weights_and_biases_is_resumed_by_its_id(tmp_path, monkeypatch):
  calls, recording = stand_in(monkeypatch, 'wandb')
  run = types.SimpleNamespace(id='w1', log=recording('log', None), finish=recording('finish', None))
  sys.modules['wandb'].init = recording('init', run)
  folder = tmp_path / 'reviews'
  folder.mkdir()
  for _ in range(2):
    follow(make_tracker('wandb', {'project': 'films', 'entity': 'acme'}), folder)
  start = {'project': 'films', 'entity': 'acme', 'name': 'reviews', 'resume': 'allow', 'config': {'seed': 1}}
  log = ('log', ({'inference_eval/a/f1:good film': 50.0},), {'step': 3})
  assert calls == [('init', (), {**start, 'id': None}), log, ('finish', (), {}),
                   ('init', (), {**start, 'id': 'w1'}), log, ('finish', (), {})]


def test_mlflow_gets_parameters_once_and_names_that_it_takes(tmp_path, monkeypatch):
  run = types.SimpleNamespace(info=types.SimpleNamespace(run_id='m1'))
  calls, _ = stand_in(monkeypatch, 'mlflow', start_run=run, set_tracking_uri=None, set_experiment=None, log_params=None,
                      log_metrics=None, end_run=None)
  for _ in range(2):
    follow(make_tracker('mlflow', {'tracking_uri': 'file:x', 'run_name': 'first'}), tmp_path)
  names = ['set_tracking_uri', 'set_experiment', 'start_run', 'log_params', 'log_metrics', 'end_run']
  assert [call[0] for call in calls] == [*names, *(name for name in names if name != 'log_params')]
  assert [call[2] for call in calls if call[0] == 'start_run'] == [
    {'run_id': None, 'run_name': 'first'}, {'run_id': 'm1', 'run_name': None}]
  assert calls[4][1:] == (({'inference_eval/a/f1_good film': 50.0},), {'step': 3})


def test_trackio_is_resumed_by_its_name(tmp_path, monkeypatch):
  calls, _ = stand_in(monkeypatch, 'trackio', init=None, log=None, finish=None)
  for _ in range(2):
    follow(make_tracker('trackio', {}), tmp_path)
  assert [(call[2]['project'], call[2]['name'], call[2]['resume']) for call in calls if call[0] == 'init'] == [
    ('prompt-tuning', tmp_path.name, 'never'), ('prompt-tuning', tmp_path.name, 'allow')]
  assert [call[0] for call in calls[:3]] == ['init', 'log', 'finish']


def test_what_cannot_be_used_is_an_error_before_the_run(monkeypatch):
  monkeypatch.setitem(sys.modules, 'wandb', None)
  with pytest.raises(ImportError, match=r'tracker=wandb needs the package wandb.*`pip install wandb`'):
    make_tracker('wandb', {})
  with pytest.raises(ValueError, match=r"There is no tracker 'wandbb'. Did you mean wandb\?"):
    make_tracker('wandbb', {})
  with pytest.raises(ValueError, match=r"The tracker tensorboard has no option 'project'"):
    make_tracker('tensorboard', {'project': 'x'})
  stand_in(monkeypatch, 'trackio')
  sys.modules['trackio'].init = lambda project, name=None, config=None, resume=None: None
  with pytest.raises(ValueError, match=r"The tracker trackio has no option 'entity'"):
    make_tracker('trackio', {'entity': 'acme'})
  assert make_tracker('tensorboard', {}) is None


def test_arguments_that_a_run_sets_itself_are_refused_and_not_offered(monkeypatch):
  stand_in(monkeypatch, 'wandb')
  sys.modules['wandb'].init = lambda project, entity=None, name=None, config=None, id=None, resume=None: None
  with pytest.raises(ValueError, match=r'tracker\.name of the tracker wandb is set by the run.*tracker\.run_name'):
    make_tracker('wandb', {'name': 'x'})
  with pytest.raises(ValueError, match=r"no option 'entiti'.* It has run_name, project, entity\."):
    make_tracker('wandb', {'entiti': 'x'})


def test_a_tracker_of_a_users_may_have_options_of_these_names(monkeypatch):
  monkeypatch.setitem(TRACKERS, 'own', lambda name='x': name)
  assert make_tracker('own', {'name': 'y'}) == 'y'


@pytest.mark.parametrize('given', ['wandbb', Recorder, object()])
def test_what_is_no_tracker_is_refused_before_training(given):
  with pytest.raises(ValueError, match=r'no tracker|expected an object with start'):
    trackers.tracker_of(given)


def test_users_register_trackers(monkeypatch):
  monkeypatch.delitem(TRACKERS, 'recorder', raising=False)
  pt.register_tracker('recorder', Recorder)
  assert isinstance(make_tracker('recorder', {'fails': ('log',)}), Recorder)
  del TRACKERS['recorder']
