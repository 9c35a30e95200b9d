"""LoRA's settings as trainers write them, in the words of a run's `lora` and `quantize`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.table import Key
from memcalc.configs.words import names, number, text, truth, whole

if TYPE_CHECKING:
    from memcalc.configs.table import Sheet

ALL_LINEAR: Final = "all-linear"


def targets(value: Any) -> list[str] | str | None:  # noqa: ANN401
    """Target modules: a list, one word (all-linear, or a regular expression), a text with commas."""
    if isinstance(value, str) and ("," not in value or any(c in value for c in "()[]*\\")):
        return value.strip() or None
    found = names(value)
    return ALL_LINEAR if found in (["all-linear"], ["all"]) else found or None


_KEYS: Final = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_target_parameters",
                "lora_modules_to_save", "lora_task_type", "use_rslora", "use_dora")  # fmt: skip
_BITS: Final = ("bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_use_double_quant", "bnb_4bit_quant_storage")


def of_trl(sheet: Sheet, source: str) -> bool:
    """Set `lora` and `quantize` from TRL's ModelConfig; whether adapters are trained."""
    packed = bitsandbytes(sheet)
    sheet.seen(*_KEYS, *_BITS)
    if not sheet.read(truth, "use_peft", default=False):
        return False
    sheet.fill((
        Key("lora_r", "lora.rank", whole, 16, source), Key("lora_alpha", "lora.alpha", number, 32, source),
        Key("lora_dropout", "lora.dropout", number, 0.05, source), Key("lora_target_modules", "lora.targets", targets),
        Key("lora_target_parameters", "lora.parameters", names), Key("lora_modules_to_save", "lora.save_modules", names),
        Key("use_rslora", "lora.rslora", truth), Key("use_dora", "lora.dora", truth),
    ))  # fmt: skip
    if packed:
        sheet.put("lora.dtype", "bf16", packed)
    elif sheet.run.get("sharding", {}).get("strategy") == "zero3":
        sheet.put("lora.dtype", "bf16" if "bf16" in str(sheet.run.get("precision")) else "fp32", "deepspeed",
                  default="trl/trainer/sft_trainer.py: autocast_adapter_dtype=False under ZeRO-3")  # fmt: skip
    return True


def bitsandbytes(sheet: Sheet) -> str:
    """Set `quantize` from load_in_4bit and load_in_8bit; the key that did, '' for neither."""
    if sheet.read(truth, "load_in_4bit", default=False):
        made: dict[str, Any] = {"name": sheet.read(text, "bnb_4bit_quant_type", default="nf4")}
        made["double"] = sheet.read(truth, *_BITS[1:3], default=False)
        storage = sheet.read(text, "bnb_4bit_quant_storage")
        if storage:
            sheet.put("quantize", {**made, "storage": storage}, "load_in_4bit")
        else:
            sheet.put("quantize", f"{made['name']}-double" if made["double"] else made["name"], "load_in_4bit")
        return "load_in_4bit"
    if sheet.read(truth, "load_in_8bit", default=False):
        sheet.put("quantize", "int8", "load_in_8bit")
        return "load_in_8bit"
    return ""


# switches of adapters in scripts around the Trainer (LLaVA, FastChat, QLoRA, open-instruct), and what those call the rest
_ON: Final = ("lora_enable", "use_lora", "use_peft", "peft", "lora", "q_lora", "use_qlora")
_OF_SCRIPTS: Final = (
    Key(("lora_r", "lora_rank", "lora_dim"), "lora.rank", whole, 8, "peft/tuners/lora/config.py"),
    Key("lora_alpha", "lora.alpha", number), Key("lora_dropout", "lora.dropout", number),
    Key(("lora_target_modules", "target_modules", "lora_target"), "lora.targets", targets),
    Key(("lora_modules_to_save", "modules_to_save"), "lora.save_modules", names), Key("use_dora", "lora.dora", truth),
    Key("use_rslora", "lora.rslora", truth),
)  # fmt: skip


def of_script(sheet: Sheet) -> bool:
    """Set `lora` and `quantize` from a script's own arguments, as they are usually called; whether adapters are trained.

    Adapters are on where a switch says so, or where there is no switch and a rank is written.
    """
    switches = [sheet.read(truth, key) for key in _ON if not isinstance(sheet.get(key), dict)]
    said = [one for one in switches if one is not None]
    ranked = sheet.has("lora_r", "lora_rank", "lora_dim", "lora_target_modules", "lora_target")
    bits = sheet.get("bits", default=16)
    packed = bitsandbytes(sheet) or (
        "bits" if str(bits) in ("4", "8") else "q_lora" if sheet.read(truth, "q_lora") else ""
    )
    if not (any(said) or (ranked and not said) or (packed and not said)):
        sheet.seen(*(key for one in _OF_SCRIPTS for key in one.spellings), *_BITS, "quant_type", "double_quant")
        return False
    sheet.fill(_OF_SCRIPTS)
    sheet.assume(
        "lora", "adapters-by-their-keys", "the script's arguments speak of LoRA: what they are usually called is read"
    )
    if packed and "quantize" not in sheet.run:
        kind = sheet.read(text, "quant_type", default="nf4")
        double = sheet.read(truth, "double_quant", default=True)
        sheet.put("quantize", "int8" if str(bits) == "8" else f"{kind}-double" if double else kind, packed)
    return True
