"""The methods that methods.py compares, and the settings that are tried of each: flags, as a user types them.

`METHODS` are those on reviews, with a decoder-only model; `INTEGERS` those on lists of integers, with the T5 that comes
with the package.
"""

from collections.abc import Mapping, Sequence

TEXT = 'Classify the review of a film as positive or negative in its sentiment'
# Program -> method -> settings. One setting, of which one seed is measured, trains nothing.
OURS = 'methods_ours.py'
PEFT = 'methods_peft.py'


def _rates(flags: str, *rates: float) -> list[str]:
  return [f'{flags} --learning_rate={rate}' for rate in rates]


METHODS: Mapping[str, tuple[str, Sequence[str]]] = {
  'zero-shot': (OURS, ['--shots=0']),
  'few-shot in context': (OURS, ['--shots=2', '--shots=4', '--shots=8']),
  'prompt': (OURS, ['--method=prompt', *_rates('--method=prompt', 0.1, 0.01)]),
  'prompt from text': (OURS, _rates(f'--method=prompt --init=text --init.text="{TEXT}"', 0.1, 0.03, 0.01)),
  'prefix': (OURS, ['--method=prefix', *_rates('--method=prefix --init=normal --init.stddev=0.02', 0.1, 0.03)]),
  'prefix from a standard normal': (OURS, _rates('--method=prefix --init=normal --init.stddev=1.0', 0.3, 0.03, 0.01)),
  'prefix from zeros': (OURS, _rates('--method=prefix --init=zeros', 0.1, 0.03, 0.01)),
  'prefix from text': (OURS, _rates(f'--method=prefix --length=TOKENS --text="{TEXT}"', 0.1, 0.03, 0.01)),
  'residual': (OURS, ['--method=residual', *_rates('--method=residual', 0.1, 0.01)]),
  'decomposed': (OURS, _rates('--method=factored --rank=10 --init=normal', 0.1, 0.03, 0.01)),
  'superposed': (OURS, _rates('--method=factored --rank=128', 0.1, 0.03, 0.01)),
  'scales': (OURS, _rates('--method=scales', 0.1, 0.03, 0.01)),
  'low rank': (OURS, _rates("--method=low_rank --rank=8 --patterns='.*/(query|value)/kernel'", 0.01, 0.003, 0.001)),
  'prompt and low rank': (OURS, [f"--method=together --rank=8 --patterns='.*/(query|value)/kernel'{more}"
                                 for more in ('', ' --low_rank_rate=0.03', ' --learning_rate=0.01')]),
  'last layers': (OURS, _rates("--method=retrained --patterns='.*/layers_(28|29)/.*'", 0.003, 0.001, 0.0003)),
  'PEFT prompt tuning': (PEFT, _rates('--kind=prompt', 0.1, 0.03, 0.01, 0.003)),
  'PEFT prompt tuning from text': (PEFT, _rates(f'--kind=prompt --text="{TEXT}"', 0.1, 0.03, 0.01)),
  'PEFT prefix tuning': (PEFT, _rates('--kind=prefix', 0.1, 0.03, 0.01, 0.003)),
  'PEFT prefix tuning from zeros': (PEFT, _rates('--kind=prefix --init=zero', 0.1, 0.03, 0.01, 0.003)),
  'PEFT LoRA': (PEFT, _rates('--kind=lora', 0.003, 0.001, 0.0003)),
}

INTEGERS: Mapping[str, tuple[str, Sequence[str]]] = {
  'zero-shot': (OURS, ['--shots=0']),
  'prompt': (OURS, ['--method=prompt', *_rates('--method=prompt', 1.0, 0.1)]),
  'prefix': (OURS, ['--method=prefix', *_rates('--method=prefix --init=normal --init.stddev=0.02', 1.0, 0.1)]),
  'prefix from a standard normal': (OURS, _rates('--method=prefix --init=normal --init.stddev=1.0', 1.0, 0.3, 0.1)),
  'prefix from zeros': (OURS, _rates('--method=prefix --init=zeros', 1.0, 0.3, 0.1)),
  'residual': (OURS, ['--method=residual', *_rates('--method=residual', 1.0, 0.1)]),
  'decomposed': (OURS, _rates('--method=factored --rank=10 --init=normal', 1.0, 0.3, 0.1)),
  'superposed': (OURS, _rates('--method=factored --rank=28', 1.0, 0.3, 0.1)),
  'scales': (OURS, _rates('--method=scales', 1.0, 0.3, 0.1)),
  'low rank': (OURS, _rates("--method=low_rank --rank=8 --patterns='.*/(query|value)/kernel'", 0.1, 0.03, 0.01)),
  'prompt and low rank': (OURS, [f"--method=together --rank=8 --patterns='.*/(query|value)/kernel'{more}"
                                 for more in ('', ' --low_rank_rate=0.1', ' --learning_rate=0.1')]),
  'last layers': (OURS, _rates("--method=retrained --patterns='.*/layers_1/.*'", 0.03, 0.01, 0.003)),
  'PEFT prompt tuning': (PEFT, _rates('--kind=prompt', 1.0, 0.3, 0.1, 0.03)),
  'PEFT prefix tuning': (PEFT, _rates('--kind=prefix', 1.0, 0.3, 0.1, 0.03)),
  'PEFT prefix tuning from zeros': (PEFT, _rates('--kind=prefix --init=zero', 1.0, 0.3, 0.1, 0.03)),
  'PEFT LoRA': (PEFT, _rates('--kind=lora', 0.1, 0.03, 0.01)),
}
