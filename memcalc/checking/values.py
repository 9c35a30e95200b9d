"""Values of `memcalc check`: the document other tools read (`schema_version` 1.0). Bytes are integers, per GPU."""

from __future__ import annotations

from typing import Any, Literal

from memcalc.dataclass import dataclass
from memcalc.document import Document

Unit = Literal["bytes", "GPUs", "USD"]


@dataclass(frozen=True, kw_only=True)
class Held:
    """One limit and what it was held against: `path` is its key in a budget, `where` the place it is written at.

    `excess` is by how much `actual` is beyond it, 0 where it is not; `actual` is null where the report does not say.
    """

    path: str
    limit: float
    actual: float | None
    excess: float
    unit: Unit
    where: str

    @property
    def passed(self) -> bool:
        """Whether the run keeps within it."""
        return self.actual is not None and self.excess <= 0


@dataclass(frozen=True, kw_only=True)
class Largest:
    """The component that takes the most of the peak, and its share of it."""

    component: str
    bytes: int
    share: float


@dataclass(frozen=True, kw_only=True)
class Fix:
    """The least intrusive single change with which a run keeps within its budget: `saves` bytes of the total.

    Where no single one is `enough`, the one that saves the most.
    """

    path: str
    before: Any
    after: Any
    level: str
    enough: bool = True
    saves: int
    total: int
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One config: `limits` are all that it was held to; `error` is why there is no answer, `code` its exit code."""

    name: str
    source: str
    passed: bool
    headline: str = ""
    total: int | None = None
    limits: tuple[Held, ...] = ()
    largest: Largest | None = None
    fix: Fix | None = None
    warnings: tuple[str, ...] = ()
    error: str = ""
    code: int = 0


@dataclass(frozen=True, kw_only=True)
class Check(Document):
    """The whole answer: every config with its limits; `budget` is the file that holds for all of them, if any."""

    schema_version: Literal["1.0"] = "1.0"
    kind: Literal["check"] = "check"
    passed: bool
    budget: str = ""
    results: tuple[Result, ...]
