"""Nyströmformer: BERT whose attention a convolution of the values is added to (Xiong et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.encoder import dropout, embeddings, post_norm_layer, self_attention
from memcalc.architectures.heads import classification_head, labels, masked_lm, with_head
from memcalc.blocks.base import Sequence, repeat, sequence
from memcalc.blocks.basic import Activation, Conv, Linear, Select
from memcalc.blocks.landmarks import SkippedAttention
from memcalc.errors import fault

if TYPE_CHECKING:
    from memcalc.architectures.heads import Heads
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("nystromformer")
def nystromformer(c: Dimensions) -> Model:
    """Two rows of positions that nobody reads come first; without a pooler.

    With fewer landmarks than a segment has tokens, the mask that the library's model makes does not fit its scores.
    """
    if c.num_landmarks != c.segment_means_seq_len:
        raise fault(
            "model.num_landmarks", "transformers' own mask fits only as many landmarks as segment_means_seq_len"
        )
    layers = Sequence("encoder", (repeat("layer", c.num_hidden_layers, post_norm_layer(c, _attention(c))),))
    before = embeddings(c.but(max_position_embeddings=c.max_position_embeddings + 2))
    return with_head(c, "nystromformer", sequence(before, layers), _heads(c))


def _attention(c: Dimensions) -> SkippedAttention:
    plain, size = self_attention(c, padded=True), c.get("conv_kernel_size")
    heads = plain.heads
    skip = (
        Conv("self.conv", heads, heads, (size, 1), conv_groups=heads, bias=False, padding=(size // 2, 0))
        if size
        else None
    )
    return SkippedAttention(
        plain.name, heads, heads, plain.head_dim, plain.q, plain.k, plain.v, out=plain.out, causal=False, eager_only=True,
        padded=True, softmax="scores", formula="nystromformer", skip=skip,
    )  # fmt: skip


def _heads(c: Dimensions) -> Heads:
    hidden, drop, table = c.hidden_size, dropout(c), "nystromformer.embeddings.word_embeddings.weight"
    act = c.hidden_act
    lm = masked_lm(c, "cls.predictions", "transform.dense", "transform.LayerNorm", table, activation=act)
    dense, relu = Linear("pre_classifier", hidden, hidden, bias=True), Activation("", "relu")
    return {
        "ForMaskedLM": (lm,),
        "ForSequenceClassification": (classification_head(c, drop, act),),
        "ForMultipleChoice": (Select(""), dense, relu, Linear("classifier", hidden, 1, bias=True)),
        "ForTokenClassification": (drop, Linear("classifier", hidden, labels(c), bias=True)),
        "ForQuestionAnswering": (Linear("qa_outputs", hidden, 2, bias=True),),  # config.num_labels = 2
    }
