"""Conversations that a run cannot use, found before training."""

from collections.abc import Mapping

from prompt_tuning.data.conversation import Conversation
from prompt_tuning.data.tasks import Mixture, Task
from prompt_tuning.rows.layouts import IN_TURNS, Layout


def check_turns(task: Task | Mixture, split: str, layout: Layout, lengths: Mapping[str, int]) -> None:
  """Ensures that all conversations of a task can be trained; examples that are made when they are read are not checked.

  Args:
    task: the training task.
    split: its split.
    layout: the layout of examples.
    lengths: most tokens of 'inputs'.

  Raises:
    ValueError: a conversation is too long even without what can be cut, or cannot be laid out; or the prompt stands in
      a turn, but an example is no conversation.
  """
  role = next((role for role, placement in IN_TURNS.items() if layout.placement is placement), None)
  for part, _ in task.parts(split):
    examples = part.split(split)
    for example in examples if isinstance(examples, list) else ():
      asked = example.get('inputs')
      if isinstance(asked, Conversation):
        if len(asked) > lengths.get('inputs', len(asked)):
          asked.require_length(lengths['inputs'])
        layout.example(asked, [], input_weights=asked.weights)
      elif role:
        raise ValueError(f'prompt_at={role} cannot be used: {part.source or part.name} holds rows that are no '
                         'conversations. Leave it out, or give rows with the column messages.')
