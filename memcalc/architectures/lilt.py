"""LiLT: RoBERTa with a narrow stream of layout beside that of the words (Wang et al. 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.encoder import embeddings, feed_forward, post_norm, self_attention
from memcalc.architectures.heads import classification_head, classifier_dropout, labels, pooler, with_head
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, PostNorm, Sequence, Stray, sequence, stack
from memcalc.blocks.basic import Dropout, Embedding, Linear, Norm
from memcalc.blocks.layout import Boxes, BoxStates, TwoStreams
from memcalc.blocks.mlp import Mlp

if TYPE_CHECKING:
    from memcalc.architectures.heads import Heads
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("lilt")
def lilt(c: Dimensions) -> Model:
    """Both streams in every layer; heads read the words'."""
    every = [_layer(c, last=False)] * (c.num_hidden_layers - 1)
    layers = Sequence("encoder", (stack("layer", [*every, _layer(c, last=True)]),))
    base = sequence(embeddings(c, positions="token-positions"), _boxes(c), layers)
    hidden, out, drop = c.hidden_size, labels(c), classifier_dropout(c)
    heads: Heads = {
        "ForSequenceClassification": (classification_head(c, drop),),
        "ForTokenClassification": (drop, Linear("classifier", hidden, out, bias=True)),
        "ForQuestionAnswering": (Linear("qa_outputs", hidden, out, bias=True),),
    }
    longest = c.max_position_embeddings - c.pad_token_id - 1
    return with_head(c, "lilt", base, heads, (pooler(c, "pooler"),), context=longest)


def _boxes(c: Dimensions) -> BoxStates:
    narrow, sixth = c.hidden_size // c.channel_shrink_ratio, c.hidden_size // 6
    tables = tuple(Embedding(f"{axis}_position_embeddings", c.max_2d_position_embeddings, sixth) for axis in "xyhw")
    return BoxStates(
        "layout_embeddings", Boxes("", tables), Linear("box_linear_embeddings", c.hidden_size, narrow, bias=True),
        Embedding("box_position_embeddings", c.max_position_embeddings, narrow), Norm("LayerNorm", narrow, "layer"),
        float(c.hidden_dropout_prob),
    )  # fmt: skip


def _layer(c: Dimensions, *, last: bool) -> TwoStreams:
    """What the last one makes of boxes, apart from its scores, nothing reads."""

    def read(block: Block) -> Block:
        return Stray("", (block,)) if last else block

    ratio, p = c.channel_shrink_ratio, float(c.hidden_dropout_prob)
    narrow, inner = c.hidden_size // ratio, c.intermediate_size // ratio
    text = self_attention(c, eager_only=True, padded=True, formula="lilt")
    q, k, v = (Linear(f"self.layout_{name}", narrow, narrow, bias=True) for name in ("query", "key", "value"))
    side = Attention(
        "attention", text.heads, text.heads, text.head_dim // ratio, q, k, read(v), causal=False, dropout=text.dropout,
        out=read(Linear("layout_output.dense", narrow, narrow, bias=True)), eager_only=True, padded=True, formula="lilt",
    )  # fmt: skip
    up, down = (
        Linear("layout_intermediate.dense", narrow, inner, bias=True), Linear("layout_output.dense", inner, narrow, bias=True),
    )  # fmt: skip
    fed = Mlp("", up=up, down=down, activation=c.hidden_act, width=inner, inline=True)
    boxes = PostNorm("", (fed, Dropout("", p)), Norm("layout_output.LayerNorm", narrow, "layer"))
    norms = (
        Norm("attention.output.LayerNorm", c.hidden_size, "layer"),
        read(Norm("attention.layout_output.LayerNorm", narrow, "layer")),
    )  # fmt: skip
    return TwoStreams("", (text, side), norms, (post_norm(c, feed_forward(c), "output.LayerNorm"), read(boxes)), p)
