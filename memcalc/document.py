"""Document: an answer that other tools read, with methods named as pydantic's.

The values are plain dataclasses; pydantic, which is slow to load, comes in only where a schema or a saved document asks
for it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from memcalc.dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self


@dataclass(frozen=True)
class Document:
    """What every kind of answer can do.

    `published_names` are fields that the document has under another name, one that Python keeps for itself ("from").
    """

    published_names: ClassVar[Mapping[str, str]] = {}

    def model_dump(self, mode: Literal["json", "python"] = "json") -> dict[str, Any]:
        """The document as plain data; `json` has lists where `python` has tuples."""
        data = _renamed(asdict(self), self.published_names)
        plain: dict[str, Any] = json.loads(json.dumps(data)) if mode == "json" else data
        return plain

    def model_dump_json(self, indent: int | None = None) -> str:
        """The document as JSON text."""
        return json.dumps(_renamed(asdict(self), self.published_names), indent=indent, ensure_ascii=False)

    @classmethod
    def model_validate(cls, document: Mapping[str, Any]) -> Self:
        """The answer in a saved document; pydantic's ValidationError where it is none."""
        from pydantic import TypeAdapter  # noqa: PLC0415

        own = {theirs: ours for ours, theirs in cls.published_names.items()}
        return TypeAdapter(cls).validate_python(_renamed(document, own))

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]:
        """The JSON Schema of the document."""
        from pydantic import TypeAdapter  # noqa: PLC0415

        made: dict[str, Any] = _renamed(TypeAdapter(cls).json_schema(mode="serialization"), cls.published_names)
        return made


def _renamed(data: Any, names: Mapping[str, str]) -> Any:  # noqa: ANN401 - plain data
    """Plain data with some keys (and, in a schema, the words of lists) under other names."""
    if not names:
        return data
    if isinstance(data, dict):
        required = {"required": [names.get(key, key) for key in data["required"]]} if _is_schema(data) else {}
        return {**{names.get(key, key): _renamed(item, names) for key, item in data.items()}, **required}
    return [_renamed(item, names) for item in data] if isinstance(data, list | tuple) else data


def _is_schema(data: Mapping[str, Any]) -> bool:
    return "properties" in data and isinstance(data.get("required"), list)
