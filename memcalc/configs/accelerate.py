"""accelerate's YAML (`accelerate config`): on how many processes, in which precision and with which engine a script runs.

accelerate/commands/config/config_args.py and utils/dataclasses.py. The script's own model, optimizer and batch are not in
the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from memcalc.configs import deepspeed, fsdp
from memcalc.configs.names import model
from memcalc.configs.table import Sheet
from memcalc.configs.trainer import asked_for, recipe
from memcalc.configs.words import text, whole

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "accelerate"
TITLE: Final = "accelerate"
SOURCE: Final = "accelerate/commands/config/config_args.py"
IGNORED: Final = (
    "compute_environment", "debug", "machine_rank", "main_training_function", "main_process_*", "num_machines", "rdzv_*",
    "same_network", "tpu_*", "use_cpu", "downcast_bf16", "enable_cpu_affinity", "gpu_ids", "command_file", "commands",
    "max_restarts", "monitor_interval", "dynamo_config*", "deepspeed_config.deepspeed_*launcher", "deepspeed_config.zero3_*",
    "deepspeed_config.deepspeed_hostfile", "deepspeed_config.gradient_clipping", "deepspeed_config.deepspeed_moe_layer_cls_names",
    "deepspeed_config.deepspeed_exclusion_filter", "deepspeed_config.deepspeed_inclusion_filter", "mpirun_config*", "ipex_config*",
    "fp8_config", "ec2_instance_type", "iam_role_name", "image_uri", "profile", "region", "py_version", "pytorch_version",
    "transformers_version", "base_job_name", "additional_args*", "sagemaker_*", "fsdp_config*",
    "deepspeed_config.offload_*_nvme_path",
    "num_cpu_threads_per_process", "tp_config*", "parallelism_config.parallelism_config_*_comm_strategy", "env*",
    "parallelism_config.parallelism_config_*_backend", "parallelism_config.parallelism_config_*_enabled",
    "parallelism_config.parallelism_config_sp_seq*", "parallelism_config.parallelism_config_sp_attn*",
)  # fmt: skip


def recognises(document: Document) -> int:
    """By `distributed_type`, which only accelerate writes."""
    data = document.data
    if "distributed_type" in data:
        return 90
    return 70 if "compute_environment" in data and ("num_processes" in data or "mixed_precision" in data) else 0


def read(document: Document, asked: Asked) -> Reading:
    """The run of a file, of a model that is asked for."""
    sheet = Sheet(document, asked, NAME, TITLE)
    model(sheet)
    gpus = sheet.gpus("num_processes")
    half = _half(sheet)
    kind = sheet.read(text, "distributed_type", default="no").upper()
    engine = _engine(sheet, kind, half, gpus)
    _precision(sheet, half, engine)
    _parallelism(sheet, kind)
    if engine == "fsdp" and not sheet.has("fsdp_config"):
        sheet.put("sharding.strategy", "fsdp", "distributed_type")
    return sheet.reading(IGNORED)


def _half(sheet: Sheet) -> str:
    written = sheet.read(text, "mixed_precision", default="no").lower()
    if written not in ("no", "none", "fp32", "fp16", "bf16", "fp8", ""):
        sheet.fault("mixed_precision", f"{written!r} is none of no, fp16, bf16, fp8")
    return "" if written in ("no", "none", "fp32") else written


def _engine(sheet: Sheet, kind: str, half: str, gpus: int) -> str:
    """Attach what wraps the model: "deepspeed", "fsdp", or "" for DDP and none."""
    nodes = sheet.read(whole, "num_machines", default=1)
    if kind == "DEEPSPEED" or (kind == "NO" and sheet.has("deepspeed_config")):
        _deepspeed(sheet, half, gpus)
        return "deepspeed"
    if kind == "FSDP":
        fsdp.attach(sheet, "fsdp_config", version=1, nodes=nodes)
        return "fsdp"
    if kind == "MEGATRON_LM":
        _megatron(sheet)
        return "megatron"
    if kind == "TP":
        sheet.put("parallel.tensor", gpus, "distributed_type")
    elif kind.startswith("MULTI_") or gpus > 1:
        sheet.put("sharding.strategy", "ddp", "distributed_type")
    return "" if half == "fp8" or kind == "TP" else asked_for(sheet, half, "mixed_precision")


def _precision(sheet: Sheet, half: str, engine: str) -> None:
    """What accelerate makes of the weights: the script loads them in fp32 unless it says otherwise."""
    if engine in ("deepspeed", "megatron"):
        return
    if half == "fp8":
        sheet.put("precision", "amp-fp8", "mixed_precision", "fp8_config")
        return
    sheet.put("precision", recipe(half, "fp32", engine), "mixed_precision",
              default="" if sheet.has("mixed_precision") else f"{SOURCE}: mixed_precision no")  # fmt: skip
    if engine != "fsdp" or not half:
        sheet.assume(
            "precision", "loaded-in-fp32", "the script is taken to load the model in fp32 (--precision says otherwise)"
        )


def _deepspeed(sheet: Sheet, half: str, gpus: int) -> None:
    """A named DeepSpeed config, which then holds everything, or the few keys of accelerate's own section."""
    if sheet.has("deepspeed_config.deepspeed_config_file"):
        try:
            deepspeed.attach(sheet, "deepspeed_config.deepspeed_config_file", half, gpus)
        finally:
            sheet.seen("deepspeed_config")
        return
    stage = sheet.read(whole, "deepspeed_config.zero_stage", default=2)
    default = "" if sheet.has("deepspeed_config.zero_stage") else "accelerate/utils/dataclasses.py, DeepSpeedPlugin"
    strategy = f"zero{stage}" if 0 <= stage <= 3 else "ddp"
    sheet.put("sharding.strategy", strategy, "deepspeed_config.zero_stage", default=default)
    for name in ("optimizer", "param"):
        device = sheet.read(text, f"deepspeed_config.offload_{name}_device", default="none").lower()
        if device not in ("none", "no", ""):
            sheet.put(f"sharding.offload_{name}", {"device": device}, f"deepspeed_config.offload_{name}_device")
    steps = sheet.read(_count, "deepspeed_config.gradient_accumulation_steps")
    if steps:
        sheet.put("grad_accum", steps, "deepspeed_config.gradient_accumulation_steps")
    sheet.put("precision", recipe(half if half != "fp8" else "bf16", "fp32", "deepspeed"), "mixed_precision")


