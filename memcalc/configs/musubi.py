"""kohya's musubi-tuner: launch scripts of its video and image trainers (wan_train_network.py, qwen_image_train_network.py).

Sources are src/musubi_tuner/hv_train_network.py, which the others build on, networks/ and dataset/config_utils.py. Its traps:

* latents and texts are cached by programs of their own: neither encoders nor autoencoder are there while it trains;
* the transformer is held in bf16, under `fp8_base` in fp8, and computes under autocast; adapters are fp32;
* adapters are put on every linear layer of the blocks but those of their modulation;
* resolution, batch and frames are the data set's; gradient checkpointing is off unless it is asked for.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.denoisers import mixed_precision, side
from memcalc.configs.documents import open_document
from memcalc.configs.follow import find
from memcalc.configs.image_trainers import families, optimizer, put_model_of, targets, wan_of
from memcalc.configs.kohya import arguments
from memcalc.configs.table import Sheet
from memcalc.configs.words import number, text, truth, whole

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "musubi"
TITLE: Final = "musubi-tuner"
TEXT: Final = True  # it reads scripts

SOURCE: Final = "musubi-tuner, hv_train_network.py"
_PROGRAM: Final = re.compile(
    r"\b((?:hv|hv_1_5|wan|fpack|qwen_image|flux_kontext|flux_2|zimage|kandinsky5)_train(?:_network)?)\.py\b"
)
_FAMILIES: Final = {"hv": "hunyuan-video", "hv_1_5": "hunyuan-video-1.5", "qwen_image": "qwen-image",
                    "flux_kontext": "flux-kontext", "flux_2": "flux2", "zimage": "z-image"}  # fmt: skip
_MODULATION: Final = ("_mod", "modulation", "norm")  # of names that adapters leave out (networks/lora_*.py)
_UNMODELLED: Final = {
    "blocks_to_swap": "blocks are not swapped to the host: all of them are counted on the GPU, which is more than is used",
    "gradient_checkpointing_cpu_offload": "checkpoints are counted on the GPU, which is more than is used",
    "compile": "torch.compile is not counted: the modules run as they are written",
    "dit_high_noise": "the model of the other noise levels, which takes turns with this one, is not counted",
}
# words that speak of what is held; all others are of no account
_MATTER: Final = re.compile(
    r"offload|dtype|fp8|fp16|bf16|quant|swap|compile|optimizer_|network_|rank|freeze|precision|checkpoint|high_noise"
)
_HARMLESS: Final = re.compile(
    r"save|sample|network_weights|network_args|optimizer_args|_lr|schedul|vae|offload_inactive|dynamo|compile_|fp8_(t5|vl|llm|scaled)|"
    r"text_encoder|loss|num_processes"
)


def recognises(document: Document) -> int:
    """By the program that a script starts."""
    return 92 if not document.data and _PROGRAM.search(document.text[:100_000]) and "--dit" in document.text else 0


def read(document: Document, asked: Asked) -> Reading:
    """The run of one script."""
    found = _PROGRAM.search(document.text[:100_000])
    program = found[1] if found else "hv_train_network"
    sheet = Sheet(_settings(arguments(document) if not document.data else document), asked, NAME, TITLE)
    family = _family(sheet, program.partition("_train")[0])
    sheet.gpus("num_processes")
    adapted = program.endswith("_network")
    _precision(sheet, adapted=adapted)
    _shape(sheet, family)
    sheet.put("attention", "sdpa", "sdpa", "flash_attn", "xformers", default=SOURCE)
    on = sheet.read(truth, "gradient_checkpointing", default=False)
    sheet.put("checkpointing", "full" if on else "none", "gradient_checkpointing", default=f"{SOURCE}: off")
    fused = sheet.read(truth, "fused_backward_pass", default=False)
    name = sheet.read(text, "optimizer_type", default="") or "adamw"
    optimizer(sheet, name, {}, "optimizer_type", default=f"{SOURCE}: AdamW", fused=fused)
    if adapted:
        _adapters(sheet, family)
    sheet.unmodelled(_UNMODELLED)
    return sheet.reading(sheet.immaterial(_MATTER, _HARMLESS))


def _family(sheet: Sheet, program: str) -> str:
    """The kind of model: by the program, and for Wan by its task (`t2v-14B`)."""
    task = str(sheet.get("task", default="14b"))
    family = wan_of(task) if program == "wan" else _FAMILIES.get(program, "")
    if not family and sheet.asked.model is None:
        sheet.fault("dit", f"no preset has the model that {program}_train_network.py trains; say which with --model")
    elif family:
        put_model_of(sheet, family, "task", "model_version")
    return family


def _precision(sheet: Sheet, *, adapted: bool) -> None:
    kind, recipe, _ = mixed_precision(sheet)
    half = "fp16" if kind == "fp16" else "bf16"
    eight = sheet.read(truth, "fp8_base", default=False)
    if adapted:
        sheet.put(
            "precision",
            {"recipe": f"amp-{half}", "frozen": "fp8" if eight else half},
            "mixed_precision",
            "fp8_base",
            default=SOURCE,
        )
        sheet.put("lora.dtype", "fp32", default=f"{SOURCE}: networks are in fp32")
    else:
        whole_16 = sheet.read(truth, "full_bf16", default=False)
        sheet.put("precision", "bf16-autocast" if whole_16 else recipe, "full_bf16", "mixed_precision", default=SOURCE)


def _settings(document: Document) -> Document:
    """The arguments, with the largest of what the data sets' file says of resolution, batch and frames."""
    named = document.data.get("dataset_config")
    path = find(document, named) if isinstance(named, str) else None
    if path is None:
        return document
    sets = open_document(path)
    general = sets.data.get("general") if isinstance(sets.data.get("general"), dict) else {}
    found = [{**(general or {}), **one} for one in sets.data.get("datasets") or [{}] if isinstance(one, dict)]
    largest = max(found, key=_load, default={})
    known = {key: largest[key] for key in ("resolution", "batch_size", "target_frames") if key in largest}
    return replace(document, data={**document.data, **known}, base=sets)


