"""litgpt's YAML (jsonargparse): `litgpt finetune_lora`, `finetune_full` and `pretrain` take one each.

Sources are those of litgpt 0.5.13 (litgpt/finetune/lora.py, full.py, pretrain.py). Its traps:

* the precision left out is bf16-mixed: fp32 weights, frozen ones too; `-true` makes all of it 16-bit, adapters too;
* under `quantize` Lightning packs every linear layer, the head included, and AdamW becomes bitsandbytes' PagedAdamW;
* one GPU never checkpoints; several do in finetuning (each Block), and not in pretraining;
* accumulation follows from the global batch; embeddings are never tied in finetuning, whatever the checkpoint does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.litgpt_models import fused, model_of, targets
from memcalc.configs.optim import put_optimizer
from memcalc.configs.table import Key, Sheet
from memcalc.configs.words import mapping, number, text, truth, whole

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "litgpt"
TITLE: Final = "litgpt"

CHUNK: Final = 128  # tokens of a chunk of the loss: chunked_cross_entropy in litgpt/utils.py
_ADAPTERS: Final = ("lora_r", "lora_alpha", "lora_dropout", "lora_query", "lora_key", "lora_value", "lora_projection",
                    "lora_mlp", "lora_head", "quantize")  # fmt: skip
_RECIPES: Final = {"bf16-true": "bf16", "16-true": "fp16", "32-true": "fp32", "32": "fp32", "bf16-mixed": "amp-bf16",
                   "16-mixed": "amp-fp16", "bf16": "bf16", "16": "amp-fp16"}  # fmt: skip
_STORAGES: Final = {"nf4": "nf4", "nf4-dq": "nf4-double", "fp4": "fp4", "fp4-dq": "fp4-double", "int8-training": ""}
_KEYS: Final = (Key("train.max_seq_length", "seq_len", whole),)
_IGNORED: Final = (
    "out_dir", "data*", "eval*", "log*", "logger_name", "seed", "access_token", "resume", "initial_checkpoint_dir",
    "tokenizer_dir", "optimizer.init_args.*", "train.save_interval", "train.log_interval", "train.lr_warmup*", "train.epochs",
    "train.max_*", "train.min_lr", "lora_alpha", "lora_dropout", "nodes", "generate*", "hparams*", "loggers*",
)  # fmt: skip


def recognises(document: Document) -> int:
    """By litgpt's own arguments."""
    data, train = document.data, document.data.get("train")
    batches = isinstance(train, dict) and ("micro_batch_size" in train or "global_batch_size" in train)
    named = any(key in data for key in ("checkpoint_dir", "model_name", "model_config", "tokenizer_dir"))
    return 92 if batches and named else 75 if "checkpoint_dir" in data and "lora_query" in data else 0


def read(document: Document, asked: Asked) -> Reading:
    """The run of one command's config."""
    sheet = Sheet(document, asked, NAME, TITLE)
    command = _command(sheet)
    gpus = _gpus(sheet)
    model_of(sheet, tied=command == "pretrain" and sheet.read(truth, "train.tie_embeddings", default=False))
    sheet.fill(_KEYS)
    precision = _precision(sheet, command)
    packed = _adapters(sheet, precision) if command == "lora" else False
    _batch(sheet, command, gpus)
    _optimizer(sheet, packed)
    several, where = gpus > 1, "pretrain.py" if command == "pretrain" else "finetune/*.py"
    sheet.put("checkpointing", "full" if several and command != "pretrain" else "none",
              default=f"litgpt/{where}: each Block, in finetuning on several GPUs")  # fmt: skip
    if several:
        _sharding(sheet, command, precision)
    _loss(sheet, command)
    sheet.assume("implementation", "modules", "Hugging Face's modules stand for litgpt's, which keep about the same")
    return sheet.reading(_IGNORED)


def _command(sheet: Sheet) -> str:
    """Which command takes these arguments: lora, full or pretrain; a fault for the adapters that no run can say."""
    if sheet.has("model_name", "model_config"):
        return "pretrain"
    where = str(sheet.get("out_dir", default="")).lower()
    if "adapter" in where and not sheet.has("lora_r", "lora_query"):
        sheet.fault("out_dir", "LLaMA-Adapter (litgpt finetune_adapter) is not modelled; finetune_lora and _full are")
    return "lora" if any(key in sheet.document.data for key in _ADAPTERS) else "full"


def _gpus(sheet: Sheet) -> int:
    devices = sheet.get("devices")
    nodes: int = sheet.read(whole, "num_nodes", default=1)
    if devices is None and not sheet.asked.gpus and not sheet.has("model_name"):
        sheet.put("gpus", nodes, "devices", default="litgpt/finetune/*.py: devices 1")
        return nodes
    if devices in (None, "auto", "-1", -1):
        return sheet.gpus()
    count = len(devices) if isinstance(devices, list) else sheet.read(whole, "devices", default=1)
    return sheet.gpus("devices", count=max(1, count) * nodes)


def _precision(sheet: Sheet, command: str) -> str:
    """Lightning's word; without one get_default_supported_precision takes bf16-mixed."""
    word = sheet.read(text, "precision", default="")
    if word and word not in _RECIPES:
        sheet.fault("precision", f"{word!r} is none of {', '.join(_RECIPES)}")
        return "bf16"
    recipe = _RECIPES[word or "bf16-mixed"]
    wide = command == "lora" and recipe.startswith("amp-")
    sheet.put("precision", {"recipe": recipe, "frozen": "fp32"} if wide else recipe, "precision",
              default="" if word else "litgpt/utils.py, get_default_supported_precision: bf16-mixed")  # fmt: skip
    return recipe


