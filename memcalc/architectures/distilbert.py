"""DistilBERT: half of BERT's layers, no token types, no pooler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.heads import channels, labels, with_head
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, PostNorm, Sequence, Sum, repeat, sequence
from memcalc.blocks.basic import Activation, Dropout, Embedding, Linear, Norm, Select
from memcalc.blocks.mlp import Mlp

if TYPE_CHECKING:
    from memcalc.architectures.heads import Heads
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("distilbert")
def distilbert(c: Dimensions) -> Model:
    """Post-norm encoder of BERT's kind with names of its own (Sanh et al. 2019)."""
    words = Embedding("word_embeddings", c.vocab_size, c.dim)
    places = Embedding("position_embeddings", c.max_position_embeddings, c.dim, index="positions")
    embeddings = sequence(Sum("", (words, places)), _norm(c, "LayerNorm"), Dropout("", c.dropout), name="embeddings")
    layer = sequence(
        PostNorm("", (_attention(c),), _norm(c, "sa_layer_norm")),
        PostNorm("", (_feed_forward(c), Dropout("", c.dropout)), _norm(c, "output_layer_norm")),
    )  # fmt: skip
    layers = Sequence("transformer", (repeat("layer", c.n_layers, layer),))
    return with_head(c, "distilbert", sequence(embeddings, layers), _heads(c))


def _attention(c: Dimensions) -> Attention:
    names = ("q_lin", "k_lin", "v_lin", "out_lin")
    q, k, v, out = (Linear(name, c.dim, c.dim, bias=True) for name in names)
    head = channels(c.dim, c.n_heads, "n_heads")
    return Attention(
        "attention",
        c.n_heads,
        c.n_heads,
        head,
        q,
        k,
        v,
        out=out,
        causal=False,
        softmax="scores",
        dropout=float(c.attention_dropout),
    )


def _feed_forward(c: Dimensions) -> Mlp:
    up, down = Linear("lin1", c.dim, c.hidden_dim, bias=True), Linear("lin2", c.hidden_dim, c.dim, bias=True)
    return Mlp("ffn", up=up, down=down, activation=c.activation, width=c.hidden_dim)


def _norm(c: Dimensions, name: str) -> Norm:
    return Norm(name, c.dim, "layer")


def _heads(c: Dimensions) -> Heads:
    tied = "distilbert.embeddings.word_embeddings.weight" if c.tie_word_embeddings else ""
    return {
        "ForMaskedLM": (
            Linear("vocab_transform", c.dim, c.dim, bias=True), Activation("", c.activation),
            _norm(c, "vocab_layer_norm"),
            Linear("vocab_projector", c.dim, c.vocab_size, bias=True, tied_to=tied),
        ),
        "ForSequenceClassification": _first_token(c, labels(c)),
        "ForMultipleChoice": _first_token(c, 1),
        "ForTokenClassification": (Dropout("", c.dropout), Linear("classifier", c.dim, labels(c), bias=True)),
        "ForQuestionAnswering": (Dropout("", c.qa_dropout), Linear("qa_outputs", c.dim, labels(c), bias=True)),
    }  # fmt: skip


def _first_token(c: Dimensions, outputs: int) -> tuple[Block, ...]:
    dense = Linear("pre_classifier", c.dim, c.dim, bias=True)
    drop = Dropout("", c.seq_classif_dropout)
    return (Select(""), dense, Activation("", "relu"), drop, Linear("classifier", c.dim, outputs, bias=True))
