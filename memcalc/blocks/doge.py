"""Doge: residuals scaled by channel, and a mixture of single neurons found by a product of keys."""

from __future__ import annotations

from memcalc.blocks.base import Block, Param, Residual, given
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class ScaledResidual(Residual):
    """weight * x + f(x), with a weight of `width` channels that the layer itself holds under the name `weight`."""

    weight: str = ""
    width: int = 0

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return (Param(self.weight, (self.width,)),)


@dataclass(frozen=True, slots=True)
class NeuronExperts(Block):
    """A gated MLP beside `top_k` of `experts` neurons, chosen by the best pairs of two sets of keys.

    Each neuron is a row of `down_embed` and one of `up_embed` (transformers, DogeCDMoE; arXiv:2407.04153).
    """

    router: Block | None = None
    gate: Block | None = None
    up: Block | None = None
    down: Block | None = None
    experts: int = 0
    keys: int = 0
    top_k: int = 0
    width: int = 0
    activation: str = "silu"

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return tuple(Param(f"{name}_embed.weight", (self.experts, self.width)) for name in ("down", "up"))

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.router, self.gate, self.up, self.down)
