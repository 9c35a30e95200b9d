"""kohya's sd-scripts: a launch script, its --config_file in TOML, or what its GUI saves as JSON.

Sources are train_network.py and its kin (sdxl_, sd3_, flux_), library/train_util.py and library/config_util.py. Its traps:

* mixed_precision is "no" where nothing is said; what is frozen is then kept in fp32, else in 16 bits under autocast;
* adapters, and whatever is trained whole, are in fp32 unless full_fp16 or full_bf16 is set;
* the autoencoder leaves the GPU where latents are cached, the encoders of text where their outputs are;
* adapters are put on the encoders of text, too, unless network_train_unet_only is set;
* without xformers, sdpa or mem_eff_attn a U-Net multiplies its scores out; the transformers run fused attention always.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.denoisers import kin_of, put_model, shared, side
from memcalc.configs.documents import open_document
from memcalc.configs.follow import find
from memcalc.configs.kohya_parts import UNMODELLED, adapters, company, optimizer, precision
from memcalc.configs.megatron_script import arguments_of
from memcalc.configs.table import Sheet
from memcalc.configs.words import truth, whole
from memcalc.yaml_tree import Tree

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "kohya"
TITLE: Final = "sd-scripts"
TEXT: Final = True  # it reads scripts

SOURCE: Final = "kohya-ss/sd-scripts, library/train_util.py"
PRETRAINED: Final = "pretrained_model_name_or_path"
_PROGRAM: Final = re.compile(r"\b((?:sdxl_|sd3_|flux_)train(?:_network)?|train_network|train_db|fine_tune)\.py\b")
_NEEDED: Final = (PRETRAINED, "--config_file", "--dataset_config")
_SIGNS: Final = frozenset({
    "network_module", "network_dim", "LoRA_type", "cache_latents", "enable_bucket", "min_bucket_reso", "network_train_unet_only",
    "train_batch_size", "max_token_length", "save_model_as", "bucket_reso_steps", "mem_eff_attn", "lowram", "clip_skip",
})  # fmt: skip
_PAIRS: Final = re.compile(
    r"""--(network_args|optimizer_args)((?:[\s\\]{1,9}["']?[\w.]{1,60}=[^\s"'\\]{1,200}["']?){1,60})"""
)
_PAIR: Final = re.compile(r"""[\w.]+=[^\s"'\\]+""")
# words that speak of what is held; all others are of no account
_MATTER: Final = re.compile(
    r"offload|dtype|fp[48]|fp16|bf16|quant|swap|compile|optimizer_|network_|cache_|dim$|rank|freeze|precision|checkpoint"
)
_HARMLESS: Final = re.compile(r"save|sample|weights|_lr|schedul|^dim_from|skip_cache|disk|rank_dropout|caption")


def recognises(document: Document) -> int:
    """By the program that a script starts; by keys that only sd-scripts and its GUI have."""
    if not document.data:
        shown = document.text[:100_000]
        return 91 if _PROGRAM.search(shown) and any(word in shown for word in _NEEDED) else 0
    keys = set(flat(document).data)
    return 88 if (PRETRAINED in keys and len(keys & _SIGNS) >= 3) or len(keys & _SIGNS) >= 5 else 0


def read(document: Document, asked: Asked) -> Reading:
    """The run of one script or one file of settings."""
    found = _PROGRAM.search(document.text[:100_000]) if not document.data else None
    sheet = Sheet(_settings(document), asked, NAME, TITLE)
    family = _family(sheet, found[1] if found else "")
    put_model(sheet, family, PRETRAINED)
    adapted = bool(sheet.get("network_module", "LoRA_type", "network_dim")) or "network" in (found[1] if found else "")
    sheet.gpus("num_processes")
    held = precision(sheet, adapted=adapted)
    _shape(sheet, shared()["families"][family])
    _attention(sheet, shared()["families"][family])
    on = sheet.read(truth, "gradient_checkpointing", default=False)
    sheet.put("checkpointing", "full" if on else "none", "gradient_checkpointing", default=f"{SOURCE}: off")
    optimizer(sheet)
    if adapted:
        adapters(sheet, family)
    company(sheet, family, held, found[1] if found else "", adapted=adapted)
    sheet.unmodelled(UNMODELLED)
    sheet.assume("model", "modules-of-diffusers", "sd-scripts runs classes of its own; they are counted as diffusers runs the "
                 "same model")  # fmt: skip
    return sheet.reading(sheet.immaterial(_MATTER, _HARMLESS))


def flat(document: Document) -> Document:
    """The settings without their sections: sd-scripts takes TOML's sections as mere headings."""
    data: dict[str, Any] = {}
    places: dict[str, int] = {}
    for key, value in document.data.items():
        inner = value if isinstance(value, dict) else {key: value}
        for name, one in inner.items():
            data[name] = one
            line = document.lines.get(f"{key}.{name}" if isinstance(value, dict) else key)
            places.update({name: line} if line else {})
    return replace(document, data=data, _parsed=Tree(data, places, {}))


