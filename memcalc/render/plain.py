"""JSON and YAML of any document."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memcalc.document import Document


def dumped(document: Document, form: str) -> str:
    """The document as `json` or `yaml`: the same data."""
    if form == "json":
        return document.model_dump_json(indent=2) + "\n"
    import yaml  # noqa: PLC0415 - slow to load, and only this format needs it

    text: str = yaml.safe_dump(document.model_dump(), sort_keys=False, allow_unicode=True, width=110)
    return text
