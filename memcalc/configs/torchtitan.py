"""torchtitan's TOML, in the layouts of 2024 (`[experimental]`, `training.batch_size`) and of v0.1 to v0.2.

Sources are those of torchtitan 0.2.2 (torchtitan/config/job_config.py, models/llama3/infra/parallelize.py). Its traps:

* weights and gradients are sharded in fp32; bf16 only while gathered, reduced in fp32 (FSDP2's mixed precision);
  on one GPU there is autocast instead;
* embedding, head and each layer are wrapped apart, and the head is not let go of after the forward pass; until v0.1
  (`training.batch_size`) layers were, and the root held the rest;
* `mode = "selective"` is the default: every second layer ("2"), or every second matrix product of each layer ("op");
* tensor parallelism brings sequence parallelism with it; accumulation follows from the global batch.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.modules import architecture, put_modules
from memcalc.configs.names import model as named_model
from memcalc.configs.optim import put_optimizer
from memcalc.configs.table import Key, Sheet
from memcalc.configs.words import FLOATS, names, text, truth, whole
from memcalc.presets import find

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "torchtitan"
TITLE: Final = "torchtitan"
SOURCE: Final = "torchtitan/config/job_config.py"

_SECTIONS: Final = frozenset({"job", "metrics", "training", "activation_checkpoint", "parallelism", "experimental",
                              "checkpoint", "profiling", "lr_scheduler"})  # fmt: skip
_PRESET: Final = re.compile(r"preset for (\d+) ([A-Z]\d{2,3}) GPUs")
_SCHEDULES: Final = {"1F1B": "1f1b", "GPipe": "gpipe", "Interleaved1F1B": "interleaved", "LoopedBFS": "interleaved",
                     "InterleavedZeroBubble": "zero-bubble", "ZBVZeroBubble": "zero-bubble", "DualPipeV": "dualpipe"}  # fmt: skip
_KEYS: Final = (Key("training.seq_len", "seq_len", whole, 2048, SOURCE),)
_IGNORED: Final = (
    "job", "profiling", "metrics", "checkpoint", "lr_scheduler", "comm", "memory_estimation", "validation*", "debug", "data",
    "inference", "encoder*", "dataloader*", "training.dataset*", "training.max_norm", "training.steps", "training.gc_*",
    "training.warmup_steps", "training.deterministic", "training.seed", "training.dataloader*", "training.data_parallel_type",
    "training.classifier_free*", "training.img_size", "training.test_mode", "training.timesteps*",
    "model.norm_type", "model.tokenizer_path", "model.hf_assets_path", "model.print_after_conversion", "model.tokenizer*",
    "optimizer.lr", "optimizer.beta*", "optimizer.eps", "optimizer.weight_decay", "optimizer.fused", "float8", "quantize*",
    "parallelism.*rotate_method", "parallelism.pipeline_parallel_*", "experimental.*async*",
    "parallelism.module_fqns*", "parallelism.context_parallel_load*", "experimental.pipeline_parallel_*", "experimental.custom*",
    "experimental.context_parallel_rotate*", "parallelism.expert_parallel_comm*", "activation_checkpoint.*",
    "mx*", "symmetric_memory*",
    "compile.components", "compile.backend", "fault_tolerance", "hf_transformers.*", "parallelism.fsdp_*", "experimental.enable_*",
)  # fmt: skip


def recognises(document: Document) -> int:
    """By its sections, in TOML."""
    data = document.data
    flavored = isinstance(data.get("model"), dict) and "flavor" in data["model"]
    return 90 if flavored and _SECTIONS & data.keys() else 0


def read(document: Document, asked: Asked) -> Reading:
    """A job's config."""
    sheet = Sheet(document, asked, NAME, TITLE)
    _model(sheet)
    gpus = _gpus(sheet)
    ranks = _parallel(sheet, gpus)
    sheet.fill(_KEYS)
    _precision(sheet, gpus)
    _optimizer(sheet)
    _batch(sheet, ranks)
    _checkpointing(sheet)
    if gpus > 1:
        _sharding(sheet)
    _unmodelled(sheet)
    _modules(sheet)
    return sheet.reading(_IGNORED)


