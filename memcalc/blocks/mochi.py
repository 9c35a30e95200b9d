"""Mochi: learned frequencies that rotate, text pooled by attention, frames cut one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.base import Block, given
from memcalc.dataclass import dataclass

if TYPE_CHECKING:
    from memcalc.blocks.basic import Raw


@dataclass(frozen=True, slots=True)
class PooledTime(Block):
    """The time step's vector plus the text's, pooled by attention of their mean; and the text's states, projected."""

    time: Block | None = None
    into: tuple[Block, ...] = ()
    out: Block | None = None
    caption: Block | None = None
    heads: int = 8

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.time, *self.into, self.out, self.caption)


@dataclass(frozen=True, slots=True)
class CutFrames(Block):
    """Every frame of a video cut into patches by `conv`; `frequencies`, which learn, make tables that rotate them."""

    conv: Block | None = None
    frequencies: Raw | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.frequencies, self.conv)
