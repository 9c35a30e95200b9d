"""Parts of an ms-swift run: adapters, packed bases, what of a model is frozen (swift/arguments/tuner_args.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.llamafactory_parts import holds
from memcalc.configs.lora import targets
from memcalc.configs.table import Key
from memcalc.configs.words import FLOATS, names, number, text, truth, whole
from memcalc.presets import find

if TYPE_CHECKING:
    from memcalc.configs.table import Sheet

SOURCE: Final = "swift/arguments/tuner_args.py"
LORA: Final = (
    Key("lora_rank", "lora.rank", whole, 8, SOURCE), Key("lora_alpha", "lora.alpha", number, 32, SOURCE),
    Key("lora_dropout", "lora.dropout", number, 0.05, SOURCE),
    Key(("target_regex", "target_modules"), "lora.targets", targets, "all-linear", SOURCE),
    Key("target_parameters", "lora.parameters", names), Key("modules_to_save", "lora.save_modules", names),
    Key("lora_bias", "lora.bias", text), Key("use_dora", "lora.dora", truth), Key("use_rslora", "lora.rslora", truth),
)  # fmt: skip
_PARTS: Final = (
    ("freeze_vit", "towers", True),
    ("freeze_aligner", "projectors", True),
    ("freeze_llm", "language", False),
)


def tuner(sheet: Sheet, kind: str, half: str, engine: str) -> None:
    """Set `lora` and `quantize`: on all linear layers, in fp32 on a 16-bit base; bitsandbytes' storage, doubly quantised."""
    if kind != "full":
        _adapters(sheet, half, engine)
    bits = sheet.read(whole, "quant_bits", default=0)
    method = sheet.read(text, "quant_method", default="bnb")
    if not bits:
        return
    if method != "bnb":
        packed = {"name": method, "bits": bits} if method == "hqq" else method
        sheet.put("quantize", packed, "quant_method", "quant_bits")
    elif bits == 4:
        sheet.put("quantize", {"name": sheet.read(text, "bnb_4bit_quant_type", default="nf4"),
                               "double": sheet.read(truth, "bnb_4bit_use_double_quant", default=True)}, "quant_bits")  # fmt: skip
    else:
        sheet.put("quantize", "int8", "quant_bits")


def _adapters(sheet: Sheet, half: str, engine: str) -> None:
    sheet.fill(LORA)
    sheet.seen("target_modules")
    written = sheet.read(text, "lora_dtype", default="")
    if written and written not in FLOATS:
        sheet.fault("lora_dtype", f"{written!r} is none of bfloat16, float16, float32")
    dtype = FLOATS.get(written) or (half if engine == "deepspeed" else "fp32")
    sheet.put("lora.dtype", dtype, "lora_dtype", default="peft: autocast_adapter_dtype")
    left = _frozen(sheet)
    if left and sheet.run["lora"].get("targets") == "all-linear":
        sheet.put("lora.exclude", rf"(?:{'|'.join(left)}).*", "freeze_vit", default=f"{SOURCE}: freeze_vit")


def _frozen(sheet: Sheet) -> list[str]:
    """Beginnings of the names of a model's parts that stay as they are: its towers and projectors, where nothing is said."""
    table = find("frameworks", "llamafactory")
    on = [part for key, part, default in _PARTS if sheet.read(truth, key, default=default)]
    return [table[part] for part in on if holds(sheet, table[part])] if holds(sheet, table["towers"]) else []


def learns(sheet: Sheet, kind: str) -> None:
    """Set `freeze` where all of a model is trained but some of its parts, or names."""
    keys = ("freeze_parameters", "freeze_parameters_regex", "trainable_parameters", "trainable_parameters_regex")
    if kind != "full":
        sheet.seen(*keys, "freeze_parameters_ratio")
        return
    frozen: list[Any] = [f"^{part}" for part in _frozen(sheet)]
    frozen += [f"^{name}" for name in sheet.read(names, "freeze_parameters", default=[])]
    if written := sheet.read(text, "freeze_parameters_regex"):
        frozen.append(written)
    if not _only_some(sheet) and frozen:
        sheet.put("freeze", frozen, "freeze_parameters", "freeze_vit", default=f"{SOURCE}: freeze_vit")


def _only_some(sheet: Sheet) -> bool:
    """Set `train` where all is frozen but what trainable_parameters names; warnings where a part is."""
    again = sheet.read(names, "trainable_parameters", "trainable_parameters_regex", default=[])
    ratio = sheet.read(number, "freeze_parameters_ratio", default=0)
    if again and ratio == 1:
        sheet.put("train", [f"^{name}" for name in again], "trainable_parameters", "freeze_parameters_ratio")
        return True
    if again:
        named = ", ".join(again[:4])
        sheet.warn(
            "trainable_parameters", "not-modelled", f"{named}: what learns again of what is frozen is not counted"
        )
    if ratio:
        sheet.warn(
            "freeze_parameters_ratio",
            "not-modelled",
            "the lower part of the model that is frozen is counted as trained",
        )
    return False
