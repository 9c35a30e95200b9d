"""Heads that choose spans by comparing tokens."""

from __future__ import annotations

from memcalc.blocks.base import Block
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class SpanSelection(Block):
    """The mask of a question and every token, each transformed for starts and for ends, and compared (Splinter).

    `transforms` are of the question for starts and ends, then of all tokens; `classifiers` project the question's.
    """

    transforms: tuple[Block, ...] = ()
    classifiers: tuple[Block, ...] = ()

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return self.transforms + self.classifiers
