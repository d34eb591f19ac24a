"""Runs on conversations: trained, resumed, evaluated, predicted, with the prompt in a turn."""

import json

import pytest
from chat_toys import ANSWER, MORE, SYSTEM, USER, write_model

import prompt_tuning as pt
from prompt_tuning.rows import layouts


@pytest.mark.slow
def test_a_run_on_conversations_learns_and_its_prompt_stays_where_it_stood(tmp_path):
  model = write_model(tmp_path / 'model')
  yes = lambda i: {**ANSWER, 'content': 'Yes.' if i % 2 else 'No.'}
  rows = [{'messages': [SYSTEM, {**USER, 'content': f'{i}?'}, yes(i), MORE, {**ANSWER, 'content': 'Yes.'}], 'id': i}
          for i in range(30)]
  data = tmp_path / 'chats.jsonl'
  data.write_text('\n'.join(map(json.dumps, rows)))
  given = {'model': model, 'data': str(data), 'output': str(tmp_path / 'run'), 'batch_size': 8, 'steps': 60,
           'max_input_length': 60, 'learning_rate': 1.0, 'evaluation_period': 60}
  method = lambda at: pt.Choice('prompt', {'length': 4, 'prompt_at': at})
  ended = pt.TrainRun(method=method('user'), **given).run()
  losses = [json.loads(line)['loss'] for line in (tmp_path / 'run/metrics.jsonl').read_text().splitlines()
            if 'scaled_loss' in line or '"loss"' in line]
  assert losses[-1] < losses[0]
  assert ended.prompt.placement is layouts.at_user
  with pytest.raises(ValueError, match=r'holds another run .*placement: .at_user. there, .at_system. here'):
    pt.TrainRun(method=method('system'), **given).run()
  with pytest.raises(ValueError, match=r"holds another run .*train_on: 'all' there, 'last' here"):
    pt.TrainRun(method=method('user'), train_on='last', **given).run()
  found = pt.EvalRun.after(str(tmp_path / 'run'), {'label_words': ('Yes.', 'No.')}).run()
  assert set(found[str(data)]) == {'accuracy'}
  pt.InferRun.after(str(tmp_path / 'run'), {'data': str(data), 'output': str(tmp_path / 'out.jsonl')}).run()
  lines = [json.loads(line) for line in (tmp_path / 'out.jsonl').read_text().splitlines()]
  loaded = pt.load_model(model)
  cut = [SYSTEM, MORE]  # what is left of 60 tokens
  reply = loaded.chat(cut, prompt=ended.prompt, max_length=8)
  assert [line['id'] for line in lines] == list(range(30)) and lines[0]['prediction'] == reply
