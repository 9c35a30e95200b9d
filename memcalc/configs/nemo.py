"""NeMo's YAML (up to 2.x's `megatron_gpt_config.yaml` and the Framework Launcher's): `trainer` and `model`.

Sources are NeMo's nemo/collections/nlp/models/language_modeling/megatron_gpt_model.py and parts/nlp_overrides.py. Its traps:

* megatron_amp_O2 decides what `precision: bf16` is: 16-bit weights with fp32 main copies, or fp32 weights under autocast;
* only optimizers whose names say so are distributed (mcore_distributed_optim, distributed_fused_adam);
* `${multiply:4, ${.hidden_size}}`, and in the launcher `${training.model.…}`, name other values of the file;
* the vocabulary is the tokenizer's, padded.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.follow import interpolated
from memcalc.configs.megatron_models import asked_whole, put_model
from memcalc.configs.megatron_options import optimizer, sharding, unmodelled
from memcalc.configs.megatron_words import Words, batch, flattened, gpus, parallel, table, virtual
from memcalc.configs.names import known
from memcalc.configs.table import Sheet
from memcalc.configs.words import names, number, text, truth, whole

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "nemo"
TITLE: Final = "NeMo"

MODEL: Final = "nemo/collections/nlp/models/language_modeling/megatron_gpt_model.py"
_SIGNS: Final = (
    "megatron_amp_O2", "activations_checkpoint_granularity", "encoder_seq_length", "mcore_gpt", "tensor_model_parallel_size",
    "pipeline_model_parallel_size", "micro_batch_size", "global_batch_size", "restore_from_path", "restore_from_ckpt",
)  # fmt: skip
# groups of the launcher's configs, by which a file calls itself
_GROUPS: Final = ("training", "fine_tuning", "peft", "prompt_learning", "adapter_learning", "ia3_learning")
_DISTRIBUTED: Final = ("distributed_fused_adam", "mcore_distributed_optim")
_LINEARS: Final = {"attention_qkv": ["q_proj", "k_proj", "v_proj"], "attention_dense": ["o_proj"],
                   "mlp_fc1": ["gate_proj", "up_proj"], "mlp_fc2": ["down_proj"]}  # fmt: skip
_LINEARS_OF: Final = {
    "all": list(_LINEARS),
    "attention": ["attention_qkv", "attention_dense"],
    "mlp": ["mlp_fc1", "mlp_fc2"],
}
_HALVES: Final = {"bf16": "bf16", "bf16-mixed": "bf16", "bf16-true": "bf16", "16": "fp16", "16-mixed": "fp16", "16-true": "fp16",
                  "fp16": "fp16", "32": "", "32-true": "", "fp32": ""}  # fmt: skip
_MATTER: Final = (
    "model.num_*", "model.*hidden_size", "model.*parallel_size", "model.moe_*", "model.mamba*", "model.*_rank", "model.encoder*",
    "model.decoder*", "model.retro*", "model.mtp*", "model.peft.*scheme",
)  # fmt: skip
_HARMLESS: Final = (
    "model.num_micro_batches_with*", "model.moe_aux*", "model.moe_z*", "model.moe_grouped*", "model.moe_router_load*",
    "model.num_query_groups", "model.moe_input*", "model.num_workers", "model.num_gqa*",
)  # fmt: skip


def recognises(document: Document) -> int:
    """By `trainer` and a `model` in NeMo's words."""
    inner = _within(document)
    model = inner.data.get("model")
    if not isinstance(model, dict) or not isinstance(inner.data.get("trainer"), dict):
        return 0
    return 93 if sum(sign in model for sign in _SIGNS) >= 2 else 0


def read(document: Document, asked: Asked) -> Reading:
    """The run of one file."""
    sheet = Sheet(_followed(_within(document)), asked, NAME, TITLE)
    if not isinstance(sheet.document.data.get("model"), dict):
        raise sheet.refuse("model", "a mapping belongs here: NeMo's configs say all of a model in it")
    words = Words(sheet, _paths(sheet), MODEL, grouped=True)
    degrees = parallel(words)
    count = gpus(words, degrees, experts=words.number("num_experts") > 1, written=_devices(sheet),
                 keys=("trainer.devices", "trainer.num_nodes"))  # fmt: skip
    virtual(words, degrees["pipeline"], _model(words))
    _sequence(sheet)
    _engine(words)
    batch(words, degrees, count)
    _adapters(sheet)
    optimizer(words, "optim.name")
    unmodelled(words)
    return sheet.reading(_ignored(sheet))


def _within(document: Document) -> Document:
    """The launcher's group that holds `trainer` and `model`, where they are not at the top."""
    for key in _GROUPS:
        inner = document.data.get(key)
        if isinstance(inner, dict) and isinstance(inner.get("model"), dict) and "trainer" in inner:
            return document.part(key, inner)
    return document


