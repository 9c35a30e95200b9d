"""Blocks of video transformers: frames cut into patches, tables that rotate them, rows of text and video."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.base import Block, Sequence, given
from memcalc.dataclass import dataclass

if TYPE_CHECKING:
    from memcalc.blocks.base import Stack


@dataclass(frozen=True, slots=True)
class FramePatches(Sequence):
    """Frames cut into squares of `patch` pixels, the text's projection behind (CogVideoX).

    `placed` positions of a fixed table are added (0: the video's part of `head_dim` channels is rotated instead);
    `frames` make a patch together. `dropout` is of text and video in one row.
    """

    patch: int = 2
    frames: int = 1
    placed: int = 0
    head_dim: int = 0
    dropout: float = 0.0


@dataclass(frozen=True, slots=True)
class Frames(Block):
    """Tokens back to the frames of a video, squares of `patch` pixels."""

    patch: int = 2


@dataclass(frozen=True, slots=True)
class RowBlock(Block):
    """A layer that reads text and video in one row, each modulated by three of six vectors (CogVideoX).

    Twice: norm both by one of `norms`, modulate, `mixer` or `feed`, gate, add. `dropout` is of what `feed` yields.
    """

    modulations: tuple[Block, ...] = ()
    norms: tuple[Block, ...] = ()
    mixer: Block | None = None
    feed: Block | None = None
    dropout: float = 0.0

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        (first, second), (before, behind) = self.modulations, self.norms
        return given(first, before, self.mixer, second, behind, self.feed)


@dataclass(frozen=True, slots=True)
class WideModulate(Block):
    """norm(x) (1 + scale) + shift in fp32, cast back, with vectors of the Modulation before it (Wan)."""


@dataclass(frozen=True, slots=True)
class GridTables(Block):
    """Tables of `dim` channels that rotate patches of a video by frames, rows and columns, up to `longest` of each (Wan)."""

    dim: int = 0
    patch: tuple[int, ...] = (1, 2, 2)
    longest: int = 1024


@dataclass(frozen=True, slots=True)
class VideoTables(Block):
    """Tables of `width` channels, all heads', that rotate the tokens of a video by their coordinates (LTX)."""

    width: int = 0


@dataclass(frozen=True, slots=True)
class ControlPatches(Block):
    """A video that controls another, of `channels` for each of its patches, embedded (VACE)."""

    conv: Block | None = None
    channels: int = 0

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.conv)


@dataclass(frozen=True, slots=True)
class ControlLayers(Block):
    """Layers of the controlling stream, before all others: what each yields is added behind one of those, by `places` (VACE)."""

    layers: Stack | None = None
    places: tuple[int, ...] = ()

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.layers)


@dataclass(frozen=True, slots=True)
class ControlLayer(Block):
    """One of them: the first reads both streams' sum, through `into`; `out` is what goes to the other stream."""

    into: Block | None = None
    layer: Block | None = None
    out: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.into, self.layer, self.out)
