"""LightningCLI's YAML (`python train.py fit --config config.yaml`): the Trainer's own settings around a class of the user's.

Sources are lightning.pytorch 2.6: trainer/trainer.py, plugins/precision, callbacks/weight_averaging.py; strategies stand in
lightning_strategies.py. Its traps:

* the precision left out is 32-true; `-mixed` is autocast around fp32 weights, `-true` makes all of it 16-bit;
* a batch is the data module's; which key of it says so is the user's choice: the usual ones are read;
* what the model is stands in code, unless a key names a checkpoint: then --model must say it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.lightning_strategies import put_strategy
from memcalc.configs.names import known
from memcalc.configs.optim import put_optimizer
from memcalc.configs.table import Sheet
from memcalc.configs.words import mapping, text, whole
from memcalc.errors import Fault, shorten

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "lightning"
TITLE: Final = "LightningCLI"
SOURCE: Final = "lightning/pytorch/trainer/trainer.py"

_TRAINER: Final = frozenset({"accelerator", "devices", "precision", "strategy", "max_epochs", "max_steps",
                             "accumulate_grad_batches", "num_nodes", "gradient_clip_val", "log_every_n_steps", "callbacks",
                             "logger", "val_check_interval"})  # fmt: skip
_RECIPES: Final = {
    "32": "fp32", "32-true": "fp32", "bf16-mixed": "amp-bf16", "bf16": "amp-bf16", "16-mixed": "amp-fp16", "16": "amp-fp16",
    "bf16-true": "bf16", "16-true": "fp16", "64": "fp64", "64-true": "fp64", "transformer-engine": "transformer-engine",
}  # fmt: skip
# arguments of the user's classes, as they are usually called; the first that is written wins
_MODELS: Final = ("pretrained_model_name_or_path", "model_name_or_path", "model_name", "model_id", "pretrained", "hf_model",
                  "backbone")  # fmt: skip
_BATCHES: Final = (
    "micro_batch_size",
    "train_batch_size",
    "batch_size",
    "batch_size_per_gpu",
    "per_device_train_batch_size",
)
_LENGTHS: Final = (
    "max_seq_length",
    "max_length",
    "seq_len",
    "seq_length",
    "block_size",
    "context_length",
    "max_seq_len",
)


def recognises(document: Document) -> int:
    """By a `trainer` in Lightning's words beside a model, or a data module, of the user's."""
    data = _within(document).data
    inner = data.get("trainer")
    if not isinstance(inner, dict) or len(_TRAINER & inner.keys()) < 2:
        return 0
    classes = any(
        isinstance(data.get(key), dict) and "class_path" in data[key] for key in ("model", "data", "optimizer")
    )
    return 86 if classes or "seed_everything" in data else 30


def _within(document: Document) -> Document:
    """The part below `fit`, where a file is of the subcommand."""
    inner = document.data.get("fit")
    return document.part("fit", inner) if isinstance(inner, dict) and "trainer" in inner else document


def read(document: Document, asked: Asked) -> Reading:
    """The run of one file, of a model that it names or that is asked for."""
    sheet = Sheet(_within(document), asked, NAME, TITLE)
    _model(sheet)
    count, nodes = _gpus(sheet)
    put_strategy(sheet, count, nodes, _precision(sheet))
    _shape(sheet)
    steps = sheet.read(whole, "trainer.accumulate_grad_batches", default=1)
    sheet.put("grad_accum", steps, "trainer.accumulate_grad_batches", default=f"{SOURCE}: 1")
    _optimizer(sheet)
    _checkpointing(sheet)
    _callbacks(sheet)
    return sheet.reading(("*",))


def _keys(*words: str) -> list[str]:
    """Where a class's argument may stand."""
    return [f"{at}.{word}" for word in words for at in ("data.init_args", "data", "model.init_args", "model")]


def _model(sheet: Sheet) -> None:
    """Set `model` from a name that the model's arguments have; a fault that says what to add where they have none."""
    if sheet.asked.model is not None:
        return
    key = next((key for key in _keys(*_MODELS) if isinstance(sheet.get(key), str)), "")
    found = known(sheet, str(sheet.get(key))) if key else None
    if found is not None:
        sheet.put("model", found, key)
        return
    named = str(sheet.get("model.class_path", default="") or "a class of yours")
    what = (
        f"{shorten(str(sheet.get(key)))} is no preset"
        if key
        else f"the model is {shorten(named)}, whose code is not run"
    )
    sheet.faults.append(
        Fault("model", f"{what}; say which model it is: --model llama-3.1-8b, a config.json or a checkpoint folder")
    )


