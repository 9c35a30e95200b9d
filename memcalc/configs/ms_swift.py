"""ms-swift's arguments (`swift sft`, `swift pt`, `swift rlhf`, `megatron sft`): a script, or a YAML or JSON file of them.

Sources are ms-swift's swift/arguments (sft_args.py, base_args, tuner_args.py) and swift/megatron/arguments. Its traps:

* tuner_type (train_type, sft_type of old) is lora where it isn't written, on all linear layers, of rank 8; `megatron`'s is full;
* weights are loaded in the config's dtype, and computed with in it: full tuning in bf16 keeps bf16 states;
* gradient checkpointing is on; accumulation makes 16 rows of all ranks where it isn't written;
* Megatron-SWIFT has the distributed optimizer, selective recomputation and the fused loss on.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from memcalc.configs import losses, trainer
from memcalc.configs.heads import scored
from memcalc.configs.megatron_options import sharding, unmodelled
from memcalc.configs.megatron_script import arguments_of
from memcalc.configs.megatron_words import Words, batch, gpus, parallel
from memcalc.configs.ms_swift_parts import LORA, learns, tuner
from memcalc.configs.names import companion, model
from memcalc.configs.table import Sheet
from memcalc.configs.words import FLOATS, number, text, truth, whole

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "ms-swift"
TITLE: Final = "ms-swift"
TEXT: Final = True  # it reads scripts too

SOURCE: Final = "swift/arguments/sft_args.py"
ROWS: Final = 16  # of a step over all ranks, where no accumulation is written
_COMMAND: Final = re.compile(r"(?:^|\s)(swift|megatron)\s+(sft|pt|rlhf)\b")
_ZERO: Final = re.compile(r"zero([0-3])(_offload)?")
_TYPES: Final = ("tuner_type", "train_type", "sft_type")
_MEGATRON: Final = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "expert_model_parallel_size",
                    "context_parallel_size", "micro_batch_size", "global_batch_size", "recompute_granularity")  # fmt: skip
_REFERENCES: Final = ("dpo", "kto", "ppo", "grpo", "gkd")
_UNMODELLED: Final = {
    **trainer.UNMODELLED,
    "sequence_parallel_size": "sequences that are divided among ranks are counted whole",
    "use_galore": "GaLore's projection is not counted",
    "use_vllm": "what vLLM takes of the GPU is not counted (say it with --margin)",
    "new_special_tokens": "rows that are added to the vocabulary are not counted",
    "offload_optimizer": "states that GRPO moves to the host while it generates are counted on the GPU",
}
_IGNORED: Final = (
    *trainer.IGNORED,
    "dataset*", "val_dataset", "split_dataset_ratio", "system", "template*", "tuner_type", "train_type", "sft_type",
    "model_type", "model_author", "model_name", "use_hf", "hub_token", "custom_*", "load_from_cache_file",
    "nproc_per_node", "nnodes", "visible_devices", "loss_scale", "attention_backend", "no_*", "load",
    "mcore_*", "merge_lora", "add_version", "lazy_tokenize", "streaming", "agent_template", "task_type",
    "num_labels", "truncation_strategy", "*_lr", "lr_*", "min_lr", "lr", "max_epochs", "train_iters", "finetune",
    "moe_grouped_gemm", "moe_aux_loss_coeff", "moe_shared_expert_overlap", "async_save", "dataloader*", "finetune",
    "beta", "temperature", "top_*", "reward_*", "vllm_*", "num_generations", "external_plugins", "log_*",
    "sleep_level", "move_*", "rpo_alpha", "sft_alpha", "loss_type", "bnb_*",
    "response_prefix", "strict", "columns", "shuffle*", "use_chat_template", "padding_side", "max_pixels",
    "cached_dataset", "metric*", "acc_*", "vit_*", "resume_*", "ignore_args_error", "use_logits_to_keep",
    "swanlab_*", "dataset_*", "val_dataset_shuffle", "init_weights", "load_args", "load_data_args",
    "local_repo_path", "repetition_penalty",
    "interleave_prob", "stopping_strategy", "download_mode", "preserve_thinking", "enable_thinking", "*_revision", "model_kwargs",
    "create_checkpoint_symlink", "packing_num_proc", "packing_strategy", "seq_kd", "lmbda", "kl_coef", "cliprange*", "gamma", "lam",
    "vf_coef", "whiten_rewards", "desirable_weight", "undesirable_weight", "simpo_gamma", "cpo_alpha", "ld_alpha", "discopop_tau",
    "num_iterations", "num_mini_batches", "num_ppo_epochs", "num_sample_generations", "missing_eos_penalty", "max_new_tokens",
    "stop_words", "structured_outputs_regex", "num_beams", "logprobs", "stream", "loss_weights", "center_rewards_coefficient",
    "teacher_model_type", "teacher_deepspeed", "adalora_*", "vera_*", "boft_*", "fourier_*", "reft_*", "lora_ga_*", "llamapro_*",
    "adapter_*", "device_map", "max_memory", "problem_type", "norm_bbox", "is_binary_loss_scale", "tuner_backend", "disable_*",
    "channels", "save*", "*_safetensors", "*output_dir", "deepspeed_autotp_size",
)  # fmt: skip


def recognises(document: Document) -> int:
    """By the command in a script, or by its words in a file."""
    if not document.data:
        return 90 if _COMMAND.search(document.text[:50_000]) else 0
    own = (
        any(key in document.data for key in _TYPES) or {"quant_bits", "torch_dtype", "rlhf_type"} & document.data.keys()
    )
    return (
        58
        if own
        and "model" in document.data
        and "dataset" in document.data
        and not isinstance(document.data["model"], dict)
        else 0
    )


def read(document: Document, asked: Asked) -> Reading:
    """The run of a script or a file."""
    known = arguments_of(document) if not document.data else document
    sheet = Sheet(_shipped(known), asked, NAME, TITLE)
    model(sheet, "model", "model_id_or_path")
    command = _COMMAND.search(document.text[:50_000])
    if (command and command[1] == "megatron") or (
        sheet.has(*_MEGATRON) and not sheet.has("per_device_train_batch_size")
    ):
        return _megatron(sheet)
    count = _gpus(sheet)
    half = _half(sheet)
    engine = trainer.engine(sheet, "" if half == "fp32" else half, count)
    trainer.precision(
        sheet,
        "" if half == "fp32" else half,
        half,
        engine,
        "torch_dtype",
        "bf16",
        default=f"{SOURCE}: the model's dtype",
    )
    kind = _kind(sheet, "lora")
    tuner(sheet, kind, half, engine)
    learns(sheet, kind)
    _batch(sheet, count)
    trainer.optimizer(sheet, "optim", "optimizer")
    trainer.checkpointing(sheet, default=True, source=SOURCE)
    trainer.attention(sheet, "attn_impl", "attn_implementation")
    trainer.liger(sheet, "use_liger_kernel")
    _beside(sheet, kind, half)
    _length(sheet)
    sheet.unmodelled(_UNMODELLED)
    return sheet.reading(_IGNORED)


def _shipped(document: Document) -> Document:
    """The document with what ms-swift ships under a word (`--deepspeed zero3`) in its place (swift/config/zero*.json)."""
    match = _ZERO.fullmatch(str(document.data.get("deepspeed", "")))
    if not match:
        return document
    stage: dict[str, Any] = {"stage": int(match[1]), "overlap_comm": False, "contiguous_gradients": True}
    if match[2]:
        stage["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
        stage.update({"offload_param": {"device": "cpu", "pin_memory": True}} if match[1] == "3" else {})
    made = {"zero_optimization": stage, **{key: {"enabled": "auto"} for key in ("bf16", "fp16")}}
    return replace(document, data={**document.data, "deepspeed": {**made, "train_micro_batch_size_per_gpu": "auto"}})


def _kind(sheet: Sheet, default: str) -> str:
    """full, lora; a fault for the tuners that no run can say."""
    word: str = sheet.read(text, *_TYPES, default=default).lower()
    if word not in ("full", "lora", "longlora", "dora"):
        sheet.fault(sheet.named(*_TYPES), f"{word!r} is not modelled: lora and full are")
    return word


def _gpus(sheet: Sheet) -> int:
    each = sheet.read(whole, "nproc_per_node", default=0)
    nodes = max(1, sheet.read(whole, "nnodes", default=1))
    if not each and sheet.has("visible_devices") and not sheet.asked.gpus:
        sheet.put("gpus", 1, "visible_devices")
        sheet.assume(
            "gpus",
            "one-process",
            "no NPROC_PER_NODE: one process, whose model is taken to be on one of the devices it sees",
        )
        return 1
    return sheet.gpus("nproc_per_node", "nnodes", count=each * nodes if each > 0 else None)


def _half(sheet: Sheet) -> str:
    """The dtype that weights are loaded in and computed with: torch_dtype, else the checkpoint's own, 16-bit as a rule."""
    flags = trainer.half_of(sheet)
    word = sheet.read(text, "torch_dtype", default="")
    if word and word not in FLOATS:
        sheet.fault("torch_dtype", f"{word!r} is none of bfloat16, float16, float32")
    return FLOATS.get(word, "") or flags or "bf16"