def _count(value: Any) -> int | None:  # noqa: ANN401
    return None if value == "auto" else whole(value)


def _megatron(sheet: Sheet) -> None:
    """accelerate's own section for Megatron-LM, whose keys are prefixed megatron_lm_."""
    at = "megatron_lm_config.megatron_lm_"
    sheet.put("sharding.strategy", "megatron", "distributed_type")
    for theirs, ours in (("tp_degree", "tensor"), ("pp_degree", "pipeline")):
        sheet.put(f"parallel.{ours}", sheet.read(whole, f"{at}{theirs}", default=1), f"{at}{theirs}")
    sheet.put("parallel.sequence", bool(sheet.get(f"{at}sequence_parallelism")), f"{at}sequence_parallelism")
    sheet.put(
        "sharding.distributed_optimizer",
        bool(sheet.get(f"{at}use_distributed_optimizer")),
        f"{at}use_distributed_optimizer",
    )
    if sheet.get(f"{at}recompute_activations"):
        sheet.put("checkpointing", "selective", f"{at}recompute_activations")
    half = sheet.read(text, "mixed_precision", default="no").lower()
    sheet.put("precision", f"megatron-{half}" if half in ("bf16", "fp16") else "fp32", "mixed_precision")
    sheet.put("implementation", "megatron", "distributed_type")
    sheet.seen(f"{at}num_micro_batches", f"{at}gradient_clipping")


def _parallelism(sheet: Sheet, kind: str) -> None:
    """The section parallelism_config: degrees beside FSDP."""
    at = "parallelism_config"
    for theirs, ours in (("tp", "tensor"), ("cp", "context"), ("sp", "context"), ("ep", "expert")):
        keys = (f"{at}.parallelism_config_{theirs}_size", f"{at}.{theirs}_size")
        degree = sheet.read(whole, *keys, default=1)
        if degree > 1:
            sheet.put(f"parallel.{ours}", degree, *keys)
            if theirs == "tp":  # the model is loaded with tp_plan="auto"
                sheet.put("parallel.tp_plan", "auto", *keys)
    replicas = sheet.read(whole, f"{at}.parallelism_config_dp_replicate_size", f"{at}.dp_replicate_size", default=1)
    shards = sheet.read(whole, f"{at}.parallelism_config_dp_shard_size", f"{at}.dp_shard_size", default=1)
    if replicas > 1 and shards > 1 and kind == "FSDP":
        sheet.put("sharding.strategy", "hsdp", f"{at}.parallelism_config_dp_replicate_size")
        sheet.put("sharding.replicate", replicas, f"{at}.parallelism_config_dp_replicate_size")
