"""DeepSpeed's JSON: ZeRO, precision, optimizer and batch; on its own, or named by a config of a trainer around it.

What the engine makes of it is deepspeed/runtime/config.py and zero/config.py: any two of the three batch sizes give the
third, 16-bit weights get a master copy in fp32 whatever the stage, and `auto` is filled in by the Hugging Face Trainer
(transformers/integrations/deepspeed.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from memcalc.configs.deepspeed_files import AUTO, followed
from memcalc.configs.names import model
from memcalc.configs.table import Sheet
from memcalc.configs.words import text, truth, whole

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "deepspeed"
TITLE: Final = "DeepSpeed"
SOURCE: Final = "deepspeed/runtime/config.py"
OWN: Final = ("zero_optimization", "train_micro_batch_size_per_gpu", "zero_allow_untested_optimizer", "train_batch_size",
              "activation_checkpointing", "steps_per_print", "wall_clock_breakdown", "bf16", "fp16", "autotuning",
              "gradient_accumulation_steps", "gradient_clipping", "data_efficiency")  # fmt: skip
# keys of configs that hold DeepSpeed's own beside a model's (GPT-NeoX) or a trainer's
OTHERS: Final = frozenset({
    "pipe_parallel_size", "model_parallel_size", "num_layers", "hidden_size", "base_model", "vocab_file", "data_path", "model_type",
    "model_name_or_path", "per_device_train_batch_size", "pretrain", "seq_length",
})  # fmt: skip

# keys of zero_optimization that the strategy knows by the same names
_NUMBERS: Final = (
    "reduce_bucket_size", "allgather_bucket_size", "sub_group_size", "stage3_prefetch_bucket_size",
    "stage3_param_persistence_threshold", "stage3_model_persistence_threshold", "stage3_max_live_parameters",
    "stage3_max_reuse_distance", "zero_hpz_partition_size", "mics_shard_size",
)  # fmt: skip
_FLAGS: Final = (
    "overlap_comm", "contiguous_gradients", "reduce_scatter", "round_robin_gradients", "zero_quantized_weights",
    "zero_quantized_nontrainable_weights", "zero_quantized_gradients", "mics_hierarchical_params_gather",
)  # fmt: skip
_OLD: Final = {  # pydantic's aliases of zero/config.py, and the other way round
    "max_live_parameters": "stage3_max_live_parameters", "max_reuse_distance": "stage3_max_reuse_distance",
    "prefetch_bucket_size": "stage3_prefetch_bucket_size", "model_persistence_threshold": "stage3_model_persistence_threshold",
    "param_persistence_threshold": "stage3_param_persistence_threshold",
}  # fmt: skip
_OPTIMIZERS: Final = {  # runtime/engine.py, _configure_basic_optimizer
    "adam": "deepspeed-fused-adam", "adamw": "deepspeed-fused-adam", "lamb": "deepspeed-fused-lamb",
    "lion": "deepspeed-fused-lion", "onebitadam": "deepspeed-onebit-adam", "onebitlamb": "deepspeed-onebit-lamb",
    "zerooneadam": "deepspeed-zero-one-adam", "muon": "deepspeed-muon", "sgd": "sgd", "adagrad": "adagrad",
}  # fmt: skip
_ON_THE_HOST: Final = {"adam": "deepspeed-cpu-adam", "adamw": "deepspeed-cpu-adam", "lion": "deepspeed-cpu-lion",
                       "adagrad": "deepspeed-cpu-adagrad"}  # fmt: skip
_UNMODELLED: Final = {
    "activation_checkpointing.partition_activations": "saved activations that are split among ranks are counted whole",
    "activation_checkpointing.cpu_checkpointing": "saved activations that are moved to the host are counted on the GPU",
    "data_efficiency.data_routing.random_ltd.enabled": "random layer-token dropping keeps fewer tokens in its layers: "
    "the activations are those of all tokens",
    "compression_training": "what compression keeps beside the weights is not counted",
    "amp.enabled": "apex's AMP is not read; say what it makes of the weights with --precision",
    "sparse_attention": "sparse attention is counted as dense",
    "quantize_training": "what quantised training keeps is not counted",
    "eigenvalue.enabled": "the eigenvalue's own backward passes are not counted",
    "hybrid_engine.enabled": "the inference engine's own memory is not counted",
}
IGNORED: Final = (
    "steps_per_print", "wall_clock_breakdown", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer",
    "gradient_clipping", "gradient_predivide_factor", "prescale_gradients", "sparse_gradients", "dump_state", "scheduler*",
    "fp16.*", "bf16.*", "optimizer.params*", "tensorboard*", "wandb*", "csv_monitor*", "comet*", "flops_profiler*",
    "monitor_config*", "comms_config*", "comms_logger*", "checkpoint*", "data_types", "aio*", "nebula*", "elasticity*",
    "curriculum_learning*", "data_efficiency*", "autotuning*", "compile*", "cuda_visible_devices", "_comment*", "seed",
    "memory_breakdown", "disable_allgather", "dataloader_drop_last", "use_data_before_expert_parallel_", "local_rank",
    "activation_checkpointing.profile", "activation_checkpointing.synchronize_checkpoint_boundary", "curriculum*",
    "activation_checkpointing.number_checkpoints", "activation_checkpointing.contiguous_memory_optimization",
    "zero_optimization.allgather_partitions", "zero_optimization.load_from_fp32_weights", "progressive_layer_drop*",
    "zero_optimization.*gather_16bit_weights_on_model_save", "zero_optimization.*gather_fp16_weights_on_model_save",
    "zero_optimization.ignore_unused_parameters", "zero_optimization.memory_efficient_linear", "hybrid_engine*",
    "zero_optimization.legacy_stage1", "zero_optimization.use_multi_rank_bucket_allreduce", "zero_optimization.log_*",
    "zero_optimization.stage3_use_all_reduce_for_fetch_params", "zero_optimization.stage3_module_granularity_threshold",
    "zero_optimization.use_all_reduce_for_fetch_params", "zero_optimization.module_granularity_threshold",
    "zero_optimization.override_module_apply", "zero_optimization.elastic_checkpoint", "zenflow*", "timers*",
)  # fmt: skip


def recognises(document: Document) -> int:
    """By the keys that DeepSpeed's configs begin with."""
    data = document.data
    if OTHERS & {key.replace("-", "_") for key in data}:
        return 0
    if isinstance(data.get("zero_optimization"), dict):
        return 80
    own = [key for key in OWN if key in data]
    return 60 if "train_micro_batch_size_per_gpu" in own or ("train_batch_size" in own and len(own) > 2) else 0


