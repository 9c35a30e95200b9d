"""LLaMA-Factory's YAML (`llamafactory-cli train`): one flat file; the newer schema (v1) is llamafactory_v1's.

Sources are those of LLaMA-Factory 0.9.5 (src/llamafactory/hparams, model/adapter.py, model/patcher.py). Its traps:

* what is trained is cast to fp32 (`init_adapter`), but under `pure_bf16`, BAdam, and ZeRO-3 without a quantised base:
  full tuning with `bf16: true` holds fp32 weights under autocast, 16 bytes a parameter;
* activation checkpointing is on unless `disable_gradient_checkpointing`;
* `finetuning_type: lora` with `lora_target: all` is the default; towers of images are frozen and get no adapters;
* a packed batch is full rows of `cutoff_len`; `stage: dpo` doubles the rows and, without adapters, the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from memcalc.configs import llamafactory_v1, trainer
from memcalc.configs.llamafactory_parts import adapters, beside, learns, optimizer, storage
from memcalc.configs.modules import architecture
from memcalc.configs.names import model
from memcalc.configs.table import Key, Sheet
from memcalc.configs.words import text, truth, whole
from memcalc.presets import find

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "llamafactory"
TITLE: Final = "LLaMA-Factory"

_OWN: Final = frozenset({"finetuning_type", "stage", "template", "cutoff_len", "lora_target", "lora_rank", "pref_loss",
                         "preprocessing_num_workers", "plot_loss", "quantization_bit"})  # fmt: skip
_KEYS: Final = (
    *trainer.BATCH,
    Key("cutoff_len", "seq_len", whole, 2048, "llamafactory/hparams/data_args.py"),
)
_MEGATRON: Final = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "expert_model_parallel_size",
                    "use_distributed_optimizer", "recompute_granularity")  # fmt: skip
_IGNORED: Final = (
    *trainer.IGNORED, "dataset*", "template", "eval_dataset", "media_dir", "tokenized_path", "max_samples", "overwrite_*",
    "preprocessing_*", "plot_loss", "val_size", "mix_strategy", "interleave_probs", "streaming", "buffer_size", "tool_format",
    "default_system", "enable_thinking", "preserve_thinking", "mask_history", "train_on_prompt", "ignore_pad_token_for_loss",
    "image_*", "video_*", "audio_*", "use_audio_in_video", "crop_to_patches", "model_revision", "cache_dir", "use_fast_tokenizer",
    "split_special_tokens", "hf_hub_token", "ms_hub_token", "om_hub_token", "print_param_status", "trust_remote_code", "infer_*",
    "low_cpu_mem_usage", "offload_folder", "use_kv_cache", "export_*", "vllm_*", "sglang_*", "use_swanlab", "swanlab_*",
    "ray_*", "master_*", "pref_beta", "pref_ftx", "pref_bco_weight", "dpo_label_smoothing", "kto_*_weight", "simpo_gamma", "ppo_*",
    "ld_alpha", "loraplus_*", "pissa_*", "create_new_adapter", "asft_alpha", "eaft_alpha", "use_dft_loss", "use_eaft_loss",
    "galore_*", "apollo_*", "badam_*", "early_stopping_steps", "compute_accuracy", "disable_shuffling", "lora_bf16_mode",
    "adapter_name_or_path", "adapter_folder", "rope_scaling", "init_special_tokens", "new_special_tokens_config", "kt_*",
    "flash_attn", "moe_aux_loss_coef", "train_from_scratch", "data_shared_file_system", "eval_on_each_dataset", "module_dropout",
    "bf16", "fp16",
    "bias_activation_fusion", "apply_rope_fusion", "moe_grouped_gemm", "moe_token_dispatcher_type", "do_sample", "max_new_tokens",
    "top_p", "temperature", "profiler_*", "enable_torch_profiler", "fp8_*",
    "fsdp_transformer_*", "use_v1_kernels", "stage", "pref_loss", "packing",
    "neat_packing", "overlap_*", "double_quantization_*", "manual_gc*", "calculate_per_token_loss", "use_reentrant_gc",
    "freeze_trainable_modules", "ref_model_adapters", "reward_model_adapters", "reward_model_type",
    "quantization_device_map", "add_tokens", "add_special_tokens", "num_beams",
    "repetition_penalty", "length_penalty", "top_k", "skip_special_tokens", "profile_modules", "hyper_parallel_args", "max_length",
)  # fmt: skip


def recognises(document: Document) -> int:
    """By its own words beside a named model; or by the sections of the newer schema."""
    data = document.data
    own = _OWN & data.keys()
    if "model_name_or_path" in data and ("finetuning_type" in own or len(own) > 1):
        return 60 + 5 * min(len(own), 6)
    return llamafactory_v1.recognises(document)


def read(document: Document, asked: Asked) -> Reading:
    """A training file of either schema."""
    sheet = Sheet(document, asked, NAME, TITLE)
    if llamafactory_v1.recognises(document) and "model_name_or_path" not in document.data:
        return llamafactory_v1.read(sheet)
    model(sheet, "model_name_or_path")
    gpus = sheet.gpus("ray_num_workers")
    pure = sheet.read(truth, "pure_bf16", default=False)
    half = "" if pure else trainer.half_of(sheet)
    engine = trainer.engine(sheet, half, gpus)
    sheet.fill(_KEYS)
    kind = sheet.read(text, "finetuning_type", default="lora").lower()
    quantized = storage(sheet)
    _precision(sheet, kind, half, engine)
    if kind in ("lora", "oft"):
        adapters(sheet, kind, quantized, half if engine == "deepspeed" else "")
    learns(sheet, kind)
    optimizer(sheet)
    _checkpointing(sheet)
    _attention(sheet)
    beside(sheet, kind)
    if sheet.read(truth, "use_mca", default=False) or any(sheet.has(key) for key in _MEGATRON):
        _megatron(sheet)
    _unsloth(sheet)
    _unmodelled(sheet)
    return sheet.reading(_IGNORED)


def _precision(sheet: Sheet, kind: str, half: str, engine: str) -> None:
    """What `init_adapter` leaves the weights in: loaded in the compute dtype, what is trained cast to fp32."""
    if engine == "deepspeed":
        return
    if sheet.read(truth, "use_badam", default=False):
        sheet.put("precision", "mixed-bf16", "use_badam")
        return
    if sheet.read(truth, "pure_bf16", default=False):
        sheet.put("precision", "bf16", "pure_bf16")
        return
    where = ("bf16", "fp16")
    source = "" if sheet.has(*where) else "llamafactory/model/patcher.py: what the checkpoint is in, 16-bit on a GPU"
    if kind in ("lora", "oft"):
        sheet.put(
            "precision",
            trainer.recipe(half, half or "bf16", "fsdp" if engine == "fsdp" else ""),
            *where,
            default=source,
        )
        return
    if engine == "fsdp":
        sheet.put("precision", trainer.recipe(half, "fp32", engine), *where, default=source)
    elif not half:
        sheet.put("precision", "fp32", *where, default=f"{source}; llamafactory/model/adapter.py: trained in fp32")
    else:
        recipe: Any = f"amp-{half}"
        sheet.put(
            "precision", {"recipe": recipe, "frozen": half} if kind == "freeze" else recipe, *where, default=source
        )


def _checkpointing(sheet: Sheet) -> None:
    """On by default, re-entrant (model/model_utils/checkpointing.py)."""
    if sheet.read(truth, "disable_gradient_checkpointing", default=False):
        sheet.put("checkpointing", "none", "disable_gradient_checkpointing")
        return
    moved = sheet.read(truth, "use_unsloth_gc", default=False)
    made: dict[str, Any] = {"mode": "full", "reentrant": True, **({"offload": True} if moved else {})}
    if sheet.run.get("sharding", {}).get("version") == 2 and sheet.run["sharding"].get("strategy") in ("fsdp", "hsdp"):
        made.pop("reentrant")  # FSDP2 takes it without (prepare_model_for_training)
    if not sheet.read(truth, "use_reentrant_gc", default=True):
        made.pop("reentrant", None)
    sheet.put("checkpointing", made, "disable_gradient_checkpointing", default="llamafactory/hparams/model_args.py")


def _attention(sheet: Sheet) -> None:
    """flash_attn: auto is transformers' own choice; kernels of Liger, with its loss where the stage needs no logits."""
    word = sheet.read(text, "flash_attn", default="auto").lower()
    known = {"fa2": "flash", "fa3": "flash", "sdpa": "sdpa", "disabled": "eager", "no": "eager"}.get(word)
    if known:
        sheet.put("attention", known, "flash_attn")
    if sheet.read(truth, "enable_liger_kernel", default=False):
        sheet.put("implementation", "hf-liger", "enable_liger_kernel")
        whole_loss = sheet.read(text, "stage", default="sft") in ("pt", "sft")
        sheet.put("loss", "fused-linear" if whole_loss else "standard", "enable_liger_kernel", "stage")


