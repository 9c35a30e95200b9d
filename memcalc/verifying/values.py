"""One measured figure."""

from __future__ import annotations

from typing import NamedTuple


class Measured(NamedTuple):
    """Bytes that were measured of the figure at `path` (below a report's `memory`), and where that is written."""

    path: str
    bytes: int
    where: str
