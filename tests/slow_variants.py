"""Tests and cases that run with `-m slow` alone, since others check nearly the same: what remains keeps the time limit.

Each entry is the beginning of a test's id below `tests/`.
"""

_VARIANTS = ('decoder layer prompts that are added', 'decoder low rank', 'prefix of a network', 'prompt after_eos',
             'prompt that sees nothing', 'retrained norms')

SLOW = (
  'checkpoints/test_loading_memory.py::test_loading_needs_the_checkpoints_size_and_the_largest_array[t5x',
  'data/test_c4.py::test_every_task_gives_token_ids_with_end_tokens_in_each_split[c4_v220',
  *(f'data/test_glue.py::test_{test}[{task}]' for task in ('mnli', 'mrpc', 'qnli', 'qqp', 'rte', 'wnli', 'ax')
    for test in ('texts_are_the_papers_with_and_without_the_leading_task_text',
                 'every_split_has_its_examples_and_right_answers_are_worth_100')),
  'distributed/eight_devices.py::test_copies_of_a_model_exchange_the_gradient_and_what_is_reported_alone',
  'distributed/eight_devices.py::test_fresh_parameters_do_not_depend_on_the_mesh',
  'distributed/eight_devices.py::test_parts_of_a_model_exchange_activations_alone',
  'distributed/eight_devices.py::test_scores_and_ranked_words_are_those_of_one_device',
  'distributed/test_pods.py',
  'launch/test_chosen_losses.py::test_a_run_minimises_the_loss_that_is_chosen_and_reports_its_figures[chosen0',
  'launch/test_decoder_only_programs.py::test_a_prompt_or_prefix_is_trained_judged_and_used',
  'launch/test_dry_run_memory.py::test_the_compiler_counts_the_same_and_its_estimate_is_called_one',
  'launch/test_files_in_a_bucket.py::test_a_run_in_a_bucket_goes_on_is_judged_there_and_answers_there',
  'launch/test_overrides.py::test_as_many_states_are_kept_as_asked_for',
  'data/test_seqio_reading.py::test_a_run_on_a_seqio_task_that_goes_on_equals_one_that_was_not_stopped',
  'models/test_cached_texts.py::test_steps_behind_cached_texts_equal_those_of_whole_rows[rotary',
  'models/test_context.py::test_a_prompt_behind_a_text_of_each_row_equals_one_row_with_both[rotary',
  'models/test_context.py::test_answers_logits_and_scores_behind_a_text_are_those_of_one_row_with_both[relative',
  'models/test_decoder_only.py::test_every_kind_of_rematerialisation_gives_the_same_gradient',
  'models/test_decoder_only.py::test_greedy_answers_and_beams_are_those_of_transformers[llama',
  'models/test_decoder_only.py::test_rows_that_use_different_prompts_and_none_equal_the_separate_runs',
  'models/test_decoder_only.py::test_teacher_forced_likeliest_tokens_are_the_greedy_answer',
  'models/test_kernels.py::test_a_model_with_a_kernel_is_the_model_without[causal-pallas-before',
  'models/test_language_model.py::test_answers_do_not_depend_on_the_batches_that_inputs_are_cut_into[sampler0',
  'models/test_no_dead_parameters.py::test_every_number_of_a_model_has_a_gradient[gpt2',
  'models/test_no_dead_parameters.py::test_every_number_of_a_model_has_a_gradient[gemma3',
  'models/test_padding_and_packing.py::test_packed_padded_and_shorter_rows_give_one_loss_and_gradient[before]',
  'models/test_visibility.py::test_rows_may_use_different_such_prompts_and_none',
  'runs/test_commands.py::test_train_eval_and_infer[llama',
  'scripts/test_demo_scripts.py::test_both_names_of_the_largest_demo_plan_the_largest_model',
  'test_earlier_runs.py::test_an_earlier_run_is_resumed_and_ends_as_it_would_have[decoder_prompt',
  'test_earlier_runs.py::test_an_earlier_run_is_resumed_and_ends_as_it_would_have[prefix_of_a_network',
  'test_shipped.py::test_a_prompt_scores_what_the_table_says',
  'training/test_step.py::test_a_methods_penalty_is_added_once_a_step_whatever_the_loss_is_divided_by[4',
  *(f'tuning/test_every_method.py::{test}[{method}]' for method in _VARIANTS for test in (
    'test_every_trained_number_changes_the_output', 'test_a_step_trains_every_tensor_and_nothing_else',
    'test_what_a_run_saves_gives_the_same_outputs_and_goes_on_with_the_same_bits')),
  'tuning/test_methods_together.py::test_a_method_of_a_users_is_registered_by_one_call_trained_saved_and_evaluated',
  'tuning/test_retrained.py::test_retraining_everything_has_the_gradient_of_full_fine_tuning',
  'tuning/test_row_prompts.py::test_rows_with_things_of_several_lengths_and_none_equal_each_alone[added',
  'tuning/test_row_prompts.py::test_rows_with_things_of_several_lengths_and_none_equal_each_alone[T5 prefix',
)