def _megatron(sheet: Sheet) -> None:
    """Through Megatron-Core's adapter (USE_MCA=1): its degrees, its optimizer, its recomputation."""
    for theirs, ours in (("tensor_model_parallel_size", "tensor"), ("pipeline_model_parallel_size", "pipeline"),
                         ("expert_model_parallel_size", "expert"), ("context_parallel_size", "context"),
                         ("virtual_pipeline_model_parallel_size", "virtual")):  # fmt: skip
        degree = sheet.read(whole, theirs, default=1)
        if degree > 1:
            sheet.put(f"parallel.{ours}", degree, theirs)
    if sheet.read(truth, "sequence_parallel", default=False):
        sheet.put("parallel.sequence", True, "sequence_parallel")
    shared = sheet.read(truth, "use_distributed_optimizer", default=False)
    sheet.put("sharding", {"strategy": "megatron", "distributed_optimizer": shared}, "use_distributed_optimizer")
    sheet.put("precision", "megatron-bf16", "bf16")
    sheet.put("implementation", "megatron", *(key for key in ("use_mca", *_MEGATRON) if sheet.has(key)))
    recomputed = sheet.read(text, "recompute_granularity", default="none")
    sheet.put("checkpointing", recomputed if recomputed in ("full", "selective") else "none", "recompute_granularity")


