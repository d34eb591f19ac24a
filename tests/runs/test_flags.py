"""Plain flags: the runs that they describe, what slips are answered with, and messages in the user's words."""

import dataclasses
import functools

import pytest
from absl import logging

from prompt_tuning.files import terminal
from prompt_tuning.programs import command
from prompt_tuning.runs import method_settings
from prompt_tuning.runs.flags import RUNS, in_words
from prompt_tuning.tuning.registry import METHODS

TRAIN = ['--model', 'm', '--data', 'a.jsonl', '--output', 'o']


def run_of(program, *arguments):
  return command.parse_flags(program, arguments).run


def test_flags_are_the_fields_of_the_run():
  run = run_of('train', *TRAIN, '--steps=7', '--learning-rate', '0.5', '--template', 'Q: {q}\nA:', '--check_frozen',
               '--mesh', 'data=2,model=4', '--labels', '0=no,1=yes', '--validation', '0.3', '--seed', 'none',
               '--buckets', '8,16', '--metrics=accuracy,f1:yes', '--keep=none')
  assert (run.steps, run.learning_rate, run.template, run.check_frozen) == (7, 0.5, 'Q: {q}\nA:', True)
  assert (run.mesh, run.labels) == ({'data': 2, 'model': 4}, {'0': 'no', '1': 'yes'})
  assert (run.validation, run.seed, run.buckets) == (0.3, None, (8, 16))
  assert (run.metrics, run.keep) == (('accuracy', 'f1:yes'), None)
  assert run_of('train', *TRAIN, '--validation', 'dev.jsonl').validation == 'dev.jsonl'


def test_settings_of_the_method_and_options_of_choices_are_flags():
  run = run_of('train', *TRAIN, '--method', 'low_rank', '--rank', '8', '--patterns', '.*query.*,.*value.*')
  assert run.method.options == {'rank': 8, 'patterns': ('.*query.*', '.*value.*')}
  run = run_of('train', *TRAIN, '--length', '5', '--init', 'text', '--init.text', '7', '--wayward_text', '5',
               '--loss', 'margin', '--loss.label_words', 'no,yes', '--optimizer.decay_rate=0.7')
  assert (run.method.name, run.method.options['length'], run.method.options['wayward_text']) == ('prompt', 5, '5')
  assert (run.method.options['init'].name, run.method.options['init'].options) == ('text', {'text': '7'})
  assert (run.loss.options, run.optimizer.options) == ({'label_words': ('no', 'yes')}, {'decay_rate': 0.7})


@pytest.mark.parametrize(('program', 'arguments', 'message'), [
  ('train', [*TRAIN, '--methd=prefix'], r'no flag --methd. Did you mean --method'),
  ('train', [*TRAIN, '--ranks=3'], r'no flag --ranks. Did you mean --rank'),
  ('train', [*TRAIN, '--method=prefix', '--rank=3'],
   r'rank=3 cannot be used: the method prefix .* low_rank, factored and together have it'),
  ('train', [*TRAIN, '--method=prefx'], r"method='prefx' is unknown. Did you mean prefix"),
  ('train', [*TRAIN, '--rank=a', '--method=low_rank'], r'rank=a cannot be used'),
  ('train', [*TRAIN, '--steps=many'], r'steps=many cannot be used'),
  ('train', [*TRAIN, '--mesh=model'], r"mesh=model cannot be used: 'model' is not a pair with an equals sign"),
  ('train', [*TRAIN, '--labels=0=no,1=yes,0=bad'], r'labels=0=no,1=yes,0=bad names 0 twice'),
  ('train', [*TRAIN, '--labels=0=no,1'], r"labels=0=no,1 .* '1' is not a pair .*, such as 0=negative,1=positive\.$"),
  ('train', [*TRAIN, 'stray'], r"'stray' belongs to no flag"),
  ('train', [*TRAIN, '--TRAIN_STEPS=5'], r'Write --gin\.TRAIN_STEPS=5$'),
  ('train', [*TRAIN, '--gin.BATCH_SIZE=5'], r'--model and --gin.BATCH_SIZE cannot be used in one command'),
  ('eval', ['--gin_file=a.gin', '--config=run.toml'], r'--config and --gin_file cannot be used in one command'),
  ('infer', ['--steps=3'], r'no flag --steps'),
  ('eval', ['--length=3'], r'--length is a flag of train. eval has it as an option .*: --method.length VALUE'),
  ('train', [*TRAIN, '--steps=5', '--steps', '6'], r'--steps is given twice: 5 and 6. Give it once\.$'),
  ('train', [*TRAIN, '--metrics=accuracy', '--metrics=f1'], r'Give it once, as --metrics accuracy,f1'),
  ('train', [*TRAIN, '--loss.z_loss=1', '--loss.z_loss=2'], r'--loss.z_loss is given twice: 1 and 2'),
  ('train', ['--gin_file=a.gin', '--dry_run', '--dry_run=compile'], r'--dry_run is given twice: plan and compile'),
  ('eval', ['--label_words'], r'--label_words has no value. Write --label_words LABEL_WORDS'),
  ('train', [*TRAIN, '--loss.z_loss'], r'--loss.z_loss has no value'),
  ('train', [*TRAIN, '--process_count=x'], r'--process_count=x cannot be used: expected a whole number'),
  ('train', [*TRAIN, '--nomultiprocess_gpu=x'], r"--nomultiprocess_gpu takes no value, but got 'x'"),
  ('train', [*TRAIN, '--config=gone.toml'], r'gone.toml: there is no such file'),
  ('train', [*TRAIN, '--import=no_such_module_here'], r'does not exist. Start the program in the folder'),
])
def test_a_slip_is_answered_with_the_right_form(program, arguments, message):
  with pytest.raises((ValueError, OSError, ImportError), match=message):
    command.parse_flags(program, arguments)


