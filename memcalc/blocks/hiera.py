"""What Hiera adds: tokens in the order of their windows, so that pooling is a maximum of neighbours (Ryali et al. 2023)."""

from __future__ import annotations

from memcalc.blocks.base import Block, given
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Unrolled(Block):
    """Tokens of a `map` put so that those of a square of `stride` lie a quarter apart; once for each entry of `strides`."""

    map: tuple[int, int] = (1, 1)
    strides: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class MaskUnitAttention(Block):
    """Attention within windows of `window` pooled tokens (0: all tokens), queries the maxima of `stride` tokens each."""

    qkv: Block | None = None
    out: Block | None = None
    heads: int = 1
    stride: int = 1
    window: int = 0

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.qkv, self.out)


@dataclass(frozen=True, slots=True)
class PoolingLayer(Block):
    """A pre-norm layer, which may widen what it adds to, and take the maxima of `stride` tokens each of it."""

    before: Block | None = None
    mixer: Block | None = None
    after: Block | None = None
    feed: Block | None = None
    widen: Block | None = None
    drop: Block | None = None
    stride: int = 1

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.before, self.mixer, self.after, self.feed, self.widen, self.drop)
