"""Without the package of the harness, its command says how to install it."""

import sys

from prompt_tuning.programs import command


def test_without_the_harness_the_command_says_how_to_install_it(monkeypatch, capsys):
  for name in [name for name in sys.modules if name.startswith('prompt_tuning.harness')]:
    monkeypatch.delitem(sys.modules, name)
  monkeypatch.setitem(sys.modules, 'lm_eval', None)
  assert command.main(['lm-eval', '--model', 't5_integers', '--tasks', 'x']) == 2
  assert capsys.readouterr().err.startswith('prompt-tuning lm-eval: Evaluation with lm-evaluation-harness needs its '
                                            "package: `pip install '.[harness]'`.")
