"""Images cut into tiles that the text attends to (Llama 3.2 Vision): the tower, its tables per tile, gates."""

from __future__ import annotations

from memcalc.blocks.base import Block, Param, Sequence
from memcalc.blocks.image import ChannelScale
from memcalc.blocks.multimodal import Images
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class TiledImages(Images):
    """Images of `tiles` tiles each, whose states some layers of the text attend to, instead of taking tokens' places."""

    tiles: int = 1


@dataclass(frozen=True, slots=True)
class TiledTower(Sequence):
    """Patches, tables, a norm, local layers, a norm, a table, global layers (MllamaVisionModel).

    Every layer's output is held; those of the layers `at` are put beside the last.
    """

    at: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TilePositions(Block):
    """A learned vector for every tile of every aspect ratio, under a gate: a table [ratios, tiles * width]."""

    ratios: int = 1
    tiles: int = 1
    width: int = 0

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        table = Param("embedding.weight", (self.ratios, self.tiles * self.width))
        return (table, Param("gate", (1,)))


@dataclass(frozen=True, slots=True)
class TilePatchPositions(Block):
    """A table for the patches of a tile, and one for those of every tile of every aspect ratio, under one gate."""

    ratios: int = 1
    tiles: int = 1
    patches: int = 0
    width: int = 0

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        table = Param("tile_embedding.weight", (self.ratios, self.tiles * self.patches * self.width))
        return (Param("gate", (1,)), Param("embedding", (self.patches, self.width)), table)


@dataclass(frozen=True, slots=True)
class TanhGate(ChannelScale):
    """x times the tanh of a learned number."""


@dataclass(frozen=True, slots=True)
class SightedRows(Block):
    """x times 1 for the tokens that see a tile, and 0 for others."""
