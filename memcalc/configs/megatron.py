"""Megatron-LM's arguments: YAML (FlagScale's sections, or flat), a launch script or a list of `--arguments`.

Sources are Megatron-LM's megatron/training/arguments.py and core/*config.py. Its traps:

* 16-bit weights come with fp32 main parameters and main gradients; the distributed optimizer is off unless it is named;
* biases, learned positions, LayerNorm, tied tables and dropout of 0.1 are the defaults;
* num_query_groups counts only with group_query_attention; a gated width is int(8h/3 / 64) * 64;
* the vocabulary is padded to a multiple of 128 times the tensor-parallel degree;
* accumulation follows from the global batch.

A script is not run: only plain assignments before the arguments are followed (memcalc.configs.megatron_script).
"""

from __future__ import annotations

from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.follow import follow, interpolated, laid_over
from memcalc.configs.megatron_models import put_model
from memcalc.configs.megatron_options import half, optimizer, sharding, unmodelled
from memcalc.configs.megatron_script import arguments_of, looks_like_arguments
from memcalc.configs.megatron_words import Words, batch, flattened, gpus, parallel, virtual
from memcalc.configs.table import Sheet
from memcalc.configs.words import names, number, text, whole

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "megatron"
TITLE: Final = "Megatron-LM"
TEXT: Final = True  # it reads scripts too

_SIGNS: Final = (
    "tensor_model_parallel_size", "pipeline_model_parallel_size", "micro_batch_size", "use_distributed_optimizer",
    "global_batch_size", "seq_length", "normalization", "swiglu", "position_embedding_type",
    "untie_embeddings_and_output_weights", "num_attention_heads", "hidden_size", "num_layers", "ffn_hidden_size",
    "context_parallel_size", "bf16", "max_position_embeddings",
)  # fmt: skip
_OTHERS: Final = (
    "trainer", "pipe_parallel_size", "pipe-parallel-size", "model_parallel_size", "model-parallel-size",
    "base_model", "model_name_or_path", "architectures", "model_type", "actor_rollout_ref", "zero_optimization",
)  # fmt: skip
# what freezes parts of a model, or is a part that is not described by these arguments
_TOWERS: Final = (
    "vision_model_type", "patch_dim", "img_h", "img_w", "disable_vision_class_token", "language_model_type",
    "mm_patch_merge_type", "vision_root", "mrope_section",
)  # fmt: skip
_MATTER: Final = (
    "num_*", "*hidden_size", "*parallel_size", "*dtype*", "moe_*", "recompute_*", "fp8*", "fp4*", "fp16*", "bf16*",
    "lora_*", "peft_*", "use_*fsdp*", "*offload*", "*batch_size", "mtp_*", "mamba*", "hybrid*", "*_rank",
    "encoder_*", "retro*", "vocab*", "freeze*", "*lora*", "spec", "attention*", "is_hybrid_model", "linear_*",
)  # fmt: skip

_LINEARS: Final = {
    "linear_qkv": ["q_proj", "k_proj", "v_proj"], "linear_proj": ["o_proj"], "linear_fc2": ["down_proj"],
    "linear_q_proj": ["q_proj"], "linear_q_down_proj": ["q_a_proj"], "linear_q_up_proj": ["q_b_proj"],
    "linear_kv_down_proj": ["kv_a_proj_with_mqa"], "linear_kv_up_proj": ["kv_b_proj"],
}  # fmt: skip


def recognises(document: Document) -> int:
    """By Megatron-LM's own words, at any depth, or as arguments in a script."""
    if not document.data:
        return 85 if looks_like_arguments(document.text) else 0
    within = {key for value in document.data.values() if isinstance(value, dict) for key in value}
    if any(key in document.data or key in within for key in _OTHERS):
        return 0
    if _task(document):
        return 88
    words = dict(flattened(document.data))
    found = sum(sign in words for sign in _SIGNS)
    return 96 if found >= 9 else 88 if found >= 6 else 60 if found >= 2 and "tensor_model_parallel_size" in words else 0


def read(document: Document, asked: Asked) -> Reading:
    """The run of one file."""
    known = arguments_of(document) if not document.data else interpolated(_whole(document))
    sheet = Sheet(known, asked, NAME, TITLE)
    words = Words(sheet, dict(flattened(known.data)))
    degrees = parallel(words)
    experts = words.number("num_experts") > 1
    count = gpus(words, degrees, experts=experts, written=_launched(words), keys=("nproc_per_node", "nnodes"))
    layers = put_model(words)
    virtual(words, degrees["pipeline"], layers)
    _rest(words)
    batch(words, degrees, count)
    _adapters(words)
    _frozen(words)
    optimizer(words, "optimizer_type" if words.has("optimizer_type") else "optimizer")
    unmodelled(words)
    return sheet.reading(_ignored(words))


def _task(document: Document) -> str:
    """The training config that FlagScale's experiment file names in its `defaults`; '' where it is none."""
    listed = document.data.get("defaults")
    if not isinstance(listed, list) or not isinstance(document.data.get("experiment"), dict):
        return ""
    return next((str(item["train"]) for item in listed if isinstance(item, dict) and item.get("train")), "")


def _whole(document: Document) -> Document:
    """An experiment file laid over the training config that it names: `defaults: [{train: 7b}]` is train/7b.yaml."""
    name = _task(document)
    return laid_over(document, follow(document, f"train/{name}.yaml")) if name else document


