"""Layers whose modules stand in lists of their own, a list for each part of a layer (XLM)."""

from __future__ import annotations

from memcalc.blocks.base import Block, Stack, given
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class PartLists(Block):
    """Attentions, norms behind (or before) them, feed-forward modules and their norms: layer i has the i-th of each.

    `dropout` is of what attentions yield; `pre_norm` where norms stand before.
    """

    attentions: Stack | None = None
    first: Stack | None = None
    feeds: Stack | None = None
    second: Stack | None = None
    dropout: float = 0.0
    pre_norm: bool = False

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.attentions, self.first, self.feeds, self.second)
