"""DeepSpeed's ZeRO: the options of all its stages in its own words, and what of them does not go together.

Source: DeepSpeed 0.19.8, runtime/zero/config.py and offload_config.py (options and defaults).
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any

from memcalc.dataclass import dataclass
from memcalc.errors import Fault, RunInvalid
from memcalc.sharding import options

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from memcalc.model import Model
    from memcalc.sharding.options import Reader

AUTO = "auto"
# what the Trainer makes of `auto`, from the hidden size (transformers/integrations/deepspeed.py, trainer_config_finalize)
HIDDEN = {"reduce_bucket_size": 1.0, "stage3_prefetch_bucket_size": 0.9, "stage3_param_persistence_threshold": 10.0}
OLD = {
    "prefetch_bucket_size": "stage3_prefetch_bucket_size", "max_live_parameters": "stage3_max_live_parameters",
    "param_persistence_threshold": "stage3_param_persistence_threshold", "max_reuse_distance": "stage3_max_reuse_distance",
    "model_persistence_threshold": "stage3_model_persistence_threshold", "allgather_sequential": "stage3_allgather_sequential",
    "cpu_offload": "offload_optimizer", "cpu_offload_param": "offload_param",
}  # fmt: skip
INERT = frozenset({  # what changes no memory of a step, or what is read elsewhere
    "allgather_partitions", "load_from_fp32_weights", "elastic_checkpoint", "ignore_unused_parameters", "legacy_stage1",
    "override_module_apply", "log_trace_cache_warnings", "enable_sanity_checks", "pipeline_loading_checkpoint",
    "cpu_offload_use_pin_memory", "stage3_use_all_reduce_for_fetch_params", "use_all_reduce_for_fetch_params",
    "stage3_module_granularity_threshold", "module_granularity_threshold", "stage3_gather_16bit_weights_on_model_save",
    "gather_16bit_weights_on_model_save", "stage3_gather_fp16_weights_on_model_save", "leaf_module",
    "save_muon_momentum_buffer_in_memory", "partition_method",
})  # fmt: skip


@dataclass(frozen=True)
class Offload:
    """A section offload_optimizer or offload_param: `device` is none, cpu or nvme; buffers are those of nvme."""

    device: str = "none"
    pin_memory: bool = True
    buffer_count: int = 0
    buffer_size: int = 100_000_000
    max_in_cpu: int = 1_000_000_000
    ratio: float = 1.0
    pipeline_read: bool = False
    pipeline_write: bool = False


@dataclass(frozen=True)
class Settings:
    """zero_optimization as DeepSpeed reads it; sizes of buckets and windows are in elements."""

    reduce_bucket_size: int = 500_000_000
    allgather_bucket_size: int = 500_000_000
    overlap_comm: bool | None = None
    contiguous_gradients: bool = True
    reduce_scatter: bool = True
    round_robin_gradients: bool = False
    parameter_alignment: bool = False
    use_multi_rank_bucket_allreduce: bool = True
    compute_grad_norm: bool = True
    sub_group_size: int = 1_000_000_000
    stage3_prefetch_bucket_size: int = 50_000_000
    stage3_param_persistence_threshold: int = 100_000
    stage3_model_persistence_threshold: int = 2**63 - 1
    stage3_max_live_parameters: int = 1_000_000_000
    stage3_max_reuse_distance: int = 1_000_000_000
    stage3_allgather_sequential: bool = False
    memory_efficient_linear: bool = True
    zero_hpz_partition_size: int = 1
    zero_quantized_weights: bool = False
    zero_quantized_nontrainable_weights: bool = False
    zero_quantized_gradients: bool = False
    mics_shard_size: int = 0
    mics_hierarchical_params_gather: bool = False
    grad_accum_dtype: str = ""
    communication_data_type: str = ""
    offload_optimizer: Offload = field(default_factory=Offload)
    offload_param: Offload = field(default_factory=Offload)


def _section(count: int) -> Reader:
    """A section of offload: its own keys, read and checked; a device alone stands for it, null for none."""

    def reader(value: Any) -> Offload:  # noqa: ANN401 - whatever a run file holds
        given = _spelled(value)
        if not isinstance(given, dict):
            raise ValueError("is a mapping, such as {device: cpu}")  # noqa: TRY004 - one kind of error for what is wrong
        known: dict[str, Reader] = {
            "device": options.one_of("none", "cpu", "nvme"), "pin_memory": options.flag, "buffer_count": options.amount,
            "buffer_size": options.amount, "max_in_cpu": options.amount, "ratio": _share, "nvme_path": str,
            "pipeline_read": options.flag, "pipeline_write": options.flag, "fast_init": options.flag,
            "super_offload": options.flag, "cpuadam_cores_perc": _share,
        }  # fmt: skip
        unknown = [str(key) for key in given if key not in known]
        if unknown:
            raise ValueError(f"has no key {', '.join(unknown)}; it has {', '.join(known)}")
        read = {key: known[key](item) for key, item in given.items()}
        kept = {key: item for key, item in read.items() if key in Offload.__dataclass_fields__}
        return Offload(**{"buffer_count": count, **kept}) if kept.get("device", "none") != "none" else Offload()

    return reader


def _share(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{value!r} is no share between 0 and 1")
    return float(value)


def _spelled(value: object) -> object:
    """A device alone stands for its section, true (in old files) for the host, null and false for none."""
    if value is None or isinstance(value, bool):
        return {"device": "cpu"} if value else {}
    return {"device": value} if isinstance(value, str) else value


def _any(value: object) -> object:
    return value


def _auto(value: object) -> object:
    return AUTO if value == AUTO else options.amount(value)


OPTIONS: dict[str, Reader] = {
    **dict.fromkeys(("reduce_bucket_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold"), _auto),
    **dict.fromkeys(
        ("allgather_bucket_size", "sub_group_size", "stage3_model_persistence_threshold", "stage3_max_live_parameters",
         "stage3_max_reuse_distance", "zero_hpz_partition_size", "mics_shard_size"), options.amount),
    **dict.fromkeys(
        ("overlap_comm", "contiguous_gradients", "reduce_scatter", "round_robin_gradients", "parameter_alignment",
         "use_multi_rank_bucket_allreduce", "compute_grad_norm", "stage3_allgather_sequential", "memory_efficient_linear",
         "zero_quantized_weights", "zero_quantized_nontrainable_weights", "zero_quantized_gradients",
         "mics_hierarchical_params_gather"), options.flag),
    **dict.fromkeys(("grad_accum_dtype", "communication_data_type"), options.dtype),
    "offload_optimizer": _section(4), "offload_param": _section(5),
}  # fmt: skip


def read(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the strategy of that name, checked one by one, old names by the new ones."""
    known: dict[str, Reader] = {**OPTIONS, **dict.fromkeys(INERT, _any), "stage": options.one_of(name[-1])}
    found = options.read({OLD.get(key, key): value for key, value in given.items()}, known, name)
    return {key: value for key, value in found.items() if key in OPTIONS}


