"""What RT-DETR adds: maps of several sizes mixed by convolutions, and a decoder that refines boxes layer by layer."""

from __future__ import annotations

from memcalc.blocks.base import Block, Sequence, Stack, given
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class TwoWays(Block):
    """act(first(x) + second(x)) (Ding et al. 2021, RepVGG)."""

    first: Block | None = None
    second: Block | None = None
    activation: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.first, self.second, self.activation)


@dataclass(frozen=True, slots=True)
class CrossStage(Block):
    """last(layers(first(x)) + second(x)) (Wang et al. 2020, CSPNet)."""

    first: Block | None = None
    second: Block | None = None
    layers: Block | None = None
    last: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.first, self.second, self.layers, self.last)


@dataclass(frozen=True, slots=True)
class WithinMap(Sequence):
    """Layers that read a map as tokens with sinusoids of rows and columns; a map again behind them."""


@dataclass(frozen=True, slots=True)
class HybridEncoder(Block):
    """Attention `within` the maps `at` these places, then maps mixed from the smallest to the largest, and back.

    A lateral convolution and a mixer (`rising`) for each map but the smallest; one that halves (`halving`) and a mixer
    (`falling`) for each but the largest (Zhao et al. 2024).
    """

    within: Stack | None = None
    at: tuple[int, ...] = ()
    lateral: Stack | None = None
    rising: Stack | None = None
    halving: Stack | None = None
    falling: Stack | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.within, self.lateral, self.rising, self.halving, self.falling)


@dataclass(frozen=True, slots=True)
class RefiningDecoder(Block):
    """Layers behind each of which a box is refined and a class is told; `places` makes positions of the boxes."""

    layers: Stack | None = None
    places: Block | None = None
    classes: Stack | None = None
    boxes: Stack | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.layers, self.places, self.classes, self.boxes)


@dataclass(frozen=True, slots=True)
class RefiningDetector(Block):
    """A backbone's maps, a hybrid encoder of them, the most promising of all their pixels as queries of a decoder.

    `project` and `unproject` bring every map to the width of the encoder and of the decoder (these also of `levels` that
    the encoder doesn't have). `memory`, `score` and `box` choose `queries` pixels; `noised` embeds the classes of as many
    (`denoising`) boxes that are given with noise (None: none are).
    """

    backbone: Block | None = None
    project: Stack | None = None
    encoder: Block | None = None
    noised: Block | None = None
    memory: Block | None = None
    score: Block | None = None
    box: Block | None = None
    unproject: Stack | None = None
    decoder: RefiningDecoder | None = None
    queries: int = 300
    denoising: int = 0
    levels: int = 3
    width: int = 256

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.backbone, self.project, self.encoder, self.noised, self.memory, self.score, self.box,
                     self.unproject, self.decoder)  # fmt: skip
