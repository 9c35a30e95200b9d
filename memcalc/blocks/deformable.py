"""Attention that samples maps of several sizes at a few points around each query (Zhu et al. 2021, Deformable DETR)."""

from __future__ import annotations

from memcalc.blocks.base import Block, Param, Stack, given
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Deformable(Block):
    """Every query looks at `points` of each of `levels` maps with each of its `heads`.

    `offsets` says where, `weights` how much of what `value` makes of the maps, `out` is behind. `scales` is a buffer of a
    factor for each point of all levels, which stand in one row then (RT-DETR v2).
    """

    heads: int = 8
    levels: int = 3
    points: int = 4
    offsets: Block | None = None
    weights: Block | None = None
    value: Block | None = None
    out: Block | None = None
    scales: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.offsets, self.weights, self.value, self.out, self.scales)


@dataclass(frozen=True, slots=True)
class DeformableDetector(Block):
    """A backbone's last `maps` and further halves of the last, `levels` in all, as one row of tokens (Deformable DETR).

    `project` brings each to `width` channels. The tokens attend to points of all maps, and so do learned `queries` around
    places that `points` makes of half of what is learned of each; the other half begins the stream. `heads` tell the class
    and the box of what every layer of the decoder puts out.
    """

    backbone: Block | None = None
    project: Stack | None = None
    encoder: Block | None = None
    decoder: Block | None = None
    points: Block | None = None
    dropout: float = 0.0
    queries: int = 300
    width: int = 256
    maps: int = 3
    levels: int = 4

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return (
            Param("query_position_embeddings.weight", (self.queries, 2 * self.width)),
            Param("level_embed", (self.levels, self.width)),
        )

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.backbone, self.project, self.encoder, self.decoder, self.points)
