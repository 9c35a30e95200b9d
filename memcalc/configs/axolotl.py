"""Axolotl's YAML (`axolotl train`).

Sources are those of Axolotl 0.19.0 (utils/schemas, utils/config, loaders/model.py, core/builders). Its traps:

* `bf16: true` and `auto` load the weights in bf16, under autocast: gradients and states are bf16 too. FSDP1 (accelerate)
  trains in fp32; FSDP2, whose preparation Axolotl replaces, in bf16; DeepSpeed keeps fp32 copies;
* adapters are fp32 (peft), their base bf16 or packed; embeddings and norms that k-bit preparation widened are cast back;
* a packed micro batch is one row of micro_batch_size x sequence_len tokens, where the attention keeps samples apart;
* checkpoints are re-entrant unless said otherwise; `gradient_checkpointing: offload` moves their inputs to the host;
* `lora_target_linear` means every linear layer but the head, those of image towers included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from memcalc.configs import fsdp, trainer
from memcalc.configs.axolotl_parts import adapters, attention, kernels, learns, preferences, storage
from memcalc.configs.deepspeed import attach as deepspeed
from memcalc.configs.names import model
from memcalc.configs.table import Key, Sheet
from memcalc.configs.words import mapping, text, truth, whole
from memcalc.presets import find

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "axolotl"
TITLE: Final = "Axolotl"

_SCHEMA: Final = "axolotl/utils/schemas/training.py"
_OWN: Final = frozenset({"sequence_len", "micro_batch_size", "sample_packing", "datasets", "lora_target_linear", "adapter",
                         "num_epochs", "dataset_prepared_path", "val_set_size", "wandb_project", "special_tokens"})  # fmt: skip
_KEYS: Final = (
    Key("sequence_len", "seq_len", whole, 512, "axolotl/utils/schemas/config.py"),
    Key("micro_batch_size", "batch_size", whole, 1, _SCHEMA),
)
_IGNORED: Final = (
    *trainer.IGNORED, "datasets", "pretraining_dataset", "test_datasets", "dataset_*", "val_set_size",
    "special_tokens", "tokens", "added_tokens_overrides", "tokenizer_*", "model_type", "processor_*",
    "chat_template*", "eot_tokens", "trust_remote_code", "num_epochs", "evals_per_epoch", "saves_per_epoch", "eval_*",
    "save_*", "wandb_*", "mlflow_*", "comet_*", "swanlab_*", "use_wandb", "use_mlflow", "use_comet",
    "use_tensorboard", "use_trackio", "trackio_*", "gradio_*", "use_otel*", "otel_*", "hub_*", "hf_*", "push_*",
    "shuffle_*", "skip_prepare_dataset", "remove_unused_columns", "train_on_inputs", "group_by_length",
    "loss_watchdog_*", "warmup_*", "lr_*", "weight_decay", "adam_*", "cosine_*", "early_stopping_*", "auto_resume*",
    "strict", "base_model_config", "base_model_ignore_patterns", "revision_of_model", "hub_revision",
    "torchdistx_path", "tf32", "xformers_*", "is_*_derived_model", "local_rank", "ddp*", "debug", "seed",
    "push_dataset_to_hub", "output_dir", "world_size", "max_packed_sequence_len", "sample_packing_*",
    "eval_sample_packing", "multipack_real_batches", "pad_to_*", "resume_from*", "gptq_groupsize", "gptq_model_v1",
    "gptq_disable_exllama", "flash_optimum", "default_system_message", "do_bench_eval", "bench_*", "lora_model_dir",
    "lora_fan_in_fan_out", "lora_alpha_pattern", "lora_on_cpu", "loraplus_*", "peft_init_lora_weights", "relora_*",
    "jagged_*", "lisa_step_interval", "lisa_layers_attribute", "rl_beta", "dpo_*", "orpo_alpha", "kto_*",
    "simpo_gamma", "cpo_alpha", "reward_*", "num_labels", "trl*", "vllm*", "model_config*", "overrides_of_model*",
    "cls_model_config", "use_kernels", "use_scattermoe", "use_sonicmoe", "experts_implementation", "dsv4_*",
    "use_dsv4_kernels", "moe_*", "expert_backend", "nonexpert_quantization", "nvfp4_*", "flash_attn_*",
    "fused_attn_kernel", "gemma4_hybrid_attn_impl", "s2_attention", "tiled_mlp_*", "torch_compile_*", "gc_steps",
    "gc_collect_steps", "low_cpu_mem_usage", "max_memory", "gpu_memory_limit", "device*",
    "experimental_skip_move_to_device", "llmcompressor*", "spectrum_*", "plugins", "reshard_after_forward",
    "excess_length_strategy", "min_sample_len", "max_prompt_len", "curriculum_sampling",
    "resize_token_embeddings_to_32x", "shrink_embeddings", "env*", "mean_resizing_embeddings", "fix_untrained_tokens",
    "embedding_lr*", "neftune*", "noisy_embedding_alpha", "streaming*", "generat*", "profiler_*", "include_*",
    "qlora_sharded_model_loading", "qgalore_*", "dion_*", "optim_args", "optim_target_modules", "image_*",
    "data_seed", "ring_attn_func", "heads_k_stride", "model_quantization_config*", "bnb_config_kwargs*",
    "peft.loftq*", "loss_type", "scaling_softmax*", "roles_to_train", "train_on_eos", "field_*", "message_*",
    "conversation", "type", "path", "ds_type", "merge_*", "save_first_step", "use_ray", "resources_per_worker",
    "ray_run_name", "pose_*", "use_pose", "liger_kernel_impl", "liger_use_token_scaling", "embeddings_skip_upcast",
    "gradient_checkpointing_kwargs*", "fp16", "bf16", "half", "unsloth_*", "dynamic_checkpoint*",
    "activation_offloading", "lora_*_kernel", "trainer_cls", "process_reward_model", "do_causal_lm_eval",
    "preprocess_iterable", "dataloader_*", "flex_attn_compile_kwargs", "sdpa_varlen", "qat.*", "fp8_*", "hatchery*",
    "load_best*", "center_rewards_coefficient", "eaft_*", "use_eaft", "kd_*", "lm_eval_*", "nemo_gym_*", "expert_parallel_*",
    "total_*", "num_dataset_shards_to_save", "pretrain_multipack_*", "role_boundaries", "is_preprocess", "reinit_weights",
    "axolotl_config_path", "use_swanlab", "api_key", "base_url", "mask_token_*", "precompute_ref_log_probs", "grokfast_*",
)  # fmt: skip


def recognises(document: Document) -> int:
    """By `base_model` beside Axolotl's own keys."""
    data = document.data
    own = _OWN & data.keys()
    return min(95, 60 + 6 * len(own)) if "base_model" in data and own else 0