def _gpus(sheet: Sheet) -> tuple[int, int]:
    """A number of devices, their list (`[0, 1]`, `"0,1"`), or all there are (`auto`, -1), on each node."""
    devices = sheet.get("trainer.devices")
    nodes: int = max(1, sheet.read(whole, "trainer.num_nodes", default=1))
    if devices in (None, "auto", -1, "-1"):
        return sheet.gpus(), nodes
    if isinstance(devices, str) and "," in devices:
        devices = [one for one in devices.split(",") if one.strip()]
    each = len(devices) if isinstance(devices, list) else max(1, sheet.read(whole, "trainer.devices", default=1))
    count = sheet.gpus(count=each * nodes)
    if "gpus" in sheet.run:
        sheet.put("gpus", count, "trainer.devices", "trainer.num_nodes")
    return count, nodes


def _precision(sheet: Sheet) -> str:
    word = sheet.read(text, "trainer.precision", default="32-true")
    if word not in _RECIPES:
        sheet.fault("trainer.precision", f"{word!r} is not modelled: {', '.join(_RECIPES)} are")
    recipe = _RECIPES.get(word, "fp32")
    sheet.put("precision", recipe, "trainer.precision", default=f"{SOURCE}: 32-true")
    return recipe


def _shape(sheet: Sheet) -> None:
    """Rows and tokens, where the usual keys of the data module or the model say them."""
    rows = sheet.read(whole, *_keys(*_BATCHES))
    if rows:
        sheet.put("batch_size", rows, sheet.named(*_keys(*_BATCHES)))
    elif "batch_size" not in sheet.asked.flags:
        sheet.assume(
            "batch_size",
            "batch-in-code",
            "no key of the data module says its batch: one is assumed; say it with --batch-size",
        )
    length = sheet.read(whole, *_keys(*_LENGTHS))
    if length:
        sheet.put("seq_len", length, sheet.named(*_keys(*_LENGTHS)))


def _optimizer(sheet: Sheet) -> None:
    name = sheet.read(text, "optimizer.class_path", "model.init_args.optimizer.class_path", default="")
    if name:
        arguments = sheet.read(mapping, "optimizer.init_args", "model.init_args.optimizer.init_args", default={})
        put_optimizer(sheet, name, arguments, "optimizer.class_path", "model.init_args.optimizer.class_path")
    else:
        sheet.assume(
            "optimizer",
            "optimizer-in-code",
            "configure_optimizers says which optimizer it is: AdamW is assumed; say it with --opt",
        )


def _checkpointing(sheet: Sheet) -> None:
    keys = [
        *_keys("gradient_checkpointing", "activation_checkpointing"),
        "trainer.strategy.init_args.activation_checkpointing_policy",
    ]
    written = sheet.get(*keys)
    if written not in (None, False, [], "false"):
        sheet.put("checkpointing", "full", sheet.named(*keys))


def _callbacks(sheet: Sheet) -> None:
    """A moving average of the weights beside them (WeightAveraging, EMAWeightAveraging); largest accumulation of a schedule."""
    found = sheet.get("trainer.callbacks", default=[])
    for one in found if isinstance(found, list) else [found]:
        name = str(one.get("class_path", "") if isinstance(one, dict) else one).rpartition(".")[2]
        options = one.get("init_args") if isinstance(one, dict) else None
        options = options if isinstance(options, dict) else {}
        if name.endswith("WeightAveraging") and _on_gpu(name, options):
            sheet.put("companions", [{"role": "ema"}], "trainer.callbacks")
        if name == "GradientAccumulationScheduler" and isinstance(options.get("scheduling"), dict):
            steps = [value for value in options["scheduling"].values() if isinstance(value, int)]
            sheet.put("grad_accum", max([1, *steps]), "trainer.callbacks")


def _on_gpu(name: str, options: dict[str, Any]) -> bool:
    """Whether the average lies on the GPU: beside the model by default, on the host for StochasticWeightAveraging."""
    written = options.get("device", "cpu" if name.startswith("Stochastic") else "cuda") or "cuda"
    return not str(written).startswith("cpu")
