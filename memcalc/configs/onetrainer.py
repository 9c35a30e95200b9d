"""OneTrainer's JSON: a preset, or the config that its window saves.

Sources are modules/util/config/TrainConfig.py (keys, defaults, migrations) and modules/modelSetup. Its traps:

* each part has a `weight_dtype` of its own (fp32 where nothing is said; a preset's plain `weight_dtype` is all parts'),
  and all run under autocast of `train_dtype`, fp16 by default; adapters are fp32 (`lora_weight_dtype`);
* gradient checkpointing is on; since version 12 it is a part's own, before that one word for all (`CPU_OFFLOADED`);
* latents and texts are cached (`image_caching`, `text_caching`; before that `latent_caching`): encoders then leave the GPU,
  but those that learn;
* adapters are put on every layer of the model, unless `layer_filter` names parts of names;
* `fused_back_pass` of the optimizer frees each gradient as soon as it is used.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.image_trainers import (
    DTYPES,
    encoders,
    kind,
    largest,
    moving_average,
    optimizer,
    packing,
    resolutions,
    table,
    targets,
)
from memcalc.configs.table import Sheet
from memcalc.configs.words import mapping, number, text, truth, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "onetrainer"
TITLE: Final = "OneTrainer"

SOURCE: Final = "OneTrainer, modules/util/config/TrainConfig.py"
_SIGNS: Final = ("training_method", "base_model_name", "train_dtype", "lora_rank", "output_model_destination", "latent_caching",
                 "concepts", "concept_file_name", "aspect_ratio_bucketing", "text_encoder", "timestep_distribution")  # fmt: skip
_PARTS: Final = ("vae.*", "text_encoder.*", "prior.*", "unet.*", "transformer.*", "optimizer.*", "decoder*", "effnet*")
_METHODS: Final = {"LORA": "", "LOHA": "loha", "LOKR": "lokr", "OFT_2": "oft"}
# words that speak of what is held; all others are of no account
_MATTER: Final = re.compile(
    r"dtype|offload|caching|quant|checkpoint|compile|multi_gpu|embedding|^lora_|^oft_|^lokr_|device_indexes"
)
_HARMLESS: Final = re.compile(
    r"output_dtype|caching_threads|_lr|learning_rate|norm_eps|embedding_weight|^embedding|async_offload|_cache$|clear_cache|temp_device|quantization|"
    r"lora_model_name|bundle|fallback|text_encoder_\d|oft_|lokr_|lora_decompose_"
)
_UNMODELLED: Final = {
    "compile": "torch.compile is not counted: the modules run as they are written",
    "masked_prior_preservation_weight": "the second pass of prior preservation is not counted",
    "layer_offload_fraction": "layers that are moved to the host are counted on the GPU, which is more than is used",
    "transformer.offload_fraction": "layers that are moved to the host are counted on the GPU, which is more than is used",
    "unet.offload_fraction": "layers that are moved to the host are counted on the GPU, which is more than is used",
}


def recognises(document: Document) -> int:
    """By a kind of model that it names, or by several of its own keys."""
    data = document.data
    if sum(sign in data for sign in _SIGNS) < 2:
        return 0
    return 96 if "training_method" in data or data.get("model_type") in table()["onetrainer"] else 0


def read(document: Document, asked: Asked) -> Reading:
    """The run of one config."""
    sheet = Sheet(document, asked, NAME, TITLE)
    word = sheet.read(text, "model_type", default="STABLE_DIFFUSION_15")
    family, rules = kind(sheet, word, "onetrainer", "model_type", "base_model_name")
    part = _part(sheet)
    method = sheet.read(text, "training_method", default="FINE_TUNE").upper()
    if method not in ("FINE_TUNE", "LORA"):
        sheet.fault("training_method", f"{method} is not modelled: FINE_TUNE and LORA are")
    _gpus(sheet)
    held = _precision(sheet, part, adapted=method == "LORA")
    _shape(sheet, video=rules.get("video", False))
    kernel = sheet.read(text, "attention_mechanism", default="SDP").upper()
    sheet.put("attention", "eager" if kernel == "DEFAULT" else "sdpa", "attention_mechanism", default=SOURCE)
    _checkpointing(sheet, part)
    _optimizer(sheet)
    if method == "LORA":
        _adapters(sheet, family)
    _company(sheet, rules, held, adapted=method == "LORA")
    sheet.unmodelled(_UNMODELLED)
    return sheet.reading([*sheet.immaterial(_MATTER, _HARMLESS), *_PARTS])


def _part(sheet: Sheet) -> str:
    """The part that is trained: the prior, the transformer or the U-Net, whichever is written."""
    return next((name for name in ("prior", "transformer") if sheet.has(name) and not sheet.has("unet")), "unet")


def _gpus(sheet: Sheet) -> None:
    indexes = sheet.read(text, "device_indexes", default="")
    if not sheet.read(truth, "multi_gpu", default=False):
        sheet.gpus(count=1)
    elif indexes:
        sheet.gpus("device_indexes", count=len([one for one in indexes.split(",") if one.strip()]))
    else:
        sheet.gpus()


def _precision(sheet: Sheet, part: str, *, adapted: bool) -> str:
    """Set `precision` and `quantize`; the dtype of what is frozen beside the model."""
    compute = DTYPES.get(sheet.read(text, "train_dtype", default="FLOAT_16"), "bf16")
    common = sheet.get("weight_dtype", default="FLOAT_32")
    word = str(sheet.get(f"{part}.weight_dtype", default=common))
    own = sheet.named(f"{part}.weight_dtype", "weight_dtype")
    if word in ("NONE", ""):
        word = str(common)
    stored = DTYPES.get(word)
    recipe = {("fp32", "bf16"): "amp-bf16", ("fp32", "fp16"): "amp-fp16", ("fp32", "fp32"): "fp32", ("fp16", "fp16"): "fp16",
              ("bf16", "fp32"): "bf16"}  # fmt: skip
    sheet.put(
        "precision",
        recipe.get((stored or "bf16", compute), "bf16-autocast"),
        "train_dtype",
        own,
        default=f"{SOURCE}: fp16",
    )
    if stored is None and (packed := packing(sheet, word, own)):
        if adapted:
            sheet.put("quantize", {"name": packed, "upcast": False}, own)
        else:
            sheet.fault(own, f"{word} is for frozen weights, and all of the model is trained")
    elif stored == "fp32" and adapted and compute != "fp32":
        sheet.put(
            "precision", {"recipe": f"amp-{compute}", "frozen": "fp32"}, "train_dtype", own, default=f"{SOURCE}: fp32"
        )
    return DTYPES.get(str(sheet.get("text_encoder.weight_dtype", default=common)), "bf16")


def _shape(sheet: Sheet, *, video: bool) -> None:
    """Images of the largest resolution, frames, and the batch."""
    square = sheet.read(lambda value: largest(_areas(value), [512, 512]), "resolution", default=[512, 512])
    sheet.put("image_size", square, "resolution", default=f"{SOURCE}: 512")
    if video:
        sheet.put("frames", sheet.read(lambda value: max(map(whole, resolutions(value))), "frames", default=25), "frames",
                  default=f"{SOURCE}: 25")  # fmt: skip
    sheet.put("batch_size", sheet.read(whole, "batch_size", default=1), "batch_size", default=f"{SOURCE}: 1")
    steps = sheet.read(whole, "gradient_accumulation_steps", default=1)
    sheet.put("grad_accum", steps, "gradient_accumulation_steps", default=f"{SOURCE}: 1")


def _areas(value: Any) -> list[Any]:  # noqa: ANN401
    """`512`, `1024x768`, or several with commas between them."""
    return [part for part in str(value).replace(" ", "").split(",") if part]


def _checkpointing(sheet: Sheet, part: str) -> None:
    """A part's own switch, or the word of older files: ON, OFF, CPU_OFFLOADED."""
    old = sheet.read(text, "gradient_checkpointing", default="").upper()
    on = old not in ("OFF", "FALSE", "NO") if old else sheet.read(truth, f"{part}.gradient_checkpointing", default=True)
    keys = ("gradient_checkpointing", f"{part}.gradient_checkpointing")
    moved = old == "CPU_OFFLOADED" and sheet.read(truth, "enable_activation_offloading", default=True)
    moved = moved or sheet.read(truth, f"{part}.activation_offloading", default=False)
    sheet.put(
        "checkpointing",
        {"mode": "full", "offload": True} if on and moved else "full" if on else "none",
        *keys,
        default=f"{SOURCE}: on",
    )
    sheet.seen("enable_activation_offloading")


