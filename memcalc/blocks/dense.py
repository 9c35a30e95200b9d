"""What DPT adds: some of a tower's states as maps of several sizes, fused from the smallest up (Ranftl et al. 2021)."""

from __future__ import annotations

from typing import Literal

from memcalc.blocks.base import Block, Stack, given
from memcalc.blocks.basic import Raw
from memcalc.dataclass import dataclass

Readout = Literal["ignore", "add", "project"]


@dataclass(frozen=True, slots=True)
class ResizedPositions(Raw):
    """A table [1, 1 + rows · columns, width], resized to every image's `map` behind its first row, and added."""

    map: tuple[int, int] = (1, 1)


@dataclass(frozen=True, slots=True)
class Scaled(Block):
    """x times a number."""


@dataclass(frozen=True, slots=True)
class Fusion(Block):
    """project(enlarged(second(x + first(y)))): y is the next larger map; `first` stands idle where there is none yet."""

    project: Block | None = None
    first: Block | None = None
    second: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.project, self.first, self.second)


@dataclass(frozen=True, slots=True)
class Neck(Block):
    """Maps of `map` tokens, each through a layer of `resize` and of `convs`, fused; `doubled` where a fused map is twice its size.

    What becomes of the class token: ignored, added to all tokens, or projected together with them.
    """

    resize: Stack | None = None
    readouts: Stack | None = None
    convs: Stack | None = None
    fusion: Stack | None = None
    map: tuple[int, int] = (1, 1)
    readout: Readout = "ignore"
    doubled: bool = True

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.resize, self.readouts, self.convs, self.fusion)


@dataclass(frozen=True, slots=True)
class DensePredictor(Block):
    """A tower, of which some states are `taken` (behind so many layers), normed or not; the neck, and heads for every pixel.

    `norm` is the tower's own: there, or behind its last layer for nobody. `size` is that of the map that the head makes
    midway (0, 0: twice what it is given). A `second` head tells classes of the same map, in training alone.
    """

    tower: Block | None = None
    norm: Block | None = None
    neck: Block | None = None
    before: Block | None = None
    after: Block | None = None
    second: Block | None = None
    taken: tuple[int, ...] = ()
    size: tuple[int, int] = (0, 0)
    classes: bool = False

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.tower, self.norm, self.neck, self.before, self.after, self.second)
