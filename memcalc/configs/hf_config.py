"""A model's `config.json`, as transformers and diffusers write it: dimensions, and how its weights are packed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from memcalc.configs.quantized import packed_base
from memcalc.configs.table import Sheet

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "hf-config"
TITLE: Final = "config.json"
_TYPED: Final = ("model_type", "_class_name", "architectures")


def recognises(document: Document) -> int:
    """Surest where it names its model type and dimensions; a training config may quote one key or another."""
    data = document.data
    if "model" in data or not any(key in data for key in _TYPED):
        return 0
    return 60 if "architectures" in data or "_class_name" in data else 40


def read(document: Document, asked: Asked) -> Reading:
    """The model of the file, or what it says inline where it comes from standard input."""
    sheet = Sheet(document, asked, NAME, TITLE)
    sheet.put("model", str(document.path) if document.path else dict(document.data), "model_type")
    section = document.data.get("quantization_config")
    packed_base(sheet, section if isinstance(section, dict) else {}, "lora" in asked.flags)
    return sheet.reading(ignored=("*",))
