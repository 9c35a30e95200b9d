"""Feed-forward blocks: plain, gated, and mixtures of experts."""

from __future__ import annotations

from typing import ClassVar, Literal

from memcalc.blocks.base import Block, Param, given
from memcalc.dataclass import dataclass

RouterScores = Literal["softmax", "softmax-chosen", "sigmoid"]
Reports = Literal["", "logits", "loss"]


@dataclass(frozen=True, slots=True)
class Mlp(Block):
    """down(act(up(x))), or gated: down(act(gate(x)) * up(x)) (Shazeer 2020, GLU variants).

    A fused `up` of a gated MLP (`fused`) yields gate and up in one matrix [2 * width, hidden]. `norm`, where a family puts
    one inside, and a `dropout` (its probability) come just before `down`. `extra` are parameters of the activation function
    itself (xIELU). `widens` where what `down` reads is first cast to the dtype of its weight (T5). `inline` where its lines
    stand among the layer's own, so that its input goes as soon as `up` has read it (BART), and
    `stepwise` where that is before the activation runs (OPT). `adds` where the module adds its
    output to the residual itself: what `down` reads and puts out have names until then (BLOOM).
    `functional` where its dropout is no module.
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
    extra: tuple[Param, ...] = ()
    widens: bool = False
    inline: bool = False
    stepwise: bool = False
    adds: bool = False
    functional: bool = False

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return self.extra

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.gate, self.up, self.norm, self.down)


@dataclass(frozen=True, slots=True)
class Experts(Block):
    """Routed experts as stacked 3-D parameters (transformers 5): (name, shape) of each, as the library lays them out.

    `experts` MLPs of `width`; the tape reads `gated`, `activation` and how they are run: `implementation` is the
    config's `experts_implementation` ('': the class's own). Weights are [experts, outputs, inputs], `transposed` ones
    [experts, inputs, outputs].
    """

    role: ClassVar[str] = "expert"
    experts: int = 1
    width: int = 0
    params: tuple[Param, ...] = ()
    gated: bool = True
    activation: str = "silu"
    formula: str = ""
    implementation: str = ""
    transposed: bool = False

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return self.params


@dataclass(frozen=True, slots=True)
class Router(Block):
    """Logits of every token for every expert, x Wᵀ with weight [experts, inputs], and the choice of `top_k` of them.

    * `scores` turns logits into weights: 'softmax' over all experts before the choice, 'softmax-chosen' over the chosen
      ones after it, or 'sigmoid' of each. `normalized` divides the chosen weights by their sum.
    * `fp32` where the logits themselves are computed in fp32; `cast_back` where the chosen weights are cast to the logits'
      dtype. `stored` is the dtype that the class makes its weight in, whatever the others'.
    * `correction` names a buffer [experts] that is added for the choice (DeepSeek-V3); `table` is (rows, top_k) of a fixed
      choice by token id (DeepSeek-V4); `extra` is what else the module holds.
    * `formula` names the family whose forward it is, where this doesn't say all.
    """

    inputs: int = 0
    experts: int = 1
    top_k: int = 1
    bias: bool = False
    scores: RouterScores = "softmax"
    normalized: bool = True
    fp32: bool = False
    correction: str = ""
    table: tuple[int, ...] = ()
    cast_back: bool = False
    formula: str = ""
    extra: tuple[Param, ...] = ()
    stored: str = ""

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        weight = Param("weight", (self.experts, self.inputs), dtype=self.stored)
        bias = (Param("bias", (self.experts,)),) if self.bias else ()
        fixed = (Param(self.correction, (self.experts,), buffer=True, dtype="fp32"),) if self.correction else ()
        table = (Param("tid2eid", self.table, buffer=True, dtype="int64"),) if self.table else ()
        return (weight, *bias, *fixed, *table, *self.extra)


@dataclass(frozen=True, slots=True)
class LinearRouter(Router):
    """A router that is an nn.Linear, so adapters and quantisation take it for one (Phi-3.5-MoE, Llama 4, DBRX)."""

    role: ClassVar[str] = "linear"


@dataclass(frozen=True, slots=True)
class Moe(Block):
    """A router that sends each token to `top_k` of the experts, plus shared experts that see every token.

    * `router` is a Router, or a Linear whose softmax it is. `experts` is an Experts block (stacked) or a Stack of Mlp
      (separate). Each expert takes `capacity` tokens of a sequence at most (0: all it gets).
    * `shared` experts are scaled by the sigmoid of `shared_gate`; they run before the router where there is one, or
      `shared_first`. `scales` where the routed part is multiplied by a number before that is added, `averaged` where the
      sum is halved.
    * `into` and `out_of` project the routed part into a narrower space and back (Nemotron 3). `norm` runs on the sum of
      both parts (A.X K1).
    * `jitter` is how much noise the router multiplies its input by, `noises` how often noise multiplies that of all;
      `dropout` is of what the experts yield.
    * `extra` are tensors of the module itself. `whole` where ZeRO-3 gathers all of it at once.
    * `reports` says whether the model's outputs hold the routers' logits, and whether its class makes a loss of them.
    """

    router: Block | None = None
    experts: Block | None = None
    shared: Block | None = None
    shared_gate: Block | None = None
    shared_first: bool = False
    scales: bool = False
    averaged: bool = False
    top_k: int = 1
    formula: str = ""
    into: Block | None = None
    out_of: Block | None = None
    norm: Block | None = None
    extra: tuple[Param, ...] = ()
    capacity: int = 0
    jitter: float = 0.0
    noises: int = 0
    dropout: float = 0.0
    reports: Reports = ""
    whole: bool = False

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return self.extra

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        routed = (self.router, self.into, self.experts, self.out_of)
        return given(*routed, self.shared, self.shared_gate, self.norm)
