"""Blocks of a UNet: residual blocks under the time step, and the branches of its transformer blocks."""

from __future__ import annotations

from memcalc.blocks.base import Block, Residual, Sequence, given
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class ResBlock(Block):
    """conv2(act(norm2(conv1(act(norm1(x))) + time))) + shortcut(x) (diffusers, ResnetBlock2D.forward).

    `time` projects the conditioning vector; `scale_shift` where it yields a scale and a shift behind norm2. `up` and
    `down` resample both branches before conv1. `shortcut` is a 1x1 convolution where the widths differ.
    """

    norm1: Block | None = None
    conv1: Block | None = None
    time: Block | None = None
    norm2: Block | None = None
    conv2: Block | None = None
    shortcut: Block | None = None
    activation: str = "silu"
    dropout: float = 0.0
    scale_shift: bool = False
    up: bool = False
    down: bool = False

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.norm1, self.conv1, self.time, self.norm2, self.conv2, self.shortcut)


@dataclass(frozen=True, slots=True)
class BasicBlock(Sequence):
    """Branches x + f(norm(x)), one after the other; what each but the last adds has the same name (BasicTransformerBlock)."""


@dataclass(frozen=True, slots=True)
class SpatialTransformer(Residual):
    """x + a projection of what its stack makes of the pixels, which has a name meanwhile (Transformer2DModel)."""


@dataclass(frozen=True, slots=True)
class Divided(Block):
    """What the model yields, divided by the time steps."""
