"""wav2vec 2.0, HuBERT and WavLM: transformers over strided convolutions of the raw waveform."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcalc.architectures import architecture
from memcalc.architectures.decoder import layer_norm
from memcalc.architectures.heads import channels, task, with_head
from memcalc.architectures.speech_heads import CAPTURING, adapter, behind, speech_heads
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Param, Sequence, Stack, residual, sequence
from memcalc.blocks.basic import Activation, Conv, Dropout, Embedding, Linear, Norm, Raw, ReadLinear
from memcalc.blocks.image import Flatten
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.seq2seq import Surrounded
from memcalc.blocks.speech import (
    ChannelsFirst,
    FeatureProjection,
    GatedBiasAttention,
    LocalPositions,
    OddFrames,
    WeightNormConv,
)

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat", "data2vec-audio")
def wav2vec2(c: Dimensions) -> Model:
    """Seven convolutions, a convolution for positions, post-norm or ("stable") pre-norm layers (Baevski et al. 2020)."""
    masked = c.mask_time_prob > 0 or c.mask_feature_prob > 0
    base = sequence(
        features(c), Flatten(""), projection(c),
        Raw("masked_spec_embed", (c.hidden_size,)) if masked else None,
        _encoder(c), behind(c, adapter(c)) if c.traits.adapter else None,
    )  # fmt: skip
    return with_head(c, str(c.model_type).replace("-", "_"), base, speech_heads(c), kind="speech", context=0)


def features(c: Dimensions) -> Sequence:
    """Convolutions over the waveform; a norm after the first ('group') or after each ('layer')."""
    inputs = (1, *c.conv_dim[:-1])
    shapes = zip(inputs, c.conv_dim, c.conv_kernel, c.conv_stride, strict=True)
    layers: list[Block] = [
        sequence(
            Conv("conv", n, m, (size,), stride, bias=bool(c.conv_bias)), _feature_norm(c, i, m),
            Activation("", c.feat_extract_activation),
        )
        for i, (n, m, size, stride) in enumerate(shapes)
    ]  # fmt: skip
    return Sequence("feature_extractor", (Stack("conv_layers", tuple(layers), resizing=True),))


def _feature_norm(c: Dimensions, index: int, width: int) -> Norm | None:
    if c.get("feat_extract_norm", "layer") == "layer":
        return Norm("layer_norm", width, "layer", "frames")
    return Norm("layer_norm", width, "group", "channel-groups", groups_of=1) if index == 0 else None


def projection(c: Dimensions) -> Sequence:
    """Of the features to the width of the layers."""
    width = c.conv_dim[-1]
    first = layer_norm("layer_norm", width) if c.get("feat_proj_layer_norm", True) else None
    project = Linear("projection", width, c.hidden_size, bias=True)
    blocks = (*((first,) if first else ()), project, Dropout("", float(c.feat_proj_dropout)))
    return FeatureProjection("feature_projection", blocks, yields=c.traits.projected_features)


def _encoder(c: Dimensions) -> Sequence:
    """x + gelu(conv(x)) for positions; the norm stands before the layers, or behind them where they are "stable"."""
    stable, drop = bool(c.get("do_stable_layer_norm")), Dropout("", float(c.hidden_dropout))
    places = LocalPositions("", _position_convs(c))
    first, rest = layer(c, first=True), layer(c)
    layers = Stack("layers", (first, *[rest] * (c.num_hidden_layers - 1)), captured=task(c) in CAPTURING)
    norm = _norm(c, "layer_norm")
    before = sequence(places, None if stable else norm, drop)
    return Surrounded("encoder", (before, layers, norm) if stable else (before, layers))


def _position_convs(c: Dimensions) -> tuple[Block, ...]:
    """One wide convolution, or (data2vec) several narrower ones, each with a norm without parameters."""
    act = Activation("", c.feat_extract_activation)
    if not c.traits.stacked_positions:
        return (position_conv(c), act)
    size, hidden = c.conv_pos_kernel_size, c.hidden_size
    conv = Conv("conv", hidden, hidden, (size,), conv_groups=c.num_conv_pos_embedding_groups, padding=size // 2)
    layer = sequence(conv, OddFrames("", size), Norm("", hidden, "none", "frames"), act)
    convs = Stack("pos_conv_embed.layers", (layer,) * c.num_conv_pos_embeddings, recompute="never", resizing=True)
    return (ChannelsFirst("", (convs,)),)


def position_conv(c: Dimensions) -> Sequence:
    """A wide grouped convolution, its weight normalised, or (some HuBERTs) behind a batch norm."""
    size, hidden = c.num_conv_pos_embeddings, c.hidden_size
    more = {"kernel": (size,), "conv_groups": c.num_conv_pos_embedding_groups, "padding": size // 2}
    if not c.get("conv_pos_batch_norm"):
        return sequence(WeightNormConv("conv", hidden, hidden, **more), name="pos_conv_embed")
    blocks = Norm("batch_norm", hidden, "batch", "batch"), Conv("conv", hidden, hidden, **more), OddFrames("", size)
    return ChannelsFirst("pos_conv_embed", blocks)


def _norm(c: Dimensions, name: str) -> Norm:
    return layer_norm(name, c.hidden_size)


def layer(c: Dimensions, *, first: bool = False) -> Sequence:
    """Attention and feed-forward, before their norms or ("stable") behind them; the first may hold a table of biases."""
    mixer, drop = _attention(c, first=first), Dropout("", float(c.hidden_dropout))
    if c.get("do_stable_layer_norm"):
        return sequence(
            residual(_norm(c, "layer_norm"), mixer, drop),
            residual(_norm(c, "final_layer_norm"), Sequence("", (feed_forward(c, "feed_forward"), drop))),
            _small_adapter(c),
        )  # fmt: skip
    return sequence(
        residual(mixer, drop), _norm(c, "layer_norm"),
        residual(feed_forward(c, "feed_forward"), drop), _norm(c, "final_layer_norm"),
    )  # fmt: skip


def _attention(c: Dimensions, *, first: bool) -> Attention:
    hidden, heads = c.hidden_size, c.num_attention_heads
    head = channels(hidden, heads)
    linear = ReadLinear if c.traits.gated_bias else Linear
    same: dict[str, Any] = {
        "heads": heads, "kv_heads": heads, "head_dim": head,
        **{n: linear(f"{n}_proj", hidden, hidden, bias=True) for n in ("q", "k", "v")},
        "out": linear("out_proj", hidden, hidden, bias=True), "causal": False,
        "dropout": float(c.attention_dropout), "softmax": "scores",
    }  # fmt: skip
    if not c.traits.gated_bias:
        return Attention("attention", **same)
    biases = Embedding("rel_attn_embed", c.num_buckets, heads, index="distances")
    gate = Linear("gru_rel_pos_linear", head, 8, bias=True)
    return GatedBiasAttention(
        "attention", **same, scores_bias=True, bias_table=biases if first else None, gate_rows=gate,
        extra=(Param("gru_rel_pos_const", (1, heads, 1, 1)),), eager_only=True, formula="wavlm",
    )  # fmt: skip


def feed_forward(c: Dimensions, name: str) -> Mlp:
    """output_dense(dropout(act(intermediate_dense(x)))) (Wav2Vec2FeedForward; its last dropout is beside it)."""
    up = Linear("intermediate_dense", c.hidden_size, c.intermediate_size, bias=True)
    down = Linear("output_dense", c.intermediate_size, c.hidden_size, bias=True)
    drop = float(c.activation_dropout)
    return Mlp(name, up=up, down=down, activation=c.hidden_act, width=c.intermediate_size, dropout=drop)


def _small_adapter(c: Dimensions) -> Block | None:
    """A bottleneck per layer that fine-tuning to a language trains (MMS; Pratap et al. 2023)."""
    width = c.get("adapter_attn_dim")
    if width is None or not c.traits.layer_adapters:
        return None
    up, down = Linear("linear_1", c.hidden_size, width, bias=True), Linear("linear_2", width, c.hidden_size, bias=True)
    return Sequence("adapter_layer", (residual(_norm(c, "norm"), Mlp("", up, down, activation="relu", width=width)),))
