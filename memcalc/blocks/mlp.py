"""Feed-forward blocks: plain, gated, and mixtures of experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from memcalc.blocks.base import Block, Param


@dataclass(frozen=True, slots=True)
class Mlp(Block):
    """down(act(up(x))), or gated: down(act(gate(x)) * up(x)) (Shazeer 2020, GLU variants).

    A fused `up` of a gated MLP (`fused`) yields gate and up in one matrix [2 * width, hidden].
    `norm`, where a family puts one inside (before `down`), and `dropout` run where the family runs them.
    """

    up: Block | None = None
    down: Block | None = None
    gate: Block | None = None
    fused: bool = False
    activation: str = "silu"
    width: int = 0
    norm: Block | None = None
    dropout: float = 0.0
    formula: str = ""

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return tuple(block for block in (self.gate, self.up, self.norm, self.down) if block)


@dataclass(frozen=True, slots=True)
class Experts(Block):
    """Routed experts as stacked 3-D parameters (transformers 5): (name, shape) of each, as the library lays them out.

    `experts` MLPs of `width`; the tape reads `gated` and `activation`.
    """

    role: ClassVar[str] = "expert"
    experts: int = 1
    width: int = 0
    params: tuple[Param, ...] = ()
    gated: bool = True
    activation: str = "silu"
    formula: str = ""

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return self.params


@dataclass(frozen=True, slots=True)
class Moe(Block):
    """A router that sends each token to `top_k` of the experts, plus shared experts that see every token.

    `experts` is an Experts block (stacked) or a Stack of Mlp (separate). `correction_bias` etc. belong to the router.
    """

    router: Block | None = None
    experts: Block | None = None
    shared: Block | None = None
    shared_gate: Block | None = None
    top_k: int = 1
    formula: str = ""

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return tuple(block for block in (self.router, self.experts, self.shared, self.shared_gate) if block)
