"""What Florence-2 adds: a tower of maps that attends within windows and among channels (DaViT), and its projector."""

from __future__ import annotations

from memcalc.blocks.base import Block, Param, given
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class MapLayer(Block):
    """A layer on a map: x + conv1(x), x + mixer(norm1(x)), x + conv2(x), x + mlp(norm2(x)); `windowed` where the mixer is.

    Mixer and MLP read the map as tokens, with stochastic depth `drop` behind each.
    """

    convs: tuple[Block, ...] = ()
    norms: tuple[Block, ...] = ()
    mixer: Block | None = None
    mlp: Block | None = None
    drop: Block | None = None
    windowed: bool = False

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        (conv1, conv2), (norm1, norm2) = self.convs, self.norms
        return given(conv1, norm1, self.mixer, conv2, norm2, self.mlp)


@dataclass(frozen=True, slots=True)
class MapNorm(Block):
    """A convolution of a map, its channels normed before it (`first`) or behind."""

    conv: Block | None = None
    norm: Block | None = None
    first: bool = False

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.conv, self.norm)


@dataclass(frozen=True, slots=True)
class MapTokens(Block):
    """A map plus positions of rows and columns and of time, as tokens and their mean, projected and normed (Florence-2)."""

    width: int = 0
    places: int = 50
    times: int = 100
    project: Block | None = None
    norm: Block | None = None

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        half = self.width // 2
        return (
            Param("image_position_embed.row_embeddings.weight", (self.places, half)),
            Param("image_position_embed.column_embeddings.weight", (self.places, self.width - half)),
            Param("visual_temporal_embed.pos_idx_to_embed", (self.times, self.width), buffer=True),
        )

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.project, self.norm)
