"""Tasks of lm-evaluation-harness from local files, one of each kind of request, and what a model answers to them."""

import json

KINDS = {
  'choice': '''
output_type: multiple_choice
doc_to_text: "Review: {{text}}\\nSentiment:"
doc_to_choice: ["negative", "positive"]
doc_to_target: label
metric_list:
  - metric: acc
''',
  'next_words': '''
output_type: loglikelihood
doc_to_text: "{{begin}}"
doc_to_target: " {{end}}"
metric_list:
  - metric: perplexity
  - metric: acc
''',
  'until': '''
output_type: generate_until
doc_to_text: "Q: Is this good or bad? {{text}}\\nA:"
doc_to_target: "{{label}}"
generation_kwargs:
  until: ["\\n", ". ", " the"]
  max_gen_toks: 12
metric_list:
  - metric: exact_match
''',
  'rolling': '''
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: word_perplexity
''',
}
TEXTS = ('a warm and funny film', 'dull , slow and far too long', 'I could not stop laughing', 'it never comes alive',
         'the cast is wonderful', 'a mess from beginning to end', 'smart writing , good music', 'not worth the price')


def write(folder, texts=TEXTS):
  """Writes the tasks and their rows; every second text is positive. Returns the tasks' names."""
  folder.mkdir(exist_ok=True)
  with open(folder / 'rows.jsonl', 'w') as file:
    for number, text in enumerate(texts):
      words = text.split()
      row = {'text': text, 'label': number % 2 ^ 1, 'begin': ' '.join(words[:2]), 'end': ' '.join(words[2:])}
      file.write(json.dumps(row) + '\n')
  for name, text in KINDS.items():
    (folder / f'{name}.yaml').write_text(
      f'task: {name}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {folder / "rows.jsonl"}\n'
      f'test_split: test{text}')
  return list(KINDS)


def answers(model, folder, **settings):
  """Returns each task's results, and what the model answered to every request."""
  import lm_eval
  from lm_eval.tasks import TaskManager

  found = lm_eval.simple_evaluate(model, tasks=list(KINDS), task_manager=TaskManager(include_path=str(folder)),
                                  bootstrap_iters=0, **settings)
  return found['results'], {task: [sample['filtered_resps'] for sample in samples]
                            for task, samples in found['samples'].items()}
