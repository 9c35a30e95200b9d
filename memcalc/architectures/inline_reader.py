"""Reads what somebody wrote, and collects what is wrong with it, each fault with its place."""

from __future__ import annotations

import math
from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Any

from memcalc.architectures.inline_kinds import CHOICES
from memcalc.dimensions import LARGEST
from memcalc.errors import Fault, nearest_names, shorten

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Reader:
    """Checks values one by one; `faults` is all that was found wrong so far."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def fault(self, where: str, what: str) -> None:
        """Note a fault."""
        self.faults.append(Fault(where, what))

    def unknown(self, where: str, given: Mapping[Any, Any], known: Iterable[str]) -> None:
        """Fault every key that is not known."""
        known = list(known)
        for key in given:
            if key not in known:
                self.fault(f"{where}.{key}", f"no such key; {_nearest(str(key), known)}")

    def choice(self, where: str, value: Any, known: Iterable[str], what: str = "choice") -> bool:  # noqa: ANN401
        """Whether a value is one of the known ones; a fault otherwise."""
        known = list(known)
        if value in known:
            return True
        self.fault(where, f"{shorten(repr(value))} is no {what}; {_nearest(str(value), known)}")
        return False

    def number(self, where: str, value: Any, least: int = 1, most: int = LARGEST) -> int:  # noqa: ANN401
        """A whole number from `least` to `most`; `least` where it is none."""
        size = int(value) if isinstance(value, float) and value.is_integer() else value
        if isinstance(size, int) and not isinstance(size, bool) and least <= size <= most:
            return size
        self.fault(where, f"{shorten(repr(value))} is not a whole number from {least} to {most:,}")
        return least

    def shape(self, where: str, value: Any) -> tuple[int, ...] | None:  # noqa: ANN401
        """A shape: whole numbers in a list, or a single one."""
        sizes = value if isinstance(value, (list, tuple)) else [value]
        before = len(self.faults)
        read = tuple(self.number(f"{where}[{i}]" if len(sizes) > 1 else where, size) for i, size in enumerate(sizes))
        if math.prod(read) > LARGEST:
            self.fault(where, f"{list(read)} has more than {LARGEST:.0e} elements")
        return read if len(self.faults) == before else None

    def fields(self, where: str, given: Mapping[Any, Any], kind: type[Any]) -> dict[str, Any] | None:
        """The fields of a dataclass from a mapping; None, and faults, where they don't make one."""
        known = {field.name: field for field in fields(kind)}
        before = len(self.faults)
        self.unknown(where, given, known)
        for name, field in known.items():
            if field.default is MISSING and name not in given:
                self.fault(f"{where}.{name}", "the key is missing and has no default")
        made = {key: self._field(f"{where}.{key}", known[key], value) for key, value in given.items() if key in known}
        return made if len(self.faults) == before else None

    def _field(self, where: str, field: Field[Any], value: Any) -> Any:  # noqa: ANN401
        """A value of the field's type, which is written as text: 'int', 'bool', 'float', 'str', 'tuple[int, ...]'."""
        match str(field.type):
            case "int":
                return self.number(where, value, least=1 if field.default is MISSING else 0)
            case "bool":
                return self._flag(where, value)
            case "float":
                return self._fraction(where, value)
            case "str":
                self.choice(where, value, CHOICES[field.name]) if field.name in CHOICES else self._text(where, value)
                return value
            case _:
                return self.shape(where, value)

    def _flag(self, where: str, value: Any) -> bool:  # noqa: ANN401
        if not isinstance(value, bool):
            self.fault(where, f"{shorten(repr(value))} is not true or false")
        return bool(value)

    def _fraction(self, where: str, value: Any) -> float:  # noqa: ANN401
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            self.fault(where, f"{shorten(repr(value))} is not a number from 0 to 1")
            return 0.0
        return float(value)

    def _text(self, where: str, value: Any) -> None:  # noqa: ANN401
        if not isinstance(value, str):
            self.fault(where, f"{shorten(repr(value))} is not text")


def _nearest(name: str, known: list[str]) -> str:
    near = nearest_names(name, known)
    return f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known)}"
