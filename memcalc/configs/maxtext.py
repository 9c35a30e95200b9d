"""MaxText's YAML: a file laid over base.yml, whose values are the defaults.

Its traps:

* weights are fp32 and cast to `dtype` layer by layer; gradients and Adam's moments are fp32 too, unless said otherwise;
* everything is sharded over `ici_fsdp_parallelism`, which is -1 (all that is left) where it isn't written;
* `remat_policy` is full where it isn't written; the others name what is kept: counted as selective checkpointing;
* `per_device_batch_size` may be below 1 (a sequence over several devices) and is 12 where it isn't written.

JAX compiles the step: Hugging Face's modules stand for MaxText's, and buffers that XLA reuses are not seen.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, prod
from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.follow import find, over_base
from memcalc.configs.maxtext_models import MODEL_KEYS, SOURCE, model_of, table
from memcalc.configs.names import known, unknown
from memcalc.configs.optim import put_optimizer
from memcalc.configs.table import Key, Sheet
from memcalc.configs.words import FLOATS, number, text, truth, whole

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "maxtext"
TITLE: Final = "MaxText"

_KEYS: Final = (
    Key("max_target_length", "seq_len", whole, 2048, SOURCE),
    Key("gradient_accumulation_steps", "grad_accum", whole, 1, SOURCE),
)
_DTYPES: Final = {**FLOATS, "": ""}
_ATTENTION: Final = {"dot_product": "eager"}  # the others are kernels that keep no scores
_OPTIMIZERS: Final = {"adamw": "adamw", "adam_pax": "adamw", "sgd": "sgd", "muon": "muon"}
_UNMODELLED: Final = {
    "quantization": "quantised products (AQT, fp8) are not counted",
    "use_multimodal": "the image tower is not counted",
    "mtp_num_layers": "layers that predict further tokens are not counted",
    "num_vocab_tiling": "logits in tiles are not counted: the whole are",
}
_IGNORED: Final = (
    "base_config", "run_name", "hardware", "steps", "dataset*", "hf_*", "tokenizer*", "enable_*", "log_*", "eval*",
    "profiler*", "checkpoint*", "async_*", "base_output_directory", "reuse_*", "learning_rate*", "warmup*",
    "adam_*", "gradient_clipping*", "save_*", "load_*", "skip_*", "monitor*", "metrics*", "use_iota_embed",
    "use_sft", "use_dpo", "dpo*", "sft*", "train_*", "chat_*", "goodput*", "upload*", "vertex*", "rope_*",
    "max_segments*", "packing", "megablox", "sparse_matmul", "capacity*", "normalization*", "prefill*",
    "inference*", "autoregressive*", "ici_*", "dcn_*", "mesh*", "logical*", "data_sharding", "stack_*",
    "sharding_strategy", "replicate_quant_scale", "context", "logits_dot_in_fp32", "decoder_layer_input",
    "wi_tile*", "wo_tile*", "load_balance*", "z_loss*", "adamw_mask", "trainer_devices*", "sampler_devices*",
    "allow_*", "shard_*", "sa_*", "scan_layers", "lora*", "dtype", "weight_dtype", "grad_dtype", "mu_dtype",
    "*_path", "distill*", "student_overrides", "teacher_overrides*", "rl*", "vllm*", "generate*", "ar_*",
    "quantize_*", "kv_*", "use_*", "xprof*", "dump*", "gcs*", "jax*", "compile*", "compiled*", "cosine*", "lr_*",
    "num_epoch*", "num_batches*", "test_*", "shuffle*", "grain*",
)  # fmt: skip


def recognises(document: Document) -> int:
    """By base.yml's own keys."""
    data = document.data
    base = str(data.get("base_config", ""))
    if base.rpartition("/")[2] == "base.yml" or "inference_jetstream" in base:
        return 91
    own = sum(key in data for key in ("per_device_batch_size", "max_target_length", "remat_policy", "ici_fsdp_parallelism",
                                      "base_emb_dim", "dataset_type", "hardware", "tokenizer_path"))  # fmt: skip
    return 90 if base.endswith((".yml", ".yaml")) and (own or "use_sft" in data) else 80 if own >= 2 else 0


def read(document: Document, asked: Asked) -> Reading:
    """The run of one file."""
    merged = over_base(document, _base)
    student = merged.data.get("student_overrides")
    sheet = Sheet(
        replace(merged, data={**merged.data, **student}) if isinstance(student, dict) else merged, asked, NAME, TITLE
    )
    _missing_base(sheet, document)
    gpus, degrees = _mesh(sheet)
    model_of(sheet)
    sheet.fill(_KEYS)
    _batch(sheet)
    _precision(sheet, gpus)
    _sharding(sheet, gpus, degrees)
    _checkpointing(sheet)
    word = sheet.read(text, "attention", default="autoselected")
    sheet.put("attention", _ATTENTION.get(word, "flash"), "attention", default=SOURCE)
    name = sheet.read(text, "opt_type", default="adamw")
    put_optimizer(sheet, _OPTIMIZERS.get(name, name), {}, "opt_type", default="" if sheet.has("opt_type") else SOURCE)
    _method(sheet)
    sheet.unmodelled(_UNMODELLED)
    sheet.assume(
        "implementation", "modules", "Hugging Face's modules under PyTorch stand for MaxText's, which XLA compiles"
    )
    return sheet.reading(ignored=(*_IGNORED, *MODEL_KEYS))


def _base(document: Document) -> str | None:
    name = document.data.get("base_config")
    return str(name) if name and find(document, str(name)) else None


