"""kohya's musubi-tuner: launch scripts of its video and image trainers, and their --config_file in TOML.

Sources are training/trainer_base.py (NetworkTrainer), training/parser_common.py, networks/ and dataset/config_utils.py; the
table of programs and kinds is presets/frameworks/musubi.yaml. Its traps:

* latents and texts are cached by programs of their own: neither encoders nor autoencoder are there while it trains;
* the transformer is held in bf16 (fp16 under that mixed precision), under `fp8_base` in fp8, with `fp8_scaled` only the layers
  of its blocks, and computes under autocast; adapters are fp32: `full_bf16` is for programs that train all of the model;
* the model of Wan 2.2's other noise levels stays on the GPU, too, unless `offload_inactive_dit` moves it;
* resolution, batch and frames are the data set's; gradient checkpointing is off unless it is asked for.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.denoisers import beside_reference, mixed_precision, side
from memcalc.configs.documents import open_document
from memcalc.configs.follow import find
from memcalc.configs.image_trainers import families, optimizer, put_model_of
from memcalc.configs.kohya import arguments, flat, sets_of
from memcalc.configs.kohya_parts import pairs
from memcalc.configs.musubi_networks import adapters, family_of, table
from memcalc.configs.table import Sheet
from memcalc.configs.words import text, truth, whole

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "musubi"
TITLE: Final = "musubi-tuner"
TEXT: Final = True  # it reads scripts

SOURCE: Final = "musubi-tuner, training/parser_common.py"
_PROGRAM: Final = re.compile(r"\b([a-z]\w{0,40}_train(?:_network)?)\.py\b")
_HALVES: Final = {"fp16": "fp16", "bf16": "bf16", "no": "bf16"}
_UNMODELLED: Final = {
    "blocks_to_swap": "blocks are not swapped to the host: all of them are counted on the GPU, which is more than is used",
    "compile": "torch.compile is not counted: the modules run as they are written",
    "scale_weight_norms": "the temporaries of scaling the adapters' norms are not counted",
}
_OF_SETS: Final = ("resolution", "batch_size", "target_frames", "control_directory")
# words that speak of what is held; all others are of no account
_MATTER: Final = re.compile(
    r"offload|dtype|fp8|fp16|bf16|quant|swap|compile|optimizer_|network_|rank|freeze|precision|checkpoint|high_noise"
)
_HARMLESS: Final = re.compile(
    r"save|sample|network_weights|network_args|optimizer_args|_lr|schedul|vae|dynamo|compile_|fp8_(t5|vl|llm|text)|img_in_txt_in|"
    r"text_encoder|loss|num_processes|pinned_memory|_attention|_modulation|upcast"
)


def recognises(document: Document) -> int:
    """By the program that a script starts; by what only a --config_file of it has."""
    if document.data:
        data = flat(document).data
        network = str(data.get("network_module", ""))
        return (
            93 if {"dit", "dataset_config"} <= data.keys() and (network.startswith("networks.") or "vae" in data) else 0
        )
    shown = document.text[:100_000]
    named = "--dit" in shown or "musubi" in shown
    return 92 if named and any(word in shown for word in ("--dit", "--config_file")) and _PROGRAM.search(shown) else 0


def read(document: Document, asked: Asked) -> Reading:
    """The run of one script, or of one file of settings."""
    sheet = Sheet(_settings(document), asked, NAME, TITLE)
    found = _PROGRAM.search(document.text[:100_000]) if not document.data else None
    program = found[1] if found else ""
    adapted = program.endswith("_network") or sheet.has("network_module")
    family = _model(sheet, program)
    sheet.gpus("num_processes")
    _precision(sheet, adapted=adapted)
    _shape(sheet, family, program)
    sheet.put("attention", "sdpa", "sdpa", "flash_attn", "xformers", "flash3", default=SOURCE)
    _checkpointing(sheet)
    _optimizer(sheet)
    if adapted:
        adapters(sheet, family)
    _other_noise(sheet)
    sheet.unmodelled(_UNMODELLED)
    return sheet.reading(sheet.immaterial(_MATTER, _HARMLESS))


def _model(sheet: Sheet, program: str) -> str:
    """Set `model` from the program, the network's module, and Wan's task; the family."""
    family = family_of(sheet, program.partition("_train")[0])
    if not family and sheet.asked.model is None:
        named = f"the model that {program}.py trains" if program else "the model of these settings"
        sheet.fault("dit", f"no preset has {named}; say which with --model")
    elif family:
        put_model_of(sheet, family, "task", "model_version")
    if str(sheet.get("task", default="")).endswith("FC"):
        sheet.warn("task", "not-modelled", "the first layer's channels of a control video are not counted")
    return family


def _precision(sheet: Sheet, *, adapted: bool) -> None:
    kind, recipe, _ = mixed_precision(sheet)
    if not sheet.has("mixed_precision"):
        kind, recipe = "bf16", "amp-bf16"
        sheet.assume(
            "precision", "bf16-assumed", "mixed_precision is accelerate's to say, and nothing does: bf16 is assumed"
        )
    if not adapted:
        whole_16 = sheet.read(truth, "full_bf16", default=False)
        put = "bf16-autocast" if whole_16 else recipe
        sheet.put("precision", put, "full_bf16", "mixed_precision", default="musubi-tuner, qwen_image_train.py: fp32")
        return
    half = _HALVES[kind]
    eight, scaled = (sheet.read(truth, key, default=False) for key in ("fp8_base", "fp8_scaled"))
    if scaled and not eight:
        sheet.fault("fp8_scaled", "fp8_scaled requires fp8_base")
    frozen = "fp8" if eight and not scaled else half
    sheet.put("precision", {"recipe": f"amp-{half}", "frozen": frozen}, "mixed_precision", "fp8_base", default=SOURCE)
    sheet.seen("full_bf16", "full_fp16")  # trainer_base.py switches them off


def _settings(document: Document) -> Document:
    """The arguments over their --config_file, with what the data sets' file says of resolution, batch and frames."""
    made = flat(document) if document.data else arguments(document)
    named = made.data.get("config_file")
    path = find(document, named) or find(document, f"{named}.toml") if isinstance(named, str) else None
    if path is not None:
        below = flat(open_document(path))
        made = replace(made, data={**below.data, **made.data}, base=below)
    return _with_sets(document, made)