def read(document: Document, asked: Asked) -> Reading:
    """A training file."""
    sheet = Sheet(document, asked, NAME, TITLE)
    model(sheet, "base_model")
    gpus = _gpus(sheet)
    half = _half(sheet)
    sheet.fill(_KEYS)
    _accumulation(sheet)
    trained = "adapters" if sheet.read(text, "adapter", default="") in ("lora", "qlora") else "all"
    storage(sheet)
    _checkpointing(sheet)
    engine = _engine(sheet, half, gpus)
    _precision(sheet, half, engine, trained)
    if trained == "adapters":
        adapters(sheet, half, engine)
    word = attention(sheet)
    _packing(sheet, word)
    kernels(sheet)
    _parallel(sheet)
    trainer.optimizer(sheet, "optimizer", source=_SCHEMA)
    learns(sheet, trained)
    preferences(sheet, half, trained)
    _wide_embeddings(sheet, word, engine, trained)
    _unmodelled(sheet, trained)
    return sheet.reading(_IGNORED)


def _gpus(sheet: Sheet) -> int:
    """As asked, as ray's workers, or the product of the degrees where the sharded one is written; else one."""
    shards = sheet.read(whole, "dp_shard_size", default=0)
    product = shards
    for key in ("dp_replicate_size", "tensor_parallel_size", "context_parallel_size", "expert_parallel_size"):
        product *= max(1, sheet.read(whole, key, default=1))
    return sheet.gpus(
        "dp_shard_size" if product else "ray_num_workers", count=product or sheet.read(whole, "ray_num_workers")
    )


