"""Norms whose output is scaled by a gate that it opens itself."""

from __future__ import annotations

from memcalc.blocks.base import Block, given
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class GatedNorm(Block):
    """y sigmoid(up(silu(down(y)))) with y = norm(x): a gate through a narrow layer (transformers, AXK2GatedRMSNorm)."""

    norm: Block | None = None
    down: Block | None = None
    up: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.norm, self.down, self.up)
