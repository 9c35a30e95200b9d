"""RWKV-4: time mixing and channel mixing (Peng et al. 2023, arXiv:2305.13048)."""

from __future__ import annotations

from typing import ClassVar

from memcalc.blocks.base import Block, Param, given
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class TimeMix(Block):
    """A linear attention with a decay per channel (transformers, RwkvSelfAttention), `inner` channels wide.

    The input and the one shifted by a token are mixed per channel for key, value and receptance; output(sigmoid(r) *
    wkv(time_decay, time_first, k, v)), where wkv runs in fp32.
    """

    duty: ClassVar[str] = "recurrence"
    hidden: int = 1
    inner: int = 1
    key: Block | None = None
    value: Block | None = None
    receptance: Block | None = None
    output: Block | None = None

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        mixes = tuple(Param(f"time_mix_{name}", (1, 1, self.hidden)) for name in ("key", "value", "receptance"))
        return (Param("time_decay", (self.inner,)), Param("time_first", (self.inner,)), *mixes)

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.key, self.value, self.receptance, self.output)


@dataclass(frozen=True, slots=True)
class ChannelMix(Block):
    """sigmoid(receptance(x_r)) * value(relu(key(x_k))²), `width` channels inside (transformers, RwkvFeedForward)."""

    hidden: int = 1
    width: int = 1
    key: Block | None = None
    receptance: Block | None = None
    value: Block | None = None

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return tuple(Param(f"time_mix_{name}", (1, 1, self.hidden)) for name in ("key", "receptance"))

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.key, self.value, self.receptance)
