"""ModelOpt's hf_quant_config.json: how a checkpoint's weights are packed; the model is that of the config.json beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from memcalc.configs.follow import find
from memcalc.configs.names import model
from memcalc.configs.quantized import packed_base
from memcalc.configs.table import Sheet
from memcalc.configs.words import mapping

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "hf-quant-config"
TITLE: Final = "hf_quant_config.json"


def recognises(document: Document) -> int:
    """By its one section and the name of what ModelOpt calls an algorithm."""
    section = document.data.get("quantization")
    return 90 if isinstance(section, dict) and "quant_algo" in section else 0


def read(document: Document, asked: Asked) -> Reading:
    """The packed base, of the model that is asked for or whose config.json is beside the file."""
    sheet = Sheet(document, asked, NAME, TITLE)
    beside = find(document, "config.json") if document.path and asked.model is None else None
    if beside is not None and document.path is not None and beside.parent == document.path.parent:
        sheet.put("model", str(beside), default="the config.json beside it")
    else:
        model(sheet)
    section = sheet.read(mapping, "quantization", default={})
    packed_base(sheet, {"quant_method": "modelopt", **section}, "lora" in asked.flags, "quantization")
    return sheet.reading(("producer*", "quantization*"))
