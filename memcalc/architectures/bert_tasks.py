"""BERT under other tasks: retrieval of passages, questions about tables, spans chosen by a question's mask."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.encoder import embeddings, post_norm_layer, self_attention
from memcalc.architectures.heads import labels, masked_lm, pooler, with_head
from memcalc.blocks.base import Block, Sequence, Stray, Sum, Unused, repeat, sequence
from memcalc.blocks.basic import Activation, Dropout, Embedding, Linear, Norm, Raw, Select
from memcalc.blocks.spans import SpanSelection
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.architectures.heads import Heads
    from memcalc.dimensions import Dimensions


@architecture("dpr")
def dpr(c: Dimensions) -> Model:
    """BERT whose first token is the vector of a passage or a question, or a reader of passages (Karpukhin et al. 2020)."""
    name = str((c.get("architectures") or ["DPRQuestionEncoder"])[0]).removeprefix("DPR")
    outer = {"Reader": "span_predictor.encoder", "ContextEncoder": "ctx_encoder"}.get(name, "question_encoder")
    layer = post_norm_layer(c, self_attention(c, padded=True))
    layers = Sequence("encoder", (repeat("layer", c.num_hidden_layers, layer),))
    bert = sequence(embeddings(c), layers, name=f"{outer}.bert_model")
    width = c.projection_dim or c.hidden_size
    project = Linear(f"{outer}.encode_proj", c.hidden_size, width, bias=True) if c.projection_dim else None
    vector = sequence(Select(""), project)
    if name == "Reader":
        spans, relevant = (
            Linear(f"span_predictor.qa_{n}", width, s, bias=True) for n, s in (("outputs", 2), ("classifier", 1))
        )
        return Model(
            sequence(bert, Stray("", (vector, relevant)), spans), kind="classifier", context=c.max_position_embeddings
        )
    return Model(sequence(bert, vector), kind="classifier", context=c.max_position_embeddings, loss_fp32=False)


@architecture("tapas")
def tapas(c: Dimensions) -> Model:
    """BERT with seven token types: segments, columns, rows, ranks … of a table's cells (Herzig et al. 2020)."""
    whole = embeddings(c, positions="positions")
    (words, _, places), rest = whole.blocks[0].parts(), whole.blocks[1:]
    types = (
        Embedding(f"token_type_embeddings_{index}", rows, c.hidden_size, index="types")
        for index, rows in enumerate(c.type_vocab_sizes)
    )
    before = replace(whole, blocks=(Sum("", (words, places, *types)), *rest))
    mixer = self_attention(c, eager_only=True, padded=True, formula="luke")
    layers = Sequence("encoder", (repeat("layer", c.num_hidden_layers, post_norm_layer(c, mixer)),))
    return with_head(c, "tapas", sequence(before, layers), _tapas_heads(c), (pooler(c, "pooler"),))


def _tapas_heads(c: Dimensions) -> Heads:
    """Questions are answered by weights of tokens and columns; how numbers are aggregated is classified besides."""
    hidden, drop, pooled = c.hidden_size, Dropout("", float(c.hidden_dropout_prob)), pooler(c, "tapas.pooler")
    lm = masked_lm(
        c, "cls.predictions", "transform.dense", "transform.LayerNorm", "tapas.embeddings.word_embeddings.weight",
        activation=c.hidden_act,
    )  # fmt: skip
    kinds = c.get("num_aggregation_labels", 0)
    answers = (
        Raw("output_weights", (hidden,)), Raw("output_bias", ()), Raw("column_output_weights", (hidden,)),
        Raw("column_output_bias", ()),
    )  # fmt: skip
    aggregate = (
        (pooled, Linear("aggregation_classifier", hidden, kinds, bias=True)) if kinds else (Unused("", (pooled,)),)
    )
    return {
        "ForMaskedLM": (lm,),
        "ForSequenceClassification": (pooled, drop, Linear("classifier", hidden, labels(c), bias=True)),
        "ForQuestionAnswering": (*answers, *aggregate),
    }


@architecture("splinter")
def splinter(c: Dimensions) -> Model:
    """BERT whose head compares the mask of a question with every token (Ram et al. 2021)."""
    layer = post_norm_layer(c, self_attention(c, softmax="fp32"))
    layers = Sequence("encoder", (repeat("layer", c.num_hidden_layers, layer),))
    hidden = c.hidden_size

    def transform(name: str) -> Block:
        dense, norm = Linear("dense", hidden, hidden, bias=True), Norm("LayerNorm", hidden, "layer")
        return sequence(dense, Activation("", "gelu"), norm, name=name)

    names = ("query_start_transform", "query_end_transform", "start_transform", "end_transform")
    ends = tuple(Linear(f"{name}_classifier", hidden, hidden) for name in ("start", "end"))
    spans = SpanSelection("splinter_qass", tuple(transform(name) for name in names), ends)
    heads: Heads = {"ForQuestionAnswering": (spans,), "ForPreTraining": (spans,)}
    return with_head(c, "splinter", sequence(embeddings(c), layers), heads)
