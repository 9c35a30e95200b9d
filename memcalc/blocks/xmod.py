"""X-MOD's adapters of languages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.base import Block
from memcalc.dataclass import dataclass

if TYPE_CHECKING:
    from memcalc.blocks.basic import Dropout, Norm


@dataclass(frozen=True, slots=True)
class Languages(Block):
    """A bottleneck for each language, of which the rows of a batch go through their own: all but one has no rows.

    They read what `norm` makes (`own` where it is theirs, else that of the layer, which has it among its parts), and are
    added to what it makes, or, where `raw`, to what it reads.
    """

    adapters: tuple[Block, ...] = ()
    chosen: int = 0  # which language the rows are of
    norm: Norm | None = None
    own_norm: bool = False
    raw: bool = False
    dropout: Dropout | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return (self.norm, *self.adapters) if self.norm and self.own_norm else self.adapters
