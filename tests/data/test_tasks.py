import importlib.util

import pytest

from prompt_tuning.data import registry, tasks

EXAMPLES = [{'inputs': 'a', 'targets': 'b'}]


@pytest.fixture
def none_registered(monkeypatch):
  monkeypatch.setattr(tasks, 'registered', {})


def test_an_added_task_is_found_by_its_name(none_registered):
  task = tasks.add(tasks.Task('mine', {'train': EXAMPLES}))
  assert registry.get('mine') is task
  assert registry.get('mine').split('train') == EXAMPLES


def test_a_second_task_of_the_same_name_is_refused(none_registered):
  tasks.add(tasks.Task('mine', {'train': EXAMPLES}))
  with pytest.raises(ValueError, match="already a task 'mine'"):
    tasks.add(tasks.Task('mine', {'train': EXAMPLES * 2}))


def test_an_unknown_task_names_the_nearest(none_registered):
  with pytest.raises(ValueError, match=r"no task 'SortAscendin'. Did you mean SortAscending"):
    registry.get('SortAscendin')


@pytest.mark.parametrize('name', ['glue_sst2_v002', 'taskless_glue_mrpc_v200', 'super_glue_rte_v102'])
def test_a_seqio_task_without_seqio_says_what_to_install(name):
  if importlib.util.find_spec('seqio') is not None:
    pytest.skip('SeqIO is installed')
  with pytest.raises(ValueError, match=r"looks like a SeqIO task.*pip install '\.\[seqio\]'"):
    registry.get(name)


def test_a_split_that_does_not_exist_names_those_that_do():
  with pytest.raises(ValueError, match=r"Task mine has no split 'dev'. Choose one of train, validation"):
    tasks.Task('mine', {'train': EXAMPLES, 'validation': EXAMPLES}).split('dev')


def test_an_empty_split_names_its_source_and_the_others():
  with pytest.raises(ValueError, match=r"'validation' of mine\.tsv holds no example.*train: 1, validation: 0"):
    tasks.Task('mine', {'train': EXAMPLES, 'validation': []}, source='mine.tsv').split('validation')


@pytest.mark.parametrize('rates', [(1.0,), (1.0, 0.0), (1.0, -2.0)])
def test_a_mixture_wants_a_rate_above_0_for_each_task(rates):
  task = tasks.Task('mine', {'train': EXAMPLES})
  with pytest.raises(ValueError, match='one rate above 0 for each task'):
    tasks.Mixture('both', (task, task), rates)


def test_tasks_of_one_name_have_names_of_their_own():
  named = lambda *names: [tasks.Task(name, {'train': EXAMPLES}) for name in names]
  short = lambda *names: tasks.short_names(named(*names))
  assert short('a/reviews.jsonl') == ['reviews.jsonl']
  assert short('a/reviews.jsonl', 'b/films.tsv') == ['reviews.jsonl', 'films.tsv']
  assert short('x/a/reviews.jsonl', 'y/a/reviews.jsonl') == ['x_a_reviews.jsonl', 'y_a_reviews.jsonl']
  assert short('reviews.jsonl', 'b/reviews.jsonl') == ['reviews.jsonl', 'b_reviews.jsonl']
  assert len({*short('a/b', 'a_b', 'c/b')}) == 3
  assert short('a/x', 'b/x', 'a/x') == ['x-1', 'x', 'x-2']
  assert tasks.unique_names(named('a/x', 'b/x', 'a/x')) == ['a/x-1', 'b/x', 'a/x-2']


@pytest.mark.parametrize(('name', 'found'), [
  ('a.jsonl', True), ('gs://b/A.TSV', True), ('a.csv.gz', True), ('a.json', False), ('a.txt.gz', False)])
def test_a_table_is_known_by_its_ending(name, found):
  assert tasks.is_table(name) is found


def test_a_mixture_without_tasks_is_refused():
  with pytest.raises(ValueError, match='has no task'):
    tasks.Mixture('none', ())
