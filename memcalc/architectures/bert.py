"""BERT, RoBERTa and their multilingual kin: bidirectional post-norm encoders with learned positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.encoder import (
    dropout,
    embeddings,
    feed_forward,
    norm,
    post_norm_layer,
    self_attention,
)
from memcalc.architectures.heads import (
    classification_head,
    classifier_dropout,
    labels,
    masked_lm,
    pooler,
    task,
    with_head,
)
from memcalc.blocks.base import Block, Sequence, Sum, repeat, residual, sequence
from memcalc.blocks.basic import Embedding, Linear, Raw
from memcalc.blocks.seq2seq import Fork

if TYPE_CHECKING:
    from memcalc.architectures.heads import Heads
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("bert")
def bert(c: Dimensions) -> Model:
    """Post-norm encoder with learned positions and token types (Devlin et al. 2018)."""
    layers = Sequence("encoder", (repeat("layer", c.num_hidden_layers, post_norm_layer(c)),))
    base = sequence(embeddings(c), layers)
    return with_head(c, "bert", base, bert_heads(c, "bert"), (pooler(c, "pooler"),))


def bert_heads(c: Dimensions, prefix: str) -> Heads:
    """The heads of BERT's classes; those that read the first token go through the pooler."""
    table = f"{prefix}.embeddings.word_embeddings.weight"
    lm = masked_lm(c, "cls.predictions", "transform.dense", "transform.LayerNorm", table, activation=c.hidden_act)
    pooled, drop = pooler(c, f"{prefix}.pooler"), classifier_dropout(c)
    next_sentence = sequence(pooled, Linear("cls.seq_relationship", c.hidden_size, 2, bias=True))
    return {
        "ForMaskedLM": (lm,),
        "LMHeadModel": (lm,),
        "ForCausalLM": (lm,),
        "ForPreTraining": (Fork("", (lm, next_sentence)),),
        "ForNextSentencePrediction": (next_sentence,),
        "ForSequenceClassification": (pooled, drop, Linear("classifier", c.hidden_size, labels(c), bias=True)),
        "ForMultipleChoice": (pooled, drop, Linear("classifier", c.hidden_size, 1, bias=True)),
        "ForTokenClassification": (drop, Linear("classifier", c.hidden_size, labels(c), bias=True)),
        "ForQuestionAnswering": (Linear("qa_outputs", c.hidden_size, labels(c), bias=True),),
    }


@architecture("bert-generation")
def bert_generation(c: Dimensions) -> Model:
    """BERT without token types or a pooler; its decoder's head is a linear layer alone (Rothe et al. 2020)."""
    words = Embedding("word_embeddings", c.vocab_size, c.hidden_size)
    places = Embedding("position_embeddings", c.max_position_embeddings, c.hidden_size, index="positions")
    embedded = sequence(Sum("", (words, places)), norm(c, "LayerNorm"), dropout(c), name="embeddings")
    layers = Sequence("encoder", (repeat("layer", c.num_hidden_layers, post_norm_layer(c)),))
    tie = bool(c.tie_word_embeddings)
    head = Linear(
        "decoder", c.hidden_size, c.vocab_size, bias=True,
        tied_to="bert.embeddings.word_embeddings.weight" if tie else "", bias_tied_to="lm_head.bias" if tie else "",
    )  # fmt: skip
    decodes = str((c.get("architectures") or [""])[0]).endswith("Decoder")
    named = c.but(architectures=["BertGenerationForCausalLM" if decodes else "BertGenerationModel"])
    lm = sequence(Raw("bias", (c.vocab_size,)), head, name="lm_head")
    return with_head(named, "bert", sequence(embedded, layers), {"ForCausalLM": (lm,)})


@architecture("roberta", "xlm-roberta", "camembert")
def roberta(c: Dimensions) -> Model:
    """BERT whose positions are counted from the padding index, with a head of its own (Liu et al. 2019).

    XLM-RoBERTa's and CamemBERT's classes register the head first, so it is the owner of the tied table.
    """
    owner = c.traits.head_owns_table
    tied = (
        "lm_head.decoder.weight"
        if owner and c.tie_word_embeddings and task(c) in {"ForMaskedLM", "ForCausalLM"}
        else ""
    )
    layers = Sequence("encoder", (repeat("layer", c.num_hidden_layers, post_norm_layer(c)),))
    base = sequence(embeddings(c, positions="token-positions", tied_to=tied), layers)
    return roberta_model(c, base, owner=owner)


@architecture("xlm-roberta-xl")
def xlm_roberta_xl(c: Dimensions) -> Model:
    """RoBERTa with pre-norm layers and a final norm (Goyal et al. 2021)."""
    layer = sequence(
        _pre_norm(c, "attention"),
        _pre_norm(c, "crossattention"),
        residual(norm(c, "LayerNorm"), feed_forward(c), within=True),
    )
    layers = Sequence("encoder", (repeat("layer", c.num_hidden_layers, layer), norm(c, "LayerNorm")))
    return roberta_model(c, sequence(embeddings(c, positions="token-positions", norm=False), layers))


def _pre_norm(c: Dimensions, name: str) -> Block | None:
    cross = name == "crossattention"
    if cross and not (c.is_decoder and c.add_cross_attention):
        return None
    before = norm(c, f"{name}.self_attn_layer_norm")
    return residual(before, self_attention(c, name, cross=cross), dropout(c), named=(0,), within=True)


def roberta_model(c: Dimensions, base: Sequence, prefix: str = "roberta", *, owner: bool = False) -> Model:
    """The base under RoBERTa's heads; positions begin after the padding index."""
    drop, hidden = classifier_dropout(c), c.hidden_size
    lm = masked_lm(c, "lm_head", "dense", "layer_norm", f"{prefix}.embeddings.word_embeddings.weight", owner=owner)
    heads: Heads = {
        "ForMaskedLM": (lm,),
        "ForCausalLM": (lm,),
        "ForSequenceClassification": (classification_head(c, drop),),
        "ForMultipleChoice": (pooler(c, f"{prefix}.pooler"), dropout(c), Linear("classifier", hidden, 1, bias=True)),
        "ForTokenClassification": (drop, Linear("classifier", hidden, labels(c), bias=True)),
        "ForQuestionAnswering": (Linear("qa_outputs", hidden, labels(c), bias=True),),
    }
    longest = c.max_position_embeddings - c.pad_token_id - 1
    return with_head(c, prefix, base, heads, (pooler(c, "pooler"),), context=longest)