def _followed(document: Document) -> Document:
    """The document with its references followed, those through the launcher's group too."""
    named = {
        group: document.data for group in _GROUPS if f"${{{group}." in document.text and group not in document.data
    }
    made = interpolated(replace(document, data={**document.data, **named}))
    return replace(made, data={key: value for key, value in made.data.items() if key not in named})


def _paths(sheet: Sheet) -> dict[str, str]:
    """Megatron-LM's words -> where NeMo has them; those of the same name are below `model`."""
    model = sheet.document.data["model"]
    below = {path.removeprefix("model."): path for _, path in flattened(model, "model")}
    return {
        **below,
        **{word: f"model.{theirs}" for word, theirs in table()["nemo"].items()},
        "optim.name": "model.optim.name",
    }


def _devices(sheet: Sheet) -> int | None:
    """Devices of a node times nodes; None where devices are all there are."""
    devices = sheet.get("trainer.devices")
    nodes = max(1, sheet.read(whole, "trainer.num_nodes", default=1))
    if devices in (None, -1, "-1", "auto"):
        return None
    each = len(devices) if isinstance(devices, list) else sheet.read(whole, "trainer.devices", default=0)
    return each * nodes if each > 0 else None


def _model(words: Words) -> int:
    """Set `model`; where the file restores one, what is asked for, or what the launcher calls it. Its layers."""
    sheet = words.sheet
    restores = sheet.has("model.restore_from_path", "model.restore_from_ckpt", "model.language_model_path")
    if asked_whole(words) or words.has("num_layers") or not restores:
        layers = put_model(words)
        parallel_residual(words)
        return layers
    name = sheet.read(text, "run.model_train_name", default="").replace("_", "-")
    found = known(sheet, name) if name else None
    if found is None:
        sheet.fault(
            "model.restore_from_path",
            "the model is in a checkpoint that this file restores; say which it is with --model",
        )
        return 0
    sheet.put("model", found, "run.model_train_name")
    sheet.assume(
        "model",
        "by-its-name",
        f"the checkpoint that is restored is taken to be a {found}, as run.model_train_name says",
    )
    return 0


def parallel_residual(words: Words) -> None:
    """Falcon's layers: attention and MLP side by side (mcore_customization_config)."""
    at = "model.mcore_customization_config"
    if words.sheet.read(truth, f"{at}.parallel_attention", default=False) and isinstance(
        words.sheet.run.get("model"), dict
    ):
        two = words.sheet.read(truth, f"{at}.new_decoder_architecture", default=False)
        words.sheet.run["model"]["parallel_residual"] = "two" if two else "one"


def _sequence(sheet: Sheet) -> None:
    length = (
        "model.encoder_seq_length",
        "model.data.seq_length",
        "model.data.train_ds.max_seq_length",
        "model.seq_length",
    )
    if sheet.has(*length):
        key = next(key for key in length if sheet.has(key))
        sheet.put("seq_len", sheet.read(whole, key), key)
    if sheet.read(truth, "model.data.train_ds.packed_sequence", default=False):
        sheet.put("packing", True, "model.data.train_ds.packed_sequence")


def _engine(words: Words) -> None:
    """Precision and data parallelism: Megatron-LM's under O2, PyTorch's autocast or FSDP without."""
    sheet = words.sheet
    word = sheet.read(text, "trainer.precision", "model.precision", default="32").lower()
    if word not in _HALVES:
        sheet.fault("trainer.precision", f"{word!r} is none of {', '.join(_HALVES)}")
    half = _HALVES.get(word, "")
    own = words.flag("megatron_amp_O2", default=False)
    if words.flag("fsdp"):
        _fsdp(sheet, half)
    elif half and not own:
        _autocast(words, half)
    else:
        sheet.put("implementation", "megatron", default="Megatron-LM's own modules")
        sheet.put("precision", f"megatron-{half}" if half else "fp32", "trainer.precision", "model.megatron_amp_O2")
        name = sheet.read(text, "model.optim.name", default="fused_adam")
        sharding(words, distributed=name in _DISTRIBUTED, fp8=words.flag("fp8"))
        _options(words)


def _options(words: Words) -> None:
    """What NeMo says otherwise: the dtype of reduced gradients, the format of fp8."""
    sheet, run = words.sheet, words.sheet.run["sharding"]
    if sheet.read(text, "model.optim.grad_sync_dtype", default="").lower() in ("bf16", "bfloat16"):
        sheet.put("sharding.grad_reduce_in_bf16", True, "model.optim.grad_sync_dtype")
    if "fp8" in run:
        sheet.put("sharding.fp8", "e4m3" if words.flag("fp8_e4m3") else "hybrid", "model.fp8_e4m3", "model.fp8_hybrid")
    fused = words.flag("use_flash_attn") or words.flag("transformer_engine")
    if not fused:
        sheet.warn("model.use_flash_attention", "not-modelled", "attention without Transformer Engine or flash-attn "
                   "keeps its scores: counted is the fused one")  # fmt: skip