def _rest(words: Words) -> None:
    """Sequence, precision, data parallelism."""
    if words.has("seq_length", "encoder_seq_length"):
        words.put("seq_len", words.number("seq_length", "encoder_seq_length"), "seq_length", "encoder_seq_length")
    words.put("implementation", "megatron", default="Megatron-LM's own modules")
    dtype, fp8 = (
        half(words),
        words.has("fp8_format")
        or words.flag("fp8_hybrid", "fp8_e4m3")
        or words.read(text, "fp8", default="no") in ("hybrid", "e4m3"),
    )
    words.put("precision", f"megatron-{dtype}" if dtype else "fp32", "bf16", "fp16", default=f"{words.source}: fp32")
    shares = any(
        words.flag(word)
        for word in ("use_distributed_optimizer", "use_megatron_fsdp", "use_custom_fsdp", "use_torch_fsdp2")
    )
    sharding(words, distributed=shares, fp8=fp8)


def _launched(words: Words) -> int | None:
    """GPUs as torchrun's own arguments, or the script's variables, say."""
    each = words.read(whole, "nproc_per_node", default=None) if words.has("nproc_per_node") else None
    nodes = words.number("nnodes", default=1)
    total = each * max(1, nodes) if each else None
    return total if total and total > 0 else None


def _adapters(words: Words) -> None:
    """LoRA as FlagScale's and Megatron-Bridge's arguments have it."""
    kind = words.read(text, "peft_type", default="no").lower()
    if kind in ("no", "none", ""):
        return
    words.sheet.seen(words.at("peft_type"))
    if kind != "lora":
        words.sheet.fault(words.at("peft_type"), f"{kind!r} in Megatron-LM's modules is not modelled; lora is")
        return
    words.put("lora.rank", max(1, words.number("lora_dim", "lora_rank", default=32)), "lora_dim", "lora_rank")
    words.put("lora.alpha", words.read(number, "lora_alpha", default=32), "lora_alpha")
    targets = words.read(names, "lora_target_modules", default=["linear_qkv"])
    words.put("lora.targets", targets_of(targets, words.sheet.run.get("model")), "lora_target_modules")


def targets_of(names_: list[str], model: Any) -> list[str]:  # noqa: ANN401 - a name or dimensions
    """Megatron's linears in the words of the model's own: gate and up are one linear there, so are q, k and v."""
    there = model if isinstance(model, dict) else {}
    first = ["gate_proj", "up_proj"] if there.get("gated", True) else ["up_proj"]
    known = {**_LINEARS, "linear_fc1": first}
    return list(dict.fromkeys(other for name in names_ for other in known.get(name, [name])))


def _frozen(words: Words) -> None:
    """Images: the language model is counted, the tower is not; what trains the projector alone is refused."""
    sheet = words.sheet
    towers = [word for word in _TOWERS if words.has(word)]
    if words.flag("freeze_LM", "freeze_language_model"):
        sheet.fault(
            words.at("freeze_LM"), "the language model is frozen: only parts learn that these arguments do not describe"
        )
    elif towers:
        sheet.warn(
            words.at(towers[0]),
            "not-modelled",
            "the tower of images and its projector are not counted: the language model is",
        )
    for word in towers:
        sheet.seen(words.at(word))
    sheet.seen(*(words.at(word) for word in ("freeze_ViT", "freeze_LM")))


_HARMLESS: Final = (
    "moe_aux_loss_coeff", "moe_router_load_balancing_type", "moe_router_topk_scaling_factor",
    "moe_router_num_groups", "moe_router_group_topk", "moe_router_bias_update_rate", "moe_grouped_gemm",
    "moe_z_loss_coeff", "moe_router_pre_softmax", "moe_shared_expert_overlap", "moe_router_fusion",
    "moe_per_layer_logging", "moe_router_force_*", "moe_token_drop_policy", "moe_input_jitter*", "num_workers",
    "num_dataset*", "attention_softmax_in_fp32", "attention_dropout", "num_query_groups", "mtp_loss*",
    "use_flash_attn", "use_mcore_models", "fp8_margin", "fp8_interval", "fp8_amax*", "lora_*", "rampup_batch_size",
    "vocab_file", "num_layers_at*", "num_floating*", "fp16_lm_cross_entropy", "moe_enable_deepep",
    "moe_router_padding*", "moe_permute*", "moe_apply*", "bf16", "fp16", "attention_backend",
    "num_distributed_optimizer_instances", "train_batch_size", "attention_mask*", "moe_use_upcycling",
    "*rank_zero*", "decrease_batch_size*", "eval_*", "fp8_wgrad", "num_ckpt*", "local_rank", "node_rank",
    "*lora_*init*", "moe_upcycling*", "recompute_*per_stage*", "moe_use_legacy_grouped_gemm",
    "moe_router_score_function", "vocab_extra_ids", "peft_*", "moe_layer_recompute",
)  # fmt: skip


def _ignored(words: Words) -> list[str]:
    """Paths of words that do not matter, and of those that a later section repeats."""
    return [path for word, path in flattened(words.sheet.document.data)
            if words.at(word) != path or _any(_HARMLESS, word) or not _any(_MATTER, word)]  # fmt: skip


def _any(patterns: tuple[str, ...], word: str) -> bool:
    return any(fnmatch(word, pattern) for pattern in patterns)
