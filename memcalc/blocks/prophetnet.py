"""What ProphetNet's decoder adds: streams that predict tokens further ahead, beside the one that reads the target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, given
from memcalc.dataclass import dataclass

if TYPE_CHECKING:
    from memcalc.blocks.basic import Embedding


@dataclass(frozen=True, slots=True)
class Streams(Block):
    """The target's embeddings, and behind them those of `ahead.rows` streams, made of positions and of how far they look.

    `heads` is how many heads its masks are for.
    """

    ahead: Embedding | None = None
    words: Embedding | None = None
    places: Embedding | None = None
    heads: int = 1

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.ahead, self.words, self.places)


@dataclass(frozen=True, slots=True)
class StreamAttention(Attention):
    """The stream of the target attends to itself, and each of `streams` others to it and to itself, all with the same weights."""

    streams: int = 1


@dataclass(frozen=True, slots=True)
class TakeStreams(Block):
    """Of the last hidden states those of the target's stream, or (`ahead`) of the `count` others."""

    count: int = 1
    ahead: bool = False


@dataclass(frozen=True, slots=True)
class StreamLogits(Block):
    """Logits of `count` streams side by side, of which the first is an output of its own."""

    count: int = 1
