"""Attention beside which a convolution over the tokens passes values on (Nyströmformer)."""

from __future__ import annotations

from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, given
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class SkippedAttention(Attention):
    """Attention whose output has `skip` of the values added: a convolution along the tokens of every head."""

    skip: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.q, self.k, self.v, self.skip, self.out)