def _model(sheet: Sheet) -> None:
    table = find("frameworks", "torchtitan")
    family, flavor = (
        str(sheet.get("model.name", default="llama3")),
        str(sheet.get("model.flavor", default="debugmodel")),
    )
    sheet.seen("model.name", "model.flavor")
    if sheet.asked.model is not None:
        return
    if sheet.has("hf_transformers.model"):
        named_model(sheet, "hf_transformers.model")
        return
    flavors = {name.lower(): found for name, found in table["models"].get(family.replace("-", "_"), {}).items()}
    wanted = [flavor.lower(), *(flavor.lower().removesuffix(end) for end in table["variants"])]
    found = next((flavors[name] for name in wanted if name in flavors), None)
    if found is None:
        sheet.fault("model.flavor", f"no preset for torchtitan's {family} {flavor}; name the model with --model")
        return
    sheet.put("model", found, "model.flavor", "model.name")
    if family in table["left_out"]:
        sheet.warn("model.name", "not-modelled", table["left_out"][family])


def _gpus(sheet: Sheet) -> int:
    """As asked, as the comment at the top says ("a preset for 64 A100 GPUs"), or the product of the degrees."""
    said = _PRESET.search(sheet.document.text)
    if said and not sheet.asked.gpus:
        sheet.put("gpus", int(said[1]), default="the comment in the file")
        sheet.assume("gpus", "comment", f"{said[1]} GPUs, as the comment says: {said[0]}")
        return int(said[1])
    shards = _degree(sheet, "data_parallel_shard_degree", default=-1)
    if shards > 0 and not sheet.asked.gpus:
        product = shards
        for name in ("data_parallel_replicate_degree", "tensor_parallel_degree", "pipeline_parallel_degree",
                     "context_parallel_degree"):  # fmt: skip
            product *= _degree(sheet, name)
        return sheet.gpus("parallelism.data_parallel_shard_degree", count=product)
    return sheet.gpus()


def _degree(sheet: Sheet, name: str, default: int = 1) -> int:
    degree: int = sheet.read(whole, *_places(name), default=default)
    return degree


def _places(name: str) -> tuple[str, ...]:
    return tuple(f"{section}.{name}" for section in ("parallelism", "training", "experimental"))


