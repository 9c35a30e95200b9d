"""The heads of speech encoders: CTC, classification of clips and frames, speaker vectors, pre-training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures.heads import labels, task
from memcalc.blocks.base import Block, Sequence, Stack, sequence
from memcalc.blocks.basic import Activation, Conv, Dropout, Linear, Norm, Raw, Select
from memcalc.blocks.seq2seq import Aside, Fork
from memcalc.blocks.speech import ChannelsFirst, LayerSum, Quantizer, Statistics, TimeDelay

if TYPE_CHECKING:
    from memcalc.architectures.heads import Heads
    from memcalc.dimensions import Dimensions


# classes that have the model return all its hidden states (filter_output_hidden_states, backbone_utils.py)
CAPTURING = frozenset({"ForSequenceClassification", "ForAudioFrameClassification", "ForXVector"})


def speech_heads(c: Dimensions) -> Heads:
    """What each class adds; not all have one for speaker vectors, and only wav2vec 2.0 is pre-trained here."""
    hidden, sums, out = c.hidden_size, _layer_weights(c), labels(c)
    width, drop = c.classifier_proj_size, Dropout("", float(c.final_dropout))
    project = Linear("projector", hidden, width, bias=True)
    heads = {
        "ForSequenceClassification": (*sums, project, Select("", "mean"), Linear("classifier", width, out, bias=True)),
        "ForAudioFrameClassification": (*sums, Linear("classifier", hidden, out, bias=True)),
    }
    if c.get("vocab_size"):
        heads["ForCTC"] = (drop, Linear("lm_head", ctc_width(c), c.vocab_size, bias=True))
    if c.traits.x_vectors:
        heads["ForXVector"] = (*sums, *_x_vector(c))
    if c.traits.contrastive:
        heads["ForPreTraining"] = _pre_training(c)
    return heads


def ctc_width(c: Dimensions) -> int:
    """The width of what a head reads: the adapter's, where there is one."""
    return int(c.get("output_hidden_size") or c.hidden_size) if c.get("add_adapter") else int(c.hidden_size)


def behind(c: Dimensions, *blocks: Block | None) -> Block | None:
    """What is behind the layers: nothing reads it where the head sums the layers' own states."""
    there = tuple(block for block in blocks if block)
    aside = c.use_weighted_layer_sum and task(c) in CAPTURING
    return (Aside if aside else Sequence)("", there) if there else None


def _layer_weights(c: Dimensions) -> tuple[Block, ...]:
    """One weight per hidden state, where classifiers read a weighted sum of all of them."""
    return (LayerSum("layer_weights", (c.num_hidden_layers + 1,)),) if c.use_weighted_layer_sum else ()


def _x_vector(c: Dimensions) -> tuple[Block, ...]:
    """Time-delay layers, statistics, two linear layers; the loss has a matrix of its own (AMSoftmaxLoss)."""
    widths = c.tdnn_dim
    layers: list[Block] = [
        sequence(
            TimeDelay("", Linear("kernel", before * size, after, bias=True), size, dilation), Activation("", "relu")
        )
        for before, after, size, dilation in zip(
            (widths[0], *widths), widths, c.tdnn_kernel, c.tdnn_dilation, strict=False
        )
    ]
    out, tdnn = c.xvector_output_dim, Stack("tdnn", tuple(layers), recompute="never", resizing=True)
    return (
        Linear("projector", c.hidden_size, widths[0], bias=True), tdnn, Statistics(""),
        Linear("feature_extractor", 2 * widths[-1], out, bias=True), Linear("classifier", out, out, bias=True),
        Raw("objective.weight", (out, labels(c))),
    )  # fmt: skip


def _pre_training(c: Dimensions) -> tuple[Block, ...]:
    """Predict the quantised features of masked frames among those of others (wav2vec 2.0)."""
    groups, entries, width = c.num_codevector_groups, c.num_codevectors_per_group, c.codevector_dim
    quantizer = Quantizer(
        "quantizer", groups, entries, width, Linear("weight_proj", c.conv_dim[-1], groups * entries, bias=True)
    )
    predict = Linear("project_hid", c.hidden_size, c.proj_codevector_dim, bias=True)
    return (Fork("", (predict, sequence(quantizer, Linear("project_q", width, c.proj_codevector_dim, bias=True)))),)


def adapter(c: Dimensions) -> Block | None:
    """Strided convolutions behind the encoder that shorten the sequence (Wav2Vec2Adapter)."""
    if not c.get("add_adapter"):
        return None
    width = ctc_width(c)
    narrow = (Linear("proj", c.hidden_size, width, bias=True), Norm("proj_layer_norm", width, "layer"))
    conv = Conv("conv", width, 2 * width, (c.adapter_kernel_size,), c.adapter_stride, padding=1)
    one = sequence(conv, Activation("", "glu"))
    layers = Stack("layers", (one,) * c.num_adapter_layers, recompute="never", resizing=True)
    return sequence(*(narrow if width != c.hidden_size else ()), ChannelsFirst("", (layers,)), name="adapter")
