"""What other tools call the keys of a run: for messages that name memcalc's own word. Nothing is read under these names."""

from __future__ import annotations

# memcalc's key: words of Transformers, TRL, PEFT, Axolotl, DeepSpeed, Megatron and torchtitan for it
WORDS = {
    "attention": "attn_implementation flash_attention use_flash_attn flash_attn sdp_attention",
    "batch_size": "micro_batch micro_batch_size microbatch_size mbs batch bs per_device_train_batch_size per_device_batch_size "
    "train_micro_batch_size_per_gpu",
    "checkpointing": "gradient_checkpointing activation_checkpointing activation_checkpoint recompute recompute_granularity ac",
    "companions": "ref_model reference_model reward_model value_model ema",
    "freeze": "frozen freeze_layers",
    "frames": "num_frames",
    "gpus": "num_gpus n_gpus world_size nproc num_processes devices",
    "grad_accum": "gradient_accumulation_steps gradient_accumulation accumulate_grad_batches ga",
    "images": "num_images",
    "image_size": "resolution height width",
    "lora.alpha": "lora_alpha",
    "lora.dora": "use_dora peft_use_dora",
    "lora.dropout": "lora_dropout",
    "lora.method": "peft_type",
    "lora.rank": "r lora_r lora_rank lora_dim",
    "lora.rslora": "use_rslora peft_use_rslora",
    "lora.save_modules": "modules_to_save lora_modules_to_save",
    "lora.targets": "target_modules lora_target_modules lora_target target",
    "lora": "peft adapter adapters qlora",
    "model": "base_model model_name model_id model_name_or_path pretrained_model_name_or_path model_type",
    "optimizer": "optim optimiser",
    "packing": "sample_packing padding_free pack",
    "parallel.context": "cp context_parallel context_parallel_size context_parallel_degree",
    "parallel.expert": "ep expert_parallel expert_parallel_size expert_model_parallel_size expert_parallel_degree",
    "parallel.pipeline": "pp pipeline_parallel pipeline_parallel_size pipeline_model_parallel_size pipeline_parallel_degree",
    "parallel.sequence": "sp sequence_parallel",
    "parallel.tensor": "tp tensor_parallel tensor_parallel_size tensor_model_parallel_size tensor_parallel_degree",
    "precision": "mixed_precision dtype torch_dtype bf16 fp16 fp32 param_dtype",
    "quantize": "load_in_4bit load_in_8bit quantization quant bnb_4bit_quant_type bits",
    "seq_len": "seq_length sequence_length max_length max_seq_length max_seq_len sequence_len context_length cutoff_len ctx",
    "sharding": "strategy zero zero_stage stage deepspeed fsdp fsdp2 ddp distributed data_parallel",
    "train": "trainable unfrozen_parameters",
}

# what trainers ask for that takes no memory of the GPU
WITHOUT = (
    "epochs num_epochs num_train_epochs max_steps steps train_steps learning_rate lr lr_scheduler lr_scheduler_type scheduler "
    "warmup warmup_steps warmup_ratio weight_decay betas eps seed output_dir run_name "
    "save_steps save_strategy save_total_limit logging_steps logging_dir report_to wandb wandb_project "
    "dataset datasets dataset_path dataset_name train_file num_workers dataloader_num_workers push_to_hub hub_model_id"
)


def own_word(word: str) -> str | None:
    """The key of a run that other tools call so (`tp`, `--max-length`): a path such as parallel.tensor, or None."""
    wanted = word.strip("-").replace("-", "_").lower()
    return next((key for key, words in WORDS.items() if wanted in words.split()), None)
