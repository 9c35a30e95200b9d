"""A base model that is stored quantised: the `quantization_config` of its config.json, or modelopt's file beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcalc.quantization.foreign import from_config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memcalc.configs.table import Sheet


def packed_base(sheet: Sheet, section: Mapping[str, Any], lora: bool, key: str = "quantization_config") -> None:
    """Set `quantize` where adapters are trained on the packed weights; else say that they are counted unpacked."""
    if not section:
        return
    method = str(section.get("quant_method") or section.get("quant_algo") or "bitsandbytes")
    made = from_config(section)
    if made is None:
        sheet.warn(
            key,
            "not-modelled",
            f"how {method} packs the weights is not known, or it unpacks them: they are counted unpacked",
        )
    elif lora and "quantize" not in sheet.asked.flags:
        sheet.put("quantize", made, key)
    elif not lora:
        sheet.assume("model", "stored-packed",
                     f"the checkpoint is stored in {made['name']}; packed weights can't be trained, so they are counted "
                     "unpacked (with --lora they are counted as stored)")  # fmt: skip
