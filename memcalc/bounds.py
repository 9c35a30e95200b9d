"""Bounds of a number in the vocabulary: `Annotated[int, Ge(1), Le(10**9)]`.

They stand in for the package annotated_types, which takes as long to import as all of the vocabulary. Where pydantic
judges a value, it asks them for its own kind of bound.
"""

from __future__ import annotations

from typing import Any


class Bound:
    """A limit; the subclass says on which side."""

    __slots__ = ("limit",)
    key = ""

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:  # noqa: ANN401 - pydantic's protocol
        return {**handler(source), self.key: self.limit}


class Ge(Bound):
    """At least `limit`."""

    key = "ge"

    def holds(self, value: float) -> bool:
        """Whether a number keeps to it; NaN does not."""
        return value >= self.limit


class Le(Bound):
    """At most `limit`."""

    key = "le"

    def holds(self, value: float) -> bool:
        """Whether a number keeps to it; NaN does not."""
        return value <= self.limit
