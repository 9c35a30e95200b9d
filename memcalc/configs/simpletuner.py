"""SimpleTuner's settings: config.json, config.toml, or a config.env of variables.

Sources are simpletuner/simpletuner_sdk/server/services/field_registry (keys, defaults) and helpers/training/trainer.py of
version 3.1.6. Its traps:

* the model is held in the mixed precision's dtype (bf16), trained whole in it too; adapters are made in the same dtype;
* keys may begin with two hyphens; a config.env has names of its own (`TRAIN_BATCH_SIZE`);
* latents and texts are cached: encoders and autoencoder leave the GPU before training begins;
* the optimizer is `adamw_bf16`, which keeps three states in bf16; gradient checkpointing is on;
* `resolution` is a side in pixels, or megapixels (`resolution_type: area`); data sets may say another.
"""

from __future__ import annotations

import re
from dataclasses import replace
from math import sqrt
from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.denoisers import beside_reference
from memcalc.configs.documents import open_document
from memcalc.configs.follow import find
from memcalc.configs.image_trainers import DTYPES, families, kind, optimizer, packing, table, targets, wan_of
from memcalc.configs.lora import targets as listed
from memcalc.configs.table import Sheet
from memcalc.configs.words import Unfit, number, text, truth, whole
from memcalc.yaml_tree import Tree

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "simpletuner"
TITLE: Final = "SimpleTuner"
TEXT: Final = True  # it reads files of variables

SOURCE: Final = "SimpleTuner 3.1.6, field_registry"
_SIGNS: Final = ("model_family", "model_type", "data_backend_config", "base_model_precision", "validation_prompt", "lora_type",
                 "checkpoint_step_interval", "checkpointing_steps", "train_batch_size", "resolution_type",
                 "flow_schedule_shift")  # fmt: skip
_LINE: Final = re.compile(r"""^\s*(?:export\s+)?([A-Z][A-Z0-9_]{2,60})=["']?([^"'#\n]{0,300})["']?""")
_NAMES: Final = {"MODEL_NAME": "pretrained_model_name_or_path", "USE_GRADIENT_CHECKPOINTING": "gradient_checkpointing",
                 "TRAINING_NUM_PROCESSES": "num_processes", "DATALOADER_CONFIG": "data_backend_config"}  # fmt: skip
_ATTENTION: Final = ("mmdit", "context", "all")  # flux_lora_target: projections of the attention alone
_METHODS: Final = {"lokr": "lokr", "loha": "loha", "lora": "", "locon": ""}
# words that speak of what is held; all others are of no account
_MATTER: Final = re.compile(
    r"precision|offload|quant|dtype|lora_|ema$|checkpointing$|compile|ramtorch|freeze|controlnet$|fsdp|deepspeed|dora"
)
_HARMLESS: Final = re.compile(r"validation|quantize_via|vae|ema_(decay|update|validation|cpu)|lora_(init|scheduler)|offload_during|"
                              r"text_encoder_\d_precision|optimizer_cpu|init_lora|init_lokr|lora_alpha|torch_compile_")  # fmt: skip
_UNMODELLED: Final = {
    "ramtorch": "layers that are kept in the host's memory are counted on the GPU, which is more than is used",
    "enable_group_offload": "groups of layers that are moved to the host are counted on the GPU, which is more than is used",
    "controlnet": "a ControlNet that is trained beside the model is not counted",
    "fsdp_enable": "sharding is not read from here: say it with --sharding",
    "deepspeed_config": "sharding is not read from here: say it with --sharding",
    "quantize_activations": "activations in 8 bits are counted in the compute dtype",
    "layer_freeze_strategy": "what is frozen of a model that is trained whole is counted as trained",
    "gradient_checkpointing_interval": "checkpoints of several blocks each are counted as one for each block",
    "tread_config": "tokens that TREAD leaves out are counted",
    "distillation_method": "what distillation holds beside the model is not counted",
    "optimizer_offload_gradients": "gradients that are moved to the host are counted on the GPU",
}


def recognises(document: Document) -> int:
    """By its model family, or by several of its own keys; by variables of that name."""
    data = _plain(document).data if document.data else _variables(document.text)
    return 93 if "model_family" in data and sum(sign in data for sign in _SIGNS) >= 3 else 0