def _batch(sheet: Sheet, count: int) -> None:
    """One row of each rank; accumulation up to 16 rows in all, but for GRPO."""
    rows = max(1, sheet.read(whole, "per_device_train_batch_size", default=1))
    online = sheet.read(text, "rlhf_type", default="") == "grpo"
    steps = sheet.read(
        whole, "gradient_accumulation_steps", default=1 if online else max(1, -(-ROWS // (rows * count)))
    )
    sheet.put("batch_size", rows, "per_device_train_batch_size", default=f"{SOURCE}: 1")
    sheet.put("grad_accum", max(1, steps), "gradient_accumulation_steps", default=f"{SOURCE}: 16 rows of all ranks")


def _beside(sheet: Sheet, kind: str, half: str) -> None:
    """Pairs of rows, and the reference model of full tuning."""
    method = sheet.read(text, "rlhf_type", default="").lower()
    if method == "rm":
        scored(sheet, "rlhf_type")
    if method in ("dpo", "orpo", "cpo", "simpo", "rm"):
        sheet.put("batch_size", 2 * sheet.run["batch_size"], "per_device_train_batch_size", "rlhf_type")
        sheet.assume(
            "batch_size", "pairs", "a pair is two rows: chosen and rejected are concatenated in one forward pass"
        )
    beta = sheet.read(number, "beta", default=0.04 if method == "grpo" else 0.1)
    before = {"after": False} if method in ("grpo", "ppo") else {}
    if method in _REFERENCES and kind == "full" and not (method == "grpo" and not beta):
        sheet.put("companions", [{"role": "reference", "dtype": half, **before}], "rlhf_type")
    elif "lora" in sheet.run and (method in ("dpo", "kto") or (method == "grpo" and beta)):
        sheet.put("companions", [{**losses.SHARED, **before}], "rlhf_type")
    if method == "gkd" and sheet.has("teacher_model"):
        taught = {"role": "teacher", "model": companion(sheet, "teacher_model"), "dtype": half}
        sheet.put("companions", [taught], "teacher_model")
    if method in ("dpo", "kto", "orpo", "cpo", "simpo", "grpo"):  # get_per_token_logps of whole logits (rlhf_mixin.py)
        nll = method in ("orpo", "cpo", "simpo")
        sheet.put("loss", {"kind": "log-probs", "nll": True} if nll else "log-probs", "rlhf_type")
    elif not method:
        losses.smoothing(sheet)
    sheet.seen("ref_model", "rlhf_type", "label_smoothing_factor")


def _length(sheet: Sheet) -> None:
    """max_length, of one packed row or of a batch's longest sample."""
    length = sheet.read(whole, "max_length", "seq_length", "seq_len")
    if sheet.read(text, "rlhf_type", default="").lower() in ("grpo", "ppo"):  # max_length bounds the prompt
        made = sheet.read(whole, "max_completion_length", "response_length", default=512)
        length = length + made if length else None
    elif sheet.read(truth, "packing", default=False):
        length = sheet.read(whole, "packing_length", default=length)
    if length:
        sheet.put("seq_len", length, sheet.named("max_length", "seq_length"))
    elif not sheet.asked.flags.get("seq_len"):
        sheet.assume(
            "seq_len",
            "longest-sample",
            "no max_length: a batch is as long as its longest sample; say it with --seq-len",
        )
    if any([sheet.read(truth, "packing", default=False), sheet.read(truth, "padding_free", default=False)]):
        sheet.put("packing", True, sheet.named("packing", "padding_free"))


def _megatron(sheet: Sheet) -> Reading:
    """Megatron-SWIFT: Megatron-Core's modules, with swift's own defaults."""
    words = Words(sheet, {}, "swift/megatron/arguments")
    degrees = parallel(words)
    each, nodes = words.number("nproc_per_node"), max(1, words.number("nnodes", default=1))
    count = gpus(
        words, degrees, experts=degrees["expert"] > 1, written=each * nodes or None, keys=("nproc_per_node", "nnodes")
    )
    words.put("implementation", "megatron", default="Megatron-Core's modules")
    half = _half(sheet)
    words.put("precision", "fp32" if half == "fp32" else f"megatron-{half}", "torch_dtype", "bf16")
    fp8 = words.has("fp8_format")
    sharding(words, distributed=words.flag("use_distributed_optimizer", default=True), fp8=fp8)
    if not words.has("recompute_granularity"):
        words.put("checkpointing", "selective", "recompute_granularity")
        words.put("sharding.recompute_granularity", "selective", "recompute_granularity")
    if words.flag("cross_entropy_loss_fusion", default=True):
        words.put("sharding.cross_entropy_loss_fusion", True, "cross_entropy_loss_fusion")
    batch(words, degrees, count)
    if not words.has("global_batch_size"):
        ranks = max(1, count // (degrees["tensor"] * degrees["pipeline"] * degrees["context"]))
        words.put("grad_accum", max(1, ROWS // (sheet.run["batch_size"] * ranks)), "global_batch_size")
    if _kind(sheet, "full") != "full":
        sheet.fill(LORA)
    sheet.put("optimizer", "adamw", "optimizer", default="swift/megatron/arguments: adam")
    _length(sheet)
    sheet.run.pop("packing", None)
    unmodelled(words)
    return sheet.reading(_IGNORED)
