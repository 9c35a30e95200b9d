"""OpenRLHF's arguments: train_sft, train_dpo, train_kto, train_rm and train_ppo_ray in a launch script.

Sources are OpenRLHF's openrlhf/cli and openrlhf/utils/deepspeed. Arguments are dotted (`--ds.zero_stage`) or plain as of
old (`--zero_stage`). Its traps:

* DeepSpeed runs it: 16-bit weights with an fp32 master copy, sharded by ZeRO-2 where nothing is said;
* gradient checkpointing is off; accumulation follows from the global batch;
* full DPO and KTO hold a reference model; of PPO the step of the actor is counted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.heads import scored
from memcalc.configs.lora import targets
from memcalc.configs.megatron_script import arguments_of
from memcalc.configs.names import model
from memcalc.configs.table import Sheet
from memcalc.configs.words import number, text, truth, whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "openrlhf"
TITLE: Final = "OpenRLHF"
TEXT: Final = True  # it reads scripts

SOURCE: Final = "openrlhf/cli"
_PROGRAM: Final = re.compile(r"openrlhf[./]cli[./]train_(sft|dpo|kto|rm|ppo_ray|ppo|kd)")
_MODELS: Final = ("pretrain", "model.model_name_or_path", "actor.model_name_or_path", "model.pretrain")
_SECTIONS: Final = ("", "ds.", "train.", "data.", "model.", "actor.", "algo.", "ref.", "ds.lora.", "adam.", "rollout.")
# words that speak of what is held; all others are of no account
_MATTER: Final = re.compile(r"offload|dtype|_size$|_rank$|stage|partition|fp8|quant|moe|freeze|ema|optim")
_HARMLESS: Final = re.compile(
    r"rollout|eval|save|vllm|critic|reward|ref|buffer|seq|rope|chunk|best_of|micro|master|max_|n_samples|offload$"
)
_UNMODELLED: Final = {
    "ds_tensor_parallel_size": "tensor parallelism of DeepSpeed is not counted",
    "vllm_num_engines": "what vLLM takes of the GPU is not counted (say it with --margin)",
    "colocate_all_models": "the critic, the reward and the reference model on the same GPUs are not counted (give companions)",
    "colocate_all": "the critic, the reward and the reference model on the same GPUs are not counted (give companions)",
}


def recognises(document: Document) -> int:
    """By the program that a script starts."""
    return 92 if not document.data and _PROGRAM.search(document.text[:100_000]) else 0


def read(document: Document, asked: Asked) -> Reading:
    """The run of one script."""
    found = _PROGRAM.search(document.text[:100_000])
    task = found[1] if found else "sft"
    sheet = Sheet(arguments_of(document) if not document.data else document, asked, NAME, TITLE)
    model(sheet, *_MODELS)
    count = _gpus(sheet)
    half = _read(sheet, text, "param_dtype", default="bf16")
    sheet.put(
        "precision", "mixed-fp16" if half == "fp16" else "mixed-bf16", *_keys("param_dtype", "bf16"), default=SOURCE
    )
    if _read(sheet, text, "backend", default="deepspeed").lower() == "fsdp2":
        sheet.put("sharding", {"strategy": "fsdp", "version": 2, "wrap": "layers"}, *_keys("backend"))
        sheet.put("optimizer", "adamw", default=SOURCE)
    else:
        kind = "deepspeed-cpu-adam" if _sharding(sheet) else "deepspeed-fused-adam"
        sheet.put("optimizer", kind, *_keys("adam_offload"), default=SOURCE)
    if _read(sheet, truth, "use_liger_kernel", default=False):
        sheet.put("implementation", "hf-liger", *_keys("use_liger_kernel"))
    _adapters(sheet)
    _batch(sheet, task, count)
    on = _read(sheet, truth, "gradient_checkpointing", "gradient_checkpointing_enable", default=False)
    sheet.put("checkpointing", "full" if on else "none", *_keys("gradient_checkpointing"), default=f"{SOURCE}: off")
    if _read(sheet, truth, "flash_attn", default=False) or "flash" in _read(
        sheet, text, "attn_implementation", default="flash_attention_2"
    ):
        sheet.put("attention", "flash", *_keys("attn_implementation", "flash_attn"), default=SOURCE)
    _loss(sheet, task)
    if task in ("dpo", "kto", "ppo", "ppo_ray") and "lora" not in sheet.run and _kl(sheet, task):
        before = {"after": False} if task.startswith("ppo") else {}
        sheet.put("companions", [{"role": "reference", "dtype": "bf16", **before}], *_MODELS, default=SOURCE)
    sheet.unmodelled({key: what for word, what in _UNMODELLED.items() for key in _keys(word)})
    return sheet.reading(sheet.immaterial(_MATTER, _HARMLESS))


def _loss(sheet: Sheet, task: str) -> None:
    """A reward model's score (models/model.py); else log-probabilities of fp32 logits (models/actor.py), which loops hold on to."""
    if task == "rm":
        scored(sheet, *_MODELS)
        if "lora" in sheet.run:  # no task is named
            sheet.put("lora.task", "none", default="openrlhf/models/model.py")
    elif task != "kd":
        sheet.put("loss", {"kind": "kernel-log-probs", "fp32": True}, default="openrlhf/models/utils.py")
        if task not in ("dpo", "kto"):
            sheet.put("keep_outputs", True, default="openrlhf/trainer: the model's output is a name of the loop")


