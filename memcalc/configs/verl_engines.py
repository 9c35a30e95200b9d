"""verl's engines: FSDP of either version, and Megatron-Core (verl/workers/config/engine.py, trainer/config/engine/*.yaml)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.megatron import targets_of
from memcalc.configs.optim import put_optimizer
from memcalc.configs.words import mapping, names, number, text, truth, whole

if TYPE_CHECKING:
    from memcalc.configs.table import Sheet

SOURCE: Final = "verl/trainer/config/engine/{}.yaml"
_MODEL: Final = "verl/trainer/config/model/hf_model.yaml"
_DEGREES: Final = (
    ("tensor_model_parallel_size", "tensor"), ("pipeline_model_parallel_size", "pipeline"), ("context_parallel_size", "context"),
    ("expert_model_parallel_size", "expert"), ("virtual_pipeline_model_parallel_size", "virtual"),
)  # fmt: skip
_HALVES: Final = {"bfloat16": "bf16", "bf16": "bf16", "float16": "fp16", "fp16": "fp16"}
_WHOLE: Final = ("float32", "fp32")


def fsdp(sheet: Sheet, count: int, at: str, strategy: str, *keys: str) -> None:
    """FSDP over all ranks, or groups of `fsdp_size`, of fp32 weights gathered in bf16; autocast on one GPU."""
    dtype = sheet.read(text, f"{at}.model_dtype", default="fp32")
    computed = sheet.read(text, f"{at}.dtype", default="bf16")
    half, pure = _HALVES.get(computed, "bf16"), _HALVES.get(dtype)
    mixed = "fp32" if computed in _WHOLE else f"mixed-{half}" if count > 1 else f"amp-{half}"
    recipe = pure or mixed
    sheet.put("precision", recipe, f"{at}.model_dtype", default=f"{SOURCE.format('fsdp')}: fp32")
    if count > 1:
        made: dict[str, Any] = {"strategy": "fsdp", "version": 2 if strategy == "fsdp2" else 1, "wrap": "layers"}
        size = sheet.read(whole, f"{at}.fsdp_size", default=-1)
        if 1 < size < count:
            made |= {"strategy": "hsdp", "replicate": count // size}
        if made["version"] == 2 and not sheet.read(truth, f"{at}.reshard_after_forward", default=True):
            made["reshard_after_forward"] = False
        if made["version"] == 2 and sheet.read(truth, f"{at}.offload_policy", default=False):
            made["offload_params"] = True
        sheet.put("sharding", made, *keys, f"{at}.fsdp_size", default=f"{SOURCE.format('fsdp')}: fsdp")
    _between_steps(sheet, at)


def megatron(sheet: Sheet, at: str, *keys: str) -> None:
    """Megatron-Core's modules with its distributed optimizer, sequence parallelism where tensors are divided."""
    _degrees(sheet, at)
    shared = sheet.read(truth, f"{at}.use_distributed_optimizer", default=True)
    sheet.put(
        "sharding", {"strategy": "megatron", "distributed_optimizer": shared}, *keys, f"{at}.use_distributed_optimizer"
    )
    computed = sheet.read(text, f"{at}.dtype", default="bf16")
    recipe = "fp32" if computed in _WHOLE else f"megatron-{_HALVES.get(computed, 'bf16')}"
    sheet.put("precision", recipe, f"{at}.dtype", default=f"{SOURCE.format('megatron')}: bfloat16")
    sheet.put("implementation", "megatron", *keys)
    _recomputed(sheet, f"{at}.override_transformer_config.recompute_granularity")
    if sheet.read(truth, f"{at}.use_megatron_fsdp", default=False):
        sheet.warn(
            f"{at}.use_megatron_fsdp",
            "not-modelled",
            "Megatron's FSDP is counted as its distributed optimizer: more than is used",
        )
    sheet.seen(f"{at}.*")
    _between_steps(sheet, at)


