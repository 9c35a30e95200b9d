"""The kinds of block a run file may list under `model.blocks`: each a class whose fields are the keys it takes.

A field without a default is required; 0 and '' mean "derived", as its class says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Param
from memcalc.blocks.basic import Activation, Conv, Dropout, Embedding, Linear, Norm, Raw
from memcalc.blocks.mlp import Experts, Mlp, Moe, Router
from memcalc.dataclass import dataclass
from memcalc.dtypes import dtype_name
from memcalc.tensors import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

CHOICES: Mapping[str, tuple[str, ...]] = {
    "kind": ("rms", "layer", "layer-no-bias", "group", "batch", "none"),
    "index": ("tokens", "positions", "types"),
    "role": ("linear", "embedding", "norm", "conv", "conv1d", "expert", "parameter"),
}


class Kind(Protocol):
    """What the reader asks of a kind of block."""

    def block(self, name: str) -> Block:
        """The block of that name; ValueError where the fields contradict each other."""


@dataclass(frozen=True)
class Embed:
    """A table [rows, width] read by tokens, positions or types; one after another they are summed."""

    rows: int
    width: int
    index: str = "tokens"
    trainable: bool = True
    tied_to: str = ""

    def block(self, name: str) -> Block:  # noqa: D102
        return Embedding(name, self.rows, self.width, self.trainable, self.tied_to, self.index)  # type: ignore[arg-type] # one of CHOICES


@dataclass(frozen=True)
class LinearKind:
    """A weight [outputs, inputs]; `tied_to` names the embedding it shares (the head of a language model)."""

    inputs: int
    outputs: int
    bias: bool = False
    tied_to: str = ""

    def block(self, name: str) -> Block:  # noqa: D102
        return Linear(name, self.inputs, self.outputs, self.bias, self.tied_to)


@dataclass(frozen=True)
class NormKind:
    """A normalisation over `width` channels, in `groups` where it is a group norm."""

    width: int
    kind: str = "rms"
    groups: int = 0

    def block(self, name: str) -> Block:  # noqa: D102
        return Norm(name, self.width, self.kind, groups_of=self.groups)  # type: ignore[arg-type] # one of CHOICES


@dataclass(frozen=True)
class AttentionKind:
    """Attention with q_proj, k_proj, v_proj (or one qkv_proj where `fused`) and o_proj.

    kv_heads defaults to heads, head_dim to width / heads; `qk_norm` is an RMSNorm over each head's query and key;
    `rotary: false` for models with learned positions or none.
    """

    width: int
    heads: int
    kv_heads: int = 0
    head_dim: int = 0
    bias: bool = False
    out_bias: bool = False
    fused: bool = False
    qk_norm: bool = False
    rotary: bool = True
    causal: bool = True
    window: int = 0
    dropout: float = 0.0

    def block(self, name: str) -> Block:  # noqa: D102
        kv, dim = self.kv_heads or self.heads, self.head_dim or self.width // self.heads
        if not self.head_dim and self.width % self.heads:
            raise ValueError(f"heads: {self.heads} heads do not divide a width of {self.width}; give head_dim")
        if self.heads % kv:
            raise ValueError(f"kv_heads: {kv} key/value heads do not divide {self.heads} query heads")
        sizes = {"qkv_proj": self.heads + 2 * kv} if self.fused else {"q_proj": self.heads, "k_proj": kv, "v_proj": kv}
        parts = {k.removesuffix("_proj"): Linear(k, self.width, n * dim, self.bias) for k, n in sizes.items()}
        norms = {k: Norm(k, dim) for k in ("q_norm", "k_norm") if self.qk_norm}
        return Attention(
            name, self.heads, kv, dim, q=parts.get("q"), k=parts.get("k"), v=parts.get("v"), qkv=parts.get("qkv"),
            q_norm=norms.get("q_norm"), k_norm=norms.get("k_norm"), causal=self.causal, window=self.window,
            rotary_dim=dim if self.rotary else 0, dropout=self.dropout,
            out=Linear("o_proj", self.heads * dim, self.width, self.out_bias or self.bias),
        )  # fmt: skip


@dataclass(frozen=True)
class MlpKind:
    """down_proj(act(up_proj(x))), or with `gated` down_proj(act(gate_proj(x)) * up_proj(x)); `inner` is its width."""

    width: int
    inner: int
    gated: bool = True
    bias: bool = False
    activation: str = "silu"

    def block(self, name: str) -> Block:  # noqa: D102
        gate, up = (Linear(key, self.width, self.inner, self.bias) for key in ("gate_proj", "up_proj"))
        down = Linear("down_proj", self.inner, self.width, self.bias)
        return Mlp(name, up, down, gate if self.gated else None, activation=self.activation, width=self.inner)


@dataclass(frozen=True)
class MoeKind:
    """A router, `experts` MLPs of width `inner`, `top_k` of them for each token, and a shared one of width `shared`."""

    width: int
    inner: int
    experts: int
    top_k: int
    shared: int = 0
    gated: bool = True
    activation: str = "silu"

    def block(self, name: str) -> Block:  # noqa: D102
        if self.top_k > self.experts:
            raise ValueError(f"top_k: a token can't meet {self.top_k} of {self.experts} experts")
        up = "gate_up_proj" if self.gated else "up_proj"
        shapes = {up: ((1 + self.gated) * self.inner, self.width), "down_proj": (self.width, self.inner)}
        params = tuple(Param(k, (self.experts, *shape)) for k, shape in shapes.items())
        shared = MlpKind(self.width, self.shared, self.gated, activation=self.activation).block("shared_expert")
        return Moe(
            name, router=Router("gate", self.width, self.experts, self.top_k), shared=shared if self.shared else None,
            experts=Experts("experts", self.experts, self.inner, params, self.gated, self.activation), top_k=self.top_k,
        )  # fmt: skip


@dataclass(frozen=True)
class ConvKind:
    """A convolution with weight [outputs, inputs / groups, *kernel]; a kernel of one number is a 1-D one."""

    inputs: int
    outputs: int
    kernel: tuple[int, ...]
    stride: int = 1
    groups: int = 1
    bias: bool = True

    def block(self, name: str) -> Block:  # noqa: D102
        if self.inputs % self.groups or self.outputs % self.groups:
            raise ValueError(
                f"groups: {self.groups} must divide the {self.inputs} inputs and the {self.outputs} outputs"
            )
        return Conv(name, self.inputs, self.outputs, self.kernel, self.stride, self.groups, self.bias)


@dataclass(frozen=True)
class ParameterKind:
    """A bare tensor: a class token, a layer scale."""

    shape: tuple[int, ...]
    trainable: bool = True
    buffer: bool = False

    def block(self, name: str) -> Block:  # noqa: D102
        return Raw(name, self.shape, self.trainable, self.buffer)


@dataclass(frozen=True)
class DropoutKind:
    """Dropout with probability p."""

    p: float

    def block(self, name: str) -> Block:  # noqa: D102
        return Dropout(name, self.p)


@dataclass(frozen=True)
class ActivationKind:
    """An activation function between linears: silu, gelu, relu, tanh, and so on."""

    function: str

    def block(self, name: str) -> Block:  # noqa: D102
        return Activation(name, self.function)


@dataclass(frozen=True)
class Table:
    """A tensor of no block, under `model.tensors`; of two axes it is taken for a linear's unless `role` says more."""

    shape: tuple[int, ...]
    role: str = ""
    trainable: bool = True
    buffer: bool = False
    tied_to: str = ""
    dtype: str = ""

    def tensor(self, name: str, count: int) -> Tensor:
        """The `count` tensors of that name pattern; ValueError for an unknown dtype."""
        role = self.role or ("linear" if len(self.shape) == 2 else "parameter")
        dtype = dtype_name(self.dtype) if self.dtype else ""
        return Tensor(name, self.shape, count, role, self.trainable, self.tied_to, self.buffer, dtype)


KINDS: Mapping[str, type[Kind]] = {
    "embed": Embed, "linear": LinearKind, "norm": NormKind, "attention": AttentionKind, "mlp": MlpKind, "moe": MoeKind,
    "conv": ConvKind, "parameter": ParameterKind, "dropout": DropoutKind, "activation": ActivationKind,
}  # fmt: skip