def test_words_stay_words_even_if_they_read_as_numbers():
  run = run_of('train', *TRAIN, '--loss=margin', '--loss.label_words', '3,4', '--init=texts', '--init.texts=5,6',
               '--template', r'Review: {text}\nSentiment:')
  assert run.loss.options == {'label_words': ('3', '4')}
  assert run.method.options['init'].options == {'texts': ('5', '6')}
  assert run.template == 'Review: {text}\nSentiment:'
  use = ['--model=m', '--data=a.jsonl', '--prompt=p.npy']
  assert run_of('eval', *use, '--label_words=task').label_words == 'task'
  assert run_of('eval', *use, '--label_words=3,4').label_words == ('3', '4')


def test_flags_win_over_the_file(tmp_path):
  (tmp_path / 'run.toml').write_text('model = "m"\ndata = "a.jsonl"\noutput = "o"\nsteps = 5\n\n[method]\n'
                                     'name = "prefix"\nlength = 3\n')
  run = run_of('train', f'--config={tmp_path}/run.toml', '--output', 'other', '--hidden=4')
  assert (run.model, run.output, run.steps) == ('m', 'other', 5)
  assert (run.method.name, run.method.options) == ('prefix', {'length': 3, 'hidden': 4})


def test_messages_of_the_library_are_in_the_words_of_the_flags():
  assert in_words('train', 'model_dir=a holds a run (mesh model=4)') == '--output=a holds a run (mesh model=4)'
  assert in_words('train', 'imports=MODULE, length=3, x=4') == '--import=MODULE, --length=3, x=4'


def test_lines_that_are_said_and_logged_are_in_the_words_of_the_flags(capsys, caplog):
  with terminal.worded(functools.partial(in_words, 'train')):
    terminal.say('Increase lengths= to keep them.')
    logging.warning('%d of them: max_input_length= cuts %s', 3, 'them')
  terminal.say('Increase lengths= to keep them.')
  assert capsys.readouterr().err.splitlines()[-2:] == [
    'Increase --max_input_length= and --max_target_length= to keep them.', 'Increase lengths= to keep them.']
  assert caplog.messages == ['3 of them: --max_input_length= cuts them']


def test_every_field_has_help_and_settings_read_from_source_are_those_of_the_classes(capsys):
  for program, kind in RUNS.items():
    with pytest.raises(SystemExit):
      command.parse_flags(program, ['--help'])
    printed = capsys.readouterr().out
    helps = {name for each in kind.__mro__ for name in method_settings.described(each.__doc__ or '')}
    assert set(kind.settings()) <= helps
    assert all(f'--{field.metadata["flag"] or name} ' in printed for name, field in kind.settings().items())
  for name, settings in method_settings.method_settings().items():
    owner = getattr(METHODS[name], 'Settings', METHODS[name])
    fields = {field.name: field for field in dataclasses.fields(owner)}
    assert {each.name for each in settings} <= set(fields)
    assert all(each.help for each in settings)
    plain = {key for key, field in fields.items() if isinstance(field.default, int | float | str | bool)}
    assert plain <= {each.name for each in settings}
