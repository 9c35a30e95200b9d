"""Documents: words with their places on a page, and the page itself as patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from memcalc.blocks.base import Block, Param, Sequence, given
from memcalc.dataclass import dataclass

if TYPE_CHECKING:
    from memcalc.blocks.attention import Attention
    from memcalc.blocks.basic import Conv, Embedding, Linear, Norm


@dataclass(frozen=True, slots=True)
class Boxes(Block):
    """Embeddings of a box's corners, height and width, side by side (LayoutLMv3)."""

    tables: tuple[Embedding, ...] = ()

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return self.tables


@dataclass(frozen=True, slots=True)
class Placed(Block):
    """The sum of embeddings of words, of positions and types (`line`), and of a box (`box`: across, down, height, width).

    Each of the first two of a box's tables is read for two corners (LayoutLM).
    """

    line: tuple[Block, ...] = ()
    box: tuple[Embedding, ...] = ()

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return (*self.line, *self.box)


@dataclass(frozen=True, slots=True)
class Page(Block):
    """Embedded words, and behind them a class token and the patches of the page's image, `side` of them to a side."""

    words: Sequence | None = None
    patches: Conv | None = None
    inner: Norm | None = None
    norm: Norm | None = None
    side: int = 14
    dropout: float = 0.0

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        if self.patches is None:
            return ()
        width = self.patches.outputs
        return Param("cls_token", (1, 1, width)), Param("pos_embed", (1, self.side**2 + 1, width))

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.words, self.patches, self.inner, self.norm)


@dataclass(frozen=True, slots=True)
class PlaceBiases(Block):
    """Biases of scores by how far words are from each other in the text, and on the page: tables that get no gradient."""

    idle: ClassVar[bool] = True

    text: Linear | None = None
    page: tuple[Linear, ...] = ()

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return (self.text, *self.page) if self.text else self.page


@dataclass(frozen=True, slots=True)
class WordsAlone(Block):
    """The states of the words, without those of patches."""


@dataclass(frozen=True, slots=True)
class BoxStates(Block):
    """The states of the words' boxes, which go through all layers beside those of the words (LiLT)."""

    boxes: Boxes | None = None
    project: Linear | None = None
    places: Embedding | None = None
    norm: Norm | None = None
    dropout: float = 0.0

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.boxes, self.places, self.project, self.norm)


@dataclass(frozen=True, slots=True)
class TwoStreams(Block):
    """Words and boxes attend to themselves with the scores of both added up, then each has its feed-forward network.

    `mixers`, `norms` and `feeds` are first of the words, then of the boxes.
    """

    mixers: tuple[Attention, ...] = ()
    norms: tuple[Block, ...] = ()
    feeds: tuple[Block, ...] = ()
    dropout: float = 0.0

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return (*self.mixers, *self.norms, *self.feeds)
