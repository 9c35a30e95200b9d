"""How deep a document may be nested, whatever it is written in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from memcalc.errors import UnreadableInput

if TYPE_CHECKING:
    from collections.abc import Iterable

DEEPEST: Final = 100  # levels


def check_depth(data: Any, source: str) -> None:  # noqa: ANN401
    """UnreadableInput where plain data is nested deeper than any config is."""
    level = [data]
    for _ in range(DEEPEST + 1):
        level = [child for value in level for child in _children(value)]
        if not level:
            return
    raise too_deep(source)


def _children(value: Any) -> Iterable[Any]:  # noqa: ANN401
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def too_deep(source: str) -> UnreadableInput:
    """The complaint about it."""
    return UnreadableInput(f"{source}: more than {DEEPEST} levels deep; no run or config is")
