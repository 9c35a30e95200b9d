"""DeBERTa v1 and v2/v3: disentangled attention over relative positions, with or without a convolution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcalc.architectures import architecture
from memcalc.architectures.encoder import dropout, feed_forward, norm, post_norm_layer
from memcalc.architectures.heads import channels, labels, masked_lm, with_head
from memcalc.blocks.base import Block, Param, PostNorm, Sequence, Sum, Unused, repeat, sequence
from memcalc.blocks.basic import Activation, Conv, Dropout, Embedding, Linear, Norm, Select
from memcalc.blocks.disentangled import (
    DisentangledAttention,
    DisentangledEncoder,
    FirstLayerConv,
    PaddingMask,
    RelativeTable,
)
from memcalc.blocks.seq2seq import Unembed

if TYPE_CHECKING:
    from memcalc.architectures.heads import Heads
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("deberta")
def deberta(c: Dimensions) -> Model:
    """One fused projection with query and value biases beside it, its own projections of positions (He et al. 2020)."""
    table = Embedding("rel_embeddings", 2 * _farthest(c), c.hidden_size)
    layers = repeat(
        "layer", c.num_hidden_layers,
        _post_norm(c, _attention_v1(c), "attention.output.LayerNorm"), _post_norm(c, feed_forward(c), "output.LayerNorm"),
    )  # fmt: skip
    relative = RelativeTable("", (table,)) if c.relative_attention else None
    base = sequence(_embeddings(c, "deberta"), _encoder(relative, layers))
    return with_head(c, "deberta", base, _heads(c))


@architecture("deberta-v2")
def deberta_v2(c: Dimensions) -> Model:
    """Bucketed relative positions, shared projections and a convolution beside the first layer (He et al. 2021)."""
    layers = repeat("layer", c.num_hidden_layers, post_norm_layer(c, attention_v2(c)))
    encoder = _encoder(relative_table(c), layers, _conv(c))
    return with_head(c, "deberta", sequence(_embeddings(c, "layer"), encoder), _heads(c))


def _post_norm(c: Dimensions, mixer: Block, name: str) -> Sequence:
    """norm(x + dropout(mixer(x))) with version 1's own norm."""
    return PostNorm("", (mixer, dropout(c)), Norm(name, c.hidden_size, "layer", "deberta"))


def _encoder(*blocks: Block | None) -> DisentangledEncoder:
    return DisentangledEncoder("encoder", tuple(block for block in blocks if block))


def _farthest(c: Dimensions) -> int:
    """The farthest relative position: the config's own, else as far as positions go."""
    own = int(c.get("max_relative_positions", -1))
    return own if own >= 1 else int(c.max_position_embeddings)


def _span(c: Dimensions) -> int:
    """Rows of relative positions to each side: buckets where there are any (DebertaV2Encoder)."""
    buckets = int(c.get("position_buckets", -1))
    return buckets if buckets > 0 else _farthest(c)


def _terms(c: Dimensions) -> tuple[bool, bool]:
    """Which terms beside content-to-content the scores have: (content-to-position, position-to-content)."""
    kinds = c.get("pos_att_type", ())
    kinds = [k.strip() for k in kinds.lower().split("|")] if isinstance(kinds, str) else kinds
    return "c2p" in kinds, "p2c" in kinds


def _embeddings(c: Dimensions, formula: str) -> Sequence:
    """Words, and positions and types where the config has them; projected, normalised (DebertaV2Embeddings)."""
    width = c.get("embedding_size", c.hidden_size)
    words = Embedding("word_embeddings", c.vocab_size, width)
    places = Embedding("position_embeddings", c.max_position_embeddings, width, index="positions")
    types = Embedding("token_type_embeddings", c.type_vocab_size, width, index="types")
    terms = (words, places if c.position_biased_input else None, types if c.type_vocab_size > 0 else None)
    project = Linear("embed_proj", width, c.hidden_size) if width != c.hidden_size else None
    own = Norm("LayerNorm", c.hidden_size, "layer", "" if formula == "layer" else formula)
    return sequence(Sum("", tuple(t for t in terms if t)), project, own, PaddingMask(""), dropout(c), name="embeddings")


def relative_table(c: Dimensions) -> Block | None:
    """The table of relative positions, normalised where norm_rel_ebd says so."""
    named = [word.strip() for word in str(c.get("norm_rel_ebd", "none")).lower().split("|")]
    parts = (
        Embedding("rel_embeddings", 2 * _span(c), c.hidden_size) if c.relative_attention else None,
        norm(c, "LayerNorm") if "layer_norm" in named else None,
    )
    found = tuple(part for part in parts if part)
    if not c.relative_attention:  # a norm of a table that isn't there
        return Unused("", found) if found else None
    return RelativeTable("", found)


