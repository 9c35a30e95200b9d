"""What was measured, and what `verify` answers: each measured figure beside the one that was estimated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from memcalc.dataclass import dataclass
from memcalc.document import Document
from memcalc.report import GpuPart, ModelPart, Note


class Measured(NamedTuple):
    """Bytes that were measured of the figure at `path` (below a report's `memory`), and where that is written."""

    path: str
    bytes: int
    where: str


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure in bytes: `path` is where the report has it, below `memory`; `where` is where it was measured.

    `error` is (estimated - measured) / measured.
    """

    path: str
    estimated: int
    measured: int
    error: float
    within: bool
    where: str


@dataclass(frozen=True, kw_only=True)
class Verification(Document):
    """A run's estimate held to what was measured; `within` is the share of a figure that it may be off by."""

    schema_version: Literal["1.0"] = "1.0"
    kind: Literal["verify"] = "verify"
    passed: bool
    within: float
    figures: tuple[Figure, ...]
    run: Mapping[str, Any]
    model: ModelPart
    gpu: GpuPart
    assumptions: tuple[Note, ...] = ()
    warnings: tuple[Note, ...] = ()