def _with_sets(document: Document, made: Document) -> Document:
    named = made.data.get("dataset_config")
    path = find(document, named) if isinstance(named, str) else None
    if path is None:
        return made
    sets = open_document(path)
    largest: dict[str, Any] = max(sets_of(sets), key=_load, default={})
    known: dict[str, Any] = {key: largest[key] for key in _OF_SETS if key in largest}
    return replace(made, data={**made.data, **known}, base=replace(sets, base=made.base))


def _load(one: dict[str, Any]) -> int:
    try:
        height, width = side(one.get("resolution", [960, 544]))
        return height * width * _frames(one.get("target_frames", 1)) * whole(one.get("batch_size", 1))
    except ValueError:
        return 0


def _frames(value: Any) -> int:  # noqa: ANN401
    """The longest of the numbers of frames that are cut out."""
    return max(map(whole, value)) if isinstance(value, list) and value else whole(value)


def _shape(sheet: Sheet, family: str, program: str) -> None:
    """Images or videos, and the batch."""
    square = sheet.read(side, "resolution", default=[544, 960])
    sheet.put("image_size", square, "resolution", default="dataset/config_utils.py: 960 x 544")
    frames = sheet.read(_frames, "target_frames", default=1)
    if families().get(family, {}).get("video"):
        sheet.put("frames", frames, "target_frames", default="dataset/config_utils.py: 1")
    rows = sheet.read(whole, "batch_size", default=1)
    sheet.put("batch_size", rows, "batch_size", default="dataset/config_utils.py: 1")
    steps = sheet.read(whole, "gradient_accumulation_steps", default=1)
    sheet.put("grad_accum", steps, "gradient_accumulation_steps", default=f"{SOURCE}: 1")
    if not sheet.has("resolution"):
        sheet.assume("image_size", "data-sets-elsewhere", "the data sets are in another file, which is not here: images of "
                     "960 x 544, one at a time")  # fmt: skip
    if _edits(sheet, program, family):
        beside_reference(sheet, "control_directory", "model_version", "edit")


def _edits(sheet: Sheet, program: str, family: str) -> bool:
    """Whether a reference image runs beside each: the trainers of editing models, FLUX.2 where the data set has any."""
    rules = table()["edits"]
    ticked = any([sheet.read(truth, key, default=False) for key in rules["switches"]])  # noqa: C419 - all are read
    version = re.search(rules["versions"], str(sheet.get("model_version", default="")))
    controlled = sheet.has("control_directory") and family.startswith("flux2")
    return bool(ticked or version or controlled or program.partition("_train")[0] in rules["programs"])


def _checkpointing(sheet: Sheet) -> None:
    on = sheet.read(truth, "gradient_checkpointing", default=False)
    moved = sheet.read(truth, "gradient_checkpointing_cpu_offload", default=False)
    mode = {"mode": "full", "offload": True} if on and moved else "full" if on else "none"
    sheet.put(
        "checkpointing", mode, "gradient_checkpointing", "gradient_checkpointing_cpu_offload", default=f"{SOURCE}: off"
    )


def _optimizer(sheet: Sheet) -> None:
    """optimizer_type: AdamW, AdamW8bit, Adafactor (transformers'), a class of torch.optim, or the path of a class."""
    name = sheet.read(text, "optimizer_type", default="") or "AdamW"
    fused = sheet.read(truth, "fused_backward_pass", default=False)
    optimizer(sheet, name, pairs(sheet), "optimizer_type", default=f"{SOURCE}: AdamW", fused=fused)


def _other_noise(sheet: Sheet) -> None:
    """Wan 2.2's other transformer, whose weights wait on the GPU while this one runs, or on the host."""
    moved = sheet.read(truth, "offload_inactive_dit", default=False)
    if sheet.get("dit_high_noise") is None or moved:
        return
    waiting = {"role": "teacher", "model": "same", "forward": False}
    if sheet.run.get("quantize"):
        waiting["quantize"] = sheet.run["quantize"]
    sheet.put("companions", [waiting], "dit_high_noise")