def arguments(document: Document) -> Document:
    """A script's arguments; those that are pairs (`"conv_dim=4"`), which look like a shell's assignments, too."""
    made = arguments_of(document)
    pairs = {name: _PAIR.findall(written) for name, written in _PAIRS.findall(document.text[:100_000])}
    return replace(made, data={**made.data, **pairs})


def _settings(document: Document) -> Document:
    """What is written: a script's arguments over its --config_file, and the data set's resolution and batch over both."""
    made = flat(document) if document.data else arguments(document)
    named = made.data.get("config_file")
    if isinstance(named, str) and (path := find(document, named)):
        below = flat(open_document(path))
        made = replace(made, data={**below.data, **made.data}, base=below)
    named = made.data.get("dataset_config")
    if isinstance(named, str) and (path := find(document, named)):
        sets = open_document(path)
        made = replace(made, data={**made.data, **_largest(sets, made.data)}, base=replace(sets, base=made.base))
    return made


def _largest(sets: Document, given: dict[str, Any]) -> dict[str, Any]:
    """resolution and train_batch_size of the data set that takes most: its own, else [general]'s, else the command's."""
    made = [{"resolution": one.get("resolution", given.get("resolution")),
             "train_batch_size": one.get("batch_size", given.get("train_batch_size", 1))} for one in sets_of(sets)]  # fmt: skip
    return max((one for one in made if one["resolution"] is not None), key=_load, default={})


def sets_of(document: Document) -> list[dict[str, Any]]:
    """What a --dataset_config says of each data set: its own keys over those of [general]."""
    general = document.data.get("general")
    shared_by_all = general if isinstance(general, dict) else {}
    return [{**shared_by_all, **one} for one in document.data.get("datasets") or [{}] if isinstance(one, dict)]


def _load(one: dict[str, Any]) -> int:
    try:
        height, width = side(one["resolution"])
        return height * width * whole(one["train_batch_size"])
    except ValueError:
        return 0


def _family(sheet: Sheet, program: str) -> str:
    """The kind of model: by the program, the network's module, what the GUI has ticked, or the checkpoint's name."""
    name = str(sheet.get(PRETRAINED, default=""))
    found = kin_of(name, _told(sheet, program))
    if not found and sheet.asked.model is None:
        sheet.assume("model", "family-assumed", f"{name or 'the checkpoint'} is taken to be a Stable Diffusion 1: say what "
                     "else with --model sdxl-unet")  # fmt: skip
    return found or "sd1"


def _told(sheet: Sheet, program: str) -> str:
    """The family by the program, the network's module or what is ticked; '' where none of them says."""
    table = shared()
    module = str(sheet.get("network_module", default="")).rpartition(".")[2]
    by_program = next((family for start, family in table["scripts"].items() if program.startswith(start)), "")
    ticked = next((family for key, family in table["ticked"].items() if _is_on(sheet, key)), "")
    return by_program or table["networks"].get(module, "") or ticked or ("sd1" if program else "")


def _is_on(sheet: Sheet, key: str) -> bool:
    written = str(sheet.get(key, default=""))
    return written.lower() not in ("", "false", "0", "none")


def _shape(sheet: Sheet, family: dict[str, Any]) -> None:
    """Images, their side and number; micro batches of a step; the tokens of a text."""
    sides = sheet.read(side, "resolution", "max_resolution", default=[512, 512])
    sheet.put("image_size", sides, "resolution", "max_resolution", default=f"{SOURCE}: resolution of 512")
    sheet.put(
        "batch_size", sheet.read(whole, "train_batch_size", default=1), "train_batch_size", default=f"{SOURCE}: 1"
    )
    count = sheet.read(whole, "gradient_accumulation_steps", default=1)
    sheet.put("grad_accum", count, "gradient_accumulation_steps", default=f"{SOURCE}: 1")
    long = sheet.read(whole, "max_token_length", default=75)
    if not family.get("fused"):
        sheet.put("seq_len", long + 2, "max_token_length", default=f"{SOURCE}: 75, a begin and an end")


def _attention(sheet: Sheet, family: dict[str, Any]) -> None:
    """xformers, mem_eff_attn and PyTorch's own kernels hold no matrix of scores; without them it is multiplied out."""
    keys = ("xformers", "mem_eff_attn", "sdpa")
    written = [key for key in keys if _is_on(sheet, key)]
    kind = "sdpa" if written or family.get("fused") else "eager"
    sheet.put("attention", kind, *(written or keys), default=f"{SOURCE}: none of xformers, sdpa, mem_eff_attn")
