"""Document: an answer that other tools read, with methods named as pydantic's.

The values are plain dataclasses; pydantic, which is slow to load, comes in only where a schema or a saved document asks
for it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self


@dataclass(frozen=True)
class Document:
    """What every kind of answer can do."""

    def model_dump(self, mode: Literal["json", "python"] = "json") -> dict[str, Any]:
        """The document as plain data; `json` has lists where `python` has tuples."""
        data = asdict(self)
        plain: dict[str, Any] = json.loads(json.dumps(data)) if mode == "json" else data
        return plain

    def model_dump_json(self, indent: int | None = None) -> str:
        """The document as JSON text."""
        return json.dumps(asdict(self), indent=indent, ensure_ascii=False)

    @classmethod
    def model_validate(cls, document: Mapping[str, Any]) -> Self:
        """The answer in a saved document; pydantic's ValidationError where it is none."""
        from pydantic import TypeAdapter  # noqa: PLC0415

        return TypeAdapter(cls).validate_python(document)

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]:
        """The JSON Schema of the document."""
        from pydantic import TypeAdapter  # noqa: PLC0415

        return TypeAdapter(cls).json_schema(mode="serialization")
