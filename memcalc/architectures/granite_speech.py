"""Granite Speech: conformer layers over mel frames, learned queries that read windows of them, before Granite (IBM 2025)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import layer_norm
from memcalc.architectures.heads import channels
from memcalc.architectures.multimodal import image_text, tower
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Sequence, repeat, residual, sequence
from memcalc.blocks.basic import Activation, Conv, Dropout, Embedding, Linear, Norm, Raw, Scale
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.multimodal import Sounds
from memcalc.blocks.querying import ShiftedLogits
from memcalc.blocks.speech import ConformerConvolution, HeardSoFar
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.dimensions import Dimensions


@architecture("granite_speech")
def granite_speech(c: Dimensions) -> Model:
    """Every `window_size` frames become `window_size / downsample_rate` tokens of the text."""
    e, q = c.encoder_config, c.projector_config
    queries = Raw("query", (1, c.window_size // c.downsample_rate, q.hidden_size))
    former = tower(q.but(queries=c.window_size // c.downsample_rate), "qformer")
    project = Linear("linear", q.hidden_size, c.text_config.hidden_size, bias=True)
    projector = sequence(queries, former, project, name="projector")
    sounds = Sounds("", (tower(e, "encoder"), projector))
    text, tie = tower(c.text_config, "language_model"), bool(c.tie_word_embeddings)
    return image_text(c, sounds, text, tie=tie, logits=ShiftedLogits(""), loss_fp32=False)


@architecture("granite_speech_encoder")
def granite_speech_encoder(c: Dimensions) -> Model:
    """Conformer layers; behind half of them the letters heard so far, `out`, are added to the stream through `out_mid`."""
    start = Linear("input_linear", c.input_dim, c.hidden_dim, bias=True)
    letters, back = (
        Linear("out", c.hidden_dim, c.output_dim, bias=True),
        Linear("out_mid", c.output_dim, c.hidden_dim, bias=True),
    )
    layers = repeat("layers", c.num_layers, _layer(c))
    return Model(HeardSoFar("", (start, layers, letters, back), frames=c.input_dim), kind="speech", loss_fp32=False)


def _layer(c: Dimensions) -> Sequence:
    """Half a feed-forward, attention, convolution, half a feed-forward, norm (Gulati et al. 2020)."""
    return sequence(
        residual(_feed_forward(c, "ff1"), Scale("")), residual(_attention(c)), residual(_convolution(c)),
        residual(_feed_forward(c, "ff2"), Scale("")), layer_norm("post_norm", c.hidden_dim),
    )  # fmt: skip


def _feed_forward(c: Dimensions, name: str) -> Block:
    hidden, width, drop = c.hidden_dim, c.hidden_dim * c.feedforward_mult, float(c.dropout)
    up, down = Linear("up_proj", hidden, width, bias=True), Linear("down_proj", width, hidden, bias=True)
    feed = Mlp("", up, down, activation="silu", width=width, dropout=drop)
    return sequence(layer_norm("pre_norm", hidden), feed, Dropout("", drop), name=name)


def _attention(c: Dimensions) -> Block:
    """Among `context_size` frames, with embeddings of their distances (Shaw et al. 2018)."""
    hidden, heads = c.hidden_dim, c.num_heads
    head = int(c.get("dim_head") or channels(hidden, heads))
    width = heads * head
    mixer = Attention(
        "", heads, heads, head, Linear("to_q", hidden, width), Linear("to_kv", hidden, 2 * width),
        out=Linear("to_out", width, hidden, bias=True), causal=False, group=c.context_size, scores_bias=True,
        bias_table=Embedding("rel_pos_emb", 2 * c.max_pos_emb + 1, head, index="distances"), formula="granite-speech",
    )  # fmt: skip
    return sequence(layer_norm("pre_norm", hidden), mixer, Dropout("", float(c.dropout)), name="attn")


def _convolution(c: Dimensions) -> Block:
    hidden, size = c.hidden_dim, c.conv_kernel_size
    width = hidden * c.conv_expansion_factor
    blocks = (
        layer_norm("norm", hidden), Conv("up_conv", hidden, 2 * width),
        Conv("depth_conv.conv", width, width, (size,), conv_groups=width, bias=False),
        Norm("batch_norm", width, "batch", "batch"), Activation("", "silu"), Conv("down_conv", width, hidden),
        Dropout("", float(c.dropout)),
    )  # fmt: skip
    return ConformerConvolution("conv", blocks, turned=False, ahead=size - 1)
