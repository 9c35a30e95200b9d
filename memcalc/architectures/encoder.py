"""What BERT and its kin share: summed embeddings and post-norm layers, with BERT's names for everything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from memcalc.architectures.heads import channels
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, PostNorm, Sequence, Sum, sequence
from memcalc.blocks.basic import Dropout, Embedding, Linear, Norm
from memcalc.blocks.mlp import Mlp

if TYPE_CHECKING:
    from memcalc.blocks.basic import Index
    from memcalc.dimensions import Dimensions


def dropout(c: Dimensions) -> Dropout:
    """Dropout of the hidden states."""
    return Dropout("", float(c.hidden_dropout_prob))


def embeddings(
    c: Dimensions, width: int = 0, *, positions: Index | Literal[""] = "positions", tied_to: str = "", norm: bool = True,
    named: tuple[int, ...] | None = None,
) -> Sequence:  # fmt: skip
    """Words + token types + learned positions (none where `positions` is ''), LayerNorm, dropout (BertEmbeddings)."""
    width = width or c.hidden_size
    words = Embedding("word_embeddings", c.vocab_size, width, tied_to=tied_to)
    types = Embedding("token_type_embeddings", c.type_vocab_size, width, index="types")
    places = Embedding("position_embeddings", c.max_position_embeddings, width, index=positions or "positions")
    terms = (words, types, places) if positions else (words, types) if c.type_vocab_size else (words,)
    after = Norm("LayerNorm", width, "layer") if norm else None
    summed = Sum("", terms, grows=c.traits.embeddings_grow, named=named)
    return sequence(summed, after, dropout(c), name="embeddings")


def self_attention(c: Dimensions, name: str = "attention", *, cross: bool = False, **more: Any) -> Attention:  # noqa: ANN401
    """Multi-head attention with biases everywhere, named as in BertAttention (its dropout and norm are beside it)."""
    hidden, heads = c.hidden_size, c.num_attention_heads
    head = hidden // heads if "embedding_size" in c else channels(hidden, heads)
    width = heads * head
    eager = c.traits.eager_only
    own: dict[str, Any] = {
        "softmax": "scores", "eager_only": eager, "padded": eager, "formula": "rembert" if eager else "",
    }  # fmt: skip
    return Attention(
        name, heads, heads, head,
        q=Linear("self.query", hidden, width, bias=True),
        k=Linear("self.key", hidden, width, bias=True),
        v=Linear("self.value", hidden, width, bias=True),
        out=Linear("output.dense", hidden, hidden, bias=True),
        causal=bool(c.get("is_decoder")) and not cross, cross=cross,
        dropout=float(c.attention_probs_dropout_prob), **own | more,
    )  # fmt: skip


def feed_forward(c: Dimensions) -> Mlp:
    """output.dense(act(intermediate.dense(x)))."""
    return Mlp(
        "",
        up=Linear("intermediate.dense", c.hidden_size, c.intermediate_size, bias=True),
        down=Linear("output.dense", c.intermediate_size, c.hidden_size, bias=True),
        activation=c.hidden_act,
        width=c.intermediate_size,
        inline=True,
    )


def norm(c: Dimensions, name: str) -> Norm:
    """LayerNorm over the hidden size."""
    return Norm(name, c.hidden_size, "layer")


def post_norm(c: Dimensions, mixer: Block, name: str) -> Sequence:
    """norm(x + dropout(mixer(x))), the order of the first transformer."""
    return PostNorm("", (mixer, dropout(c)), norm(c, name))


def post_norm_layer(c: Dimensions, attention: Block | None = None) -> Sequence:
    """Self-attention, cross-attention where the config adds it, and feed-forward, each post-norm (BertLayer)."""
    cross = c.get("is_decoder") and c.get("add_cross_attention")
    return sequence(
        post_norm(c, attention or self_attention(c), "attention.output.LayerNorm"),
        post_norm(c, self_attention(c, "crossattention", cross=True), "crossattention.output.LayerNorm")
        if cross
        else None,
        post_norm(c, feed_forward(c), "output.LayerNorm"),
    )
