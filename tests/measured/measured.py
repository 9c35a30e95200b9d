"""Rows of memory that others measured, and what memcalc says of the same runs."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import yaml

from memcalc import estimate

UNITS = {"GiB": 2**30, "GB": 10**9}
COUNTERS = {"allocated": "peak_allocated", "reserved": "reserved", "total": "total"}


class Measured(NamedTuple):
    """One figure: its group, the setting in words, the run, bytes and counter; what is unexplained of it."""

    group: str
    setting: str
    run: dict[str, Any]
    bytes: int
    counter: str
    unexplained: str


class Compared(NamedTuple):
    """A figure and what is estimated of it."""

    row: Measured
    estimate: int

    @property
    def error(self) -> float:
        """As a share of what was measured."""
        return self.estimate / self.row.bytes - 1


@cache
def groups() -> tuple[dict[str, Any], ...]:
    """The groups of rows.yaml."""
    return tuple(yaml.safe_load((Path(__file__).parent / "rows.yaml").read_text("utf-8"))["groups"])


def rows(group: dict[str, Any]) -> list[Measured]:
    """The figures of a group."""
    return [
        Measured(group["name"], row["setting"], {**group["base"], **row["run"]}, round(row["measured"] * UNITS[group["unit"]]),
                 group["counter"], row.get("unexplained", ""))
        for row in group["rows"]
    ]  # fmt: skip


@cache
def compared(name: str) -> tuple[Compared, ...]:
    """Every figure of the group of a name, estimated."""
    (group,) = (group for group in groups() if group["name"] == name)
    return tuple(Compared(row, _estimated(row)) for row in rows(group))


def _estimated(row: Measured) -> int:
    report = estimate(row.run)
    failed = [note.message for note in report.warnings if note.code == "tape-failed"]
    if failed:
        raise AssertionError(failed)
    found: int = getattr(report.memory, COUNTERS[row.counter])
    return found


def middle(errors: list[float]) -> float:
    """The median of errors without their signs."""
    return median(abs(error) for error in errors)
