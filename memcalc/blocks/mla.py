"""Attention through a latent: keys and values (and queries) are projected down and up again; sparse indexers."""

from __future__ import annotations

from typing import ClassVar

from memcalc.blocks.base import Block, Param, given
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Mla(Block):
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434; transformers, DeepseekV3Attention).

    q = q_b(q_norm(q_a(x))), or q(x) alone, of `heads` times nope + rope channels; kv_a(x) is a latent of `kv_rank`
    channels and one rotated key of `rope` channels that all heads share; kv_b(kv_norm(latent)) gives `nope` key and
    `value` value channels a head. Scores are over head_dim = nope + rope channels. `indexer` chooses which keys a
    query sees (DeepSeek-V3.2); `reuses` where the choice of the layer before is taken again, which `hands_on` where
    layers give theirs to the next (GLM-5.2). The sigmoid of `gate` scales each head's output (Ling), or each of its
    channels (Hy4). `sinks` adds a logit per head. `k_rot_norm` norms the key that all heads share (Dots 3); `window`,
    `rotary_kind` and `rotary_fp32` are what they are in Attention.
    """

    duty: ClassVar[str] = "attention"

    heads: int = 1
    nope: int = 0
    rope: int = 0
    value: int = 0
    kv_rank: int = 0
    q_rank: int = 0
    q: Block | None = None
    q_a: Block | None = None
    q_norm: Block | None = None
    q_b: Block | None = None
    kv_a: Block | None = None
    kv_norm: Block | None = None
    kv_b: Block | None = None
    gate: Block | None = None
    out: Block | None = None
    indexer: Block | None = None
    reuses: bool = False
    hands_on: bool = False
    interleaved: bool = True
    causal: bool = True
    dropout: float = 0.0
    formula: str = ""
    sinks: bool = False
    k_rot_norm: Block | None = None
    window: int = 0
    rotary_kind: str = ""
    rotary_fp32: bool = False

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return (Param("sinks", (self.heads,)),) if self.sinks else ()

    @property
    def head_dim(self) -> int:
        """Channels of one query or key head."""
        return self.nope + self.rope

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        queries = (self.q_a, self.q_norm, self.q_b, self.q)
        keys = (self.kv_a, self.kv_norm, self.k_rot_norm, self.kv_b)
        return given(*queries, *keys, self.indexer, self.gate, self.out)


@dataclass(frozen=True, slots=True)
class Indexer(Block):
    """Scores every key for every query in `heads` small heads and keeps the best `top_k` (DeepSeek-V3.2).

    It runs without gradients; `scores` relu(q kᵀ) in fp32, weighted per head (transformers, DeepseekV32Indexer).
    `interleaved` where even and odd channels are rotated, rather than halves; `block` where it keeps whole blocks of
    that many keys, for each of its heads (MiniMax-M3).
    """

    idle: ClassVar[bool] = True
    heads: int = 1
    head_dim: int = 1
    rope: int = 0
    top_k: int = 0
    interleaved: bool = False
    block: int = 0
    q: Block | None = None
    k: Block | None = None
    q_norm: Block | None = None
    k_norm: Block | None = None
    weights: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.q, self.k, self.q_norm, self.k_norm, self.weights)


@dataclass(frozen=True, slots=True)
class Compressor(Block):
    """Every `rate` tokens become one compressed key-value of head_dim channels (DeepSeek-V4, DeepseekV4CSACompressor).

    softmax(gate(x) + position_bias) over the window weights kv(x). `overlapping` windows read twice the channels: the
    projections are 2 * head_dim wide. `indexer` chooses `top_k` of the compressed entries for each query.
    """

    rate: int = 1
    head_dim: int = 1
    overlapping: bool = False
    kv: Block | None = None
    gate: Block | None = None
    norm: Block | None = None
    indexer: Block | None = None

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return (Param("position_bias", (self.rate, self.head_dim * (2 if self.overlapping else 1))),)

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.kv, self.gate, self.norm, self.indexer)


@dataclass(frozen=True, slots=True)
class CompressorIndexer(Compressor):
    """A compressor with head_dim of its own whose entries `heads` small query heads score; without gradients."""

    idle: ClassVar[bool] = True
    heads: int = 1
    top_k: int = 0
    q: Block | None = None
    weights: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.kv, self.gate, self.norm, self.q, self.weights)


@dataclass(frozen=True, slots=True)
class CompressedAttention(Block):
    """DeepSeek-V4's attention: one shared key-value head over a window and, behind it, compressed entries.

    q_b(q_norm(q_a(x))), `heads` of head_dim channels, each normalised (q_b_norm, no weight); kv(x) is key and value
    at once. The output goes through `out_groups` separate maps to a rank (out_a, weight [groups * rank, heads *
    head_dim / groups]), then out_b. `sinks` adds a logit per head (transformers, DeepseekV4Attention).
    """

    heads: int = 1
    head_dim: int = 1
    rotary_dim: int = 0
    window: int = 0
    q_rank: int = 0
    out_groups: int = 1
    out_rank: int = 0
    q_a: Block | None = None
    q_norm: Block | None = None
    q_b: Block | None = None
    q_b_norm: Block | None = None
    kv: Block | None = None
    kv_norm: Block | None = None
    compressor: Block | None = None
    out_a: Block | None = None
    out_b: Block | None = None
    dropout: float = 0.0

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return (Param("sinks", (self.heads,)),)

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        queries = (self.q_a, self.q_norm, self.q_b, self.q_b_norm)
        return given(*queries, self.kv, self.kv_norm, self.compressor, self.out_a, self.out_b)
