"""RT-DETR: detection in real time by a hybrid encoder and queries chosen among its pixels (Zhao et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.detr import check_points
from memcalc.architectures.rt_detr_resnet import backbone
from memcalc.architectures.seq2seq import dropout
from memcalc.architectures.vision import class_name, image, labels, prediction_head, unknown_class
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, PostNorm, Sequence, Stack, Unused, repeat, sequence, stack
from memcalc.blocks.basic import Activation, Conv, Embedding, Linear, Norm, Raw
from memcalc.blocks.deformable import Deformable
from memcalc.blocks.detection import LooksFinite
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.refining import CrossStage, HybridEncoder, RefiningDecoder, RefiningDetector, TwoWays, WithinMap
from memcalc.errors import fault
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions

BLOCKS = 3  # RepVGG blocks of a CSP layer (RTDetrCSPRepLayer.__init__)
SMALLEST = 32  # pixels of the image to one of the smallest map


@architecture("rt_detr")
def rt_detr(c: Dimensions) -> Model:
    """Trained with boxes that are given with noise beside those that it finds itself."""
    return _detector(c, ())


@architecture("rt_detr_v2")
def rt_detr_v2(c: Dimensions) -> Model:
    """The same with a factor for every sampled point; heads listed a second time (Lv et al. 2024)."""
    if c.decoder_method != "default":
        raise fault("model.decoder_method", f"{c.decoder_method!r} is not known: points are sampled bilinearly")
    points = c.decoder_n_levels * c.decoder_n_points
    again = Unused("", tuple(_again(block, f"model.decoder.{block.name}") for block in _heads(c)))
    return _detector(c, (again,), Raw("n_points_scale", (points,), buffer=True, dtype="fp32"))


def _detector(c: Dimensions, heads: tuple[Block, ...], scales: Raw | None = None) -> Model:
    _check(c)
    base, channels = backbone(c)
    if len(channels) != len(c.encoder_in_channels):
        told = f"{len(c.encoder_in_channels)} maps are read, of {len(channels)} that the backbone hands on"
        raise fault("model.encoder_in_channels", told)
    inner, width = c.encoder_hidden_dim, c.d_model
    noised = Embedding("denoising_class_embed", labels(c) + 1, width) if c.num_denoising > 0 else None
    body = RefiningDetector(
        "model", base, stack("encoder_input_proj", [_projection(n, inner) for n in channels], "never"), _encoder(c), noised,
        stack("enc_output", [Linear("", width, width, bias=True), Norm("", width, "layer")], "never"),
        Linear("enc_score_head", width, labels(c), bias=True), prediction_head("enc_bbox_head", width, 4, 3),
        stack("decoder_input_proj", _unprojections(c), "never"), _decoder(c, scales), c.num_queries,
        2 * c.num_denoising, c.num_feature_levels, width,
    )  # fmt: skip
    return Model(sequence(body, *heads), "detection", image=image(c), loss_fp32=False)


def _check(c: Dimensions) -> None:
    """RunInvalid for what the library can't run, or is not looked at here."""
    if not class_name(c).endswith("ForObjectDetection"):
        raise unknown_class(c)
    if c.normalize_before or c.learn_initial_query:
        raise fault("model", "neither norms before attention nor learned queries are known for RT-DETR")
    check_points(c, c.decoder_attention_heads)
    if any(side % SMALLEST for side in image(c)[1:]):
        raise fault(
            "image_size", f"both sides must be multiples of {SMALLEST} pixels: maps are doubled and joined to others"
        )
    if c.decoder_layers < 1:
        raise fault("model.decoder_layers", "boxes are read behind each of the decoder's layers: one at least")
    if (points := _points(c)) < c.num_queries:
        told = f"{c.num_queries} queries are chosen among the {points} pixels of the maps of such an image"
        raise fault("image_size", told)


