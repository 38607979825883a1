"""What becomes of every setting of the trainer: honoured (and the test that shows it), refused by name, or left to others.

`test_grpo_fields.py` holds it against the code; `python tests/grpo_fields.py` prints it as a table.
"""

from __future__ import annotations

from typing import Any

HERE = "tests/test_grpo_fields.py::"
GRPO = "tests/test_grpo.py::"
LAUNCH = "tests/test_launch.py::"
LOSS, ADVANTAGE, ROLLOUT = f"{HERE}test_the_loss_is_stock_trl_s", f"{HERE}test_advantages_by_hand", f"{HERE}test_an_engine_of_one_s_own"
SAMPLED, WRITTEN, WHOLE = f"{HERE}test_sampling_settings_are_honoured", f"{GRPO}test_same_seed_same_weights_and_packed_as_plain", f"{LAUNCH}test_a_run_in_two_processes"
RESUMED, KILLED = f"{GRPO}test_a_resumed_run_has_the_weights_of_an_uninterrupted_one", f"{LAUNCH}test_a_killed_run_ends_as_one_that_was_not"

# setting -> the test that fails when it is not honoured
WORKS: dict[str, str] = {
    # the rollout
    "num_generations": f"{HERE}test_shapes_of_a_rollout",
    "num_generations_eval": f"{HERE}test_shapes_of_a_rollout",
    "max_completion_length": f"{HERE}test_shapes_of_a_rollout",
    "pad_to_multiple_of": f"{HERE}test_shapes_of_a_rollout",
    "generation_batch_size": f"{HERE}test_one_rollout_serves_several_steps",
    "steps_per_generation": f"{HERE}test_one_rollout_serves_several_steps",
    "num_iterations": f"{HERE}test_one_rollout_serves_several_steps",
    "shuffle_dataset": f"{HERE}test_rows_in_their_order",
    "temperature": f"{GRPO}test_rollout_and_loss_agree_on_the_probabilities",
    "top_k": SAMPLED,
    "top_p": SAMPLED,
    "min_p": SAMPLED,
    "repetition_penalty": SAMPLED,
    "generation_kwargs": f"{HERE}test_generation_kwargs_are_honoured_or_refused",
    "chat_template_kwargs": f"{HERE}test_chat_template_kwargs_reach_the_template",
    "vllm_importance_sampling_correction": ROLLOUT,  # of rollouts from `rollout_func`
    "vllm_importance_sampling_mode": ROLLOUT,
    "vllm_importance_sampling_clip_max": ROLLOUT,
    "vllm_importance_sampling_clip_min": ROLLOUT,
    "vllm_importance_sampling_cap": f"{HERE}test_old_names_still_mean_the_same",
    # the model
    "model_init_kwargs": f"{HERE}test_how_a_named_model_is_loaded",
    "disable_dropout": f"{HERE}test_dropout_is_turned_off",
    "cast_lm_head_to_fp32": f"{HERE}test_a_head_in_single_precision",
    "bf16": f"{HERE}test_mixed_precision_is_that_of_both_passes",
    "gradient_checkpointing": f"{HERE}test_checkpointing_outlives_a_rollout",
    "gradient_checkpointing_kwargs": f"{HERE}test_checkpointing_outlives_a_rollout",
    "activation_checkpointing": f"{HERE}test_checkpointing_outlives_a_rollout",
    "activation_checkpointing_kwargs": f"{HERE}test_checkpointing_outlives_a_rollout",
    # the loss
    "beta": LOSS,
    "epsilon": LOSS,
    "epsilon_high": LOSS,
    "delta": LOSS,
    "sapo_temperature_neg": LOSS,
    "sapo_temperature_pos": LOSS,
    "vespo_k_pos": LOSS,
    "vespo_lambda_pos": LOSS,
    "vespo_k_neg": LOSS,
    "vespo_lambda_neg": LOSS,
    "importance_sampling_level": LOSS,
    "loss_type": LOSS,
    "top_entropy_quantile": LOSS,
    "entropy_coef": LOSS,
    "off_policy_mask_threshold": LOSS,
    "use_bias_correction_kl": LOSS,
    "use_adaptive_entropy": f"{HERE}test_the_entropy_bonus_follows_its_target",
    "entropy_coef_min": f"{HERE}test_the_entropy_bonus_follows_its_target",
    "entropy_coef_max": f"{HERE}test_the_entropy_bonus_follows_its_target",
    "entropy_coef_delta": f"{HERE}test_the_entropy_bonus_follows_its_target",
    "entropy_target": f"{HERE}test_the_entropy_bonus_follows_its_target",
    "reward_weights": ADVANTAGE,
    "multi_objective_aggregation": ADVANTAGE,
    "scale_rewards": ADVANTAGE,
    "mask_truncated_completions": f"{HERE}test_truncated_answers_leave_the_loss",
    "sync_ref_model": f"{HERE}test_the_reference_follows",
    "ref_model_mixup_alpha": f"{HERE}test_the_reference_follows",
    "ref_model_sync_steps": f"{HERE}test_the_reference_follows",
    # the run
    "gradient_accumulation_steps": f"{HERE}test_parts_of_a_step_add_up",
    "per_device_train_batch_size": f"{HERE}test_parts_of_a_step_add_up",
    "per_device_eval_batch_size": f"{HERE}test_an_evaluation_before_the_first_step",
    "eval_on_start": f"{HERE}test_an_evaluation_before_the_first_step",
    "eval_strategy": f"{HERE}test_an_evaluation_before_the_first_step",
    "eval_steps": f"{HERE}test_an_evaluation_before_the_first_step",
    "log_completions": f"{HERE}test_answers_are_written_down",
    "dataloader_num_workers": f"{HERE}test_workers_change_nothing",
    "seed": WRITTEN,
    "max_steps": RESUMED,
    "output_dir": RESUMED,
    "save_strategy": RESUMED,
    "save_steps": f"{GRPO}test_rollouts_that_serve_several_steps_are_not_cut_by_a_checkpoint",
    "save_total_limit": KILLED,
    "fsdp": f"{LAUNCH}test_two_processes_take_the_step_of_one",
    "fsdp_config": f"{LAUNCH}test_two_processes_take_the_step_of_one",
    "logging_steps": KILLED,
    "optim": "tests/test_memory.py::test_optimiser_trains",
}