def read(document: Document, asked: Asked) -> Reading:
    """The run of one file."""
    sheet = Sheet(_plain(document), asked, NAME, TITLE)
    family_word = sheet.read(text, "model_family", default="")
    flavour = sheet.read(text, "model_flavour", default="")
    family, _ = kind(sheet, family_word, "simpletuner", "model_family", "pretrained_model_name_or_path")
    _flavoured(sheet, f"{family_word}/{flavour}")
    sheet.gpus("num_processes", count=None if sheet.has("num_processes") else 1)
    half = DTYPES.get(sheet.read(text, "mixed_precision", default="bf16"), "bf16")
    adapted = sheet.read(text, "model_type", default="full") == "lora"
    sheet.put("precision", "fp32" if half == "fp32" else "bf16-autocast" if half == "bf16" else "fp16", "mixed_precision",
              default=f"{SOURCE}: bf16")  # fmt: skip
    _shape(sheet)
    if "kontext" in flavour or "edit" in flavour:
        beside_reference(sheet, "resolution", "model_flavour")
    sheet.put("attention", "sdpa", "attention_mechanism", default=f"{SOURCE}: diffusers")
    on = sheet.read(truth, "gradient_checkpointing", default=True)
    sheet.put("checkpointing", "full" if on else "none", "gradient_checkpointing", default=f"{SOURCE}: on")
    optimizer(sheet, sheet.read(text, "optimizer", default="adamw_bf16"), {}, "optimizer", default=SOURCE)
    if adapted:
        _adapters(sheet, family, half)
    _packed(sheet, adapted=adapted)
    on_gpu = sheet.read(text, "ema_device", default="cpu") != "cpu"
    if sheet.read(truth, "use_ema", default=False) and on_gpu and not adapted:
        sheet.put("companions", [{"role": "ema"}], "use_ema", "ema_device")
    sheet.unmodelled(_UNMODELLED)
    sheet.seen("text_encoder_*_precision")
    return sheet.reading(sheet.immaterial(_MATTER, _HARMLESS))


def _plain(document: Document) -> Document:
    """The settings under their plain names: without hyphens, from variables, and out of TOML's headings."""
    if not document.data:
        data = _variables(document.text)
        places = {key: line for line, text in enumerate(document.text.splitlines(), 1) for key in _variables(text)}
        return replace(document, data=data, unreadable=None, _parsed=Tree(data, places, {}))
    if not any(str(key).startswith("--") for key in document.data):
        return document
    data = {key.lstrip("-"): value for key, value in document.data.items()}
    places = {key.lstrip("-"): line for key, line in document.lines.items()}
    return replace(document, data=data, _parsed=Tree(data, places, {}))


def _variables(text: str) -> dict[str, Any]:
    """`export TRAIN_BATCH_SIZE=1` as {train_batch_size: "1"}."""
    found = (_LINE.match(line) for line in text[:200_000].splitlines())
    return {_NAMES.get(match[1], match[1].lower()): match[2].strip() for match in found if match}


def _flavoured(sheet: Sheet, flavour: str) -> None:
    """Set `model` to the member of a family that `model_flavour` means."""
    member = table()["flavours"].get(flavour) or (wan_of(flavour) if flavour.startswith("wan/") else None)
    if member and sheet.asked.model is None and not sheet.has("pretrained_model_name_or_path"):
        sheet.put("model", families()[member]["model"], "model_flavour", "model_family")


def _shape(sheet: Sheet) -> None:
    """Images of the largest resolution that a data set has, else of the file's; the batch."""
    square, key = _of_sets(sheet) or _side(sheet), "resolution"
    sheet.put("image_size", [square, square], key, default=f"{SOURCE}: 1024")
    if sheet.has("data_backend_config") and find(sheet.document, str(sheet.get("data_backend_config"))) is None:
        sheet.assume(
            "image_size",
            "data-sets-elsewhere",
            f"the data sets are in another file, which is not here: images of {square} x {square}",
        )
    sheet.put(
        "batch_size", sheet.read(whole, "train_batch_size", default=4), "train_batch_size", default=f"{SOURCE}: 4"
    )
    steps = sheet.read(whole, "gradient_accumulation_steps", default=1)
    sheet.put("grad_accum", steps, "gradient_accumulation_steps", default=f"{SOURCE}: 1")


