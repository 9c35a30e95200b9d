"""The modules of Megatron-LM's transformer layers, with Transformer Engine's fused ones.

megatron/core/models/gpt/gpt_layer_specs.py, get_gpt_layer_with_transformer_engine_spec: norms are fused into the linear
that reads them, queries, keys and values are one linear, and so are gate and up. Names are Megatron's own.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Param, Sequence, given
from memcalc.blocks.basic import Embedding, Linear, Norm
from memcalc.blocks.mla import Mla
from memcalc.blocks.mlp import Mlp, Moe
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class NormLinear(Linear):
    """LayerNormLinear, cut by columns: the linear of a norm of its input; `norm` is 'rms' or 'layer'."""

    norm: Literal["rms", "layer"] = "rms"

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        weights = (Param("layer_norm_weight", (self.inputs,)),)
        biases = (Param("layer_norm_bias", (self.inputs,)),) if self.norm == "layer" else ()
        return (*weights, *biases, *Linear.own(self))


@dataclass(frozen=True, slots=True)
class ColumnLinear(Linear):
    """TEColumnParallelLinear."""


@dataclass(frozen=True, slots=True)
class WholeLinear(Linear):
    """TELinear, the same on every tensor-parallel rank (the maps down to a latent)."""


@dataclass(frozen=True, slots=True)
class RowLinear(Linear):
    """TERowParallelLinear; its bias is added behind it, with the residual."""


@dataclass(frozen=True, slots=True)
class ExpertLinear(Linear):
    """One expert's part of a TEGroupedLinear."""

    role: ClassVar[str] = "expert"


@dataclass(frozen=True, slots=True)
class FusedNorm(Norm):
    """TENorm: keeps its input and one statistic a row."""


@dataclass(frozen=True, slots=True)
class VocabEmbedding(Embedding):
    """VocabParallelEmbedding."""


@dataclass(frozen=True, slots=True)
class OutputLayer(Linear):
    """ColumnParallelLinear over the vocabulary."""

    role: ClassVar[str] = "head"


@dataclass(frozen=True, slots=True)
class MegatronAttention(Attention):
    """SelfAttention: one linear for queries, keys and values, fused rotary positions, fused attention."""


@dataclass(frozen=True, slots=True)
class MegatronMla(Mla):
    """MLASelfAttention; norms of the latents are fused into the maps up."""


@dataclass(frozen=True, slots=True)
class MegatronMlp(Mlp):
    """MLP: linear_fc1 yields gate and up, which one kernel multiplies."""


@dataclass(frozen=True, slots=True)
class GroupedExperts(Block):
    """TEGroupedMLP: the experts of a rank, each with weights of its own, as grouped products."""

    experts: int = 1
    inputs: int = 0
    width: int = 0
    gated: bool = True
    activation: str = "silu"
    bias: bool = False
    fc1: Block | None = None
    fc2: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.fc1, self.fc2)


@dataclass(frozen=True, slots=True)
class MegatronMoe(Moe):
    """MoELayer: router, token dispatcher, grouped experts, and shared experts beside them."""


@dataclass(frozen=True, slots=True)
class RecomputedLayers(Sequence):
    """Layers that full recomputation runs again together."""


@dataclass(frozen=True, slots=True)
class RecomputedNorm(Sequence):
    """A norm that selective recomputation runs again, and what reads it."""
