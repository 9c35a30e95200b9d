"""What a prior reads: the text, its vector, the time step and an image's embedding as tokens of one row (unCLIP)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.base import Block, given
from memcalc.dataclass import dataclass

if TYPE_CHECKING:
    from memcalc.blocks.basic import Raw


@dataclass(frozen=True, slots=True)
class PriorRow(Block):
    """The text's `count` states, its vector of `width` channels, the time step, the image, and a learned token behind.

    Each is projected (the vector by `vector`), `positions` are added; a mask lets each of `heads` see what is before.
    """

    vector: tuple[Block, ...] = ()
    words: Block | None = None
    into: Block | None = None
    positions: Raw | None = None
    last: Raw | None = None
    count: int = 77
    text: int = 0
    width: int = 0
    heads: int = 1

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return (*self.vector, *given(self.words, self.into, self.positions, self.last))


@dataclass(frozen=True, slots=True)
class LastToken(Block):
    """The last token of a row alone: as it is, or (`kept`) in a row of one."""

    kept: bool = False
