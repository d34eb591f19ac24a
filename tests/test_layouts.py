"""Layouts of rows, compared with arrays written by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning.losses import Loss
from prompt_tuning.rows import layouts
from prompt_tuning.rows.layouts import CausalLayout, Layout, assemble
from prompt_tuning.rows.turns import Turns


@pytest.mark.parametrize(('placement', 'slots'), [
  (layouts.before, [0, 1, -1, -1, -1]),
  (layouts.after_bos, [-1, 0, 1, -1, -1]),
  (layouts.before_eos, [-1, -1, 0, 1, -1]),
  (layouts.after_eos, [-1, -1, -1, 0, 1]),
])
def test_a_placement_says_where_the_prompt_stands_among_the_tokens(placement, slots):
  example = Layout(2, placement).example([7, 8, 9], [5])
  assert example['encoder']['prompt_slots'].tolist() == slots
  tokens = example['encoder']['tokens']
  assert tokens[np.array(slots) < 0].tolist() == [7, 8, 9]
  assert layouts.PLACEMENTS[placement.__name__] is placement


@pytest.mark.parametrize('placement', layouts.PLACEMENTS.values())
def test_a_placement_holds_for_a_text_without_tokens(placement):
  assert Layout(2, placement).example([], [5])['encoder']['prompt_slots'].tolist() == [0, 1]


def test_the_decoder_reads_the_targets_shifted_right():
  decoder = Layout(start_id=3).example([7], [5, 6, 1])['decoder']
  assert decoder['tokens'].tolist() == [3, 5, 6]
  assert decoder['targets'].tolist() == [5, 6, 1]
  assert decoder['loss_weights'].tolist() == [1, 1, 1]
  assert Layout().example([7], [])['decoder']['tokens'].tolist() == []


def test_packed_rows_count_segments_and_begin_positions_anew():
  layout = Layout(1)
  batch = assemble([[layout.example([7, 8], [5, 1]), layout.example([9], [6], prompt_id=2)], []],
                   {'encoder': 7, 'decoder': 4}, first_id=40)
  encoder, decoder = batch['encoder'], batch['decoder']
  assert encoder['tokens'].tolist() == [[0, 7, 8, 0, 9, 0, 0], [0] * 7]
  assert encoder['prompt_slots'].tolist() == [[0, -1, -1, 0, -1, -1, -1], [-1] * 7]
  assert encoder['segments'].tolist() == [[1, 1, 1, 2, 2, 0, 0], [0] * 7]
  assert encoder['positions'].tolist() == [[0, 1, 2, 0, 1, 0, 0], [0] * 7]
  assert decoder['tokens'].tolist() == [[0, 5, 0, 0], [0] * 4]
  assert decoder['targets'].tolist() == [[5, 1, 6, 0], [0] * 4]
  assert decoder['loss_weights'].tolist() == [[1, 1, 1, 0], [0] * 4]
  assert decoder['segments'].tolist() == decoder['memory_segments'].tolist() == [[1, 1, 2, 0], [0] * 4]
  assert batch['prompt_ids'].tolist() == [[0, 2], [0, 0]]
  assert batch['example_ids'].tolist() == [40, 41]


def test_left_padding_moves_rows_but_not_their_positions():
  batch = assemble([[Layout(1).example([7, 8], [5])]], {'encoder': 5, 'decoder': 3}, side='left')
  assert batch['encoder']['tokens'].tolist() == [[0, 0, 0, 7, 8]]
  assert batch['encoder']['prompt_slots'].tolist() == [[-1, -1, 0, -1, -1]]
  assert batch['encoder']['positions'].tolist() == [[0, 0, 0, 1, 2]]
  assert batch['decoder']['targets'].tolist() == [[0, 0, 5]]


def test_rows_of_one_batch_may_have_prompts_of_different_lengths():
  layout = Layout(2)
  rows = [[layout.example([7], [5])], [layout.example([7], [5], prompt_length=0)]]
  slots = assemble(rows, {'encoder': 3, 'decoder': 1})['encoder']['prompt_slots']
  assert slots.tolist() == [[0, 1, -1], [-1, -1, -1]]


def test_a_row_that_is_too_long_is_an_error_that_says_what_to_change():
  with pytest.raises(ValueError, match=r'A row of the encoder needs 5 positions, but its length is 4. Truncate'):
    assemble([[Layout(2).example([7, 8, 9], [5])]], {'encoder': 4, 'decoder': 1})


@pytest.mark.parametrize(('base', 'more'), [(Layout, {'memory_segments'}), (CausalLayout, set())])
def test_targets_may_stand_in_another_stack_that_the_layout_names(base, more):
  class Spoken(base):
    target_stack = 'speaker'

  batch, wanted = (assemble([[layout.example([7, 8, 9], [5, 6])]], layout.row_lengths({'inputs': 3, 'targets': 2}))
                   for layout in (Spoken(), base()))
  assert batch.keys() == {'speaker' if name == 'decoder' else name for name in wanted}
  assert batch['speaker'].keys() == {'tokens', 'targets', 'loss_weights', 'segments', 'positions'} | more
  for name, array in wanted['decoder'].items():
    np.testing.assert_array_equal(batch['speaker'][name], array)
  assert layouts.target_rows(batch) is batch['speaker']
  logits = np.random.default_rng(0).normal(0, 1, (1, batch['speaker']['targets'].shape[1], 11)).astype(np.float32)
  assert Loss()(logits, batch, jnp.asarray)[0] == Loss()(logits, wanted, jnp.asarray)[0]


def test_a_prompt_in_a_turn_stands_where_the_turn_begins():
  turns = Turns([7, 8, 9], starts={'system': 1, 'user': 2})
  slots = lambda layout, inputs=turns, **how: layout.example(inputs, [4], **how)['decoder']['prompt_slots'].tolist()
  assert slots(CausalLayout(2, layouts.at_system)) == [-1, 0, 1, -1, -1]
  assert slots(CausalLayout(2, layouts.at_user)) == [-1, -1, 0, 1, -1]
  assert slots(CausalLayout(2, layouts.at_user, started=True)) == [-1, -1, -1, 0, 1, -1]
  assert slots(CausalLayout(2, layouts.at_user), [7], prompt_length=0) == [-1]
  assert Layout(1, layouts.at_user).example(turns, [])['encoder']['prompt_slots'].tolist() == [-1, -1, 0, -1]
  with pytest.raises(ValueError, match=r'prompt_at=user cannot be used: .* an input is a plain text or token ids'):
    slots(CausalLayout(2, layouts.at_user), [7, 8])
  with pytest.raises(ValueError, match='prompt_at=system cannot be used: a:1 has no turn of the system'):
    slots(CausalLayout(2, layouts.at_system), Turns([7], {'user': 0}, where='a:1'))


@pytest.mark.parametrize(('layout', 'moved'), [
  (CausalLayout(2), 0), (CausalLayout(2, layouts.after_bos), 2), (CausalLayout(started=True), 1)])
def test_tokens_of_the_input_may_be_targets(layout, moved):
  rows = layout.example([7, 8, 9], [4, 5], input_weights=[0, 1, 0], loss_weight=0.5)['decoder']
  places = [0 + moved, 2 + moved, 3 + moved]
  assert np.flatnonzero(rows['loss_weights']).tolist() == places
  assert rows['targets'][places].tolist() == [8, 4, 5] and set(rows['loss_weights'][places]) == {0.5}


@pytest.mark.parametrize(('layout', 'why'), [
  (Layout(), 'the encoder reads'), (CausalLayout(prefix_lm=True), 'in a prefix-LM'),
  (CausalLayout(1, layouts.after_eos, cached=True), 'inputs are cached'), (layouts.LabelLayout(), 'are labelled')])
def test_tokens_of_an_input_that_is_no_part_of_the_row_cannot_be_targets(layout, why):
  assert layout.example([7, 8], [1], input_weights=[0, 0])
  with pytest.raises(ValueError, match=f'train_on=all cannot be used: .*{why}.* Give train_on=last'):
    layout.example([7, 8], [1], input_weights=[0, 1])


def test_turns_that_cannot_be_used_are_errors():
  with pytest.raises(ValueError, match='A conversation has 2 tokens, which are too many'):
    Turns([7, 8]).shortened(lambda each: len(each) < 2)
  with pytest.raises(ValueError, match='a:1 begins with a token that is trained, but nothing predicts it'):
    Turns([7, 8], weights=np.ones(2), where='a:1')
