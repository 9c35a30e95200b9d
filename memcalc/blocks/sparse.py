"""Attention that does not look at every token: local windows with a few global tokens (Beltagy et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention

if TYPE_CHECKING:
    from memcalc.blocks.base import Block


@dataclass(frozen=True, slots=True)
class LocalGlobalAttention(Attention):
    """Longformer's: `window` neighbours of each token; global tokens see all, with projections of their own.

    The global projections run only where a sequence has global tokens (`global_attention_mask`).
    """

    q_global: Block | None = None
    k_global: Block | None = None
    v_global: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        middle = (self.q, self.k, self.v, self.q_global, self.k_global, self.v_global, self.out)
        return tuple(block for block in middle if block)
