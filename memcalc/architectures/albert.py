"""ALBERT: BERT whose layers share their parameters, over a narrow embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.encoder import dropout, embeddings, norm
from memcalc.architectures.heads import labels, masked_lm, with_head
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, PostNorm, Sequence, Stack, repeat, sequence
from memcalc.blocks.basic import Activation, Dropout, Linear, Select
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.seq2seq import Fork

if TYPE_CHECKING:
    from memcalc.architectures.heads import Heads
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("albert")
def albert(c: Dimensions) -> Model:
    """`num_hidden_layers` passes over `num_hidden_groups` groups of layers with one set of parameters each (2019)."""
    base = sequence(embeddings(c, c.embedding_size), _encoder(c))
    return with_head(c, "albert", base, _heads(c), (*_pooler(c, "pooler"),))


def _encoder(c: Dimensions) -> Sequence:
    """Layer i runs group i · groups / layers, so neighbours share; a group is run layers / groups times over."""
    group = Sequence("", (repeat("albert_layers", c.inner_group_num, _layer(c)),))
    layers, count = c.num_hidden_layers, c.num_hidden_groups
    groups = Stack("albert_layer_groups", (group,) * count, shared=-(-layers // count), passes=layers)
    project = Linear("embedding_hidden_mapping_in", c.embedding_size, c.hidden_size, bias=True)
    return Sequence("encoder", (project, groups))


def _layer(c: Dimensions) -> Sequence:
    """Attention and feed-forward, each post-norm; the dropout of the feed-forward is not there (AlbertLayer)."""
    hidden, heads = c.hidden_size, c.num_attention_heads
    width = heads * (hidden // heads)
    q, k, v = (Linear(name, hidden, width, bias=True) for name in ("query", "key", "value"))
    out = Linear("dense", hidden, hidden, bias=True)
    mixer = Attention(
        "attention", heads, heads, hidden // heads, q, k, v, out=out, causal=False, softmax="scores",
        dropout=float(c.attention_probs_dropout_prob),
    )  # fmt: skip
    up = Linear("ffn", hidden, c.intermediate_size, bias=True)
    down = Linear("ffn_output", c.intermediate_size, hidden, bias=True)
    feed_forward = Mlp("", up=up, down=down, activation=c.hidden_act, width=c.intermediate_size)
    return sequence(
        PostNorm("", (mixer, dropout(c)), norm(c, "attention.LayerNorm")),
        PostNorm("", (feed_forward,), norm(c, "full_layer_layer_norm")),
    )  # fmt: skip


def _pooler(c: Dimensions, name: str) -> tuple[Block, ...]:
    return (Select(""), Linear(name, c.hidden_size, c.hidden_size, bias=True), Activation("", "tanh"))


def _heads(c: Dimensions) -> Heads:
    lm = masked_lm(
        c, "predictions", "dense", "LayerNorm", "albert.embeddings.word_embeddings.weight",
        width=c.embedding_size, activation=c.hidden_act,
    )  # fmt: skip
    drop = Dropout("", float(c.get("classifier_dropout_prob", c.hidden_dropout_prob)))
    pooled = _pooler(c, "albert.pooler")
    order = sequence(*pooled, drop, Linear("sop_classifier.classifier", c.hidden_size, labels(c), bias=True))
    return {
        "ForMaskedLM": (lm,),
        "ForPreTraining": (Fork("", (lm, order)),),
        "ForSequenceClassification": (*pooled, drop, Linear("classifier", c.hidden_size, labels(c), bias=True)),
        "ForMultipleChoice": (*pooled, drop, Linear("classifier", c.hidden_size, 1, bias=True)),
        "ForTokenClassification": (drop, Linear("classifier", c.hidden_size, labels(c), bias=True)),
        "ForQuestionAnswering": (Linear("qa_outputs", c.hidden_size, labels(c), bias=True),),
    }