def _degrees(sheet: Sheet, at: str) -> None:
    """Set `parallel`, and sequence parallelism wherever tensors are divided unless that is switched off."""
    for theirs, ours in _DEGREES:
        degree = sheet.read(whole, f"{at}.{theirs}", default=1) or 1
        if degree > 1:
            sheet.put(f"parallel.{ours}", degree, f"{at}.{theirs}")
    divided = sheet.run.get("parallel", {}).get("tensor", 1) > 1
    if divided and sheet.read(truth, f"{at}.sequence_parallel", default=True):
        sheet.put("parallel.sequence", True, f"{at}.sequence_parallel", default=f"{SOURCE.format('megatron')}: on")


def _recomputed(sheet: Sheet, key: str) -> None:
    """Set `checkpointing` from Megatron-Core's recompute_granularity at `key`."""
    word = sheet.read(text, key, default="none").lower()
    how = word if word in ("full", "selective") else "none"
    sheet.put("checkpointing", how, key, default=f"{SOURCE.format('megatron')}: null")
    if word == "selective":
        sheet.put("sharding.recompute_granularity", "selective", key)


def _between_steps(sheet: Sheet, at: str) -> None:
    """Note that what is on the host between steps, while completions are generated, is back when the peak comes."""
    keys = ("param_offload", "optimizer_offload", "grad_offload")
    moved = [sheet.read(truth, f"{at}.{key}", default=False) for key in keys]
    if any(moved):
        sheet.assume("offload", "between-steps", "what param_offload and optimizer_offload keep on the host is on the GPU while "
                     "the actor learns")  # fmt: skip


def optimizer(sheet: Sheet, at: str, *, megatron: bool) -> None:
    """Set `optimizer`: a class of a module for FSDP (build_optimizer), Megatron-Core's word for it."""
    name = sheet.read(text, f"{at}.optimizer", default="")
    module = sheet.read(text, f"{at}.optimizer_impl", default="torch.optim")
    more = sheet.read(mapping, f"{at}.override_optimizer_config", default={})
    keys = (f"{at}.optimizer", f"{at}.optimizer_impl")
    if not name or name == "adam" or (name, module) == ("AdamW", "torch.optim"):
        sheet.put("optimizer", "adamw", *keys, default="verl/workers/config/optimizer.py: AdamW")
    else:
        put_optimizer(sheet, name if megatron else f"{module}.{name}", more, *keys)
    if megatron and sheet.read(truth, f"{at}.use_precision_aware_optimizer", default=False):
        sheet.warn(f"{at}.use_precision_aware_optimizer", "not-modelled", "the states of the precision-aware optimizer are "
                   "counted in fp32")  # fmt: skip
    if number(more.get("optimizer_offload_fraction", 0) or 0) > 0 or more.get("optimizer_cpu_offload"):
        sheet.put("offload", "optimizer", f"{at}.override_optimizer_config")


def bridged(sheet: Sheet, at: str, rank: int) -> None:
    """Set `lora` from Megatron-Bridge's settings (model.lora), whose linears are Megatron-Core's."""
    kind = sheet.read(text, f"{at}.type", default="lora")
    if kind not in ("lora", "vlm_lora", "canonical_lora", "dora"):
        sheet.fault(f"{at}.type", f"{kind} is not modelled: lora, canonical_lora and dora are")
    sheet.put("lora.rank", rank, f"{at}.rank")
    sheet.put("lora.alpha", sheet.read(number, f"{at}.alpha", default=32), f"{at}.alpha", default=f"{_MODEL}: 32")
    if drop := sheet.read(number, f"{at}.dropout", default=0):
        sheet.put("lora.dropout", drop, f"{at}.dropout")
    if kind == "dora":
        sheet.put("lora.dora", True, f"{at}.type")
    chosen = sheet.read(
        names, f"{at}.target_modules", default=["linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"]
    )
    sheet.put("lora.targets", targets_of(chosen, sheet.run.get("model")), f"{at}.target_modules", default=_MODEL)
    sheet.seen(f"{at}.*")
