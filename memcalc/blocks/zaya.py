"""ZAYA: attention on convolved queries and keys, routers with a state, and a residual stream scaled in fp32."""

from __future__ import annotations

from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Param, Residual, given
from memcalc.blocks.basic import Conv
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class ConvolvedAttention(Attention):
    """Compressed convolutional attention (arXiv:2510.04476; transformers, ZayaCCAProjection).

    Queries and keys pass two causal convolutions, the second within each head, and have their own mean added; half of
    a value is of this token (`v`), half of the one before (`delayed`).
    """

    delayed: Block | None = None
    depthwise: Block | None = None
    grouped: Block | None = None

    @property
    def reach(self) -> int:
        """How many tokens back both convolutions see."""
        return sum(block.kernel[0] - 1 for block in (self.depthwise, self.grouped) if isinstance(block, Conv))

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        found = (self.q, self.k, self.v, self.delayed, self.depthwise, self.grouped, self.out)
        return given(*found)


@dataclass(frozen=True, slots=True)
class StateRouter(Block):
    """A small MLP of a projection of the input, to which the layer before adds its own where it `carries` (ZayaRouter).

    One of its outputs stands for no expert at all.
    """

    experts: int = 1
    top_k: int = 1
    width: int = 0
    carries: bool = False
    down: Block | None = None
    norm: Block | None = None
    first: Block | None = None
    second: Block | None = None
    out: Block | None = None

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        biases = Param("balancing_biases", (self.experts + 1,), buffer=True, dtype="fp32")
        return (Param("router_states_scale", (self.width,)), biases) if self.carries else (biases,)

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        found = (self.down, self.norm, self.first, self.second, self.out)
        return given(*found)


@dataclass(frozen=True, slots=True)
class WideStream(Block):
    """The embeddings, shifted and scaled by channel, as an fp32 stream; `layers` is what is prepared for ahead of it."""

    width: int = 0
    layers: Block | None = None

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return tuple(Param(f"input_hidden_states_{part}", (self.width,)) for part in ("scale", "bias"))


@dataclass(frozen=True, slots=True)
class ScaledSum(Residual):
    """(f(x) + b) s + (x + d) r in fp32, by channel, f reading x in the weights' dtype; `module` holds the four."""

    module: str = ""
    width: int = 0

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return tuple(
            Param(f"{self.module}.{stream}_{part}", (self.width,))
            for stream in ("hidden_states", "residual")
            for part in ("scale", "bias")
        )


@dataclass(frozen=True, slots=True)
class NarrowNorm(Block):
    """A norm that reads x in the weights' dtype."""

    norm: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return (self.norm,) if self.norm else ()