def _points(c: Dimensions) -> int:
    """The pixels of all maps: the last of those that the backbone hands on halves the image five times."""
    given = len(c.decoder_in_channels)
    halvings = [level + 6 - given for level in range(c.num_feature_levels)]
    _, height, width = image(c)
    return sum(-(-height // 2**n) * -(-width // 2**n) for n in halvings)


def _projection(before: int, width: int, kernel: int = 1) -> Stack:
    conv = Conv("", before, width, (kernel, kernel), kernel // 2 + 1, bias=False, padding=kernel // 2)
    return stack("", [conv, Norm("", width, "batch", "batch")], "never")


def _unprojections(c: Dimensions) -> list[Block]:
    """Of the encoder's maps, and of its last one halved for every further level."""
    befores = [*c.decoder_in_channels, c.decoder_in_channels[-1], *[c.d_model] * c.num_feature_levels][
        : c.num_feature_levels
    ]
    count = len(c.decoder_in_channels)
    return [_projection(before, c.d_model, 1 if i < count else 3) for i, before in enumerate(befores)]


def _conv(name: str, before: int, width: int, kernel: int, stride: int = 1, act: str = "") -> Sequence:
    """RTDetrConvNormLayer."""
    conv = Conv("conv", before, width, (kernel, kernel), stride, bias=False, padding=(kernel - 1) // 2)
    return sequence(conv, Norm("norm", width, "batch", "batch"), Activation("", act) if act else None, name=name)


def _encoder(c: Dimensions) -> HybridEncoder:
    width, act, count = c.encoder_hidden_dim, c.activation_function, len(c.encoder_in_channels) - 1
    layer = sequence(*_layer(c, width, c.encoder_attention_heads, float(c.dropout)),
                     _feed(c, width, c.encoder_ffn_dim, c.encoder_activation_function), LooksFinite(""))  # fmt: skip
    within = WithinMap("", (repeat("layers", c.encoder_layers, layer),))
    return HybridEncoder(
        "encoder", stack("aifi", [within] * len(c.encode_proj_layers), "never"),
        tuple(c.encode_proj_layers) if c.encoder_layers else (),
        stack("lateral_convs", [_conv("", width, width, 1, act=act)] * count, "never"),
        stack("fpn_blocks", [_mixer(c)] * count, "never"),
        stack("downsample_convs", [_conv("", width, width, 3, 2, act)] * count, "never"),
        stack("pan_blocks", [_mixer(c)] * count, "never"),
    )  # fmt: skip


def _mixer(c: Dimensions) -> CrossStage:
    """RTDetrCSPRepLayer: two maps' channels to those of one."""
    width, act = c.encoder_hidden_dim, c.activation_function
    inner = int(width * c.hidden_expansion)
    rep = TwoWays("", _conv("conv1", inner, inner, 3), _conv("conv2", inner, inner, 1), Activation("", act))
    return CrossStage(
        "", _conv("conv1", 2 * width, inner, 1, act=act), _conv("conv2", 2 * width, inner, 1, act=act),
        stack("bottlenecks", [rep] * BLOCKS, "never"), _conv("conv3", inner, width, 1, act=act) if inner != width else None,
    )  # fmt: skip


def _decoder(c: Dimensions, scales: Raw | None) -> RefiningDecoder:
    width, heads, levels, points = c.d_model, c.decoder_attention_heads, c.num_feature_levels, c.decoder_n_points
    each = heads * levels * points
    cross = Deformable(
        "encoder_attn", heads, levels, points, Linear("sampling_offsets", width, 2 * each, bias=True),
        Linear("attention_weights", width, each, bias=True), Linear("value_proj", width, width, bias=True),
        Linear("output_proj", width, width, bias=True), scales,
    )  # fmt: skip
    layer = sequence(*_layer(c, width, heads, float(c.attention_dropout)), _normed(c, cross, "encoder_attn_layer_norm", width),
                     _feed(c, width, c.decoder_ffn_dim, c.decoder_activation_function))  # fmt: skip
    places = stack("layers", [sequence(Linear("", 4, 2 * width, bias=True), Activation("", "relu")),
                              sequence(Linear("", 2 * width, width, bias=True))], "never")  # fmt: skip
    return RefiningDecoder("decoder", repeat("layers", c.decoder_layers, layer), sequence(places, name="query_pos_head"),
                           *_heads(c))  # fmt: skip


def _heads(c: Dimensions) -> tuple[Stack, Stack]:
    """A class and a box for every query, of each layer."""
    count, width = c.decoder_layers, c.d_model
    classes = stack("class_embed", [Linear("", width, labels(c), bias=True)] * count, "never")
    return classes, stack("bbox_embed", [prediction_head("", width, 4, 3)] * count, "never")


def _again(block: Block, name: str) -> Block:
    """The same, each of its parameters that of another of this name."""
    if isinstance(block, Linear):
        return Linear(block.name, block.inputs, block.outputs, block.bias, f"{name}.weight", f"{name}.bias")
    if isinstance(block, Stack):
        return stack(block.name, [_again(layer, f"{name}.{i}") for i, layer in enumerate(block.layers)], "never")
    inner = (_again(part, f"{name}.{part.name}" if part.name else name) for part in block.parts())
    return Sequence(block.name, tuple(inner))


def _layer(c: Dimensions, width: int, heads: int, drop: float) -> tuple[Block, ...]:
    """Attention among tokens, whose positions join queries and keys."""
    q, k, v, out = (Linear(f"{letter}_proj", width, width, bias=True) for letter in "qkvo")
    mixer = Attention("self_attn", heads, heads, width // heads, q, k, v, out=out, causal=False, formula="placed",
                      dropout=drop, softmax="scores")  # fmt: skip
    return (_normed(c, mixer, "self_attn_layer_norm", width),)


def _feed(c: Dimensions, width: int, inner: int, act: str) -> PostNorm:
    up, down = Linear("fc1", width, inner, bias=True), Linear("fc2", inner, width, bias=True)
    mlp = Mlp("mlp", up, down, activation=act, width=inner, dropout=float(c.activation_dropout), functional=True)
    return _normed(c, mlp, "final_layer_norm", width)


def _normed(c: Dimensions, block: Block, name: str, width: int) -> PostNorm:
    return PostNorm("", (block, dropout(c)), Norm(name, width, "layer"), rebound=True)