def read(document: Document, asked: Asked) -> Reading:
    """The run of a file on its own: its model is asked for, and what `auto` leaves open takes memcalc's defaults."""
    sheet = Sheet(document, asked, NAME, TITLE)
    model(sheet)
    gpus = sheet.gpus()
    _say(sheet, None, gpus)
    return sheet.reading(IGNORED)


def attach(sheet: Sheet, key: str, half: str = "", gpus: int = 1) -> bool:
    """What the DeepSpeed config under `key` of a trainer's config (a path or a mapping) makes of the run; False if none.

    `half` is what the trainer computes in ("bf16", "fp16", "" for neither): what `auto` becomes. The engine decides
    precision, sharding and (where it has one) the optimizer; batch sizes are the trainer's.
    """
    given = sheet.get(key)
    if not given or given in ("no", "none", "null"):
        return False
    document = sheet.document.part(key, given) if isinstance(given, dict) else followed(sheet, key, text(given))
    inner = Sheet(document, sheet.asked, NAME, TITLE)
    _say(inner, half, gpus)
    said = inner.reading(IGNORED)
    batch = ("batch_size", "grad_accum")
    for path in [p for p in sheet.origins if p.split(".")[0] in said.run and p not in batch]:
        del sheet.origins[path]
    for name in [n for n in said.run if n not in batch]:
        sheet.run.pop(name, None)
    sheet.adopt(replace(said, assumptions=tuple(note for note in said.assumptions if note.path not in batch)))
    return True