def _autocast(words: Words, half: str) -> None:
    """fp32 weights, frozen ones too, and autocast around them; every rank holds all of it."""
    sheet = words.sheet
    recipe: Any = f"amp-{half}"
    adapters = sheet.read(text, "model.peft.peft_scheme", default="no") not in ("no", "none", "null")
    sheet.put("precision", {"recipe": recipe, "frozen": "fp32"} if adapters else recipe, "trainer.precision",
              "model.megatron_amp_O2", default=f"{MODEL}: megatron_amp_O2 false")  # fmt: skip
    sheet.put("sharding", "ddp", "model.optim.name")
    sheet.put("attention", "flash" if words.flag("use_flash_attn") or words.flag("transformer_engine") else "sdpa",
              "model.use_flash_attention", default=MODEL)  # fmt: skip
    word = words.read(text, "recompute_granularity", default="no")
    sheet.put(
        "checkpointing", word if word in ("full", "selective") else "none", "model.activations_checkpoint_granularity"
    )
    sheet.assume(
        "implementation", "modules", "Hugging Face's modules under autocast stand for Megatron-LM's without O2"
    )


def _fsdp(sheet: Sheet, half: str) -> None:
    """PyTorch's FSDP around each layer (parts/nlp_overrides.py, NLPFSDPStrategy)."""
    word = sheet.read(text, "model.fsdp_sharding_strategy", default="full").lower()
    kinds = {"full": "FULL_SHARD", "grad": "SHARD_GRAD_OP", "hybrid": "HYBRID_SHARD"}
    if word not in kinds:
        sheet.fault("model.fsdp_sharding_strategy", f"{word!r} is none of {', '.join(kinds)}")
    options: dict[str, Any] = {"strategy": "hsdp" if word == "hybrid" else "fsdp", "version": 1, "wrap": "layers",
                               "sharding_strategy": kinds.get(word, "FULL_SHARD")}  # fmt: skip
    reduced = {"32": "fp32", "16": "fp16"}.get(str(sheet.get("model.fsdp_grad_reduce_dtype", default="fp32")))
    options["reduce_dtype"] = reduced or sheet.read(text, "model.fsdp_grad_reduce_dtype", default="fp32")
    sheet.put(
        "sharding", {**options, **({"param_dtype": half} if half else {})}, "model.fsdp", "model.fsdp_sharding_strategy"
    )
    sheet.put("precision", f"mixed-{half}" if half else "fp32", "trainer.precision")
    word = sheet.read(text, "model.activations_checkpoint_granularity", default="no")
    sheet.put(
        "checkpointing", word if word in ("full", "selective") else "none", "model.activations_checkpoint_granularity"
    )


def _adapters(sheet: Sheet) -> None:
    """LoRA, whose default target is attention_qkv; other schemes are refused."""
    scheme = sheet.read(text, "model.peft.peft_scheme", default="no").lower()
    at = "model.peft.lora_tuning"
    if scheme in ("no", "none", "null", ""):
        return
    if scheme == "ia3":
        sheet.put("lora", {"method": "ia3"}, "model.peft.peft_scheme")
        return
    if scheme not in ("lora", "qlora"):
        sheet.fault("model.peft.peft_scheme", f"{scheme!r} is not modelled; lora and ia3 are")
        return
    sheet.put(
        "lora.rank", max(1, sheet.read(whole, f"{at}.adapter_dim", default=32)), f"{at}.adapter_dim", default=MODEL
    )
    sheet.put(
        "lora.alpha", sheet.read(number, f"{at}.alpha", default=32), f"{at}.alpha", f"{at}.adapter_dim", default=MODEL
    )
    listed = sheet.read(names, f"{at}.target_modules", default=["attention_qkv"])
    targets = [
        other for name in listed for part in _LINEARS_OF.get(name, [name]) for other in _LINEARS.get(part, [part])
    ]
    sheet.put("lora.targets", list(dict.fromkeys(targets)), f"{at}.target_modules", default=f"{MODEL}: attention_qkv")
    if not sheet.read(truth, "model.megatron_amp_O2", default=False):
        sheet.put("lora.dtype", "fp32", "model.megatron_amp_O2", default=f"{MODEL}: fp32 without O2")
    if scheme == "qlora":
        sheet.put("quantize", "nf4", "model.peft.peft_scheme")


def _ignored(sheet: Sheet) -> list[str]:
    """Everything but what speaks of the model's sizes and the ways that it is divided."""
    from fnmatch import fnmatch  # noqa: PLC0415 - at the end of a reading

    def matters(path: str) -> bool:
        return any(fnmatch(path, one) for one in _MATTER) and not any(fnmatch(path, one) for one in _HARMLESS)

    return [path for _, path in flattened(sheet.document.data) if not matters(path)]
