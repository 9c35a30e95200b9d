"""Mixers with a recurrent state: Mamba, Mamba-2, gated delta nets, gated linear recurrences."""

from __future__ import annotations

from typing import ClassVar

from memcalc.blocks.base import Block, Param, given
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Mamba(Block):
    """A selective state space of `state` values per channel (Gu & Dao 2023, arXiv:2312.00752; MambaMixer).

    in_proj gives `inner` channels and as many of a gate; a causal depthwise convolution and the activation; x_proj
    gives the time step (through dt_proj, of rank `dt_rank`), B and C; the scan h = exp(A dt) h + dt B x, y = C h + D x;
    the gate; out_proj. `norms` are those of the time step, B and C (Jamba, Falcon-Mamba).
    """

    duty: ClassVar[str] = "recurrence"
    inner: int = 1
    state: int = 16
    dt_rank: int = 1
    activation: str = "silu"
    in_proj: Block | None = None
    conv: Block | None = None
    x_proj: Block | None = None
    norms: tuple[Block, ...] = ()
    dt_proj: Block | None = None
    out_proj: Block | None = None
    formula: str = ""

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return (Param("A_log", (self.inner, self.state)), Param("D", (self.inner,)))

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.in_proj, self.conv, self.x_proj, *self.norms, self.dt_proj, self.out_proj)


@dataclass(frozen=True, slots=True)
class Mamba2(Block):
    """State space duality: a scalar decay per head, computed in chunks (Dao & Gu 2024, arXiv:2405.21060; Mamba2Mixer).

    in_proj gives the gate (`inner`), x (`inner`), B and C (`state_groups` times `state` each) and a time step per
    head; x, B and C go through the convolution; `heads` of `head_dim` channels keep `state` values a channel, in
    chunks of `chunk` tokens; a gated norm over groups; out_proj. `scaled` where what in_proj gives is multiplied by a
    buffer (Falcon-H1).
    """

    duty: ClassVar[str] = "recurrence"
    inner: int = 1
    state: int = 128
    heads: int = 1
    head_dim: int = 64
    state_groups: int = 1
    chunk: int = 256
    activation: str = "silu"
    in_proj: Block | None = None
    conv: Block | None = None
    norm: Block | None = None
    out_proj: Block | None = None
    formula: str = ""
    scaled: bool = False

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return tuple(Param(name, (self.heads,)) for name in ("dt_bias", "A_log", "D"))

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.in_proj, self.conv, self.norm, self.out_proj)


@dataclass(frozen=True, slots=True)
class GatedDelta(Block):
    """A gated delta rule over `value_heads` states of key_dim x value_dim (Yang et al. 2024, arXiv:2412.06464).

    `projections` give queries and keys (`key_heads`, repeated over the value heads), values, the output gate z, and
    per value head the write strength b and the decay a; the convolution covers queries, keys and values; a gated norm
    per head; out_proj. Computed in chunks of `chunk` tokens (transformers, torch_chunk_gated_delta_rule).
    """

    duty: ClassVar[str] = "recurrence"
    key_heads: int = 1
    value_heads: int = 1
    key_dim: int = 128
    value_dim: int = 128
    chunk: int = 64
    activation: str = "silu"
    projections: tuple[Block, ...] = ()
    conv: Block | None = None
    norm: Block | None = None
    out_proj: Block | None = None
    formula: str = ""

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return (Param("dt_bias", (self.value_heads,)), Param("A_log", (self.value_heads,)))

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(*self.projections, self.conv, self.norm, self.out_proj)


@dataclass(frozen=True, slots=True)
class KimiDelta(GatedDelta):
    """A gated delta rule whose decay is a value per channel, from `forget`'s projections (arXiv:2510.26692).

    As many query and key heads as value heads. `decay_shape` is that of A_log (transformers, KimiLinearForgetGate).
    """

    decay_shape: tuple[int, ...] = ()
    forget: tuple[Block, ...] = ()

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        channels = self.value_heads * self.value_dim
        return (Param("forget_gate.dt_bias", (channels,)), Param("forget_gate.A_log", self.decay_shape))

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(*self.projections, self.conv, *self.forget, self.norm, self.out_proj)