def _optimizer(sheet: Sheet) -> None:
    given = sheet.get("optimizer", default={})
    settings: Mapping[str, Any] = given if isinstance(given, dict) else {"optimizer": given}
    name = str(settings.get("optimizer") or "ADAMW")
    fused = bool(sheet.read(truth, "optimizer.fused_back_pass", default=False))
    optimizer(sheet, name, settings, "optimizer.optimizer", "optimizer", default=f"{SOURCE}: ADAMW", fused=fused)


def _adapters(sheet: Sheet, family: str) -> None:
    """Set `lora`: fp32 adapters of every layer, or of those that layer_filter names."""
    _method(sheet)
    if sheet.read(truth, "lora_decompose", default=False):
        sheet.put("lora.dora", True, "lora_decompose")
    dtype = DTYPES.get(sheet.read(text, "lora_weight_dtype", default="FLOAT_32"), "fp32")
    sheet.put("lora.dtype", dtype, "lora_weight_dtype", default=f"{SOURCE}: FLOAT_32")
    drop = sheet.read(number, "dropout_probability", default=0)
    if drop:
        sheet.put("lora.dropout", drop, "dropout_probability")
    _layers(sheet, family)


def _method(sheet: Sheet) -> None:
    """Set `lora.method` and its size: a rank, or OFT's blocks."""
    word = sheet.read(text, "peft_type", default="LORA").upper()
    if word not in _METHODS:
        sheet.fault("peft_type", f"{word} is not modelled: {', '.join(_METHODS)} are")
    if _METHODS.get(word):
        sheet.put("lora.method", _METHODS[word], "peft_type")
    if word == "OFT_2":
        sheet.put("lora.block_size", sheet.read(whole, "oft_block_size", default=32), "oft_block_size", default=SOURCE)
    else:
        key = "lokr_dim" if word == "LOKR" and sheet.has("lokr_dim") else "lora_rank"
        sheet.put("lora.rank", sheet.read(whole, key, default=16), key, default=f"{SOURCE}: 16")
        sheet.put("lora.alpha", sheet.read(number, "lora_alpha", default=1), "lora_alpha", default=f"{SOURCE}: 1")