def engine(sheet: Sheet) -> None:
    """Set precision, sharding and optimizer by DeepSpeed's keys that stand at the top of another framework's config."""
    _precision(sheet, None)
    _sharding(sheet)
    _optimizer(sheet)


def _say(sheet: Sheet, half: str | None, gpus: int) -> None:
    _precision(sheet, half)
    _sharding(sheet)
    _optimizer(sheet)
    _batch(sheet, gpus)
    sheet.unmodelled(_UNMODELLED)


def enabled(sheet: Sheet, key: str, auto: bool) -> bool:
    """Whether a section is on: `auto` is what the trainer makes of it; a section without `enabled` is off."""
    value = sheet.get(f"{key}.enabled")
    return auto if value == AUTO else bool(sheet.read(truth, f"{key}.enabled", default=False))


def _precision(sheet: Sheet, half: str | None) -> None:
    """16-bit weights with a master copy in fp32, whatever the stage; plain fp32 where neither section is on."""
    autos = [key for key in ("bf16", "fp16") if sheet.get(f"{key}.enabled") == AUTO]
    if autos and half is None:
        alone = "bf16" if "bf16" in autos else "fp16"
        sheet.assume("precision", "auto", f"`{alone}.enabled: auto` follows the trainer's own flag: {alone} is assumed "
                     "(--precision says otherwise)")  # fmt: skip
        half = alone
    chosen = next((key for key in ("bf16", "fp16") if enabled(sheet, key, half == key)), "")
    if not chosen:
        sheet.put("precision", "fp32", "bf16.enabled", "fp16.enabled", default=f"{SOURCE}: neither bf16 nor fp16 is on")
        return
    wide = text(sheet.get("data_types.grad_accum_dtype") or "")
    recipe = f"mixed-{chosen}"
    if wide in ("fp32", "float32"):
        sheet.put("precision", "mixed-bf16-fp32-grads" if chosen == "bf16" else {"recipe": recipe, "gradients": "fp32"},
                  f"{chosen}.enabled", "data_types.grad_accum_dtype")  # fmt: skip
    else:
        sheet.put("precision", recipe, f"{chosen}.enabled")
    for key in ("bf16_master_weights_and_grads", "fp16_master_weights_and_grads", "bf16_optimizer_states"):
        if sheet.get(f"{chosen}.{key}"):
            sheet.warn(f"{chosen}.{key}", "not-modelled", "the master copy and states are counted in fp32")


def _sharding(sheet: Sheet) -> None:
    stage = sheet.read(whole, "zero_optimization.stage", default=0)
    if not 0 <= stage <= 3:
        sheet.fault("zero_optimization.stage", f"{stage} is no stage of ZeRO: 0, 1, 2 or 3")
        return
    where = ("zero_optimization.stage",)
    default = "" if sheet.has(*where) else "deepspeed/runtime/zero/config.py: stage 0"
    sheet.put("sharding.strategy", f"zero{stage}", *where, default=default)
    if stage:
        _options(sheet)
    else:
        sheet.seen("zero_optimization")  # buckets of ZeRO: without it there are none
    degree = sheet.read(whole, "tensor_parallel.autotp_size", default=1)
    if degree > 1:
        sheet.put("parallel.tensor", degree, "tensor_parallel.autotp_size")
    ulysses = sheet.read(whole, "sequence_parallel_size", default=1)
    if ulysses > 1:
        sheet.put("parallel.context", ulysses, "sequence_parallel_size")


