"""Values of `memcalc diff`: the document other tools read (`schema_version` 1.0). Bytes are integers, per GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from memcalc.dataclass import dataclass
from memcalc.document import Document
from memcalc.report import GpuPart, Memory, ModelPart, Verdict


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the runs that are compared; `source` is where it was read (`main:train.yaml` for a git revision)."""

    name: str
    source: str
    headline: str
    run: Mapping[str, Any]
    model: ModelPart
    memory: Memory
    gpu: GpuPart
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Cause:
    """A key of the run whose value changed; keys that can't change one without the other are told as one, with commas."""

    path: str
    before: Any
    after: Any


@dataclass(frozen=True, kw_only=True)
class Change:
    """What one cause did to one component (or to the `total`, or to the allocator's `cache`): bytes before and after.

    Causes are applied one after the other, so that the changes of a component add up to its whole difference.
    """

    name: str
    component: str
    before: int
    after: int
    cause: Cause

    @property
    def delta(self) -> int:
        """Bytes that came on top; negative where they went."""
        return self.after - self.before


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two versions of one config: numbers of `Difference.runs`, null where there is none (a new file, one that went)."""

    name: str
    before: int | None
    after: int | None
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Difference(Document):
    """The whole answer: `pairs` say which two of `runs` were compared, `changes` what became of each component and why."""

    schema_version: Literal["1.0"] = "1.0"
    kind: Literal["diff"] = "diff"
    runs: tuple[Side, ...]
    pairs: tuple[Pair, ...]
    changes: tuple[Change, ...]