@dataclass(frozen=True, slots=True)
class MambaHeads(Mamba):
    """Zamba's mixer: each of `heads` selects with weights of its own (transformers, ZambaMambaMixer)."""

    heads: int = 1

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        heads, dim, state, rank = self.heads, self.inner // self.heads, self.state, self.dt_rank
        shapes = {
            "x_proj_weight": (heads, rank + 2 * state, dim), "dt_proj_weight": (heads, dim, rank),
            "dt_proj_bias": (heads, dim), "A_log": (heads, dim, state), "D": (heads, dim),
        }  # fmt: skip
        return tuple(Param(name, shape, dtype="fp32" if name == "A_log" else "") for name, shape in shapes.items())


@dataclass(frozen=True, slots=True)
class ShortConv(Block):
    """LFM2's mixer: in_proj gives B, C and x; out_proj(C * conv(B * x)) (transformers, Lfm2ShortConv)."""

    in_proj: Block | None = None
    conv: Block | None = None
    out_proj: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.in_proj, self.conv, self.out_proj)


@dataclass(frozen=True, slots=True)
class Lightning(Block):
    """Linear attention with a fixed decay per head, in blocks of `chunk` tokens (MiniMax-01, arXiv:2501.08313).

    q, k and v are an activation of one projection; the output is normalised over all heads, scaled by the sigmoid of
    `gate` and projected. The decays are buffers (transformers, MiniMaxLightningAttention).
    """

    heads: int = 1
    head_dim: int = 1
    chunk: int = 256
    activation: str = "silu"
    qkv: Block | None = None
    norm: Block | None = None
    gate: Block | None = None
    out: Block | None = None

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        heads, chunk = self.heads, self.chunk
        decays: dict[str, tuple[int, ...]] = {
            "slope_rate": (heads, 1, 1), "query_decay": (heads, chunk, 1), "key_decay": (heads, chunk, 1),
            "diagonal_decay": (1, heads, chunk, chunk),
        }  # fmt: skip
        return tuple(Param(name, shape, buffer=True) for name, shape in decays.items())

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.qkv, self.norm, self.gate, self.out)


@dataclass(frozen=True, slots=True)
class RgLru(Block):
    """Griffin's recurrent block: linear_out(act(linear_y(x)) * lru(conv(linear_x(x)))) (arXiv:2402.19427).

    The gated linear recurrence is `width` channels wide; its input and recurrence gates are block-diagonal over
    `heads` and it runs in fp32 (transformers, RecurrentGemmaRecurrentBlock).
    """

    width: int = 1
    heads: int = 1
    activation: str = "gelu_pytorch_tanh"
    y: Block | None = None
    x: Block | None = None
    conv: Block | None = None
    out: Block | None = None

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        block = self.width // self.heads
        gates = [Param(f"rg_lru.{name}_gate_weight", (self.heads, block, block)) for name in ("input", "recurrent")]
        gates += [Param(f"rg_lru.{name}_gate_bias", (self.heads, block)) for name in ("input", "recurrent")]
        return (Param("rg_lru.recurrent_param", (self.width,)), *gates)

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.y, self.x, self.conv, self.out)


@dataclass(frozen=True, slots=True)
class Mlstm(Block):
    """xLSTM's matrix memory: `heads` states of key_dim x value_dim with exponential gates (arXiv:2405.04517).

    `projections` give queries, keys, values, the output gate, and per head the soft-capped input and forget gates;
    computed in chunks; normalised per head, gated, projected (transformers, xLSTMLayer). `training` where the backend's
    mode is: it takes whole chunks alone and begins without a state.
    """

    heads: int = 1
    key_dim: int = 1
    value_dim: int = 1
    chunk: int = 64
    training: bool = False
    projections: tuple[Block, ...] = ()
    norm: Block | None = None
    out: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(*self.projections, self.norm, self.out)
