"""Notes: what was assumed and what the numbers do not include, collected while a run is worked through."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from memcalc.dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Remark:
    """One note: `path` is the key of the run it concerns, `code` a stable word for tools, `message` a sentence."""

    code: str
    path: str
    message: str


@dataclass
class Notes:
    """Two lists in the order things were met; the same remark is kept once."""

    assumptions: list[Remark] = field(default_factory=list)
    warnings: list[Remark] = field(default_factory=list)

    def assume(self, path: str, code: str, message: str) -> None:
        """Note a value that was filled in or a reading that was chosen."""
        _add(self.assumptions, Remark(code, path, message))

    def assume_all(self, path: str, messages: Iterable[str]) -> None:
        """Note several under one key."""
        for message in messages:
            self.assume(path, "stated", message)

    def warn_all(self, path: str, messages: Iterable[str]) -> None:
        """Warn of several things under one key."""
        for message in messages:
            self.warn(path, "stated", message)

    def warn(self, path: str, code: str, message: str) -> None:
        """Note what the numbers leave out or what is likely not meant."""
        _add(self.warnings, Remark(code, path, message))


def _add(remarks: list[Remark], remark: Remark) -> None:
    if remark not in remarks:
        remarks.append(remark)