def _keys(*words: str) -> list[str]:
    """The spellings of a word: in each section, and plain."""
    return [f"{section}{word}" for word in words for section in _SECTIONS]


def _read(sheet: Sheet, convert: Callable[[Any], Any], *words: str, default: Any = None) -> Any:  # noqa: ANN401
    return sheet.read(convert, *_keys(*words), default=default)


def _kl(sheet: Sheet, task: str) -> bool:
    """Whether a reference model is held: always, but in PPO without KL, or where it has GPUs of its own."""
    apart = _read(sheet, whole, "ref_num_gpus_per_node", default=0) > 0
    together = ("colocate_actor_ref", "colocate_all_models", "colocate_all")
    colocated = any([_read(sheet, truth, key, default=False) for key in together])  # noqa: C419 - each is looked at
    return task in ("dpo", "kto") or (
        _read(sheet, number, "init_kl_coef", "init_kl", default=0.01) > 0 and (colocated or not apart)
    )


def _gpus(sheet: Sheet) -> int:
    each = _read(sheet, whole, "actor_num_gpus_per_node", "nproc_per_node", default=0)
    nodes = max(1, _read(sheet, whole, "actor_num_nodes", "nnodes", default=1))
    return sheet.gpus(*_keys("actor_num_gpus_per_node", "actor_num_nodes"), count=each * nodes if each > 0 else None)


def _sharding(sheet: Sheet) -> bool:
    """ZeRO of a stage; whether states and their update are on the host."""
    stage = _read(sheet, whole, "zero_stage", default=2)
    if not 0 <= stage <= 3:
        sheet.fault(sheet.named(*_keys("zero_stage")), f"{stage} is no stage of ZeRO: 0, 1, 2 or 3")
    offloads = bool(_read(sheet, truth, "adam_offload", default=False))
    options: dict[str, Any] = {"strategy": f"zero{stage}"}
    if offloads and stage:
        options["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if _read(sheet, truth, "overlap_comm", default=False):
        options["overlap_comm"] = True
    sheet.put("sharding", options, *_keys("zero_stage"), default=f"{SOURCE}: 2")
    return offloads and stage > 0


def _adapters(sheet: Sheet) -> None:
    rank = _read(sheet, whole, "lora_rank", "rank", default=0)
    if rank > 0:
        sheet.put("lora.rank", rank, *_keys("lora_rank", "rank"))
        sheet.put(
            "lora.alpha", _read(sheet, number, "lora_alpha", "alpha", default=16), *_keys("lora_alpha"), default=SOURCE
        )
        sheet.put(
            "lora.targets",
            _read(sheet, targets, "target_modules", default="all-linear"),
            *_keys("target_modules"),
            default=SOURCE,
        )
        sheet.put("lora.dtype", "bf16", default="openrlhf/models/actor.py")
    if _read(sheet, truth, "load_in_4bit", default=False):
        sheet.put("quantize", "nf4-double", *_keys("load_in_4bit"))


def _batch(sheet: Sheet, task: str, count: int) -> None:
    """Micro batches, pairs of rows for preferences; max_len, or a prompt and an answer."""
    micro = max(
        1,
        _read(
            sheet,
            whole,
            "micro_train_batch_size",
            "micro_batch_size",
            default=8 if task == "sft" else 1 if task == "dpo" else 4,
        ),
    )
    total = _read(sheet, whole, "train_batch_size", "batch_size", default=128)
    if task.startswith("ppo"):
        length = _read(sheet, whole, "max_len", default=0) or sum(
            _read(sheet, whole, word, default=1024) for word in ("prompt_max_len", "generate_max_len"))  # fmt: skip
    else:
        length = _read(sheet, whole, "max_len", default=2048 if task == "sft" else 512)
    sheet.put("seq_len", length, *_keys("max_len", "prompt_max_len", "generate_max_len"), default=SOURCE)
    divided = max(1, _read(sheet, whole, "ring_attn_size", default=1))
    if divided > 1:
        sheet.put("parallel.context", divided, *_keys("ring_attn_size"))
    dynamic = _read(sheet, truth, "use_dynamic_batch", default=False)
    if dynamic:
        micro = max(1, _read(sheet, whole, "train_max_tokens_per_gpu", default=16192) * divided // length)
    rows = micro * (2 if task in ("dpo", "rm") else 1)
    sheet.put("batch_size", rows, *_keys("micro_train_batch_size", "train_max_tokens_per_gpu"), default=SOURCE)
    steps = max(1, total * divided // (micro * count))
    sheet.put("grad_accum", steps, *_keys("train_batch_size", "batch_size"), default=f"{SOURCE}: 128")
    if dynamic or _read(sheet, truth, "packing_samples", default=False):
        sheet.put("packing", True, *_keys("packing_samples", "use_dynamic_batch"))