def _layers(sheet: Sheet, family: str) -> None:
    """Set `lora.targets`: every layer, or those whose names layer_filter is part of, or as a regular expression found in."""
    chosen = sheet.read(text, "layer_filter", "lora_layers", default="")
    if sheet.read(truth, "layer_filter_regex", default=False) and chosen:
        sheet.put("lora.targets", "all-linear", "layer_filter")
        sheet.put("lora.exclude", f"(?!.*({chosen})).*", "layer_filter")
        return
    only = [part.strip() for part in chosen.split(",") if part.strip()]
    targets(sheet, family, blocks=False, convolutions=not only, only=only, keys=("layer_filter",),
            default=f"{SOURCE}: all of them")  # fmt: skip


def _company(sheet: Sheet, rules: Any, held: str, *, adapted: bool) -> None:  # noqa: ANN401 - a family's table
    """Set `companions`: what is not cached, or learns, stays on the GPU; a moving average on it."""
    both = sheet.read(truth, "latent_caching", default=True)
    images, texts = (sheet.read(truth, key, default=both) for key in ("image_caching", "text_caching"))
    parts = [f"text_encoder{end}" for end in ("", "_2", "_3", "_4")][: max(1, len(rules.get("encoders", [])))]
    learn = [name for name in parts if sheet.has(name) and sheet.read(truth, f"{name}.train", default=not adapted)]
    used = [name for name in parts if sheet.read(truth, f"{name}.include", default=True)]
    key = "text_encoder.weight_dtype"
    word = str(sheet.get(key, default="NONE"))
    packed = None if word in ("", "NONE", *DTYPES) else packing(sheet, word, key)
    encoders(sheet, rules, held, text=bool(used) and (not texts or bool(learn)), images=not images, quantize=packed,
             keys=("text_caching", "image_caching", "latent_caching"))  # fmt: skip
    if learn:
        sheet.warn(f"{learn[0]}.train", "not-modelled", "encoders of text that learn, too, are counted as frozen")
    if sheet.read(text, "ema", default="OFF").upper() == "GPU":
        moving_average(sheet, "ema", adapted=adapted)
    sheet.read(mapping, "quantization", default={})
