"""How towers within models of images and text begin and end: rows of pixels, rotations, what is done image by image."""

from __future__ import annotations

from memcalc.blocks.base import Block, Sequence
from memcalc.blocks.basic import Embedding, Raw
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class UnfoldedPatches(Sequence):
    """A map's squares of `patch` x `patch` pixels, each a row, through its blocks (Llama 4)."""

    patch: int = 16


@dataclass(frozen=True, slots=True)
class ComplexRotary(Block):
    """Complex numbers of `dim` / 2 channels that rotate all tokens, a table that is kept (Llama 4)."""

    dim: int = 0


@dataclass(frozen=True, slots=True)
class WithoutLast(Block):
    """All tokens but the last."""


@dataclass(frozen=True, slots=True)
class FilledRows(Sequence):
    """Rows of pixels of images of any shape, filled up: a linear layer, and a table stretched to every image (SigLIP 2)."""


@dataclass(frozen=True, slots=True)
class EachImage(Sequence):
    """Blocks that run for one image after the other; what comes of them is put together as one row of tokens."""


@dataclass(frozen=True, slots=True)
class WholeTable(Embedding):
    """A table of positions that is added as it is."""


@dataclass(frozen=True, slots=True)
class SquareRotary(Block):
    """Tables of `dim` channels in fp32 that rotate patches by rows and columns, the same for every image (Step 3.7)."""

    dim: int = 0


@dataclass(frozen=True, slots=True)
class SquareMap(Block):
    """Tokens seen as a map of `side` rows."""

    side: int = 1


@dataclass(frozen=True, slots=True)
class GatheredPositions(Raw):
    """A table [rows, columns, width] stretched to every image: sixteen of its rows, weighed, to each patch (Kimi K2.5)."""


@dataclass(frozen=True, slots=True)
class MeanOfFrames(Block):
    """Patches put in the order of squares of `merge` x `merge`, and averaged over frames: [squares, merge², width]."""

    merge: int = 2


@dataclass(frozen=True, slots=True)
class AxesRotary(Block):
    """Tables that rotate patches by frames, rows and columns: of a head's `dim` channels a third each (MiniMax M3)."""

    dim: int = 0


@dataclass(frozen=True, slots=True)
class EachGrid(Sequence):
    """Blocks that run for the patches of one image after the other, which lie in one row; a copy puts them together."""


@dataclass(frozen=True, slots=True)
class Squares(Block):
    """Patches of an image, row by row, put side by side by squares of `merge` x `merge` (PaddleOCR-VL)."""

    merge: int = 2


@dataclass(frozen=True, slots=True)
class FilledSquares(Block):
    """Tokens of a square map, filled up to a multiple, of which `stride` x `stride` become one, side by side (Ovis 2)."""

    stride: int = 2


@dataclass(frozen=True, slots=True)
class ShrunkGrid(Block):
    """Every image's patches as a map, resized to as many as its tokens are; all in one row again (VideoLLaMA 3)."""


@dataclass(frozen=True, slots=True)
class AxesTable(Raw):
    """A table [places, 2, width]: to each patch the rows of its two places are added, to what fills up none (Gemma 4)."""


@dataclass(frozen=True, slots=True)
class Unfilled(Block):
    """The tokens of all images without those that fill up, picked out by a copy."""
