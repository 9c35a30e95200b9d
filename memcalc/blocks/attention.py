"""Attention: grouped-query, fused or cross, with whatever a family adds to it."""

from __future__ import annotations

from typing import ClassVar, Literal

from memcalc.blocks.base import Block, Param
from memcalc.dataclass import dataclass

Rotation = Literal[
    "", "fp32", "fp32-all", "pairs", "pairs-whole", "pairs-joined", "pairs-fp32", "spread", "joined", "own"
]


@dataclass(frozen=True, slots=True)
class Attention(Block):
    """softmax(q kᵀ) v over `heads` query and `kv_heads` key/value heads of `head_dim` (Ainslie et al. 2023, GQA).

    * Projections: either `q`, `k`, `v` or one fused `qkv`; `out` projects back. `value_dim` is the width of a value head
      where it is not head_dim. `before` holds what runs inside the module ahead of them and `after` behind them (norms);
      `heads_first` where queries and keys are normed once they lie head by head (Gemma 3). `cut` says what is cut into heads
      only when the last projection has run: the keys (BART), or all three (CLIP, OLMo). `clip` > 0 clamps queries, keys
      and values to ±clip (OLMo, MPT). `out_dropout` is of the output, inside the module.
    * Rotation: `rotary_dim` is how many of head_dim's channels are rotated (0: none), by tables of kind `rotary_kind`
      (layers of different bases have their own; "each …": one for every sequence), left in fp32 where `rotary_fp32`.
      `rotation` is how: by halves, or so in fp32 ('fp32-all': the tables, too); by neighbouring pairs, with the tables
      spread out for every use ('pairs', GLM; 'pairs-whole' where no other channels are joined to them, Helium;
      'pairs-joined' with tables made so, GLM-4V), all of it in fp32 ('pairs-fp32', Ernie) or with tables made so and in
      fp32 ('spread', Cohere); by halves, joined by a copy to the other channels even where there are none ('joined',
      Nemotron); by tables that every layer keeps for itself ('own', GPT-J).
    * What a query sees: `window` limits how far. `cross` reads keys and values from another sequence. `padded` where it is
      always given a mask of padding, so that a mask is made for every sequence (BART's decoder), or one of every key alone
      ('rows', LayoutLM). `sharing` is whether its keys and values are those that later layers take, or it takes them itself
      (Gemma 3n and 4). `group` is how many tokens are summed up to one that all see (LongT5).
    * Scores: `scores_bias` adds a bias [1, heads, seq, seq]: what the layer that has `bias_table` (an embedding
      [buckets, heads] of distances) looked up for itself and the layers after it (T5); zeros where no layer before has a
      table; with `own_bias` every layer makes its own (UMT5). `sinks` adds a logit per head (gpt-oss). `positions` is how
      many a table of projected sinusoids is made for. `softmax` is where the eager one runs: in fp32 and cast back, in the
      dtype of the scores, or so and then cast to that of the values (GPT-2); it matters under autocast.
    * Gates: the output is scaled by a sigmoid, of the second half of a `q` twice as wide (`gated`, Qwen3-Next), or of its
      own projection `gate` of the input (Step 3.7).
    * `copied` where keys and values are copied for every query head of their group, if there is but one group (Falcon).
    * `eager_only` where the library has no fused kernel for it. `formula` says whose forward it is where it is not the
      usual one: transformers' attention interface behind separate or fused projections.
    """

    duty: ClassVar[str] = "attention"

    heads: int = 1
    kv_heads: int = 1
    head_dim: int = 1
    q: Block | None = None
    k: Block | None = None
    v: Block | None = None
    qkv: Block | None = None
    out: Block | None = None
    q_norm: Block | None = None
    k_norm: Block | None = None
    v_norm: Block | None = None
    before: tuple[Block, ...] = ()
    after: tuple[Block, ...] = ()
    rotary_dim: int = 0
    rotation: Rotation = ""
    rotary_fp32: bool = False
    rotary_kind: str = ""
    window: int = 0
    causal: bool = True
    cross: bool = False
    dropout: float = 0.0
    out_dropout: float = 0.0
    softcap: float = 0.0
    alibi: bool = False
    sinks: bool = False
    scores_bias: bool = False
    bias_table: Block | None = None
    own_bias: bool = False
    value_dim: int = 0
    gated: bool = False
    gate: Block | None = None
    clip: float = 0.0
    extra: tuple[Param, ...] = ()
    eager_only: bool = False
    heads_first: bool = False
    cut: Literal["", "keys", "all"] = ""
    padded: bool | Literal["rows", "always"] = False
    softmax: Literal["fp32", "scores", "values"] = "fp32"
    formula: str = ""
    sharing: Literal["", "stores", "reuses"] = ""
    positions: int = 0
    group: int = 0
    copied: bool = False

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return ((Param("sinks", (self.heads,)),) if self.sinks else ()) + self.extra

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        projections = (self.q, self.k, self.v, self.qkv, self.gate)
        middle = (*projections, self.q_norm, self.k_norm, self.v_norm, self.bias_table, self.out)
        return (*self.before, *(block for block in middle if block), *self.after)


@dataclass(frozen=True, slots=True)
class DynamicAttention(Attention):
    """Attention whose mask is learned: `gate` makes a number of every token's values, for each key/value head.

    Of more than `keep` keys the ones of the largest are kept for every query (transformers, DogeAttention).
    """

    keep: int = 0
