"""Mask2Former: segments of any kind as masks of learned queries (Cheng et al. 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.pyramid import pyramid
from memcalc.architectures.vision import class_name, image, labels, unknown_class
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Param, PostNorm, Sequence, Stack, repeat, sequence, stack
from memcalc.blocks.basic import Activation, Conv, Dropout, Linear, Norm, Raw
from memcalc.blocks.deformable import Deformable
from memcalc.blocks.detection import LooksFinite
from memcalc.blocks.masking import MaskedLayer, MaskedQueries, MaskSegmenter, PixelDecoder
from memcalc.blocks.mlp import Mlp
from memcalc.errors import fault
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions

LEVELS, POINTS = 3, 4  # Mask2FormerPixelDecoderEncoderLayer.__init__
GROUPS = 32  # of the norm behind each convolution (Mask2FormerPixelDecoder.__init__)
MAPS = 4  # that the pixel decoder reads
OBJECTS = 8  # in an image: 7.7 on average (Lin et al. 2014, Microsoft COCO)
HEAD = 3  # linear layers of a mask's embedding (Mask2FormerMLPPredictionHead)


@architecture("mask2former")
def mask2former(c: Dimensions) -> Model:
    """Three maps attend to each other, queries to each of them in turn; every layer's masks are held against the objects."""
    if not class_name(c).endswith("ForUniversalSegmentation"):
        raise unknown_class(c)
    _check(c)
    base, channels = pyramid(c, "model.pixel_level_module.encoder", MAPS)
    weights = Raw("criterion.empty_weight", (labels(c) + 1,), buffer=True, dtype="fp32")
    body = MaskSegmenter(
        "", base, _pixel_decoder(c, channels), _queries(c), Linear("class_predictor", c.hidden_dim, labels(c) + 1, bias=True),
        weights, c.train_num_points, float(c.oversample_ratio), float(c.importance_sample_ratio),
    )  # fmt: skip
    return Model(body, "detection", image=image(c), loss_fp32=False, objects=OBJECTS)


def _check(c: Dimensions) -> None:
    """RunInvalid for what the library can't run, or is not looked at here."""
    for key in ("feature_size", "hidden_dim"):
        if c[key] % c.num_attention_heads:
            told = f"must be divisible by num_heads, but got {c[key]} and {c.num_attention_heads}"
            raise fault(f"model.{key}", f"embed_dim ({key}) {told}")
    if list(c.feature_strides) != [4, 8, 16, 32] or c.common_stride != 4:
        raise fault("model.feature_strides", "of Mask2Former only maps of 4, 8, 16 and 32 pixels are known")
    if c.decoder_layers < 1:
        raise fault("model.decoder_layers", "masks are read ahead of each of the decoder's layers: one at least")


def _pixel_decoder(c: Dimensions, channels: list[int]) -> PixelDecoder:
    width = c.feature_size
    layer = sequence(_points(c), _normed(c, _feed(c, width, c.encoder_feedforward_dim, "relu"), "final_layer_norm", width),
                     LooksFinite(""))  # fmt: skip
    return PixelDecoder(
        "model.pixel_level_module.decoder",
        stack("input_projections", [_projected(before, width) for before in channels[:0:-1]], "never"),
        sequence(repeat("layers", c.encoder_layers, layer), name="encoder"),
        Conv("mask_projection", width, c.mask_feature_size, (1, 1)),
        (_projected(channels[0], width, "adapter_1", bias=False),),
        (_projected(width, width, "layer_1", 3, bias=False, relu=True),), width, LEVELS,
    )  # fmt: skip


def _projected(
    before: int, width: int, name: str = "", kernel: int = 1, *, bias: bool = True, relu: bool = False
) -> Stack:
    conv = Conv("", before, width, (kernel, kernel), bias=bias, padding=kernel // 2)
    last = [Activation("", "relu")] if relu else []
    return stack(name, [conv, Norm("", width, "group", "group", GROUPS), *last], "never")


def _points(c: Dimensions) -> PostNorm:
    width, heads, each = c.feature_size, c.num_attention_heads, c.num_attention_heads * LEVELS * POINTS
    mixer = Deformable(
        "self_attn", heads, LEVELS, POINTS, Linear("sampling_offsets", width, 2 * each, bias=True),
        Linear("attention_weights", width, each, bias=True), Linear("value_proj", width, width, bias=True),
        Linear("output_proj", width, width, bias=True),
    )  # fmt: skip
    return _normed(c, mixer, "self_attn_layer_norm", width)


def _normed(c: Dimensions, block: Block, name: str, width: int) -> PostNorm:
    dropout = Dropout("", float(c.dropout), functional=True)
    return PostNorm("", (block, dropout), Norm(name, width, "layer"), rebound=True)


def _feed(c: Dimensions, width: int, inner: int, activation: str) -> Mlp:
    up, down = Linear("fc1", width, inner, bias=True), Linear("fc2", inner, width, bias=True)
    return Mlp("", up, down, activation=activation, width=inner, dropout=float(c.dropout), functional=True)


def _queries(c: Dimensions) -> MaskedQueries:
    width, size = c.hidden_dim, c.feature_size
    project = size != width or c.enforce_input_projection
    projections: list[Block] = [Conv("", size, width, (1, 1)) if project else Sequence("", ())] * LEVELS
    return MaskedQueries(
        "model.transformer_module", stack("input_projections", projections, "never"),
        repeat("decoder.layers", c.decoder_layers - 1, _layer(c)), Norm("decoder.layernorm", width, "layer"),
        embedder("decoder.mask_predictor.mask_embedder", width, c.mask_feature_size), c.num_queries, width,
        c.num_attention_heads, LEVELS,
    )  # fmt: skip


def embedder(name: str, width: int, outputs: int) -> Stack:
    """Mask2FormerMLPPredictionHead, MaskformerMLPPredictionHead: linear layers, relu between them."""
    head: list[Block] = [
        sequence(Linear("0", width, end, bias=True), Activation("", "relu") if i < HEAD - 1 else None)
        for i, end in enumerate([width] * (HEAD - 1) + [outputs])
    ]
    return stack(name, head, "never")


def _layer(c: Dimensions) -> MaskedLayer:
    """Mask2FormerMaskedAttentionDecoderLayer: its cross attention is torch.nn.MultiheadAttention."""
    width, heads, dropout = c.hidden_dim, c.num_attention_heads, float(c.dropout)
    k, v, q, out = (Linear(f"{name}_proj", width, width, bias=True) for name in ("k", "v", "q", "out"))
    mixer = Attention("self_attn", heads, heads, width // heads, q, k, v, out=out, causal=False, formula="among-queries",
                      dropout=dropout)  # fmt: skip
    cross = Attention(
        "cross_attn", heads, heads, width // heads, out=Linear("out_proj", width, width, bias=True),
        extra=(Param("in_proj_weight", (3 * width, width)), Param("in_proj_bias", (3 * width,))),
        causal=False, cross=True, formula="torch-masked", dropout=dropout,
    )  # fmt: skip
    norms = (Norm(f"{name}_layer_norm", width, "layer") for name in ("self_attn", "cross_attn", "final"))
    own, other, last = norms
    feed = _feed(c, width, c.dim_feedforward, c.activation_function)
    return MaskedLayer("", mixer, own, cross, other, feed, last, dropout, bool(c.pre_norm))
