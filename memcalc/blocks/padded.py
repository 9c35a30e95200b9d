"""Images whose patches come as rows of pixels, filled up to so many for every image (Gemma 4)."""

from __future__ import annotations

from memcalc.blocks.base import Block, Param, Sequence
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class PaddedRows(Sequence):
    """Its linear layer of rows of pixels [images, patches, pixels], plus a row of each of two tables: by x and by y."""

    rows: int = 0
    width: int = 0

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return (Param("position_embedding_table", (2, self.rows, self.width)),)


@dataclass(frozen=True, slots=True)
class AxialRotary(Block):
    """Tables of `dim` channels that rotate patches by x and by y, and the mask of those that fill up."""

    dim: int = 0


@dataclass(frozen=True, slots=True)
class PooledRows(Block):
    """Patches averaged over squares of `kernel` x `kernel`, those that fill up left out; `standardized` by two buffers."""

    kernel: int = 1
    width: int = 0
    standardized: bool = False

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        names = ("std_bias", "std_scale") if self.standardized else ()
        return tuple(Param(name, (self.width,), buffer=True) for name in names)


@dataclass(frozen=True, slots=True)
class Clipped(Sequence):
    """A linear layer between two clamps of its values, to bounds that are buffers."""
