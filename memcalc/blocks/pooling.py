"""What image models of convolutions and light attention add: pooling as a mixer, positions of a map, folded patches."""

from __future__ import annotations

from memcalc.blocks.base import Block, Sequence, Stray, given
from memcalc.blocks.basic import Raw
from memcalc.blocks.image import ChannelScale
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Pyramid(Sequence):
    """Stages whose parts one module runs: what a stage is given goes once the stage has cut its patches from it."""


@dataclass(frozen=True, slots=True)
class PoolMixer(Block):
    """The mean of `size` x `size` neighbours, less the pixel itself (PoolFormer; Yu et al. 2022)."""

    size: int = 3


@dataclass(frozen=True, slots=True)
class MapScale(ChannelScale):
    """A learned value per channel of a map: the weight [channels] seen as [channels, 1, 1], times x."""


@dataclass(frozen=True, slots=True)
class StretchedPositions(Raw):
    """A table [1, prefix + rows · columns, width] resampled to the `map` (rows, columns) even where it fits, and added (PVT)."""

    prefix: int = 0
    map: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class MeanToken(Block):
    """A map as tokens, the mean of them all put before them (DINOv3's ConvNeXt)."""


@dataclass(frozen=True, slots=True)
class KeptTokens(Block):
    """Tokens back to a map, a copy; themselves they keep a name until the next stage has run (PVT v2)."""


@dataclass(frozen=True, slots=True)
class LinearMixer(Block):
    """relu(value) times the sum of keys weighed by the softmax of one score each (MobileViT 2; Mehta & Rastegari 2022)."""

    qkv: Block | None = None
    out: Block | None = None
    width: int = 0
    dropout: float = 0.0

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.qkv, self.out)


@dataclass(frozen=True, slots=True)
class Unfold(Block):
    """A map's `patch` x `patch` squares as [batch, channels, patch², squares]; or (`back`) a map again."""

    patch: int = 2
    back: bool = False


@dataclass(frozen=True, slots=True)
class TokenPool(Stray):
    """A learned token attends to all others; what it finds is projected (k_proj, v_proj, output_proj), for nobody here (AIMv2)."""

    token: tuple[int, ...] = ()
    heads: int = 1

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return (Raw("cls_token", self.token), *self.blocks)
