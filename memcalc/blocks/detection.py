"""What detectors add: a frozen backbone, queries that attend to its map, boxes (DETR)."""

from __future__ import annotations

from memcalc.blocks.base import Block, Param, given
from memcalc.blocks.basic import Conv, Raw
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class FrozenNorm(Block):
    """Batch norm whose four vectors are buffers: x times a number, plus one, for every channel."""

    width: int = 0

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return tuple(
            Param(name, (self.width,), buffer=True) for name in ("weight", "bias", "running_mean", "running_var")
        )


@dataclass(frozen=True, slots=True)
class FrozenConv(Conv):
    """A convolution that doesn't learn."""

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        first, second = (self.inputs, self.outputs) if self.transposed else (self.outputs, self.inputs)
        weight = Param("weight", (first, second // self.conv_groups, *self.kernel), trainable=False)
        return (weight, Param("bias", (self.outputs,), trainable=False)) if self.bias else (weight,)


@dataclass(frozen=True, slots=True)
class SetDetector(Block):
    """A backbone's last map as tokens, an encoder of them, and a decoder of learned queries that attend to it (DETR).

    Positions are sinusoids of rows and columns, `queries` learned vectors of `width` channels. The backbone yields the maps
    of all its stages, of which the model holds on to the last `maps`.
    """

    backbone: Block | None = None
    project: Block | None = None
    encoder: Block | None = None
    decoder: Block | None = None
    norm: Block | None = None
    dropout: float = 0.0
    queries: int = 100
    width: int = 256
    maps: int = 1

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return (Param("query_position_embeddings.weight", (self.queries, self.width)),)

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.backbone, self.project, self.encoder, self.decoder, self.norm)


@dataclass(frozen=True, slots=True)
class TableDetector(SetDetector):
    """The same that makes positions for every map anew, and holds on to them all (Table Transformer)."""


@dataclass(frozen=True, slots=True)
class LooksFinite(Block):
    """A look whether all of x is finite."""


@dataclass(frozen=True, slots=True)
class StretchedPositions(Raw):
    """A table of positions, of which those of the patches are stretched to every image's size (YOLOS).

    `around` is (tokens in front of the patches, tokens behind them, rows and columns of the table's patches).
    """

    around: tuple[int, int, int, int] = (0, 0, 1, 1)


@dataclass(frozen=True, slots=True)
class BetweenLayers(StretchedPositions):
    """Tables of positions [layers - 1, 1, tokens, width], each added between two layers (YOLOS)."""


@dataclass(frozen=True, slots=True)
class LastTokens(Block):
    """The last `count` tokens; all of them are an output."""

    count: int = 1


@dataclass(frozen=True, slots=True)
class ConditionalDecoder(Block):
    """A point of the image for every query, whose sinusoids each layer reads, scaled by the layer before (Conditional DETR)."""

    points: Block | None = None
    scale: Block | None = None
    layers: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.points, self.scale, self.layers)
