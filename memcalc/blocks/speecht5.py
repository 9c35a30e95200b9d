"""SpeechT5: text or speech in, text or a spectrogram out (Ao et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.base import Block, Param, Sequence, given
from memcalc.dataclass import dataclass

if TYPE_CHECKING:
    from memcalc.blocks.basic import Embedding, Linear


@dataclass(frozen=True, slots=True)
class Waveform(Block):
    """Samples as one channel, which ask for a gradient."""


@dataclass(frozen=True, slots=True)
class ScaledPositions(Block):
    """Sinusoids times a learned number, added."""

    width: int = 0
    rows: int = 0

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return (Param("alpha", ()),)


@dataclass(frozen=True, slots=True)
class DistanceTable(Block):
    """An embedding of the distance of every two tokens, which all layers read."""

    table: Embedding | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return (self.table,) if self.table else ()


@dataclass(frozen=True, slots=True)
class SpectrogramPrenet(Block):
    """Earlier frames, every `every`-th of them, through layers with dropout, and joined to the speaker's embedding."""

    layers: Sequence | None = None
    last: Linear | None = None
    positions: ScaledPositions | None = None
    speaker: Linear | None = None
    bins: int = 80
    every: int = 1
    dropout: float = 0.0
    later: float = 0.0

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.layers, self.last, self.positions, self.speaker)


@dataclass(frozen=True, slots=True)
class SpectrogramPostnet(Block):
    """Frames of `bins`, convolutions that mend them, and whether each is the last."""

    frames: Linear | None = None
    ends: Linear | None = None
    convs: Block | None = None
    bins: int = 80

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.frames, self.ends, self.convs)