def _unsloth(sheet: Sheet) -> None:
    """Unsloth's modules, with its checkpointing (model/model_utils/unsloth.py), where memcalc knows them for the model."""
    if not sheet.read(truth, "use_unsloth", default=False):
        return
    if "lora" in sheet.run and architecture(sheet) in find("implementations", "unsloth")["models"]:
        sheet.put("implementation", "unsloth", "use_unsloth")
        sheet.put("checkpointing", {"mode": "full", "reentrant": True, "offload": True}, "use_unsloth")
        return
    sheet.warn("use_unsloth", "not-modelled", "Unsloth's own kernels keep less for the backward pass than is shown")


def _unmodelled(sheet: Sheet) -> None:
    sheet.unmodelled({
        **trainer.UNMODELLED,
        "use_hyper_parallel": "HyperParallel's sharding is not counted: say it with --sharding",
        "use_kt": "KTransformers keeps the experts in the host's memory: here they are counted on the GPU",
        "upcast_layernorm": "norms in fp32 are counted in the dtype of the others",
        "upcast_lmhead_output": "logits that are cast to fp32 once more are not counted",
        "mixture_of_depths": "what mixture-of-depths adds is not counted",
        "use_llama_pro": "blocks that LLaMA-Pro adds are not counted",
        "resize_vocab": "rows that are added to the vocabulary are not counted",
        "shift_attn": "shifted attention is counted as plain attention",
        "fp8": "matrix products in fp8 are counted in bf16",
    })  # fmt: skip
    if str(sheet.get("loss_type")) not in ("None", ""):
        sheet.seen("loss_type")
