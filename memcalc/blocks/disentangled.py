"""DeBERTa's disentangled attention: contents against contents, and against relative positions (He et al. 2020)."""

from __future__ import annotations

from typing import Literal

from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Sequence, given
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class DisentangledAttention(Attention):
    """Attention whose scores add content-to-position (`c2p`) and position-to-content (`p2c`) terms.

    The positions are `span` rows of the stack's RelativeTable, after `position_dropout`; `pos_key` and `pos_query`
    project them, or, with `shared` (share_att_key), the projections of the contents do. `logits_mix` and `weights_mix`
    are talking heads. Eager only: the scores [batch, heads, seq, seq] are always made.
    """

    span: int = 0
    c2p: bool = False
    p2c: bool = False
    shared: bool = False
    pos_key: Block | None = None
    pos_query: Block | None = None
    position_dropout: float = 0.0
    logits_mix: Block | None = None
    weights_mix: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        inner = (self.q, self.k, self.v, self.qkv, self.pos_key, self.pos_query, self.logits_mix, self.weights_mix)
        return (*(block for block in inner if block), *((self.out,) if self.out else ()))


@dataclass(frozen=True, slots=True)
class RelativeTable(Sequence):
    """The table of relative positions that all layers share, looked up (and normalised) once; not in the main path.

    `use` says what the layers read: its rows (DeBERTa), the rotation of every position (RoFormer), or a bias of the
    scores (MPNet).
    """

    use: Literal["rows", "rotation", "bias"] = "rows"


@dataclass(frozen=True, slots=True)
class DisentangledEncoder(Sequence):
    """The table of relative positions, the layers, and a convolution where there is one.

    Its mask is of `pairs` and all hidden states are kept; or of keys alone, and none is (SEW-D).
    """

    pairs: bool = True


@dataclass(frozen=True, slots=True)
class PaddingMask(Block):
    """x times the mask of padding, which is made where none is given."""


@dataclass(frozen=True, slots=True)
class FirstLayerConv(Block):
    """DeBERTa-v2's convolution beside the first layer, though listed after the stack.

    What the second layer reads is norm(first layer's output + act(dropout(conv(embeddings)))).
    """

    conv: Block | None = None
    norm: Block | None = None
    activation: str = "tanh"
    dropout: float = 0.0

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.conv, self.norm)