def automatic(found: Mapping[str, Any], model: Model) -> dict[str, Any]:
    """The options with `auto` as the Trainer makes it; RunInvalid where it can't."""
    faults = list(_auto_faults(found, model))
    if faults:
        raise RunInvalid(faults)
    return {key: _from_hidden(key, model) if key in HIDDEN and value == AUTO else value for key, value in found.items()}


def _auto_faults(found: Mapping[str, Any], model: Model) -> Iterator[Fault]:
    for key in HIDDEN:
        if found.get(key) == AUTO and not _hidden(model):
            yield Fault(f"sharding.{key}", "auto follows from the hidden size, which this model's dimensions don't say; "
                                           "write a number of elements")  # fmt: skip


def _hidden(model: Model) -> int:
    known = model.dimensions
    if known is None:
        return 0
    return next((int(known[key]) for key in ("hidden_size", "d_model", "n_embd") if key in known), 0)


def _from_hidden(key: str, model: Model) -> int:
    hidden = _hidden(model)
    return int(HIDDEN[key] * hidden * (1 if key == "stage3_param_persistence_threshold" else hidden))


def refused(stage: int, dtype: str, settings: Settings, ranks: int) -> Iterator[Fault]:
    """What DeepSpeed does not take together, in its words."""
    wide = settings.grad_accum_dtype
    if stage == 0 and wide and wide != dtype:
        yield Fault("sharding.grad_accum_dtype", f"unsupported mix of model_dtype={dtype} and grad_accum_dtype={wide}: "
                                                 "without ZeRO both are one")  # fmt: skip
    if stage < 3 and settings.offload_param.device != "none":
        yield Fault("sharding.offload_param", "valid only with stage 3: use sharding: zero3, or offload: optimizer")
    if stage == 0 and settings.offload_optimizer.device != "none":
        yield Fault("sharding.offload_optimizer", "valid for ZeRO stage 1, 2, 3")
    if stage < 3 and settings.offload_optimizer.ratio < 1:
        yield Fault("sharding.offload_optimizer.ratio", "Partial offloading only supported for ZeRO Stage 3.")
    if not settings.compute_grad_norm and (stage not in (1, 2) or settings.offload_optimizer.device != "none"):
        yield Fault("sharding.compute_grad_norm", "false is supported only with ZeRO stages 1 and 2, without offload")
    if stage in (1, 2) and settings.allgather_bucket_size % 2:
        yield Fault("sharding.allgather_bucket_size", "must be a multiple of nccl_start_alignment_factor, 2")
    for key in ("zero_hpz_partition_size", "mics_shard_size"):
        size = getattr(settings, key)
        if size > 1 and (stage < 3 or ranks % size):
            why = "is for stage 3" if stage < 3 else f"{ranks} ranks are no multiple of {size}"
            yield Fault(f"sharding.{key}", why)
