"""What trainers of image models share: the kind of model that a name means, its encoders and autoencoder, its sides."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.names import known
from memcalc.configs.words import Unfit, text, whole
from memcalc.presets import find

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memcalc.configs.table import Sheet

_KINDS: Final = {"no": ("fp32", "fp32"), "fp16": ("amp-fp16", "fp16"), "bf16": ("amp-bf16", "bf16")}
_FILES: Final = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".gguf")


def shared() -> Mapping[str, Any]:
    """The table of kinds, names and adapted modules: presets/frameworks/denoisers.yaml."""
    return find("frameworks", "denoisers")


def family_of_name(name: str) -> str:
    """The kind of model that a checkpoint's name speaks of; '' where it speaks of none."""
    rules = shared()["names"]
    return next((rule["family"] for rule in rules if re.search(rule["holds"], name[:300], re.IGNORECASE)), "")


def kin_of(name: str, told: str) -> str:
    """The family that a checkpoint's name speaks of where the trainer of `told` trains it, too; else `told`."""
    families, named = shared()["families"], family_of_name(name)
    kin = families[told].get("kin") if told else None
    return named if named and (not told or (kin and kin == families[named].get("kin"))) else told


def mixed_precision(sheet: Sheet) -> tuple[str, str, str]:
    """What `mixed_precision` says ("no" where nothing does), the recipe of what learns in fp32, the dtype of what is frozen."""
    kind = sheet.read(text, "mixed_precision", default="no").lower() or "no"
    if kind not in _KINDS:
        sheet.fault("mixed_precision", f"{kind} is none of {', '.join(_KINDS)}")
        kind = "no"
    return (kind, *_KINDS[kind])


def put_model(sheet: Sheet, family: str, *keys: str) -> Any:  # noqa: ANN401 - a name, or dimensions
    """Set `model`: what was asked for, else the preset that the written name means, else that of the family."""
    if sheet.asked.model is not None:
        sheet.get(*keys)
        return sheet.asked.model
    name = str(sheet.get(*keys, default=""))
    own = None if name.lower().endswith(_FILES) or not name else known(sheet, name)
    sheet.put("model", own or shared()["families"][family]["model"], *keys)
    return sheet.run["model"]


def side(value: Any) -> list[int]:  # noqa: ANN401
    """Height and width in pixels of `512`, `"1024,768"` (width first, as these trainers have it) or a list of them."""
    parts = value if isinstance(value, list | tuple) else str(value).strip("()[] ").replace("x", ",").split(",")
    sides = [whole(str(part).strip()) for part in parts if str(part).strip()]
    if not 1 <= len(sides) <= 2 or min(sides) < 1:
        raise Unfit(f"{value!r} is not a side, or a width and a height, in pixels")
    return [sides[-1], sides[0]]


def beside_reference(sheet: Sheet, *keys: str) -> None:
    """Make images twice as wide: a reference image is put beside each, token by token (Kontext, Qwen-Image-Edit)."""
    height, width = sheet.run["image_size"]
    sheet.put("image_size", [height, 2 * width], *keys)
    sheet.assume("image_size", "reference-image", f"a reference image of {height} x {width} runs beside each image: counted as "
                 "one of twice the width")  # fmt: skip
