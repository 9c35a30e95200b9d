"""Attention that samples maps of several sizes at a few points around each query (Zhu et al. 2021, Deformable DETR)."""

from __future__ import annotations

from memcalc.blocks.base import Block, given
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Deformable(Block):
    """Every query looks at `points` of each of `levels` maps with each of its `heads`.

    `offsets` says where, `weights` how much of what `value` makes of the maps, `out` is behind. `scales` is a buffer of a
    factor for each point of all levels, which stand in one row then (RT-DETR v2).
    """

    heads: int = 8
    levels: int = 3
    points: int = 4
    offsets: Block | None = None
    weights: Block | None = None
    value: Block | None = None
    out: Block | None = None
    scales: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.offsets, self.weights, self.value, self.out, self.scales)
