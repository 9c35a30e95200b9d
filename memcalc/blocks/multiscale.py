"""What Segment Anything 2's image encoder adds: Hiera on a map, and a pyramid of what its stages end with (Ravi et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.base import Block, Param, Stack, given
from memcalc.dataclass import dataclass

if TYPE_CHECKING:
    from memcalc.blocks.attention import Attention


@dataclass(frozen=True, slots=True)
class TiledPositions(Block):
    """A small `map` of positions, resized to every image's, and one of a `window` that is repeated over it, both added."""

    width: int = 96
    map: tuple[int, int] = (7, 7)
    window: int = 8

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return (Param("pos_embed", (1, self.width, *self.map)),
                Param("pos_embed_window", (1, self.width, self.window, self.window)))  # fmt: skip


@dataclass(frozen=True, slots=True)
class MultiScaleLayer(Block):
    """A pre-norm layer on a map, within windows of `window`² (0: everywhere), its queries the maxima of `stride` pixels (0: all).

    `widen` is of what it adds to, pooled alike.
    """

    before: Block | None = None
    mixer: Attention | None = None
    after: Block | None = None
    feed: Block | None = None
    widen: Block | None = None
    window: int = 0
    stride: tuple[int, int] | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.before, self.mixer, self.after, self.feed, self.widen)


@dataclass(frozen=True, slots=True)
class MapNeck(Block):
    """The maps that stages yield, each through a convolution, the smallest first; some joined to the one before, enlarged.

    The `levels` largest are what others read; positions of `width` channels come with each.
    """

    convs: Stack | None = None
    joined: tuple[int, ...] = (2, 3)
    levels: int = 3
    width: int = 256

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.convs)
