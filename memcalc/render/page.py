"""How an answer may look: its width, the unit of its sizes, and whether colour is welcome."""

from __future__ import annotations

from memcalc.dataclass import dataclass
from memcalc.units import format_bytes


@dataclass(frozen=True)
class Page:
    """Columns to fill, the unit of sizes (a name of `memcalc.units`, or auto), colour or none.

    With `origins` it shows where each value of a run that was read from another tool's config is written. `remedy` is what
    would make a run fit that does not, in words.
    """

    width: int = 80
    unit: str = "GiB"
    colour: bool = False
    origins: bool = False
    remedy: str = ""

    def size(self, n: int) -> str:
        """Bytes in this page's unit, which is always printed."""
        return format_bytes(n, self.unit)