# setting -> a configuration that must be refused, and what the message must hold beside the setting's name
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "trust_remote_code": ({"trust_remote_code": True}, "code"),
    "router_aux_loss_coef": ({"router_aux_loss_coef": 0.1}, "leave it at 0"),
    "remove_unused_columns": ({"remove_unused_columns": True}, "columns"),
    "cache_implementation": ({"cache_implementation": "static"}, ""),
    "use_vllm": ({"use_vllm": True}, "rollout_func"),
    "vllm_mode": ({"vllm_mode": "server"}, ""),
    "vllm_model_impl": ({"vllm_model_impl": "transformers"}, ""),
    "vllm_enable_sleep_mode": ({"vllm_enable_sleep_mode": True}, ""),
    "vllm_structured_outputs_regex": ({"vllm_structured_outputs_regex": "[0-9]+"}, ""),
    "vllm_server_base_url": ({"vllm_server_base_url": "http://localhost:9"}, ""),
    "vllm_server_host": ({"vllm_server_host": "localhost"}, ""),
    "vllm_server_port": ({"vllm_server_port": 9}, ""),
    "vllm_server_timeout": ({"vllm_server_timeout": 9.0}, ""),
    "vllm_group_port": ({"vllm_group_port": 9}, ""),
    "vllm_gpu_memory_utilization": ({"vllm_gpu_memory_utilization": 0.9}, ""),
    "vllm_max_model_length": ({"vllm_max_model_length": 9}, ""),
    "vllm_tensor_parallel_size": ({"vllm_tensor_parallel_size": 2}, ""),
    "use_transformers_continuous_batching": ({"use_transformers_continuous_batching": True}, ""),
    "transformers_continuous_batching_config": ({"transformers_continuous_batching_config": {"block_size": 8}}, ""),
    "use_transformers_paged": ({"use_transformers_paged": True}, ""),
    "max_tool_calling_iterations": ({"max_tool_calling_iterations": 2}, "tool"),
    "use_liger_kernel": ({"use_liger_kernel": True}, ""),
    "liger_kernel_config": ({"liger_kernel_config": {"rope": True}}, ""),
    "torch_compile": ({"torch_compile": True}, ""),
    "torch_compile_backend": ({"torch_compile_backend": "eager"}, ""),  # it turns `torch_compile` on
    "torch_compile_mode": ({"torch_compile_mode": "default"}, ""),
    "neftune_noise_alpha": ({"neftune_noise_alpha": 5.0}, ""),
    "auto_find_batch_size": ({"auto_find_batch_size": True}, ""),
    "label_smoothing_factor": ({"label_smoothing_factor": 0.1}, ""),
    "average_tokens_across_devices": ({"average_tokens_across_devices": False}, ""),
    "include_num_input_tokens_seen": ({"include_num_input_tokens_seen": "all"}, ""),
    "train_sampling_strategy": ({"train_sampling_strategy": "group_by_length"}, ""),
    "length_column_name": ({"length_column_name": "size"}, ""),
    "label_names": ({"label_names": ["answer"]}, ""),
    "data_seed": ({"data_seed": 7}, "seed"),
    "dataloader_prefetch_factor": ({"dataloader_num_workers": 2, "dataloader_prefetch_factor": 3}, ""),
    "dataloader_persistent_workers": ({"dataloader_num_workers": 2, "dataloader_persistent_workers": True}, ""),
    "dataloader_multiprocessing_context": ({"dataloader_num_workers": 2, "dataloader_multiprocessing_context": "spawn"}, ""),
    "dataloader_in_order": ({"dataloader_in_order": False}, ""),
    "prediction_loss_only": ({"prediction_loss_only": True}, ""),
    "eval_do_concat_batches": ({"eval_do_concat_batches": False}, ""),
    "eval_use_gather_object": ({"eval_use_gather_object": True}, ""),
    "eval_accumulation_steps": ({"eval_accumulation_steps": 2}, ""),
    "include_for_metrics": ({"include_for_metrics": ["inputs"]}, ""),
    "batch_eval_metrics": ({"batch_eval_metrics": True}, ""),
}