def _missing_base(sheet: Sheet, document: Document) -> None:
    name = str(document.data.get("base_config") or "")
    if name and name.rpartition("/")[2] != "base.yml" and not find(document, name):
        sheet.warn("base_config", "not-found", f"{name} is not there: what it says is taken from base.yml")


def _mesh(sheet: Sheet) -> tuple[int, dict[str, int]]:
    """How many devices there are, and the degree of each axis that is written: within a slice (ici) and across (dcn)."""
    degrees: dict[str, int] = {}
    for axis in ("data", "fsdp", "fsdp_transpose", "tensor", "context", "sequence", "expert", "pipeline"):
        ici = sheet.read(whole, f"ici_{axis}_parallelism", default=-1 if axis == "fsdp" else 1)
        dcn = sheet.read(whole, f"dcn_{axis}_parallelism", default=1)
        degrees[axis] = -1 if -1 in (ici, dcn) else ici * dcn
    known = prod(degree for degree in degrees.values() if degree > 0)
    return sheet.gpus(count=known if -1 not in degrees.values() and known > 1 else None), degrees


def _batch(sheet: Sheet) -> None:
    rows = sheet.read(number, "per_device_batch_size", default=12.0)
    if rows < 1:
        sheet.assume("batch_size", "fraction", f"{rows} sequences a device are counted as one: a sequence over several "
                     "devices is not")  # fmt: skip
    size = max(1, ceil(rows)) * (2 if _prefers(sheet) else 1)
    sheet.put("batch_size", size, "per_device_batch_size", default="" if sheet.has("per_device_batch_size") else SOURCE)


def _prefers(sheet: Sheet) -> bool:
    """Whether each row is a pair of a chosen and a rejected answer."""
    return bool(sheet.read(truth, "use_dpo", default=False))


def _precision(sheet: Sheet, gpus: int) -> None:
    """fp32 weights computed with in bf16; sharded, they are cast before they are gathered."""
    kept, computed = (
        _dtype(sheet, key, default) for key, default in (("weight_dtype", "float32"), ("dtype", "bfloat16"))
    )
    moments, gradients = _dtype(sheet, "mu_dtype", ""), _dtype(sheet, "grad_dtype", "float32")
    if kept == "fp32":
        recipe: Any = "fp32" if computed == "fp32" else f"mixed-{computed}" if gpus > 1 else f"amp-{computed}"
    else:
        recipe = {"recipe": kept, "gradients": gradients} if gradients != kept else kept
    if moments and moments != kept:
        recipe = {**(recipe if isinstance(recipe, dict) else {"recipe": recipe}), "optimizer_states": moments}
    sheet.put("precision", recipe, "weight_dtype", "dtype", default=SOURCE)


def _dtype(sheet: Sheet, key: str, default: str) -> str:
    word = sheet.read(text, key, default=default)
    if word not in _DTYPES:
        sheet.fault(key, f"{word!r} is none of {', '.join(filter(None, _DTYPES))}")
    return _DTYPES.get(word, "")


def _sharding(sheet: Sheet, gpus: int, degrees: dict[str, int]) -> None:
    """FSDP over what the other axes leave, copies of it over `data`."""
    ours = {"tensor": "tensor", "context": "context", "expert": "expert", "pipeline": "pipeline"}
    for axis, key in ours.items():
        if degrees[axis] > 1:
            sheet.put(f"parallel.{key}", degrees[axis], f"ici_{axis}_parallelism", f"dcn_{axis}_parallelism")
    if gpus == 1:
        return
    copies = degrees["data"]
    options: dict[str, Any] = {"strategy": "fsdp"}
    if copies > 1 and gpus % copies == 0 and copies < gpus:
        options = {"strategy": "hsdp", "replicate": copies}
    if degrees["fsdp"] == 1 and degrees["fsdp_transpose"] == 1:
        options = {"strategy": "ddp"}
    sheet.put("sharding", options, "ici_fsdp_parallelism", default=SOURCE)


def _checkpointing(sheet: Sheet) -> None:
    word = sheet.read(text, "remat_policy", default="full")
    mode = table()["policies"].get(word, "selective")
    sheet.put("checkpointing", mode, "remat_policy", default=SOURCE)
    if mode == "selective":
        sheet.assume("checkpointing", "policy", f"remat_policy {word} keeps a choice of products: counted is attention and "
                     "every second product")  # fmt: skip
    if "offload" in word:
        sheet.warn("remat_policy", "not-modelled", "what it moves to the host is counted on the GPU")
    if sheet.read(truth, "optimizer_memory_host_offload", default=False):
        sheet.put("offload", "optimizer", "optimizer_memory_host_offload")


def _method(sheet: Sheet) -> None:
    """LoRA, preferences' reference model, a distillation's teacher."""
    if sheet.read(truth, "lora.enable_lora", default=False):
        rank = sheet.read(whole, "lora.lora_rank", default=0)
        if rank < 1:
            sheet.fault("lora.lora_rank", "enable_lora is on: it must be at least 1")
        sheet.put("lora", {"rank": rank, "targets": "all-linear", "dtype": "param"}, "lora.lora_rank")
        if sheet.has("lora.lora_weight_qtype"):
            sheet.put("quantize", sheet.read(text, "lora.lora_weight_qtype"), "lora.lora_weight_qtype")
    if _prefers(sheet) and "lora" not in sheet.run:
        sheet.put("companions", [{"role": "reference"}], "use_dpo")
    teacher = sheet.read(text, "teacher_overrides.model_name")
    if teacher:
        found = known(sheet, table()["names"].get(teacher, teacher))
        if found is None:
            sheet.fault("teacher_overrides.model_name", unknown(teacher))
        sheet.put("companions", [{"role": "teacher", "model": found}], "teacher_overrides.model_name")