def _conv(c: Dimensions) -> Block | None:
    """ConvLayer, where the config gives a kernel size."""
    size = int(c.get("conv_kernel_size", 0))
    if size <= 0:
        return None
    conv = Conv(
        "conv", c.hidden_size, c.hidden_size, (size,), conv_groups=int(c.get("conv_groups", 1)), padding=(size - 1) // 2
    )
    return FirstLayerConv("conv", conv, norm(c, "LayerNorm"), c.get("conv_act", "tanh"), float(c.hidden_dropout_prob))


def _attention_v1(c: Dimensions) -> DisentangledAttention:
    hidden, heads, (c2p, p2c) = c.hidden_size, c.num_attention_heads, _terms(c)
    relative, talking = bool(c.relative_attention), bool(c.get("talking_head"))
    return DisentangledAttention(
        "attention", heads, heads, channels(hidden, heads),
        qkv=Linear("self.in_proj", hidden, 3 * hidden),
        extra=(Param("self.q_bias", (hidden,)), Param("self.v_bias", (hidden,))),
        pos_key=Linear("self.pos_proj", hidden, hidden) if relative and c2p else None,
        pos_query=Linear("self.pos_q_proj", hidden, hidden, bias=True) if relative and p2c else None,
        logits_mix=Linear("self.head_logits_proj", heads, heads) if talking else None,
        weights_mix=Linear("self.head_weights_proj", heads, heads) if talking else None,
        formula="deberta", span=_farthest(c), **_common(c),
    )  # fmt: skip


def attention_v2(c: Dimensions) -> DisentangledAttention:
    """Version 2's attention, whose positions have projections of their own unless they share those of the contents."""
    hidden, heads, (c2p, p2c) = c.hidden_size, c.num_attention_heads, _terms(c)
    head = int(c.get("attention_head_size", channels(hidden, heads)))
    shared = bool(c.get("share_att_key"))
    own = bool(c.relative_attention) and not shared
    return DisentangledAttention(
        "attention", heads, heads, head,
        q=Linear("self.query_proj", hidden, heads * head, bias=True),
        k=Linear("self.key_proj", hidden, heads * head, bias=True),
        v=Linear("self.value_proj", hidden, heads * head, bias=True),
        pos_key=Linear("self.pos_key_proj", hidden, heads * head, bias=True) if own and c2p else None,
        pos_query=Linear("self.pos_query_proj", hidden, heads * head, bias=True) if own and p2c else None,
        shared=shared, formula="deberta-v2", span=_span(c), **_common(c),
    )  # fmt: skip


def _common(c: Dimensions) -> dict[str, Any]:
    """What both attentions share: the output projection, the terms of the scores, the dropouts."""
    c2p, p2c = _terms(c) if c.relative_attention else (False, False)
    return {
        "out": Linear("output.dense", c.hidden_size, c.hidden_size, bias=True),
        "causal": False,
        "softmax": "scores",
        "eager_only": True,
        "c2p": c2p,
        "p2c": p2c,
        "dropout": float(c.attention_probs_dropout_prob),
        "position_dropout": float(c.hidden_dropout_prob),
    }


def _heads(c: Dimensions) -> Heads:
    """The context pooler (dense, then the config's activation) in front of classifiers; one of two masked-LM heads."""
    width = int(c.get("pooler_hidden_size", c.hidden_size))
    dense = Linear("pooler.dense", width, width, bias=True)
    pooled = (Select(""), Dropout("", float(c.pooler_dropout)), dense, Activation("", c.pooler_hidden_act))
    drop = Dropout("", float(c.get("cls_dropout", c.hidden_dropout_prob)))
    return {
        "ForMaskedLM": (_masked_lm(c),),
        "ForSequenceClassification": (*pooled, drop, Linear("classifier", width, labels(c), bias=True)),
        "ForMultipleChoice": (*pooled, drop, Linear("classifier", width, 1, bias=True)),
        "ForTokenClassification": (dropout(c), Linear("classifier", c.hidden_size, labels(c), bias=True)),
        "ForQuestionAnswering": (Linear("qa_outputs", c.hidden_size, labels(c), bias=True),),
    }


def _masked_lm(c: Dimensions) -> Sequence:
    """The legacy head is BERT's; the other multiplies with the embedding itself."""
    width = c.get("embedding_size", c.hidden_size)
    if c.legacy:
        table = "deberta.embeddings.word_embeddings.weight"
        names = ("cls.predictions", "transform.dense", "transform.LayerNorm", table)
        return masked_lm(c, *names, width=width, activation=c.hidden_act)
    dense, act = Linear("dense", c.hidden_size, c.hidden_size, bias=True), Activation("", c.hidden_act)
    table = "deberta.embeddings.word_embeddings.weight"
    scores = Unembed("", c.hidden_size, c.vocab_size, bias=True, tied_to=table)
    return sequence(dense, act, norm(c, "LayerNorm"), scores, name="lm_predictions.lm_head")
