"""What the values of a foreign config mean, however they are written: "2e-5" is a number, `no` a word and a boolean.

Every function takes whatever YAML, JSON or TOML hold and raises Unfit (a ValueError) with what was wanted.
"""

from __future__ import annotations

from math import isfinite
from typing import Any, Final

from memcalc.errors import shorten

# floating dtypes by torch's names and by the short ones
FLOATS: Final = {
    "bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "bf16": "bf16", "fp16": "fp16", "fp32": "fp32",
}  # fmt: skip

_TRUE = frozenset({"true", "yes", "on", "y", "1"})
_FALSE = frozenset({"false", "no", "off", "n", "0", "none", "null", ""})


class Unfit(ValueError):  # noqa: N818 - it reads as what it says of the value
    """A value that can't mean what its key holds."""


def number(value: Any) -> float:  # noqa: ANN401 - whatever was written
    """A number, written as one or as text ("2e-5", "1_000")."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _not(value, "a number")
    try:
        read = float(value.replace("_", "") if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        raise _not(value, "a number") from None
    if not isfinite(read):
        raise _not(value, "a number")
    return read


def whole(value: Any) -> int:  # noqa: ANN401
    """A whole number: 8, 8.0, "8", 5e8."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    read = number(value)
    if abs(read) > 2**63 or read != int(read):
        raise _not(value, "a whole number")
    return int(read)


def truth(value: Any) -> bool:  # noqa: ANN401
    """True or false, written as a boolean, a word or 0 and 1."""
    word = str(value).strip().lower()
    if value is None or word in _FALSE:
        return False
    if word in _TRUE:
        return True
    raise _not(value, "true or false")


def text(value: Any) -> str:  # noqa: ANN401
    """A word; the booleans that YAML makes of bare words are the words again ("no")."""
    if value is None or value is False:
        return "no" if value is False else ""
    if isinstance(value, dict | list):
        raise _not(value, "a word")
    return "yes" if value is True else str(value).strip()


def names(value: Any) -> list[str]:  # noqa: ANN401
    """A list of words: written as one, or as one text with commas or spaces between them."""
    if value is None:
        return []
    items = value if isinstance(value, list | tuple) else str(value).replace(",", " ").split()
    return [text(item) for item in items]


def mapping(value: Any) -> dict[str, Any]:  # noqa: ANN401
    """A mapping; nothing is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _not(value, "a mapping")
    return value


def same(value: Any) -> Any:  # noqa: ANN401
    """The value as it is written."""
    return value


def _not(value: Any, wanted: str) -> Unfit:  # noqa: ANN401
    return Unfit(f"{shorten(repr(value))} is not {wanted}")
