"""CANINE: characters hashed into buckets, a short sequence of molecules between two of characters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.base import Block, Stray, given
from memcalc.blocks.seq2seq import Aside
from memcalc.dataclass import dataclass

if TYPE_CHECKING:
    from memcalc.blocks.basic import Dropout, Embedding, Norm


@dataclass(frozen=True, slots=True)
class HashedEmbeddings(Block):
    """A slice of the channels from each of several tables, joined; types and positions added, norm, dropout."""

    hashed: tuple[Embedding, ...] = ()
    types: Embedding | None = None
    places: Embedding | None = None
    norm: Norm | None = None
    dropout: Dropout | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(*self.hashed, self.types, self.places, self.norm, self.dropout)


@dataclass(frozen=True, slots=True)
class Molecules(Block):
    """Every `rate` characters convolved into one, behind the first of all."""

    conv: Block | None = None
    activation: Block | None = None
    norm: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.conv, self.activation, self.norm)


@dataclass(frozen=True, slots=True)
class Rejoined(Block):
    """A convolution of `size` over characters and the molecules they are of, side by side."""

    conv: Block | None = None
    activation: Block | None = None
    norm: Block | None = None
    dropout: Block | None = None
    size: int = 1

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.conv, self.activation, self.norm, self.dropout)


@dataclass(frozen=True, slots=True)
class Characters(Block):
    """Characters, molecules and characters again; `pooled` where the head reads the pooler, and nothing the last part."""

    embeddings: Block | None = None
    before: Block | None = None
    down: Block | None = None
    deep: Block | None = None
    pooler: Block | None = None
    up: Block | None = None
    last: Block | None = None
    rate: int = 1
    pooled: bool = False

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        behind = given(self.up, self.last)
        if self.pooled:
            return given(self.embeddings, self.before, self.down, self.deep, self.pooler, Stray("", behind))
        aside = Aside("", (self.pooler,)) if self.pooler else None
        return given(self.embeddings, self.before, self.down, self.deep, aside, *behind)