def _options(sheet: Sheet) -> None:
    """Keys of zero_optimization under their own names; those left to `auto` stay so."""
    for name in (*_NUMBERS, *_OLD):
        key, ours = f"zero_optimization.{name}", f"sharding.{_OLD.get(name, name)}"
        value = sheet.get(key)
        if value == AUTO:
            sheet.put(ours, AUTO, key)
        elif value is not None:
            sheet.put(ours, sheet.read(whole, key, default=0), key)
    for name in _FLAGS:
        if sheet.get(f"zero_optimization.{name}") not in (None, AUTO):
            sheet.put(f"sharding.{name}", sheet.read(truth, f"zero_optimization.{name}"), f"zero_optimization.{name}")
    for name in ("communication_data_type", "data_types.grad_accum_dtype"):
        if sheet.get(name) not in (None, AUTO):
            sheet.put(f"sharding.{name.rpartition('.')[2]}", sheet.read(text, name), name)
    _offload(sheet)


def _offload(sheet: Sheet) -> None:
    """Sections offload_optimizer and offload_param, and the flags they replaced (zero/config.py)."""
    for name, old in (("offload_optimizer", "cpu_offload"), ("offload_param", "cpu_offload_params")):
        device = sheet.read(text, f"zero_optimization.{name}.device", default="none")
        section = sheet.get(f"zero_optimization.{name}")
        key = f"zero_optimization.{name}"
        if sheet.read(truth, f"zero_optimization.{old}", default=False):
            section, device, key = {"device": "cpu"}, "cpu", f"zero_optimization.{old}"
        sheet.seen(f"zero_optimization.{name}", f"zero_optimization.{old}_use_pin_memory", f"zero_optimization.{old}")
        if isinstance(section, dict) and device not in ("none", "no", ""):
            kept = {
                k: v
                for k, v in section.items()
                if k in ("device", "pin_memory", "ratio", "buffer_count", "buffer_size")
            }
            sheet.put(f"sharding.{name}", {**kept, "device": device}, key)


def _optimizer(sheet: Sheet) -> None:
    """The optimizer of the JSON, if it has one: DeepSpeed's own kernels, on the host where states are offloaded."""
    kind = sheet.get("optimizer.type")
    if kind is None:
        return
    name = text(kind).lower()
    hosted = isinstance(sheet.run.get("sharding"), dict) and "offload_optimizer" in sheet.run["sharding"]
    plain = sheet.read(truth, "optimizer.params.torch_adam", default=False) and name in ("adam", "adamw")
    known = "adamw" if plain else (_ON_THE_HOST.get(name) if hosted else None) or _OPTIMIZERS.get(name, name)
    sheet.put("optimizer", known, "optimizer.type")


def _batch(sheet: Sheet, gpus: int) -> None:
    """Any two of micro batch, accumulation and global batch give the third (config.py, _set_batch_related_parameters)."""
    keys = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "train_batch_size")
    micro, steps, total = (None if sheet.get(key) == AUTO else sheet.read(whole, key) for key in keys)
    parallel = sheet.run.get("parallel", {})
    ranks = max(gpus // (parallel.get("tensor", 1) * parallel.get("context", 1)), 1)
    micro = micro if micro and micro > 0 else None
    asked = sheet.asked.flags.get("batch_size")
    if total and not steps:
        share = micro or (asked if isinstance(asked, int) else None)
        if share:
            sheet.put("grad_accum", max(total // (share * ranks), 1), keys[2], *([keys[0]] if micro else []))
        else:
            micro = max(total // ranks, 1)
    elif total and steps and not micro:
        micro = max(total // (ranks * steps), 1)
    if micro:
        sheet.put("batch_size", micro, keys[0] if sheet.get(keys[0]) not in (None, AUTO) else keys[2])
    elif sheet.get(keys[0]) == AUTO or not total:
        sheet.assume(
            "batch_size", "auto", "the micro batch is left to the trainer: 1 is assumed (--batch-size says otherwise)"
        )
    if steps:
        sheet.put("grad_accum", steps, keys[1])