def _load(one: dict[str, Any]) -> int:
    try:
        height, width = side(one.get("resolution", 960))
        return height * width * _frames(one.get("target_frames", 1)) * whole(one.get("batch_size", 1))
    except ValueError:
        return 0


def _frames(value: Any) -> int:  # noqa: ANN401
    """The longest of the numbers of frames that are cut out."""
    return max(map(whole, value)) if isinstance(value, list) and value else whole(value)


def _shape(sheet: Sheet, family: str) -> None:
    """Images or videos, and the batch."""
    square = sheet.read(side, "resolution", default=[544, 960])
    sheet.put("image_size", square, "resolution", default="dataset/config_utils.py: 960 x 544")
    frames = sheet.read(_frames, "target_frames", default=1)
    if families().get(family, {}).get("video"):
        sheet.put("frames", frames, "target_frames", default="dataset/config_utils.py: 1")
    sheet.put(
        "batch_size", sheet.read(whole, "batch_size", default=1), "batch_size", default="dataset/config_utils.py: 1"
    )
    steps = sheet.read(whole, "gradient_accumulation_steps", default=1)
    sheet.put("grad_accum", steps, "gradient_accumulation_steps", default=f"{SOURCE}: 1")
    if sheet.has("dataset_config") and not sheet.has("resolution"):
        sheet.assume(
            "image_size",
            "data-sets-elsewhere",
            "the data sets are in another file, which is not here: images of 960 x 544",
        )


def _adapters(sheet: Sheet, family: str) -> None:
    module = sheet.read(text, "network_module", default="networks.lora").rpartition(".")[2]
    method = next((word for word in ("loha", "lokr") if word in module), "")
    if method:
        sheet.put("lora.method", method, "network_module")
    sheet.put("lora.rank", sheet.read(whole, "network_dim", default=4) or 4, "network_dim", default=f"{SOURCE}: 4")
    sheet.put("lora.alpha", sheet.read(number, "network_alpha", default=1), "network_alpha", default=f"{SOURCE}: 1")
    if drop := sheet.read(number, "network_dropout", default=0):
        sheet.put("lora.dropout", drop, "network_dropout")
    targets(sheet, family, blocks=True, never=_MODULATION, keys=("network_module",), default="networks/lora.py")
