"""Blocks of denoisers that keep their tokens on the first axis: [tokens, batch, width] (ERNIE-Image)."""

from __future__ import annotations

from memcalc.blocks.base import Block, given
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class LeadingRow(Block):
    """Image and text in one row with the tokens first, and the shared vectors spread over all of them.

    The tables that rotate have `head_dim` channels; `text` are the channels of the text's states as they are given.
    """

    head_dim: int = 0
    text: int = 0


@dataclass(frozen=True, slots=True)
class LeadingEnd(Block):
    """The row normed, modulated and projected; the image's part of it is a map of squares of `patch` pixels again."""

    modulation: Block | None = None
    out: Block | None = None
    patch: int = 1

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.modulation, self.out)