# settings that refuse other values than the one above, or that work but not at every value
LIMITS: dict[str, tuple[dict[str, Any], str]] = {
    "temperature 0": ({"temperature": 0.0}, "temperature"),
    "a batch that is no multiple of a group": ({"per_device_train_batch_size": 6, "gradient_accumulation_steps": 2}, "per_device_train_batch_size"),
    "an evaluation batch that is no multiple of a group": ({"per_device_eval_batch_size": 3, "eval_strategy": "steps", "eval_steps": 1}, "eval"),
    "beams": ({"generation_kwargs": {"num_beams": 2}}, "num_beams"),
    "a key that is none of generation's": ({"generation_kwargs": {"colour": "blue"}}, "colour"),
}

_LOOP = "transformers' training loop reads it; nothing of that is replaced here"
_REPORT = "transformers and its callbacks report by it"
_HUB = "transformers uploads by it"
_DDP = "handed to PyTorch's DDP by accelerate"
_OPTIMISER = "transformers makes the optimiser and its schedule from it"

# setting -> who honours it; no method that videossr replaces reads it
LEFT: dict[str, str] = {
    **dict.fromkeys(("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim_args", "weight_decay", "adam_beta1", "adam_beta2",
                     "adam_epsilon", "optim_target_modules", "max_grad_norm"), _OPTIMISER),
    **dict.fromkeys(("num_train_epochs", "torch_empty_cache_steps", "logging_nan_inf_filter", "eval_delay", "ignore_data_skip", "full_determinism",
                     "restore_callback_states_from_checkpoint", "load_best_model_at_end", "metric_for_best_model", "greater_is_better",
                     "save_on_each_node", "save_only_model", "enable_jit_checkpoint", "debug", "skip_memory_metrics"), _LOOP),
    **dict.fromkeys(("logging_strategy", "logging_first_step", "log_on_each_node", "log_level", "log_level_replica", "disable_tqdm", "report_to", "run_name",
                     "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"), _REPORT),
    **dict.fromkeys(("num_completions_to_print", "log_unique_prompts", "log_completions_hub_repo"), "TRL's log of completions reads it"),
    **dict.fromkeys(("push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push", "hub_revision"), _HUB),
    **dict.fromkeys(("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph", "ddp_backend", "ddp_timeout"), _DDP),
    **dict.fromkeys(("fp16", "bf16_full_eval", "fp16_full_eval", "tf32", "use_cpu", "accelerator_config"), "accelerate and PyTorch are set up by it"),
    **dict.fromkeys(("dataloader_drop_last", "dataloader_pin_memory"), "handed to PyTorch's loader of rows"),
    "deepspeed": "accelerate sets DeepSpeed up by it",
    "ds3_gather_for_generation": "TRL gathers ZeRO-3's weights for a rollout by it",
    "parallelism_config": "TRL refuses what cuts sequences; the rest is accelerate's",
}

# setting -> why there is nothing to honour
IDLE: dict[str, str] = {
    "use_cache": "each call of the model says itself whether it wants a cache",
    "log_multimodal": "a row has no pictures to log: its sample is rendered when it is used",
    "do_train": "transformers has it for scripts: no trainer reads it",
    "do_eval": "as do_train, and set by eval_strategy",
    "do_predict": "as do_train",
    "resume_from_checkpoint": "as do_train: `train` takes it as an argument",
    "local_rank": "transformers keeps the name only; the launcher's environment counts",
}

OURS: dict[str, str] = {  # settings of `VideoGRPOConfig` beside TRL's
    "share_prefix": WRITTEN,
    **dict.fromkeys(("n_frames", "fps", "max_pixels", "trim"), "tests/test_rows.py::test_the_settings_reach_the_rows"),
    "refill": f"{GRPO}test_refill_replaces_silent_groups",
    "seed_per_prompt": f"{GRPO}test_a_prompt_has_random_numbers_of_its_own",
    "rollout_groups": f"{HERE}test_prompts_sampled_at_once_change_no_shape",
}


def table() -> str:
    "The document, in Markdown: a line a setting."
    rows = {name: f"works: `{test.split('::')[-1]}`" for name, test in WORKS.items()}
    rows |= {name: f"refused: {changes}" for name, (changes, _) in REFUSED.items()}
    rows |= {name: f"left to others: {who}" for name, who in LEFT.items()}
    rows |= {name: f"not applicable: {why}" for name, why in IDLE.items()}
    lines = [f"| `{name}` | {rows[name]} |" for name in sorted(rows)]
    return "\n".join(["| setting | what becomes of it |", "| --- | --- |", *lines])


if __name__ == "__main__":
    print(table())
