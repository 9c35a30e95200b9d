"""Encoders that are BERT or RoBERTa but for a detail: ERNIE, Megatron-BERT, RoBERTa-PreLayerNorm, data2vec, RemBERT."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.bert import bert_heads, roberta_model
from memcalc.architectures.encoder import (
    dropout,
    embeddings,
    feed_forward,
    norm,
    post_norm,
    post_norm_layer,
    self_attention,
)
from memcalc.architectures.heads import classifier_dropout, labels, pooler, with_head
from memcalc.blocks.base import Block, PostNorm, Sequence, Sum, Unused, repeat, residual, sequence
from memcalc.blocks.basic import Activation, Dropout, Embedding, Linear, Norm, Raw
from memcalc.blocks.layout import Placed
from memcalc.blocks.relative import Fourier
from memcalc.blocks.seq2seq import Surrounded

if TYPE_CHECKING:
    from memcalc.architectures.heads import Heads
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("ernie")
def ernie(c: Dimensions) -> Model:
    """BERT, with an embedding of the task where the config asks for it (Sun et al. 2019)."""
    before = embeddings(c)
    if c.use_task_id:
        task = Embedding("task_type_embeddings", c.task_type_vocab_size, c.hidden_size, index="types")
        summed, *rest = before.blocks
        before = replace(before, blocks=(Sum("", (*summed.parts(), task)), *rest))
    layers = Sequence("encoder", (repeat("layer", c.num_hidden_layers, post_norm_layer(c)),))
    return with_head(c, "ernie", sequence(before, layers), bert_heads(c, "ernie"), (pooler(c, "pooler"),))


def _pre_norm_layer(c: Dimensions, inside: str, before_feed: str) -> Sequence:
    """Self-attention, cross-attention where the config adds it, and feed-forward, each after a norm."""
    names = ("attention", "crossattention") if c.is_decoder and c.add_cross_attention else ("attention",)
    mixers: list[Block] = [
        residual(
            norm(c, f"{name}.{inside}"),
            self_attention(c, name, cross=name != "attention"),
            dropout(c),
            named=(0,),
            within=True,
        )
        for name in names
    ]
    inside_it = before_feed.startswith("intermediate")  # which goes on under the norm's name for its input
    feed = replace(feed_forward(c), stepwise=inside_it)
    named = () if inside_it else (0,)
    return sequence(*mixers, residual(norm(c, before_feed), feed, dropout(c), named=named, within=True))


@architecture("megatron-bert")
def megatron_bert(c: Dimensions) -> Model:
    """BERT with norms before each block and behind the last (Shoeybi et al. 2019)."""
    layers = repeat("layer", c.num_hidden_layers, _pre_norm_layer(c, "ln", "ln"))
    base = sequence(embeddings(c, norm=False), Sequence("encoder", (layers, norm(c, "ln"))))
    return with_head(c, "bert", base, bert_heads(c, "bert"), (pooler(c, "pooler"),))


@architecture("roberta-prelayernorm")
def roberta_prelayernorm(c: Dimensions) -> Model:
    """RoBERTa with norms before each block and behind the last (Ott et al. 2019, fairseq's --encoder-normalize-before)."""
    layers = repeat("layer", c.num_hidden_layers, _pre_norm_layer(c, "LayerNorm", "intermediate.LayerNorm"))
    base = sequence(embeddings(c, positions="token-positions"), Sequence("encoder", (layers,)), norm(c, "LayerNorm"))
    return roberta_model(c, base, "roberta_prelayernorm")


@architecture("data2vec-text")
def data2vec_text(c: Dimensions) -> Model:
    """RoBERTa under another name (Baevski et al. 2022)."""
    layers = Sequence("encoder", (repeat("layer", c.num_hidden_layers, post_norm_layer(c)),))
    return roberta_model(c, sequence(embeddings(c, positions="token-positions"), layers), "data2vec_text")


@architecture("rembert")
def rembert(c: Dimensions) -> Model:
    """BERT with a narrow embedding in and a wide one out, which are never tied (Chung et al. 2020)."""
    narrow, wide, hidden = c.input_embedding_size, c.output_embedding_size, c.hidden_size
    project = Linear("embedding_hidden_mapping_in", narrow, hidden, bias=True)
    encoder = Surrounded("encoder", (project, repeat("layer", c.num_hidden_layers, post_norm_layer(c))))
    lm = sequence(
        Linear("dense", hidden, wide, bias=True), Activation("", c.hidden_act), Norm("LayerNorm", wide, "layer"),
        Linear("decoder", wide, c.vocab_size, bias=True), name="cls.predictions",
    )  # fmt: skip
    drop, pooled = Dropout("", float(c.classifier_dropout_prob)), pooler(c, "rembert.pooler")
    classifier = Linear("classifier", hidden, labels(c), bias=True)
    heads: Heads = {
        "ForMaskedLM": (lm,),
        "ForCausalLM": (lm,),
        "ForSequenceClassification": (pooled, drop, classifier),
        "ForMultipleChoice": (pooled, drop, replace(classifier, outputs=1)),
        "ForTokenClassification": (drop, classifier),
        "ForQuestionAnswering": (Linear("qa_outputs", hidden, labels(c), bias=True),),
    }
    return with_head(c, "rembert", sequence(embeddings(c, narrow), encoder), heads, (pooler(c, "pooler"),))


@architecture("layoutlm")
def layoutlm(c: Dimensions) -> Model:
    """BERT that also sums embeddings of each word's box on the page: two corners, height and width (Xu et al. 2019)."""
    width, places = c.hidden_size, embeddings(c)
    box = {axis: Embedding(f"{axis}_position_embeddings", c.max_2d_position_embeddings, width) for axis in "xyhw"}
    summed, *rest = places.blocks
    before = replace(places, blocks=(Placed("", summed.parts(), tuple(box.values())), *rest))
    mixer = self_attention(c, softmax="fp32", padded="rows")
    layers = Sequence("encoder", (repeat("layer", c.num_hidden_layers, post_norm_layer(c, mixer)),))
    return with_head(c, "layoutlm", sequence(before, layers), _unpooled_heads(c, "layoutlm"), (pooler(c, "pooler"),))


@architecture("luke")
def luke(c: Dimensions) -> Model:
    """RoBERTa with embeddings of entities and queries between words and them, idle where no entities are given (Yamada 2020)."""
    hidden, rows = c.hidden_size, c.entity_vocab_size
    aware = tuple(
        Linear(f"attention.self.{name}_query", hidden, hidden, bias=True) for name in ("w2e", "e2w", "e2e")
    )  # fmt: skip
    mixer = self_attention(c, eager_only=True, padded=True, formula="luke")
    layer = (post_norm_layer(c, mixer), Unused("", aware) if c.use_entity_aware_attention else None)
    entities = Sequence("entity_embeddings", (
        Embedding("entity_embeddings", rows, c.entity_emb_size),
        *(() if c.entity_emb_size == hidden else (Linear("entity_embedding_dense", c.entity_emb_size, hidden),)),
        Embedding("position_embeddings", c.max_position_embeddings, hidden, index="types"),
        Embedding("token_type_embeddings", c.type_vocab_size, hidden, index="types"), norm(c, "LayerNorm"),
    ))  # fmt: skip
    base = sequence(
        embeddings(c, positions="token-positions"), Unused("", (entities,)),
        Sequence("encoder", (repeat("layer", c.num_hidden_layers, *layer),)),
    )  # fmt: skip
    return with_head(c, "luke", base, _luke_heads(c), (pooler(c, "pooler"),))


def _luke_heads(c: Dimensions) -> Heads:
    """Heads of words; that of masked entities stands idle."""
    hidden, drop, pooled = c.hidden_size, classifier_dropout(c), pooler(c, "luke.pooler")
    lm = sequence(
        Linear("dense", hidden, hidden, bias=True), Activation("", "gelu"), Norm("layer_norm", hidden, "layer"),
        Raw("bias", (c.vocab_size,)), Linear("decoder", hidden, c.vocab_size, bias=True, bias_tied_to="lm_head.bias"),
        name="lm_head",
    )  # fmt: skip
    transform = sequence(
        Linear("transform.dense", hidden, c.entity_emb_size, bias=True),
        Norm("transform.LayerNorm", c.entity_emb_size, "layer"), Raw("bias", (c.entity_vocab_size,)),
        name="entity_predictions",
    )  # fmt: skip
    classifier = Linear("classifier", hidden, labels(c), bias=True)
    return {
        "ForMaskedLM": (Unused("", (pooled, transform)), lm),
        "ForSequenceClassification": (pooled, drop, classifier),
        "ForMultipleChoice": (pooled, drop, replace(classifier, outputs=1)),
        "ForTokenClassification": (drop, classifier),
        "ForQuestionAnswering": (Linear("qa_outputs", hidden, labels(c), bias=True),),
    }


@architecture("fnet")
def fnet(c: Dimensions) -> Model:
    """BERT whose attention is a Fourier transform over tokens and channels (Lee-Thorp et al. 2021)."""
    summed, after, drop = embeddings(c).blocks
    project = Linear("projection", c.hidden_size, c.hidden_size, bias=True)
    layer = sequence(
        PostNorm("", (Fourier(""),), norm(c, "fourier.output.LayerNorm")),
        post_norm(c, feed_forward(c), "output.LayerNorm"),
    )  # fmt: skip
    before = Sequence("embeddings", (summed, after, project, drop))
    layers = Sequence("encoder", (repeat("layer", c.num_hidden_layers, layer),))
    return with_head(c, "fnet", sequence(before, layers), _unpooled_heads(c, "fnet"), (pooler(c, "pooler"),))


def _unpooled_heads(c: Dimensions, prefix: str) -> Heads:
    """BERT's heads over a base model that always has its pooler, of use or not."""
    pooled = pooler(c, f"{prefix}.pooler")
    idle = Unused("", (pooled,))
    drop, classifier = dropout(c), Linear("classifier", c.hidden_size, labels(c), bias=True)
    heads = bert_heads(c, prefix)
    used = ("ForPreTraining", "ForNextSentencePrediction")
    return {
        **{name: blocks if name in used else (idle, *blocks) for name, blocks in heads.items()},
        "ForSequenceClassification": (pooled, drop, classifier),
        "ForMultipleChoice": (pooled, drop, replace(classifier, outputs=1)),
        "ForTokenClassification": (idle, drop, classifier),
    }
