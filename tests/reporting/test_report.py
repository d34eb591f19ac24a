"""The report of runs: what it shows is in the page, what a folder lacks is said, and no text of data becomes markup."""

import html.parser
import json
import re

import jax
import numpy as np
import pytest

from prompt_tuning.evaluation import saved
from prompt_tuning.programs import command
from prompt_tuning.reporting import charts, folder, of_model, page

LABELS = ('1', '2')


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """Folders of a prompt of three vectors and of a prefix of two keys, trained on examples with two classes."""
  root = tmp_path_factory.mktemp('runs')
  rows = [{'inputs': f'{i % 6 + 1} {i % 5 + 1}', 'targets': LABELS[i % 2]} for i in range(40)]
  (root / 'x.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  for name, options in (('a', ['--length', '3']), ('b', ['--method', 'prefix', '--length', '2'])):
    assert command.main(['train', '--model', 't5_integers', '--data', str(root / 'x.jsonl'), '--output',
                         str(root / name), '--steps', '2', '--batch_size', '4', '--validation', '0.5',
                         '--evaluation_period', '1', '--seed', '7', *options]) == 0
  return root


@pytest.fixture(scope='module')
def text(runs):
  """The report of both."""
  assert command.main(['report', str(runs / 'a'), str(runs / 'b'), '--output', str(runs / 'both.html')]) == 0
  return (runs / 'both.html').read_text()


class Tags(html.parser.HTMLParser):
  def __init__(self, text):
    super().__init__()
    self.tags, self.attributes = [], []
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    self.tags.append(tag)
    self.attributes += attributes


def test_the_page_needs_nothing_from_elsewhere(text):
  found = Tags(text)
  assert not {'script', 'link', 'img', 'iframe'} & {*found.tags}
  assert [value for name, value in found.attributes if name == 'href' and not value.startswith('#')] == []
  assert 'url(' not in text
  assert 'src="' not in text


def test_two_runs_stand_side_by_side(text):
  assert 'Settings that differ' in text
  assert '>prefix, length=2</code>' in re.search(r'<th>method(.*?)</tr>', text, re.DOTALL)[1]
  assert text.count('class="line k0"') >= 2  # of the loss and of an evaluation
  assert text.count('class="line k1"') == text.count('class="line k0"')


def test_what_a_run_does_not_have_is_left_out_with_a_reason(text):
  assert 'Left out: The trained tensors are' in text  # a prefix has no nearest words
  assert 'Similarities compare at least two prompts' in text


def test_the_peak_memory_of_training_is_shown(text, runs):
  peaks = [max(line['peak_process_bytes'] for line in folder.read([str(runs / name)])[0].figures
               if line['folder'] == 'train') for name in 'ab']
  shown = re.search(r'<th>peak memory of the process(.*?)</tr>', text)[1]
  assert re.findall(r'([\d,]+) MB', shown) == [f'{peak / 1e6:,.0f}' for peak in peaks]
  assert 'peak memory of the device' not in text


def test_a_report_goes_to_the_folder_of_its_run(runs, capsys):
  assert command.main(['report', str(runs / 'a'), '--examples', '4']) == 0
  assert (runs / 'a' / 'report.html').is_file()
  assert ', 4 examples of validation' in (runs / 'a' / 'report.html').read_text()


def test_the_start_is_drawn_again_from_the_seed(runs):
  (run,) = folder.read([str(runs / 'a')])
  found = of_model.read(run, model=None, examples=4, models={})
  first = of_model._start(run, of_model.training.read_model(of_model.EvalRun.after(run.path, {})), None)
  path = 'encoder/prompt/prompt/prompt'
  rows = page.moved(run, found.start)[path]
  expected = np.sqrt(((np.asarray(run.trained.tensors[path]) - first[path])**2).sum(-1))
  np.testing.assert_allclose([far for _, far in rows], expected, rtol=1e-5)
  embedding = np.asarray(of_model.training.read_model(of_model.EvalRun.after(run.path, {})).embeddings())
  distances = np.abs(first[path][:, None] - embedding[None]).max(-1).min(-1)  # first values are rows of the embedding
  np.testing.assert_allclose(distances, 0, atol=1e-6)


def test_the_share_of_the_prompt_is_that_of_its_keys():
  layers, rows, heads, queries, before, keys = 2, 3, 4, 5, 2, 5
  weights = np.asarray(jax.nn.softmax(jax.random.normal(
    jax.random.key(0), (layers, rows, heads, queries, before + keys)), -1))
  slots = np.full((rows, keys), -1)
  slots[:, 0] = 0
  segments = np.ones((rows, keys), int)
  segments[1, 3:] = 0
  stack = {'tokens': np.zeros((rows, keys)), 'prompt_slots': slots, 'segments': segments}
  expected = np.zeros((layers, heads))
  counted = [(b, t) for b in range(rows) for t in range(1, keys) if segments[b, t]]
  for b, t in counted:
    expected += weights[:, b, :, t, :before + 1].sum(-1) / len(counted)
  np.testing.assert_allclose(of_model._share(weights, stack, stack), expected, rtol=1e-5)
  plain = {'tokens': np.zeros((rows, keys)), 'segments': segments}
  assert of_model._share(weights[..., before:], plain, plain) is None


def test_texts_of_data_and_models_are_escaped(runs):
  (run,) = folder.read([str(runs / 'a')])
  evil = '<script>alert(1)</script>"\x1b[31m'
  line = of_model.Line(evil, evil, evil, 0.5, False)
  found = of_model.OfModel([of_model.Examined(evil, evil, {evil: 1.0}, [line], False, evil, None, evil)],
                           [[(evil, 0.5)]], evil, None)
  text = page.render([run], [found])
  assert text.count('&lt;script&gt;') >= 8
  assert 'script' not in Tags(text).tags
  assert '\x1b' not in text


def test_a_run_has_one_colour_in_all_charts(runs):
  folders = folder.read([str(runs / 'b'), str(runs / 'a')])  # the first has no vectors
  why = of_model.OfModel('', '', '', None)
  drawn = page.components(folders, [why, why])
  assert drawn.count('class="dot k1"') == 3
  assert 'class="dot k0"' not in drawn


def test_a_name_in_a_chart_is_escaped():
  drawn = charts.lines({'<b>': [(1, 2.0), (2, float('nan'))]}, x='step', y='a<b', dots=True)
  assert '<b>' not in drawn
  assert 'a&lt;b' in drawn
  assert drawn.count('<circle') == 1


def test_points_of_a_chart_lie_where_its_axes_say():
  drawn = charts.lines({'a': [(0, 1.0), (10, 100.0)], 'b': [(5, 10.0)]}, x='x', y='y', logarithmic=True)
  ends = [float(each) for each in re.search(r'class="line k0".*?points="(.*?)"', drawn)[1].replace(' ', ',').split(',')]
  middle = [float(each) for each in re.search(r'k1" cx="(.*?)" cy="(.*?)"', drawn).groups()]
  np.testing.assert_allclose(middle, [(ends[0] + ends[2]) / 2, (ends[1] + ends[3]) / 2], atol=0.11)


@pytest.mark.parametrize(('arguments', 'message'), [
  (['{a}', '{b}'], 'belongs to no folder. Give --output'),
  (['{a}', '{a}', '--output', 'x.html'], 'is given twice'),
  (['{root}'], 'is not the folder of a run'),
  (['{a}', '--examples', '0'], '--examples'),
  (['{a}', '--model', 'none'], 'none'),
  (['{a}', '--output', '{root}'], 'is a folder. Give a file'),
])
def test_what_cannot_be_reported_is_said(runs, capsys, arguments, message):
  given = [each.format(a=runs / 'a', b=runs / 'b', root=runs) for each in arguments]
  assert command.main(['report', *given]) == 2
  assert message in capsys.readouterr().err


def test_a_prompt_of_python_without_run_toml_still_has_curves_and_similarities(runs, tmp_path):
  for name in ('c', 'd'):
    (tmp_path / name).mkdir()
    for file in (saved.BEST, saved.METRICS):
      (tmp_path / name / file).write_bytes((runs / 'a' / file).read_bytes())
  assert command.main(['report', str(tmp_path / 'c'), str(tmp_path / 'd'), '--output', str(tmp_path / 'x.html')]) == 0
  text = (tmp_path / 'x.html').read_text()
  assert 'Left out: The folder has no run.toml' in text
  assert text.count('>1.00') == 8  # two tables of two equal prompts


def test_runs_with_other_heads_have_other_models_and_those_with_other_data_the_same():
  plain = of_model.EvalRun(model='bert', data='a.jsonl')
  assert of_model.model_of(plain) == of_model.model_of(of_model.EvalRun(model='bert', data='b.jsonl', batch_size=4))
  changed = [of_model.EvalRun(model='bert', data='a.jsonl', **each) for each in (
    {'head': 'cls'}, {'head': 'mean'}, {'head': 'mean', 'problem': 'regression'}, {'dtype': 'bfloat16'})]
  assert len({of_model.model_of(each) for each in (plain, *changed)}) == 5


def test_a_file_that_holds_other_examples_than_in_training_is_said(runs, text, capsys):
  assert 'other examples than when' not in text
  file, output = runs / 'x.jsonl', runs / 'a/changed.html'
  before = file.read_text()
  file.write_text(before.replace('"1 1"', '"1 2"'))
  try:
    assert command.main(['report', str(runs / 'a'), '--examples', '4', '--output', str(output)]) == 0
    assert 'The file holds other examples than when the run was trained' in output.read_text()
    capsys.readouterr()
    assert command.main(['eval', '--prompt', str(runs / 'a')]) == 0
    assert f'holds other examples than when {runs / "a"} was trained' in capsys.readouterr().err
  finally:
    file.write_text(before)
  assert command.main(['eval', '--prompt', str(runs / 'a')]) == 0
  assert 'other examples' not in capsys.readouterr().err
