"""RoCBert's embeddings: of a token, its shape and its pronunciation."""

from __future__ import annotations

from memcalc.blocks.base import Block, given
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class ShapedEmbeddings(Block):
    """Words, and `beside` them other tables (shape, pronunciation), joined and projected; types and positions added.

    Without a `project` only words, types and positions are summed, and what comes behind norm and dropout is copied.
    """

    words: Block | None = None
    beside: tuple[Block, ...] = ()
    unused: tuple[Block, ...] = ()
    project: Block | None = None
    types: Block | None = None
    places: Block | None = None
    norm: Block | None = None
    dropout: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        found = (self.words, *self.beside, *self.unused, self.project, self.types, self.places, self.norm, self.dropout)
        return given(*found)
