"""Tunes the prompts that are shipped with the integer model, and writes a table of their scores.

  python3 -m prompt_tuning.scripts.make_integer_prompts FOLDER
"""

import os
import sys
import tempfile

LENGTH, BATCH, STEPS = 10, 64, 1000

_HEAD = """# Prompts for `t5_integers`

Each prompt was tuned by `python3 -m prompt_tuning.scripts.make_integer_prompts`, initialised with sampled rows of the
embedding. Accuracy is the share of 3200 held-out lists whose prediction is right in every number. The first 200 of them
were used to choose the best of four checkpoints.

    prompt-tuning eval \\
      --gin_file=prompt_tuning/configs/models/from_checkpoint_prompt.gin \\
      --gin_file=prompt_tuning/configs/runs/prompt_eval.gin \\
      --gin.CHECKPOINT_PATH="'t5_integers'" --gin.MIXTURE_OR_TASK_NAME="'SortDescending'" \\
      --gin.PROMPT_FILE="'prompt_tuning/pretrained_prompts/t5_integers/SortDescending.npy'" \\
      --gin.PROMPT_LENGTH={length} \\
      --gin.utils.DatasetConfig.split="'validation'" --gin.EVAL_OUTPUT_DIR="'runs/eval'"

reproduces the last column. A prompt has {numbers} parameters in {size:,} bytes.

| task | path | length | batch | steps | metric | without | with prompt |
|---|---|---|---|---|---|---|---|
"""


def main() -> None:
  """Runs the script from the command line."""
  if len(sys.argv) != 2 or sys.argv[1].startswith('-'):
    sys.exit(__doc__)
  folder = sys.argv[1]
  import prompt_tuning as pt
  from prompt_tuning.data import integers
  from prompt_tuning.devices import compilation
  from prompt_tuning.files import storage

  compilation.use_cache()
  model = pt.load_model('t5_integers')
  sampler = pt.BeamSearch()  # the default of `eval`
  rows = []
  for name in integers.PRETRAINED:
    with tempfile.TemporaryDirectory() as model_dir:
      prompt = pt.tune(model, name, prompt_length=LENGTH, batch_size=BATCH, steps=STEPS, model_dir=model_dir).prompt
    path = os.path.join(folder, f'{name}.npy')
    os.makedirs(folder, exist_ok=True)
    prompt.save(path)
    before, after = (pt.evaluate(model, name, each, sampler=sampler)['accuracy']
                     for each in (None, pt.load_prompt(path)))
    rows.append(f'| {name} | `{name}.npy` | {LENGTH} | {BATCH} | {STEPS} | accuracy '
                f'| {before:.2f} % | {after:.2f} % |')
    print(rows[-1], flush=True)
  head = _HEAD.format(length=LENGTH, numbers=LENGTH * model.width, size=os.path.getsize(path))
  storage.write_bytes(os.path.join(folder, 'README.md'), (head + '\n'.join(rows) + '\n').encode())


if __name__ == '__main__':
  main()