def _adapters(sheet: Sheet, precision: str) -> bool:
    """LoRA in the weights' dtype; whether the frozen base is packed."""
    source = "litgpt/finetune/lora.py, setup"
    for key, theirs, convert, default in (("rank", "lora_r", whole, 8), ("alpha", "lora_alpha", number, 16),
                                          ("dropout", "lora_dropout", number, 0.05)):  # fmt: skip
        sheet.put(f"lora.{key}", sheet.read(convert, theirs, default=default), theirs,
                  default="" if sheet.has(theirs) else source)  # fmt: skip
    sheet.put("lora.targets", targets(sheet), "lora_query", default=source)
    sheet.put(
        "lora.dtype",
        "fp32" if precision.startswith("amp-") else precision,
        "precision",
        default="LoRA is made with the model",
    )
    if fused(sheet):
        sheet.assume(
            "lora.targets", "fused", "litgpt gives q, k and v an A each; here one adapter serves the fused projection"
        )
    word = sheet.read(text, "quantize", default="")
    storage = _STORAGES.get(word.removeprefix("bnb."), None) if word else ""
    if storage is None:
        sheet.fault("quantize", f"{word!r} is none of {', '.join(f'bnb.{name}' for name in _STORAGES)}")
    if word == "bnb.int8-training":
        sheet.warn(
            "quantize",
            "not-modelled",
            "int8-training keeps 16-bit weights beside the int8 ones: counted are the former",
        )
    if storage:
        sheet.put("quantize", {"name": storage, "skip_modules": [], "upcast": False}, "quantize")
    return bool(storage)


def _batch(sheet: Sheet, command: str, gpus: int) -> None:
    """Micro batch, and the accumulation that the global batch leaves to each rank (litgpt/args.py)."""
    micro, total = (4, 512) if command == "pretrain" else (1, 16)
    source = f"litgpt/{'pretrain' if command == 'pretrain' else f'finetune/{command}'}.py, setup"
    rows = sheet.read(whole, "train.micro_batch_size", default=micro)
    whole_batch = sheet.read(whole, "train.global_batch_size", default=total)
    sheet.put(
        "batch_size", rows, "train.micro_batch_size", default="" if sheet.has("train.micro_batch_size") else source
    )
    sheet.put("grad_accum", max(1, whole_batch // gpus // max(1, rows)), "train.global_batch_size", "train.micro_batch_size",
              "devices", default=source)  # fmt: skip
    if "seq_len" not in sheet.run:
        if command != "pretrain":
            sheet.assume("seq_len", "longest-sample", "no train.max_seq_length: a batch is as long as its longest sample; "
                         "say how long with --seq-len")  # fmt: skip
        elif not sheet.asked.flags.get("seq_len"):
            sheet.assume("seq_len", "block-size", "no train.max_seq_length: litgpt takes the model's block_size; say it "
                         "with --seq-len")  # fmt: skip


def _optimizer(sheet: Sheet, packed: bool) -> None:
    """A class path with init_args, or a name of torch.optim's; on a packed base AdamW is PagedAdamW (litgpt/utils.py)."""
    given = sheet.get("optimizer")
    if packed:
        sheet.put("optimizer", "bitsandbytes.optim.PagedAdamW", "optimizer.class_path", "optimizer",
                  default="litgpt/utils.py, instantiate_bnb_optimizer")  # fmt: skip
        return
    if isinstance(given, dict):
        name = sheet.read(text, "optimizer.class_path", default="torch.optim.AdamW")
        put_optimizer(sheet, name, sheet.read(mapping, "optimizer.init_args", default={}), "optimizer.class_path")
        return
    name = str(given or "AdamW")
    put_optimizer(sheet, name if "." in name else f"torch.optim.{name}", {}, "optimizer",
                  default="" if given else "litgpt/finetune/*.py, setup: AdamW")  # fmt: skip


def _sharding(sheet: Sheet, command: str, precision: str) -> None:
    """FSDP1 around each Block, as Lightning sets it up; FSDP2 for LoRA (litgpt/finetune/lora.py, parallelize_fn).

    Under bf16-mixed Lightning gathers in fp32 and reduces in bf16 (fabric/plugins/precision/fsdp.py).
    """
    if command == "lora":
        sheet.put(
            "sharding", {"strategy": "fsdp", "version": 2}, default="litgpt/finetune/lora.py: ModelParallelStrategy"
        )
        if sheet.has("quantize"):
            sheet.warn(
                "quantize", "refused-by-litgpt", "litgpt itself refuses quantisation on several GPUs; take --gpus 1"
            )
        return
    options: dict[str, Any] = {"strategy": "fsdp", "version": 1, "wrap": "layers"}
    nodes = sheet.read(whole, "num_nodes", default=1)
    if command == "pretrain" and nodes > 1:
        options.update({"strategy": "hsdp", "replicate": nodes})
    if precision.startswith("amp-"):
        options.update({"param_dtype": "fp32", "reduce_dtype": precision.removeprefix("amp-")})
    sheet.put(
        "sharding",
        options,
        default=f"litgpt/{'pretrain' if command == 'pretrain' else 'finetune/full'}.py: FSDPStrategy",
    )


def _loss(sheet: Sheet, command: str) -> None:
    """Cross entropy in chunks of 128 tokens: of a sequence with LoRA, of the whole batch otherwise."""
    length = sheet.run.get("seq_len") or sheet.asked.flags.get("seq_len")
    if isinstance(length, int):
        rows = 1 if command == "lora" else sheet.run["batch_size"]
        chunks = max(1, -(-length * rows // CHUNK))
        sheet.put(
            "loss", {"kind": "chunked", "chunks": chunks}, "train.max_seq_length", default="chunked_cross_entropy"
        )
