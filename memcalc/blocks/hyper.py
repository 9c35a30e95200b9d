"""Hyper-connections: a residual stream of several lanes that are mixed before and after each branch."""

from __future__ import annotations

from memcalc.blocks.base import Block, Param, Residual
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class HyperConnection(Block):
    """The mixing weights of one branch, from all `lanes` of the residual stream (arXiv:2409.19606, 2512.24880).

    The flattened lanes, normalised, times `fn` [(2 + lanes) * lanes, lanes * width]: how much of each lane goes in,
    how much of the branch comes back to each, and how lanes mix (made doubly stochastic by `sinkhorn` iterations).
    """

    lanes: int = 1
    width: int = 0
    sinkhorn: int = 0

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        mixes = (2 + self.lanes) * self.lanes
        return (Param("fn", (mixes, self.lanes * self.width)), Param("base", (mixes,)), Param("scale", (3,)))


@dataclass(frozen=True, slots=True)
class HyperLanes(Block):
    """The embeddings copied into every lane, once all that the layers share is there: a mask of `window`, rotary tables."""

    lanes: int = 1
    window: int = 0
    rotary_dim: int = 0


@dataclass(frozen=True, slots=True)
class HyperResidual(Residual):
    """A residual whose stream has lanes: `connection` first, the blocks on the mixed lane, then spread back."""

    connection: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return (*((self.connection,) if self.connection else ()), *self.blocks)


@dataclass(frozen=True, slots=True)
class HyperHead(Block):
    """The weighted sum of the lanes behind the last layer (transformers, DeepseekV4HyperHead)."""

    lanes: int = 1
    width: int = 0

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        weight = Param("hc_fn", (self.lanes, self.lanes * self.width))
        return (weight, Param("hc_base", (self.lanes,)), Param("hc_scale", (1,)))


@dataclass(frozen=True, slots=True)
class IndependentConnection(HyperConnection):
    """The same where lanes never mix: what goes in and what comes back, of each (transformers, HYV4HyperConnection)."""

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        mixes = 2 * self.lanes
        return (Param("fn", (mixes, self.lanes * self.width)), Param("base", (mixes,)), Param("scale", (2,)))


@dataclass(frozen=True, slots=True)
class IndependentLanes(HyperLanes):
    """The embeddings copied into every lane, ahead of what the layers share."""


@dataclass(frozen=True, slots=True)
class IndependentResidual(HyperResidual):
    """A branch on the mixed lane, added to every lane in fp32."""


@dataclass(frozen=True, slots=True)
class IndependentHead(HyperHead):
    """The weighted sum of the lanes, the norm as a factor behind their product (transformers, HYV4HyperHead)."""