def _half(sheet: Sheet) -> str:
    """resolve_dtype in utils/config: bf16 `auto` (the default) is bf16 on a GPU of today, unless fp16 is on."""
    bf16, fp16 = sheet.get("bf16", default="auto"), sheet.read(truth, "fp16", "float16", default=False)
    sheet.seen("bfloat16", "float16", "float32")
    if sheet.read(truth, "bfloat16", default=False) or bf16 in ("auto", "full"):
        return "fp16" if fp16 and bf16 == "auto" else "bf16"
    if truth(bf16):
        return "bf16"
    return "fp16" if fp16 or sheet.get("load_in_8bit") is True else ""


def _accumulation(sheet: Sheet) -> None:
    steps = sheet.read(whole, "gradient_accumulation_steps")
    total = sheet.read(whole, "batch_size")
    rows = max(1, sheet.run.get("batch_size", 1))
    if steps:
        sheet.put("grad_accum", steps, "gradient_accumulation_steps")
    else:
        sheet.put("grad_accum", max(1, total // rows) if total else 1, "batch_size", default=f"{_SCHEMA}: one step")


def _checkpointing(sheet: Sheet) -> None:
    """true, `offload` or `offload_disk`; re-entrant but in preference training and of some models (normalize_config)."""
    word = sheet.read(text, "gradient_checkpointing", default="no").lower()
    moved = sheet.read(text, "activation_offloading", default="no").lower()
    options = sheet.read(mapping, "gradient_checkpointing_kwargs", default={})
    if word in ("no", "false", "") and moved in ("no", "false", ""):
        sheet.put("checkpointing", "none", "gradient_checkpointing", default=_SCHEMA)
        return
    again = not options and not sheet.has("rl", "unfrozen_parameters")
    made: dict[str, Any] = {"mode": "full"}
    if truth(options.get("use_reentrant", again)) and not _never_reentrant(sheet):
        made["reentrant"] = True
    if word.startswith("offload") or moved not in ("no", "false", ""):
        made |= {"offload": True, "reentrant": True}  # a function of its own, whatever use_reentrant says
    sheet.put("checkpointing", made, "gradient_checkpointing", "activation_offloading")


def _never_reentrant(sheet: Sheet) -> bool:
    name = str(sheet.run.get("model") or sheet.asked.model or "")
    return any(
        word.partition("_")[0] in name.lower().replace("-", "")
        for word in find("frameworks", "axolotl")["never_reentrant"]
    )


def _engine(sheet: Sheet, half: str, gpus: int) -> str:
    """Attach DeepSpeed or FSDP, where one is named: "deepspeed", "fsdp1", "fsdp2" or ""."""
    if deepspeed(sheet, "deepspeed", half, gpus):
        sheet.seen("fsdp", "fsdp_config", "fsdp_version")
        return "deepspeed"
    words = fsdp.words_of(sheet.get("fsdp"))
    said = sheet.read(whole, "fsdp_version", "fsdp_config.fsdp_version", "fsdp_config.version", default=1)
    if gpus == 1 or not (words or sheet.read(mapping, "fsdp_config", default={})):
        sheet.seen("fsdp", "fsdp_config")
        asked = trainer.asked_for(sheet, half, "bf16", "fp16", "float16")
        return "fsdp2" if asked == "fsdp" else asked
    fsdp.attach(sheet, "fsdp_config", words, version=said, carves=False)  # monkeypatch/accelerate/fsdp2.py: its own
    sheet.seen("fsdp_config.*")
    replicas = sheet.read(whole, "dp_replicate_size", default=1)
    if replicas > 1:
        sheet.put("sharding.strategy", "hsdp", "dp_replicate_size")
        sheet.put("sharding.replicate", replicas, "dp_replicate_size")
    if said > 1 and half:
        for key in ("param_dtype", "reduce_dtype"):
            sheet.put(f"sharding.{key}", half, "bf16", default="accelerate: mixed precision of FSDP2")
    return f"fsdp{1 if said < 2 else 2}"


def _precision(sheet: Sheet, half: str, engine: str, trained: str) -> None:
    if engine == "deepspeed":
        return
    wide = engine == "fsdp1" and trained == "all"
    recipe = trainer.recipe(half, half or "fp32", "fsdp" if wide else "")
    source = "" if sheet.has("bf16", "fp16") else "axolotl/utils/schemas/config.py: bf16 auto"
    sheet.put("precision", recipe, "bf16", "fp16", "float16", default=source)


def _packing(sheet: Sheet, word: str) -> None:
    """One row of all samples, where the attention tells them apart (multipack_real_batches in core/builders/causal.py)."""
    packs = sheet.read(truth, "sample_packing", default=False)
    rows = sheet.read(truth, "multipack_real_batches")
    if packs and (word in find("frameworks", "axolotl")["packing"] or "flash" in word if rows is None else not rows):
        sheet.put("packing", True, "sample_packing")
    elif not packs and not sheet.read(truth, "pad_to_sequence_len", default=False):
        sheet.assume(
            "seq_len",
            "longest-sample",
            "without packing a batch is as long as its longest sample: sequence_len is the most",
        )
    sheet.seen("pad_to_sequence_len")


def _parallel(sheet: Sheet) -> None:
    for theirs, ours in ((("tensor_parallel_size",), "tensor"),
                         (("context_parallel_size", "sequence_parallel_degree"), "context")):  # fmt: skip
        degree = sheet.read(whole, *theirs, default=1)
        if degree > 1:
            sheet.put(f"parallel.{ours}", degree, *theirs)
    if sheet.read(whole, "expert_parallel_size", default=1) > 1:
        sheet.warn("expert_parallel_size", "not-modelled", "experts that are dealt out to ranks are counted as shards of all "
                   "of them, gathered whole: what persists is as large")  # fmt: skip


def _wide_embeddings(sheet: Sheet, word: str, engine: str, trained: str) -> None:
    """Full tuning without flash attention leaves embeddings, head and norms in fp32 (_configure_embedding_dtypes)."""
    cut = str(sheet.get("plugins", default=""))
    if (
        trained == "all"
        and not engine
        and word in ("", "sdpa", "eager")
        and "cut_cross_entropy" not in cut
        and _is_half(sheet)
    ):
        sheet.warn(sheet.named("attn_implementation", "base_model"), "fp32-embeddings", "without flash attention Axolotl leaves "
                   "embeddings, head and norms in fp32: they are counted in the dtype of the other weights")  # fmt: skip


def _is_half(sheet: Sheet) -> bool:
    return "bf16" in str(sheet.run.get("precision")) or "fp16" in str(sheet.run.get("precision"))


def _unmodelled(sheet: Sheet, trained: str) -> None:
    sheet.unmodelled({
        "torch_compile": "torch.compile changes what is kept for the backward pass: the numbers are those of eager code",
        "auto_find_batch_size": "the batch is halved until it fits: the numbers are those of the batch that is written",
        "neftune_noise_alpha": "NEFTune's noise, one tensor of the size of the embedded input, is not counted",
        "tiled_mlp": "feed-forward layers that run tile by tile are counted whole",
        "layer_offloading": "frozen layers that are moved to the host are counted on the GPU",
        "lisa_n_layers": "LISA trains a few layers at a time; counted are the gradients of all, and the states they all get",
        "selective_checkpointing": "attention that selective_checkpointing saves is counted as recomputed",
        "kd_trainer": "what distillation holds beside the model is not counted",
        "qat": "what quantisation-aware training keeps is not counted",
        "fp8": "matrix products in fp8 are counted in bf16",
        "peft_layer_replication": "layers that are replicated are counted once",
        "large_head_attention": "attention of large heads is counted as any other",
        "fp32_norms": "norms in fp32 are counted in the dtype of the other weights",
        "recompute_layer_types": "layers that are not recomputed are counted as recomputed",
        "deepcompile": "DeepCompile changes when parameters are gathered: the numbers are those of eager code",
        "use_onebitllms": "what one-bit training keeps is not counted",
        "diffusion": "the second pass of diffusion training is not counted",
        "relora": "ReLoRA's merges are not counted",
        "ple_cpu_offload": "per-layer embeddings on the host are counted on the GPU",
        "relora_cpu_offload": "ReLoRA's copy on the host is not counted",
    })  # fmt: skip
    if trained == "adapters" and not sheet.has("rl") and sheet.get("load_in_8bit") is not True:
        off = [key for key in ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel") if sheet.get(key) is False]
        if not off:
            sheet.assume("lora", "lora-kernels", "Axolotl's LoRA kernels keep less for the backward pass than peft's layers, "
                         "which are counted")  # fmt: skip
