"""Cosmos: frames with a mask beside them, learned places of a grid, modulations through a narrow layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.base import Block, given
from memcalc.dataclass import dataclass

if TYPE_CHECKING:
    from memcalc.blocks.basic import Raw


@dataclass(frozen=True, slots=True)
class FrameCubes(Block):
    """Frames, with a `masked` channel beside theirs, cut into cubes of `patch` that go through a linear layer.

    Tables of `dim` channels rotate the cubes; `places` are learned for frames, rows and columns, and added in every layer.
    """

    into: Block | None = None
    patch: tuple[int, ...] = (1, 2, 2)
    dim: int = 0
    masked: bool = True
    places: tuple[Raw, ...] = ()

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return (*given(self.into), *self.places)


@dataclass(frozen=True, slots=True)
class NormedTime(Block):
    """Sinusoids of the time step, `width` of them: through two layers, and normed."""

    first: Block | None = None
    second: Block | None = None
    norm: Block | None = None
    width: int = 0

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.first, self.second, self.norm)


@dataclass(frozen=True, slots=True)
class NarrowModulation(Block):
    """`chunks` vectors: second(first(silu(normed time))), plus as many of the time's."""

    first: Block | None = None
    second: Block | None = None
    chunks: int = 3

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.first, self.second)


@dataclass(frozen=True, slots=True)
class CosmosLayer(Block):
    """x + gate · f(modulate(norm(x))) for attention, cross attention and an MLP, each with vectors of its own."""

    modulations: tuple[Block, ...] = ()
    mixers: tuple[Block, ...] = ()

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return tuple(part for pair in zip(self.modulations, self.mixers, strict=True) for part in pair)
