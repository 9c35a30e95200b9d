"""ConvBERT's attention, half of which is a convolution with kernels of its own for every token; linears in groups."""

from __future__ import annotations

from typing import ClassVar

from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Param, given
from memcalc.blocks.basic import Linear
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class SpanAttention(Attention):
    """Heads of self-attention beside convolutions over spans of `size` tokens (Jiang et al. 2020).

    `depthwise` and `pointwise` make keys of spans, of which `kernels` projects the kernels; they are applied to `spans`.
    """

    size: int = 9
    depthwise: Block | None = None
    pointwise: Block | None = None
    kernels: Block | None = None
    spans: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        middle = (self.q, self.k, self.v, self.depthwise, self.pointwise, self.kernels, self.spans, self.out)
        return given(*middle)


@dataclass(frozen=True, slots=True)
class GroupedLinear(Linear):
    """A linear for each of `groups_of` groups of channels, their weights in one [groups, inputs, outputs]."""

    role: ClassVar[str] = "parameter"
    groups_of: int = 1

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        n = self.groups_of
        return Param("weight", (n, self.inputs // n, self.outputs // n)), Param("bias", (self.outputs,))
