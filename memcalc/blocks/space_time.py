"""What models of videos add that look along time and within frames by turns (TimeSformer)."""

from __future__ import annotations

from memcalc.blocks.base import Block, given
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class FrameEmbeddings(Block):
    """Every frame as patches behind a class token, with positions; then, patch by patch, a table of `times` for the frames."""

    cut: Block | None = None
    token: Block | None = None
    places: Block | None = None
    times: Block | None = None
    dropout: Block | None = None
    frames: int = 1

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.cut, self.token, self.places, self.times)


@dataclass(frozen=True, slots=True)
class SpaceTimeLayer(Block):
    """Attention of each patch along time, of each frame's patches and a class token, and an MLP, each added up."""

    time_norm: Block | None = None
    time_mixer: Block | None = None
    time_project: Block | None = None
    norm: Block | None = None
    mixer: Block | None = None
    mlp: Block | None = None
    drop_path: Block | None = None
    frames: int = 1

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        inside = self.time_norm, self.time_mixer, self.time_project, self.norm, self.mixer, self.mlp
        return given(*inside, self.drop_path)
