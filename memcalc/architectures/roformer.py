"""RoFormer and MPNet: BERT with rotary positions, BERT with T5's relative biases."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.electra import sequence_summary
from memcalc.architectures.encoder import (
    dropout,
    embeddings,
    feed_forward,
    norm,
    post_norm,
    post_norm_layer,
    self_attention,
)
from memcalc.architectures.heads import channels, classification_head, labels, masked_lm, pooler, with_head
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Sequence, Sum, repeat, sequence
from memcalc.blocks.basic import Embedding, Linear
from memcalc.blocks.disentangled import RelativeTable

if TYPE_CHECKING:
    from memcalc.architectures.heads import Heads
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("roformer")
def roformer(c: Dimensions) -> Model:
    """BERT whose positions are rotations of queries and keys, by a fixed table (Su et al. 2021)."""
    width, hidden = c.get("embedding_size", c.hidden_size), c.hidden_size
    head = hidden // c.num_attention_heads
    project = Linear("embeddings_project", width, hidden, bias=True) if width != hidden else None
    table = RelativeTable(
        "", (Embedding("embed_positions", c.max_position_embeddings, head, trainable=False),), "rotation"
    )
    layer = post_norm_layer(c, replace(self_attention(c), rotary_dim=head, rotation="own", formula="roformer"))
    base = sequence(
        embeddings(c, width, positions=""),
        project,
        sequence(table, repeat("layer", c.num_hidden_layers, layer), name="encoder"),
    )
    names = ("cls.predictions", "transform.dense", "transform.LayerNorm", "roformer.embeddings.word_embeddings.weight")
    lm, classifier = (
        masked_lm(c, *names, width=width, activation=c.hidden_act),
        Linear("classifier", hidden, 1, bias=True),
    )
    heads: Heads = {
        "ForMaskedLM": (lm,),
        "ForCausalLM": (lm,),
        "ForSequenceClassification": (classification_head(c, dropout(c), c.hidden_act),),
        "ForMultipleChoice": (*sequence_summary(c), classifier),
        "ForTokenClassification": (dropout(c), replace(classifier, outputs=labels(c))),
        "ForQuestionAnswering": (Linear("qa_outputs", hidden, 2, bias=True),),
    }
    return with_head(c, "roformer", base, heads)


@architecture("mpnet")
def mpnet(c: Dimensions) -> Model:
    """BERT without token types, with relative biases that all layers share (Song et al. 2020)."""
    hidden = c.hidden_size
    words = Embedding("word_embeddings", c.vocab_size, hidden)
    places = Embedding("position_embeddings", c.max_position_embeddings, hidden, index="token-positions")
    before = Sequence("embeddings", (Sum("", (words, places)), norm(c, "LayerNorm"), dropout(c)))
    biases = Embedding(
        "relative_attention_bias", c.relative_attention_num_buckets, c.num_attention_heads, index="distances"
    )
    layer = sequence(
        post_norm(c, _mpnet_attention(c), "attention.LayerNorm"), post_norm(c, feed_forward(c), "output.LayerNorm")
    )
    layers = repeat("layer", c.num_hidden_layers, layer)
    base = sequence(before, Sequence("encoder", (RelativeTable("", (biases,), "bias"), layers)))
    classifier = Linear("classifier", hidden, 1, bias=True)
    heads: Heads = {
        "ForMaskedLM": (masked_lm(c, "lm_head", "dense", "layer_norm", "mpnet.embeddings.word_embeddings.weight"),),
        "ForSequenceClassification": (classification_head(c, dropout(c)),),
        "ForMultipleChoice": (pooler(c, "mpnet.pooler"), dropout(c), classifier),
        "ForTokenClassification": (dropout(c), replace(classifier, outputs=labels(c))),
        "ForQuestionAnswering": (Linear("qa_outputs", hidden, labels(c), bias=True),),
    }
    return with_head(c, "mpnet", base, heads, (pooler(c, "pooler"),), context=c.max_position_embeddings - 2)


def _mpnet_attention(c: Dimensions) -> Attention:
    hidden, heads = c.hidden_size, c.num_attention_heads
    q, k, v, out = (Linear(name, hidden, hidden, bias=True) for name in ("q", "k", "v", "o"))
    return Attention(
        "attention.attn", heads, heads, channels(hidden, heads), q, k, v, out=out, causal=False,
        dropout=float(c.attention_probs_dropout_prob), scores_bias=True, softmax="scores", eager_only=True, formula="mpnet",
    )  # fmt: skip
