"""ConvBERT: ELECTRA whose attention is half convolution (Jiang et al. 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.electra import sequence_summary
from memcalc.architectures.encoder import embeddings, post_norm
from memcalc.architectures.heads import channels, classification_head, classifier_dropout, labels, with_head
from memcalc.blocks.base import Param, Sequence, repeat, sequence
from memcalc.blocks.basic import Activation, Conv, Linear, Norm
from memcalc.blocks.convbert import GroupedLinear, SpanAttention
from memcalc.blocks.mlp import Mlp

if TYPE_CHECKING:
    from memcalc.architectures.heads import Heads
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("convbert")
def convbert(c: Dimensions) -> Model:
    """Post-norm layers over embeddings of `embedding_size`."""
    narrow, hidden = c.embedding_size, c.hidden_size
    project = Linear("embeddings_project", narrow, hidden, bias=True) if narrow != hidden else None
    layer = sequence(
        post_norm(c, _attention(c), "attention.output.LayerNorm"), post_norm(c, _feed_forward(c), "output.LayerNorm"),
    )  # fmt: skip
    layers = Sequence("encoder", (repeat("layer", c.num_hidden_layers, layer),))
    return with_head(c, "convbert", sequence(embeddings(c, narrow), project, layers), _heads(c))


def _attention(c: Dimensions) -> SpanAttention:
    hidden, size = c.hidden_size, c.conv_kernel_size
    heads = max(c.num_attention_heads // c.head_ratio, 1)
    head = channels(hidden, heads) // 2
    width, inner = heads * head, "self.key_conv_attn_layer"
    return SpanAttention(
        "attention", heads, heads, head,
        q=Linear("self.query", hidden, width, bias=True), k=Linear("self.key", hidden, width, bias=True),
        v=Linear("self.value", hidden, width, bias=True), out=Linear("output.dense", hidden, hidden, bias=True),
        depthwise=Conv(f"{inner}.depthwise", hidden, hidden, (size,), conv_groups=hidden, bias=False, padding=size // 2),
        pointwise=Conv(f"{inner}.pointwise", hidden, width, (1,), bias=False),
        kernels=Linear("self.conv_kernel_layer", width, heads * size, bias=True),
        spans=Linear("self.conv_out_layer", hidden, width, bias=True),
        extra=(Param(f"{inner}.bias", (width, 1)),), size=size, causal=False, softmax="scores", eager_only=True,
        padded=True, dropout=float(c.attention_probs_dropout_prob), formula="convbert",
    )  # fmt: skip


def _feed_forward(c: Dimensions) -> Mlp:
    def dense(name: str, inputs: int, outputs: int) -> Linear:
        if c.num_groups == 1:
            return Linear(name, inputs, outputs, bias=True)
        return GroupedLinear(name, inputs, outputs, bias=True, groups_of=c.num_groups)

    up, down = (
        dense("intermediate.dense", c.hidden_size, c.intermediate_size),
        dense("output.dense", c.intermediate_size, c.hidden_size),
    )
    return Mlp("", up, down, activation=c.hidden_act, width=c.intermediate_size, inline=True)


def _heads(c: Dimensions) -> Heads:
    hidden, narrow, drop = c.hidden_size, c.embedding_size, classifier_dropout(c)
    tied = "convbert.embeddings.word_embeddings.weight" if c.tie_word_embeddings else ""
    generator = sequence(
        Linear("dense", hidden, narrow, bias=True), Activation("", "gelu"), Norm("LayerNorm", narrow, "layer"),
        name="generator_predictions",
    )  # fmt: skip
    return {
        "ForMaskedLM": (generator, Linear("generator_lm_head", narrow, c.vocab_size, bias=True, tied_to=tied)),
        "ForSequenceClassification": (classification_head(c, drop, c.hidden_act),),
        "ForMultipleChoice": (*sequence_summary(c), Linear("classifier", hidden, 1, bias=True)),
        "ForTokenClassification": (drop, Linear("classifier", hidden, labels(c), bias=True)),
        "ForQuestionAnswering": (Linear("qa_outputs", hidden, labels(c), bias=True),),
    }
