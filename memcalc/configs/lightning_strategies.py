"""Lightning's strategies: a registered word (ddp, fsdp, deepspeed_stage_3_offload), or a class with its arguments.

Sources are lightning/pytorch 2.6, strategies/ and plugins/precision/:

* FSDP gathers fp32 under `-mixed` and computes under autocast; only what is reduced is in 16 bits (FSDPPrecision). Without
  an auto_wrap_policy the whole model is one unit;
* DeepSpeed has buckets of 2e8 elements, and fp32 masters under `-true` as under `-mixed` (_format_precision_config); a
  config of its own stands for all of that;
* ModelParallelStrategy takes a node's GPUs for tensor parallelism, and shards over the nodes, unless it is told else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from memcalc.configs import deepspeed
from memcalc.configs.words import mapping, truth, whole
from memcalc.errors import shorten

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memcalc.configs.table import Sheet

SOURCE: Final = "lightning/pytorch/strategies/deepspeed.py"
_KEY: Final = "trainer.strategy"
_BUCKETS: Final = {"allgather_bucket_size": 200_000_000, "reduce_bucket_size": 200_000_000,
                   "sub_group_size": 1_000_000_000_000, "overlap_comm": True, "contiguous_gradients": True,
                   "reduce_scatter": True}  # fmt: skip
_SETTINGS: Final = (*_BUCKETS, "allgather_partitions")
_DDP: Final = (
    "bucket_cap_mb",
    "gradient_as_bucket_view",
    "static_graph",
    "find_unused_parameters",
    "broadcast_buffers",
)
_FSDP: Final = ("use_orig_params", "limit_all_gathers", "forward_prefetch", "backward_prefetch", "sync_module_states")
_KNOWN: Final = ("ddp", "auto", "single", "fsdp", "deepspeed", "modelparallel", "dp")
_HALVES: Final = {"amp-bf16": "bf16", "amp-fp16": "fp16", "bf16": "bf16", "fp16": "fp16", "fp32": ""}


def put_strategy(sheet: Sheet, count: int, nodes: int, recipe: str) -> None:
    """Set `sharding`, and `precision` where the strategy makes something else of it; `count` GPUs on `nodes`."""
    given = sheet.get(_KEY, default="auto")
    options = sheet.read(mapping, f"{_KEY}.init_args", default={}) if isinstance(given, dict) else {}
    word = str(given.get("class_path", "") if isinstance(given, dict) else given).rpartition(".")[2].lower()
    if "deepspeed" in word:
        _deepspeed(sheet, word, options, recipe, count)
    elif "modelparallel" in word:
        _model_parallel(sheet, options, count, nodes)
    elif "fsdp" in word and "xla" not in word:
        _fsdp(sheet, word, options, recipe, nodes)
    elif count > 1 and "single" not in word:
        if not word.startswith(_KNOWN):
            sheet.warn(_KEY, "not-modelled", f"the strategy {shorten(word)} is not known: counted as ddp")
        made = {"strategy": "ddp", **{key: options[key] for key in _DDP if key in options}}
        sheet.put("sharding", made, _KEY, default="lightning/pytorch/trainer: auto is ddp on several devices")


def _deepspeed(sheet: Sheet, word: str, options: Mapping[str, Any], recipe: str, count: int) -> None:
    if options.get("config") is not None:
        _own_config(sheet, recipe, count)
        return
    stage = str(options.get("stage", word.partition("stage_")[2][:1] or 2))
    made: dict[str, Any] = {"strategy": f"zero{stage}", **_BUCKETS}
    made.update({key: options[key] for key in _SETTINGS if key in options})
    device = "nvme" if "nvme" in word else "cpu"
    if "offload" in word or truth(options.get("offload_optimizer", False)):
        made["offload_optimizer"] = {"device": options.get("offload_optimizer_device", device)}
    if (stage == "3" and "offload" in word) or truth(options.get("offload_parameters", False)):
        made["offload_param"] = {"device": options.get("offload_params_device", device)}
    sheet.put("sharding", {key: value for key, value in made.items() if value is not None}, _KEY, default=SOURCE)
    if half := _HALVES.get(recipe, ""):
        sheet.put("precision", f"mixed-{half}", "trainer.precision", _KEY)


def _own_config(sheet: Sheet, recipe: str, count: int) -> None:
    """A DeepSpeed config that is written in place, or named: it stands for every default of the strategy."""
    half = _HALVES.get(recipe, "")
    deepspeed.attach(sheet, f"{_KEY}.init_args.config", half, count)
    if half and sheet.run.get("precision") in (None, "fp32"):  # neither bf16 nor fp16 is written there
        sheet.put("precision", f"mixed-{half}", "trainer.precision", _KEY)


def _fsdp(sheet: Sheet, word: str, options: Mapping[str, Any], recipe: str, nodes: int) -> None:
    strategy = str(options.get("sharding_strategy", "FULL_SHARD")).upper()
    if strategy == "NO_SHARD":
        sheet.put("sharding.strategy", "ddp", _KEY)
        return
    wrapped = bool(options.get("auto_wrap_policy"))
    made: dict[str, Any] = {"strategy": "hsdp" if "HYBRID" in strategy else "fsdp", "version": 1, "sharding_strategy": strategy,
                            "use_orig_params": True, "wrap": "layers" if wrapped else "none"}  # fmt: skip
    if "HYBRID" in strategy and nodes > 1:  # shared out within a node
        made["replicate"] = nodes
    if recipe.startswith("amp-"):
        made["reduce_dtype"] = recipe.removeprefix("amp-")
    if truth(options.get("cpu_offload", False)) or "offload" in word:
        made["offload_params"] = True
    made.update({key: options[key] for key in _FSDP if key in options})
    sheet.put("sharding", made, _KEY)
    if not wrapped:
        sheet.assume("sharding", "one-unit", "no auto_wrap_policy is written: the whole model is gathered as one unit, unless "
                     "configure_model wraps its layers")  # fmt: skip


def _model_parallel(sheet: Sheet, options: Mapping[str, Any], count: int, nodes: int) -> None:
    """Tensor parallelism over a node's GPUs and FSDP2 over the nodes, unless the sizes are written."""
    sizes = [options.get(f"{kind}_parallel_size", "auto") for kind in ("tensor", "data")]
    tensor = count // nodes if sizes[0] == "auto" else whole(sizes[0])
    if tensor > 1:
        sheet.put("parallel.tensor", tensor, _KEY, default="lightning/pytorch/strategies/model_parallel.py")
    if count > tensor:
        sheet.put("sharding", {"strategy": "fsdp", "version": 2, "wrap": "layers"}, _KEY)
    sheet.assume("sharding", "layers-wrapped", "what is divided stands in configure_model: every layer is taken to be, and to be "
                 "a unit of its own")  # fmt: skip
