"""A model's `config.json`, as transformers and diffusers write it: dimensions, and how its weights are packed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.likeness import alike, is_known, unlike
from memcalc.configs.quantized import packed_base
from memcalc.configs.table import Sheet

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "hf-config"
TITLE: Final = "config.json"


def _model(sheet: Sheet) -> Any:  # noqa: ANN401 - the file's name, or dimensions
    """The file itself; of a type that is not known, the config as one of a type that is alike."""
    document = sheet.document
    if not is_known(document.data):
        found = alike(document.data)
        if found is not None:
            sheet.warn(
                "model_type", "read-as", f"the model type {document.data.get('model_type')!r} is not known: {found[1]}"
            )
            return {"_name_or_path": document.path.stem if document.path else "inline", **found[0]}
        sheet.fault("model_type", unlike(document.data))
    return str(document.path) if document.path else dict(document.data)


def recognises(document: Document) -> int:
    """Surest where it names its model type and dimensions; a training config may quote one key or another."""
    data = document.data
    named = isinstance(data.get("model_type"), str) or isinstance(data.get("_class_name"), str)
    classes = isinstance(data.get("architectures"), list)
    if "model" in data or not (named or classes):
        return 0
    return 60 if classes or "_class_name" in data else 40


def read(document: Document, asked: Asked) -> Reading:
    """The model of the file, or what it says inline where it comes from standard input."""
    sheet = Sheet(document, asked, NAME, TITLE)
    if asked.model is None:
        sheet.put("model", _model(sheet), "model_type", "architectures")
    section = document.data.get("quantization_config")
    packed_base(sheet, section if isinstance(section, dict) else {}, "lora" in asked.flags)
    return sheet.reading(ignored=("*",))
