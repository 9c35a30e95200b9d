"""What models add that find objects as masks: a pixel decoder of several maps, queries that attend to them (Mask2Former)."""

from __future__ import annotations

from memcalc.blocks.base import Block, Param, Stack, given
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class MapBefore(Block):
    """A copy of a stage's tokens as a `map` of (rows, columns), yielded before its neighbours are merged.

    The tokens themselves where not `copied`.
    """

    map: tuple[int, int] = (0, 0)
    copied: bool = True


@dataclass(frozen=True, slots=True)
class WindowPyramid(Block):
    """Swin as a backbone: the map of every stage, normed for its own (`norms`), as `maps` of so many rows and columns.

    The `last` norm runs for nothing.
    """

    embeddings: Block | None = None
    stages: Block | None = None
    last: Block | None = None
    norms: tuple[Block, ...] = ()
    maps: tuple[tuple[int, int], ...] = ()

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.embeddings, self.stages, self.last, *self.norms)


@dataclass(frozen=True, slots=True)
class PixelDecoder(Block):
    """The last three maps as one row of tokens that look at a few points of each other; a larger map joined to what they make.

    `lateral` and `fused` are of each further map, from the smallest; `mask` makes the pixels' embeddings of the largest.
    """

    projections: Stack | None = None
    encoder: Block | None = None
    mask: Block | None = None
    lateral: tuple[Block, ...] = ()
    fused: tuple[Block, ...] = ()
    width: int = 256
    levels: int = 3

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return (Param("level_embed", (self.levels, self.width)),)

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        pairs = tuple(part for pair in zip(reversed(self.lateral), reversed(self.fused), strict=True) for part in pair)
        return given(self.projections, self.encoder, self.mask, *pairs)


@dataclass(frozen=True, slots=True)
class MaskedLayer(Block):
    """Queries attend to a map where their masks are, then to each other, then an MLP; norms behind each, or `before`."""

    mixer: Block | None = None
    mixer_norm: Block | None = None
    cross: Block | None = None
    cross_norm: Block | None = None
    mlp: Block | None = None
    mlp_norm: Block | None = None
    dropout: float = 0.0
    before: bool = False

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.mixer, self.mixer_norm, self.cross, self.cross_norm, self.mlp, self.mlp_norm)


@dataclass(frozen=True, slots=True)
class MaskedQueries(Block):
    """`queries` learned vectors of `width` that attend to one map after the other, each within the mask it has foretold.

    `projections` are of the maps (empty where they have that width), `embedder` makes a mask's embedding of a query.
    """

    projections: Stack | None = None
    layers: Stack | None = None
    norm: Block | None = None
    embedder: Block | None = None
    queries: int = 100
    width: int = 256
    heads: int = 8
    levels: int = 3

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        rows = {"queries_embedder": self.queries, "queries_features": self.queries, "level_embed": self.levels}
        return tuple(Param(f"{name}.weight", (count, self.width)) for name, count in rows.items())

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.projections, self.layers, self.norm, self.embedder)


@dataclass(frozen=True, slots=True)
class MaskSegmenter(Block):
    """A backbone, a pixel decoder, queries, and a class and a mask for each of them, behind every layer (Mask2Former).

    The loss compares masks in `points`, of which `drawn` times as many are looked at to find those in doubt, a share
    `doubtful` of them.
    """

    backbone: Block | None = None
    pixels: PixelDecoder | None = None
    queries: MaskedQueries | None = None
    classes: Block | None = None
    weights: Block | None = None
    points: int = 12544
    drawn: float = 3.0
    doubtful: float = 0.75

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.backbone, self.pixels, self.queries, self.classes, self.weights)


@dataclass(frozen=True, slots=True)
class MapFinder(Block):
    """A backbone whose maps are joined from the smallest up, and queries that attend to the smallest alone (MaskFormer).

    `stem` is of the smallest map, each of `laterals` of a larger one, each of `fused` of both; `mask` makes the pixels'
    embeddings of the last, `embedder` a mask's of a query. `project` brings the smallest map to `width` channels.
    """

    backbone: Block | None = None
    stem: Block | None = None
    laterals: tuple[Block, ...] = ()
    fused: tuple[Block, ...] = ()
    mask: Block | None = None
    project: Block | None = None
    decoder: Block | None = None
    norm: Block | None = None
    classes: Block | None = None
    embedder: Block | None = None
    weights: Block | None = None
    queries: int = 100
    width: int = 256

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return (Param("model.transformer_module.queries_embedder.weight", (self.queries, self.width)),)

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        pairs = (part for pair in zip(self.laterals, self.fused, strict=True) for part in pair)
        return given(self.backbone, self.stem, *pairs, self.mask, self.project, self.decoder, self.norm, self.classes,
                     self.embedder, self.weights)  # fmt: skip
