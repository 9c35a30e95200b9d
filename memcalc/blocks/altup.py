"""Alternating updates (Baykal et al. 2023), as Gemma 3n has them: several streams of hidden states, one of them active."""

from __future__ import annotations

from memcalc.blocks.base import Block, Param, Sequence, given
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Streams(Block):
    """`streams` copies of the hidden states: the first as it is, each other through a projection of its own (`into`).

    The `layers` read and write them all; behind them each stream but the first goes through `out_of`, and their mean
    goes on (transformers, Gemma3nTextModel).
    """

    streams: int = 1
    into: Block | None = None
    layers: Block | None = None
    out_of: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.into, self.layers, self.out_of)


@dataclass(frozen=True, slots=True)
class AltUp(Block):
    """Predicts all `streams` from the active one's `router`, runs `inner` on the active one, corrects all of them.

    `predict` [streams², streams] and `correct` [streams, streams] mix the streams by tanh(router(norm(x))); `after`
    runs on the corrected active stream, `scaled` by channel or not, and is added to the others (transformers,
    Gemma3nTextDecoderLayer).
    """

    streams: int = 1
    altup: Sequence | None = None
    inner: Block | None = None
    after: Block | None = None
    extra: tuple[Param, ...] = ()
    scaled: bool = True

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return self.extra

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.altup, self.inner, self.after)