def _parallel(sheet: Sheet, gpus: int) -> int:
    """Set the degrees; the number of data-parallel ranks that they leave."""
    taken = 1
    for axis in ("tensor", "pipeline", "context"):
        degree = _degree(sheet, f"{axis}_parallel_degree")
        if degree > 1:
            sheet.put(f"parallel.{axis}", degree, *_places(f"{axis}_parallel_degree"))
            taken *= degree
            if axis == "tensor":
                sheet.put("parallel.sequence", True, *_places("tensor_parallel_degree"))
    _experts(sheet)
    if "pipeline" in sheet.run.get("parallel", {}):
        word = sheet.read(text, *_places("pipeline_parallel_schedule"), default="1F1B")
        sheet.put(
            "parallel.schedule", _SCHEDULES.get(word, "1f1b"), *_places("pipeline_parallel_schedule"), default=SOURCE
        )
    return max(1, gpus // taken)


def _experts(sheet: Sheet) -> None:
    """Experts dealt out, where torchtitan's own mixtures are known; their own tensor degree is 1 or that of the rest."""
    key, degree = sheet.named(*_places("expert_parallel_degree")), _degree(sheet, "expert_parallel_degree")
    if degree == 1:
        return
    if "token-choice" not in find("implementations", NAME)["models"].get(architecture(sheet), {}).get("parts", ()):
        sheet.warn(key, "not-modelled", "experts that are dealt out to data-parallel ranks are counted as shards of all of "
                   "them, gathered whole: what persists is as large")  # fmt: skip
        return
    sheet.put("parallel.expert", degree, key)
    sheet.put("parallel.expert_tensor", _degree(sheet, "expert_tensor_parallel_degree"),
              *_places("expert_tensor_parallel_degree"), default=SOURCE)  # fmt: skip


def _precision(sheet: Sheet, gpus: int) -> None:
    """fp32 weights (`training.dtype`), computed in `mixed_precision_param`: by FSDP's policy, by autocast on one GPU."""
    stored = FLOATS.get(sheet.read(text, "training.dtype", default="float32"), "fp32")
    computed = FLOATS.get(sheet.read(text, "training.mixed_precision_param", default="bfloat16"), "bf16")
    source = "" if sheet.has("training.mixed_precision_param", "training.dtype") else SOURCE
    if stored != "fp32" or computed == "fp32":
        recipe: Any = stored
    else:
        recipe = f"mixed-{computed}" if gpus > 1 else f"amp-{computed}"
    if (
        sheet.get("optimizer.implementation") == "fused_opt_states_bf16"
        or sheet.get("optimizer.state_dtype") == "bfloat16"
    ):
        recipe = {"recipe": recipe, "optimizer_states": "bf16"}
    sheet.put("precision", recipe, "training.mixed_precision_param", "training.dtype", default=source)


def _optimizer(sheet: Sheet) -> None:
    name = sheet.read(text, "optimizer.name", default="AdamW")
    word = str(
        sheet.get("optimizer.implementation") or ("fused" if sheet.get("optimizer.fused", default=True) else "foreach")
    )
    known = name if "." in name or name.lower() == "muon" else f"torch.optim.{name}"
    settings = {"fused": word.startswith("fused"), "foreach": word == "foreach"}
    in_backward = sheet.read(truth, "optimizer.early_step_in_backward", default=False)
    put_optimizer(
        sheet, known, settings, "optimizer.name", "optimizer.implementation", default=SOURCE, in_backward=in_backward
    )


def _batch(sheet: Sheet, ranks: int) -> None:
    """The local batch, which a pipeline cuts into micro batches; what the global batch leaves is accumulated."""
    rows = sheet.read(whole, "training.local_batch_size", "training.batch_size", default=8)
    total = sheet.read(whole, "training.global_batch_size", default=-1)
    steps = max(1, total // (rows * ranks)) if total > 0 else 1
    source = "" if sheet.has("training.local_batch_size", "training.batch_size") else SOURCE
    if "pipeline" in sheet.run.get("parallel", {}):
        micro = sheet.read(whole, *_places("pipeline_parallel_microbatch_size"), default=1)
        steps, rows = steps * max(1, rows // max(1, micro)), micro
    sheet.put("batch_size", rows, "training.local_batch_size", "training.batch_size", default=source)
    sheet.put(
        "grad_accum", steps, "training.global_batch_size", default=f"{SOURCE}: one step where no global batch is set"
    )


def _checkpointing(sheet: Sheet) -> None:
    mode = sheet.read(text, "activation_checkpoint.mode", default="selective")
    option = str(sheet.get("activation_checkpoint.selective_ac_option", default="2"))
    made: Any = {"full": "full", "none": "none"}.get(mode)
    if mode == "selective":
        made = (
            "selective" if option == "op" else {"mode": "full", "every": max(1, int(option) if option.isdigit() else 2)}
        )
    if made is None:
        sheet.warn(
            "activation_checkpoint.mode", "not-modelled", f"{mode} is counted as op-wise selective checkpointing"
        )
        made = "selective"
    where = ("activation_checkpoint.mode", "activation_checkpoint.selective_ac_option")
    sheet.put("checkpointing", made, *where, default="" if sheet.has(*where) else SOURCE)


def _sharding(sheet: Sheet) -> None:
    """FSDP2 (apply_fsdp in parallelize.py); replicas of shards where both degrees are set; DDP without shards."""
    replicas = _degree(sheet, "data_parallel_replicate_degree")
    if _degree(sheet, "data_parallel_shard_degree", default=-1) == 1 and replicas > 1:
        sheet.put("sharding", "ddp", *_places("data_parallel_shard_degree"))
        return
    computed = FLOATS.get(str(sheet.get("training.mixed_precision_param", default="bfloat16")), "bf16")
    again = sheet.read(text, *_places("fsdp_reshard_after_forward"), default="default")
    pipelined = "pipeline" in sheet.run.get("parallel", {})
    old = sheet.has("training.batch_size")
    options: dict[str, Any] = {
        "no_sync": pipelined,  # every micro batch reduces its gradients, but in a pipeline's stage
        "strategy": "hsdp" if replicas > 1 else "fsdp",
        **({"replicate": replicas} if replicas > 1 else {}),
        "version": 2,
        "wrap": "layers" if old else "layers+embed+head",
        "reshard_after_forward": _resharding(again, pipelined=pipelined, old=old),
        "param_dtype": computed,
        "reduce_dtype": FLOATS.get(str(sheet.get("training.mixed_precision_reduce", default="float32")), "fp32"),
    }
    if _float8_gathers(sheet):
        options["enable_fsdp_float8_all_gather"] = True
    overlapped = sheet.read(truth, *_places("enable_async_tensor_parallel"), default=False)
    if overlapped and _degree(sheet, "tensor_parallel_degree") > 1:
        options["enable_async_tensor_parallel"] = True
    if sheet.read(truth, "training.enable_cpu_offload", *_places("enable_cpu_offload"), default=False):
        options["cpu_offload"] = True
    sheet.put("sharding", options, *_places("data_parallel_shard_degree"),
              default="torchtitan/models/llama3/infra/parallelize.py, apply_fsdp")  # fmt: skip


def _float8_gathers(sheet: Sheet) -> bool:
    """Whether weights of Float8Linear are gathered in fp8: the tensor-wise recipe can (components/quantization/float8.py)."""
    converters = sheet.get("model.converters", default=[])
    on = sheet.get("float8.enable_float8_linear") or any(str(name).endswith("float8") for name in converters)
    places = ("quantize.linear.float8", "quantize.dense.float8", "float8")
    asked = any(sheet.get(f"{place}.enable_fsdp_float8_all_gather") for place in places)
    return bool(on and asked)


def _resharding(again: str, *, pipelined: bool, old: bool) -> bool | str:
    """apply_fsdp: whether layers are let go of after the forward pass, and by `default` all but the head."""
    if again == "default" and not pipelined:
        return True if old else "default"
    return again == "always"


def _modules(sheet: Sheet) -> None:
    """Its own modules; since v0.2 what is compiled is listed, model and loss by default, before that the loss is not."""
    compiled = put_modules(sheet, "torchtitan", "compile.enable", "training.compile")
    parts = sheet.read(names, "compile.components", default=["model", "loss"])
    if compiled and sheet.has("compile.enable") and "loss" in parts:
        sheet.put("loss", "compiled", "compile.enable")


def _unmodelled(sheet: Sheet) -> None:
    sheet.unmodelled({
        "float8.enable_float8_linear": "matrix products in float8 are counted in bf16",
        "fault_tolerance.enable": "copies that torchft keeps are not counted",
        "training.fp8_linear": "matrix products in float8 are counted in bf16",
    })  # fmt: skip
    converters = sheet.read(names, "model.converters", default=[])
    if converters:
        sheet.warn("model.converters", "not-modelled", f"{', '.join(converters)}: matrix products are counted in bf16")
    sheet.seen(
        "parallelism.disable_loss_parallel", "training.disable_loss_parallel", "parallelism.enable_compiled_autograd"
    )
    sheet.seen(
        "parallelism.*_degree",
        "training.*_degree",
        "experimental.*_degree",
        "optimizer.implementation",
    )
