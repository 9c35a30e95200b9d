"""Images that a text attends to (BLIP), or that learned queries read for a language model (BLIP-2)."""

from __future__ import annotations

from typing import ClassVar

from memcalc.blocks.base import Block, Param, Sequence, given
from memcalc.blocks.multimodal import Images
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class QueriedImages(Images):
    """Images that queries attend to: its parts are the tower, the queries, what reads it for them, and a projection."""


@dataclass(frozen=True, slots=True)
class InstructedStart(Block):
    """Behind the queries the instruction's tokens, embedded; then a norm (InstructBLIP)."""

    words: Block | None = None
    places: Block | None = None
    norm: Block | None = None
    dropout: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.words, self.places, self.norm, self.dropout)


@dataclass(frozen=True, slots=True)
class InstructedLayer(Block):
    """All attend to each other, the first `queries` to the image too; an MLP for the instruction, one for the queries."""

    queries: int = 0
    mixer: Block | None = None
    crossing: Block | None = None
    text: Block | None = None
    query: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.mixer, self.crossing, self.text, self.query)


@dataclass(frozen=True, slots=True)
class AttendedImages(Images):
    """An image that every layer of the text attends to: its part is the tower."""


@dataclass(frozen=True, slots=True)
class ShiftedLogits(Block):
    """A contiguous copy of all logits but the last, which the loss reads, behind the first `ahead`; all are an output."""

    duty: ClassVar[str] = "shift"

    ahead: int = 0


@dataclass(frozen=True, slots=True)
class LatentLayer(Block):
    """Latents, normed, attend to the image's tokens, normed, and themselves; then an MLP (Idefics 2)."""

    norm: Block | None = None
    context_norm: Block | None = None
    mixer: Block | None = None
    feed: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.norm, self.context_norm, self.mixer, self.feed)


@dataclass(frozen=True, slots=True)
class Resampled(Sequence):
    """`latents` learned tokens of `width` channels, through layers that show them the image's tokens, and a norm."""

    latents: int = 0
    width: int = 0

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return (Param("latents", (self.latents, self.width)),)


@dataclass(frozen=True, slots=True)
class LeadingImages(Images):
    """An image whose tokens come before those of the text: its parts are the tower and a projection (GIT)."""


@dataclass(frozen=True, slots=True)
class PairedImages(Images):
    """A text, embedded, and behind it an image's patches behind a class token, both told apart by a vector each (ViLT).

    Its parts: the text's embeddings, the token, the patches' convolution, a table of `side` rows of positions, the vectors.
    """

    side: int = 1

    def text(self) -> Block:
        """The text's embeddings."""
        return self.blocks[0]