def _side(sheet: Sheet) -> int:
    kind_of = sheet.read(text, "resolution_type", default="pixel_area")
    return int(sheet.read(lambda value: _pixels(value, kind_of), "resolution", default=1024))


def _pixels(value: Any, kind_of: str) -> int:  # noqa: ANN401
    """A side in pixels: as it is written, or of so many megapixels, in steps of 64."""
    size = number(value)
    if not 0 < size < 100_000:
        raise Unfit(f"{value!r} is no size of an image")
    return max(64, round(1000 * sqrt(size) / 64) * 64) if kind_of == "area" or size < 16 else int(size)


def _of_sets(sheet: Sheet) -> int:
    """The largest side of the data sets in the file that data_backend_config names; 0 where it is not there."""
    path = find(sheet.document, str(sheet.get("data_backend_config", default="")))
    if path is None:
        return 0
    found = re.findall(r'"(resolution|resolution_type)"\s*:\s*"?([\w.]{1,20})', _text_of(path))
    sizes = [float(value) for key, value in found if key == "resolution" and re.fullmatch(r"\d+(\.\d+)?", value)]
    return max((_pixels(size, "") for size in sizes if 0 < size < 100_000), default=0)


def _text_of(path: Any) -> str:  # noqa: ANN401 - a path
    return open_document(path).text[:200_000]


def _adapters(sheet: Sheet, family: str, half: str) -> None:
    """Set `lora`: diffusers' attention projections, in the model's dtype; LyCORIS by its own file."""
    rank = sheet.read(whole, "lora_rank", default=16)
    if sheet.read(text, "lora_type", default="standard") == "lycoris":
        _lycoris(sheet)
        targets(sheet, family, blocks=True, keys=("lycoris_config",), default="lycoris: attention and feed-forward")
    else:
        chosen = sheet.read(listed, "peft_lora_target_modules")
        sheet.put("lora.targets", chosen or ["to_k", "to_q", "to_v", "to_out.0"], "peft_lora_target_modules",
                  default="SimpleTuner, helpers/models/common.py: DEFAULT_LORA_TARGET")  # fmt: skip
        if family.startswith("flux") and sheet.read(text, "flux_lora_target", default="all") not in _ATTENTION:
            sheet.warn(
                "flux_lora_target",
                "not-modelled",
                "adapters of other layers than the attention's projections are not counted",
            )
        sheet.put("lora.rank", rank, "lora_rank", default=f"{SOURCE}: 16")
        alpha = sheet.read(number, "lora_alpha", default=rank)
        sheet.put("lora.alpha", alpha, "lora_alpha", "lora_rank", default=SOURCE)
    if sheet.read(truth, "use_dora", default=False):
        sheet.put("lora.dora", True, "use_dora")
    sheet.put("lora.dtype", half, "mixed_precision", default="diffusers: add_adapter")


def _lycoris(sheet: Sheet) -> None:
    """Set `lora.method` and rank from the file of LyCORIS' settings; LoKr of rank 16 where it is not there."""
    named = str(sheet.get("lycoris_config", default="config/lycoris_config.json"))
    path = find(sheet.document, named)
    data = open_document(path).data if path is not None else {}
    if path is None:
        sheet.warn("lycoris_config", "not-found", f"{named} is not here: a LoKr of rank 16 is counted")
    method = str(data.get("algo", "lokr")).lower()
    if method not in _METHODS:
        sheet.fault("lycoris_config", f"{method} is not modelled: {', '.join(_METHODS)} are")
    if _METHODS.get(method):
        sheet.put("lora.method", _METHODS[method], "lycoris_config")
    size = data.get("linear_dim", 16)
    sheet.put("lora.rank", min(size, 4096) if isinstance(size, int) and size > 0 else 16, "lycoris_config")


def _packed(sheet: Sheet, *, adapted: bool) -> None:
    """Set `quantize` from base_model_precision."""
    word = sheet.read(text, "base_model_precision", default="no_change")
    if word in ("no_change", "", "None"):
        return
    packed = packing(sheet, word, "base_model_precision")
    if packed and adapted:
        sheet.put("quantize", {"name": packed, "upcast": False}, "base_model_precision")
    elif packed:
        sheet.fault("base_model_precision", f"{word} is for frozen weights, and all of the model is trained")
