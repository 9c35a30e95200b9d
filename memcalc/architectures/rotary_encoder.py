"""Encoders for embeddings: BERT with rotary positions (Nomic, GTE, Jina v3), and Llama's layers looking both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import attention, gated_mlp, pre_norm_layer, rms, tokens
from memcalc.architectures.encoder import dropout, embeddings, norm
from memcalc.architectures.heads import (
    classification_head,
    classifier_dropout,
    labels,
    masked_lm,
    pooler,
    task,
    with_head,
)
from memcalc.blocks.base import Block, repeat, residual, sequence
from memcalc.blocks.basic import Activation, Linear, Norm, Select
from memcalc.blocks.mlp import Mlp

if TYPE_CHECKING:
    from memcalc.architectures.heads import Heads
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


def _rotary_bert(
    c: Dimensions, mlp: Mlp, *, bias: bool, tied_to: str = "", named: tuple[int, ...] = (1,)
) -> tuple[Block, ...]:
    """Words + types, then post-norm layers of rotary attention and a feed-forward, directly in the model.

    The sum takes the words' name; `named` are those of the two that keep one.
    """
    mixer = attention(c, bias=bias, causal=False, dropout=float(c.attention_probs_dropout_prob), softmax="scores")
    layer = sequence(
        residual(mixer, dropout(c), lasting=(0,)), norm(c, "post_attention_layernorm"),
        residual(mlp, dropout(c), named=(0,)), norm(c, "post_mlp_layernorm"),
    )  # fmt: skip
    return (embeddings(c, positions="", tied_to=tied_to, named=named), repeat("layers", c.num_hidden_layers, layer))


def _classifiers(c: Dimensions, prefix: str) -> Heads:
    """The classifiers of Nomic's and GTE's: of a sequence by the pooled first token, and of tokens."""
    drop, classifier = classifier_dropout(c), Linear("classifier", c.hidden_size, labels(c), bias=True)
    return {
        "ForSequenceClassification": (pooler(c, f"{prefix}.pooler"), drop, classifier),
        "ForTokenClassification": (drop, classifier),
    }


@architecture("nomic_bert")
def nomic_bert(c: Dimensions) -> Model:
    """No bias in attention and gated feed-forward (Nussbaum et al. 2024)."""
    table = "nomic_bert.embeddings.word_embeddings.weight"
    names = ("cls.predictions", "transform.dense", "transform.layer_norm", table)
    base = sequence(*_rotary_bert(c, gated_mlp(c), bias=False))
    heads = {"ForMaskedLM": (masked_lm(c, *names, activation=c.hidden_act),), **_classifiers(c, "nomic_bert")}
    return with_head(c, "nomic_bert", base, heads)


@architecture("gte")
def gte(c: Dimensions) -> Model:
    """Biases in attention and in the last projection of the gated feed-forward (Zhang et al. 2024)."""
    hidden, width = c.hidden_size, c.intermediate_size
    gate, up = Linear("gate_proj", hidden, width), Linear("up_proj", hidden, width)
    down, drop = Linear("down_proj", width, hidden, bias=True), float(c.hidden_dropout_prob)
    mlp = Mlp("mlp", up, down, gate, activation=c.hidden_act, width=width, dropout=drop)
    tied = "gte.embeddings.word_embeddings.weight" if c.tie_word_embeddings else ""
    lm = sequence(
        Linear("dense", hidden, hidden, bias=True), Activation("", "gelu"), Norm("layer_norm", hidden, "layer"),
        Linear("decoder", hidden, c.vocab_size, bias=True, tied_to=tied), name="lm_head",
    )  # fmt: skip
    return with_head(
        c, "gte", sequence(*_rotary_bert(c, mlp, bias=True, named=())), {"ForMaskedLM": (lm,), **_classifiers(c, "gte")}
    )


@architecture("jina_embeddings_v3")
def jina_embeddings_v3(c: Dimensions) -> Model:
    """XLM-RoBERTa with rotary positions (Sturua et al. 2024); its classes register the head first."""
    hidden, width, drop = c.hidden_size, c.intermediate_size, classifier_dropout(c)
    up, down = Linear("fc1", hidden, width, bias=True), Linear("fc2", width, hidden, bias=True)
    mlp = Mlp("mlp", up=up, down=down, activation=c.hidden_act, width=width)
    tied = "lm_head.decoder.weight" if c.tie_word_embeddings and task(c) == "ForMaskedLM" else ""
    heads: Heads = {
        "ForMaskedLM": (masked_lm(c, "lm_head", "dense", "layer_norm", "", owner=True),),
        "ForSequenceClassification": (classification_head(c, drop),),
        "ForTokenClassification": (drop, Linear("classifier", hidden, labels(c), bias=True)),
        "ForQuestionAnswering": (Linear("qa_outputs", hidden, labels(c), bias=True),),
    }
    base = sequence(*_rotary_bert(c, mlp, bias=True, tied_to=tied))
    return with_head(c, "roberta", base, heads, (pooler(c, "pooler"),))


@architecture("eurobert")
def eurobert(c: Dimensions) -> Model:
    """Llama's layers without the causal mask (Boizard et al. 2025)."""
    hidden, bias = c.hidden_size, bool(c.mlp_bias)
    layer = pre_norm_layer(c, attention(c, bias=bool(c.attention_bias), causal=False), gated_mlp(c, bias=bias))
    base = sequence(tokens(c), repeat("layers", c.num_hidden_layers, layer), rms("norm", hidden))
    tied = "model.embed_tokens.weight" if c.tie_word_embeddings else ""
    dense, classifier = Linear("dense", hidden, hidden, bias=True), Linear("classifier", hidden, labels(c), bias=True)
    pool = Select("", "mean" if c.classifier_pooling == "mean" else "first")
    heads: Heads = {
        "ForMaskedLM": (Linear("lm_head", hidden, c.vocab_size, bias, tied),),
        "ForSequenceClassification": (
            (dense, Activation("", "gelu"), classifier, Select("", "mean"))
            if c.classifier_pooling == "late"
            else (pool, dense, Activation("", "gelu"), classifier)
        ),
        "ForTokenClassification": (classifier,),
    }
    return with_head(c, "model", base, heads, loss_fp32=True)
