"""What some denoisers do before and between their layers: vectors for all of them, text refined, a row for every sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from memcalc.blocks.base import Block, Sequence, given
from memcalc.dataclass import dataclass

if TYPE_CHECKING:
    from memcalc.blocks.base import Stack
    from memcalc.blocks.basic import Raw


@dataclass(frozen=True, slots=True)
class Approximator(Sequence):
    """Makes the vectors of all modulations, `count` of them, of numbers for the time step and for each one's place (Chroma)."""

    count: int = 0
    inputs: int = 0


@dataclass(frozen=True, slots=True)
class PickedVectors(Block):
    """`chunks` of the vectors that an Approximator has made: of a layer with two streams the image's or the text's part."""

    chunks: int = 6
    stream: Literal["", "image", "text"] = ""


@dataclass(frozen=True, slots=True)
class TokenRefiner(Block):
    """The text's states through layers of their own, modulated by the time step and their mean (HunyuanVideo)."""

    time: Block | None = None
    pooled: Block | None = None
    into: Block | None = None
    layers: Stack | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.time, self.pooled, self.into, self.layers)


@dataclass(frozen=True, slots=True)
class MixedTexts(Block):
    """The text's states behind those of glyphs and before those of an image, put together sample by sample (HunyuanVideo 1.5).

    `glyphs` and `image` project `counts` states of `widths` channels; a row of `kinds` is added to each of the three. Of
    HunyuanImage there are the text's and the glyphs' alone.
    """

    image: Block | None = None
    glyphs: Block | None = None
    kinds: Block | None = None
    counts: tuple[int, int] = (0, 0)
    widths: tuple[int, int] = (0, 0)

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.image, self.glyphs, self.kinds)


@dataclass(frozen=True, slots=True)
class GridAngles(Block):
    """Tables that rotate the patches of a video by frame, row and column, of `axes` channels each (HunyuanVideo)."""

    axes: tuple[int, ...] = ()
    patch: tuple[int, ...] = (1, 2, 2)


@dataclass(frozen=True, slots=True)
class PatchRows(Block):
    """A map cut into squares of `patch` pixels, each a token, sample by sample (Z-Image).

    One whose sides differ is filled up to so many tokens (`filled`), which a mask hides (HiDream); 0: none is.
    """

    patch: int = 2
    filled: int = 0


@dataclass(frozen=True, slots=True)
class PaddedTokens(Sequence):
    """The samples' tokens embedded in one row, and laid apart again, padded to a `multiple` by a learned token (Z-Image).

    Of the image, or of the `text`; `axes` are the channels of the tables that rotate them, kept for `places` of each axis.
    """

    pad: Raw | None = None
    axes: tuple[int, ...] = ()
    places: tuple[int, ...] = ()
    text: bool = False
    multiple: int = 32

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return self.blocks


@dataclass(frozen=True, slots=True)
class WholeRows(Block):
    """Image and text of each sample in one row, the image's tokens first; or (`back`) these alone again (Z-Image)."""

    back: bool = False


@dataclass(frozen=True, slots=True)
class SampleTables(Block):
    """Complex numbers that rotate text, image and both in one row, of `axes` channels, for every sample (Lumina)."""

    axes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SampleRows(Block):
    """Text and image of each sample put into one row; or (`back`) the image's tokens cut out again (Lumina)."""

    back: bool = False


@dataclass(frozen=True, slots=True)
class MeanCaption(Sequence):
    """The mean of the text's states that no mask hides, through these blocks and added to the vector (Lumina-Next).

    Tables of `dim` channels for squares of up to `side` tokens are given, of which the image's corner is cut.
    """

    dim: int = 0
    side: int = 384
