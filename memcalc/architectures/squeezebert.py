"""SqueezeBERT: BERT whose linear layers are grouped convolutions over the tokens (Iandola et al. 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.bert import bert_heads
from memcalc.architectures.encoder import dropout, embeddings
from memcalc.architectures.heads import channels, pooler, with_head
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import PostNorm, Sequence, repeat, sequence
from memcalc.blocks.basic import Activation, Conv, Norm
from memcalc.blocks.image import Axes
from memcalc.blocks.seq2seq import Aside, Surrounded

if TYPE_CHECKING:
    from memcalc.architectures.heads import Heads
    from memcalc.blocks.base import Block
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("squeezebert")
def squeezebert(c: Dimensions) -> Model:
    """Between its embeddings and its heads the tokens lie behind the channels."""
    turn = Axes("", (0, 2, 1))
    layers = repeat("layers", c.num_hidden_layers, _layer(c))
    encoder = Surrounded("encoder", (turn, layers, turn))
    base = sequence(embeddings(c), encoder)
    return with_head(c, "transformer", base, _heads(c), (pooler(c, "pooler"),))


def _layer(c: Dimensions) -> Sequence:
    hidden, width = c.hidden_size, c.intermediate_size
    after = _conv("post_attention.conv1d", hidden, hidden, c.post_attention_groups)
    up = _conv("intermediate.conv1d", hidden, width, c.intermediate_groups)
    down = _conv("output.conv1d", width, hidden, c.output_groups)
    feed = (up, Activation("", c.hidden_act), down, dropout(c))
    return sequence(
        PostNorm("", (_attention(c), after, dropout(c)), _norm(c, "post_attention.layernorm"), rebound=True),
        PostNorm("", feed, _norm(c, "output.layernorm"), rebound=True),
    )


def _conv(name: str, inputs: int, outputs: int, groups: int) -> Conv:
    return Conv(name, inputs, outputs, (1,), conv_groups=groups)


def _norm(c: Dimensions, name: str) -> Norm:
    return Norm(name, c.hidden_size, "layer", "frames")


def _attention(c: Dimensions) -> Attention:
    width, heads = c.hidden_size, c.num_attention_heads
    q, k, v = (_conv(name, width, width, c[f"{name[0]}_groups"]) for name in ("query", "key", "value"))
    return Attention(
        "attention", heads, heads, channels(width, heads), q, k, v, causal=False, eager_only=True, padded=True,
        dropout=float(c.attention_probs_dropout_prob), softmax="scores", formula="squeezebert",
    )  # fmt: skip


def _heads(c: Dimensions) -> Heads:
    """BERT's; the pooler is there whether it is of use or not."""
    heads, pooled = bert_heads(c, "transformer"), pooler(c, "transformer.pooler")
    found = (
        "ForMaskedLM",
        "ForSequenceClassification",
        "ForMultipleChoice",
        "ForTokenClassification",
        "ForQuestionAnswering",
    )
    return {name: _with_pooler(heads[name], pooled) for name in found}


def _with_pooler(blocks: tuple[Block, ...], pooled: Sequence) -> tuple[Block, ...]:
    return blocks if pooled in blocks else (Aside("", (pooled,)), *blocks)
