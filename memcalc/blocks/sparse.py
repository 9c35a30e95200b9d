"""Attention that does not look at every token: local windows with a few global tokens (Beltagy et al. 2020)."""

from __future__ import annotations

from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Unused, given
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class PadToWindow(Block):
    """Tokens made as many as a multiple of the window is, where there are more than `over`."""

    window: int = 1
    over: int = 0


@dataclass(frozen=True, slots=True)
class CutBack(Block):
    """The states of the tokens that were given, without those of the padding."""


@dataclass(frozen=True, slots=True)
class LocalGlobalAttention(Attention):
    """Longformer's: `window` neighbours of each token; global tokens see all, with projections of their own.

    The global projections run only where a sequence has global tokens (`global_attention_mask`): `tokens` of them.
    """

    tokens: int = 0
    q_global: Block | None = None
    k_global: Block | None = None
    v_global: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        apart = given(self.q_global, self.k_global, self.v_global)
        between = apart if self.tokens else (Unused("", apart),)
        return given(self.q, self.k, self.v, *between, self.out)
