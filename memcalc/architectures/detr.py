"""DETR: detection as a set of queries over a convolutional map (Carion et al. 2020)."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, cast

from memcalc.architectures import architecture, model_of
from memcalc.architectures.conditional_detr import conditional_decoder
from memcalc.architectures.seq2seq import dropout, feed_forward, norm
from memcalc.architectures.vision import class_name, image, labels, prediction_head, unknown_class
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, PostNorm, Sequence, repeat, sequence, stack
from memcalc.blocks.basic import Activation, Conv, Linear, Norm
from memcalc.blocks.detection import FrozenConv, FrozenNorm, LooksFinite, SetDetector
from memcalc.blocks.image import Pool, Shortcut
from memcalc.blocks.segmenting import Yielded
from memcalc.errors import fault
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.blocks.base import Stack
    from memcalc.dimensions import Dimensions

LEVELS = 32  # maps, beyond which a side of 2³² pixels has nothing left to halve


@architecture("detr")
def detr(c: Dimensions) -> Model:
    """A ResNet whose norms are frozen, a small encoder and decoder, a class (or none) and a box for every query."""
    return _detector(c, sequence(repeat("layers", c.decoder_layers, decoder_layer(c)), name="decoder"), labels(c) + 1)


@architecture("conditional_detr")
def conditional_detr(c: Dimensions) -> Model:
    """DETR whose queries look near points of their own (Meng et al. 2021)."""
    return _detector(c, conditional_decoder(c), labels(c))


def _detector(c: Dimensions, decoder: Block, classes: int) -> Model:
    """The backbone, the encoder, this decoder, and its heads for so many classes."""
    if c.get("position_embedding_type", "sine") != "sine":
        raise fault("model.position_embedding_type", f"of {c.model_type} only positions that are sinusoids are known")
    base, channels, kept = backbone(c)
    width = c.d_model
    body = SetDetector(
        "model", base, Conv("input_projection", channels[-1], width, (1, 1)),
        sequence(repeat("layers", c.encoder_layers, _encoder_layer(c)), name="encoder"),
        decoder, Norm("decoder.layernorm", width, "layer"), float(c.dropout), c.num_queries, width, kept,
    )  # fmt: skip
    if not class_name(c).endswith("ForObjectDetection"):
        raise unknown_class(c)
    scores = Linear("class_labels_classifier", width, classes, bias=True)
    boxes = prediction_head("bbox_predictor", width, 4, 3)
    return Model(sequence(body, scores, boxes), "detection", image=image(c), loss_fp32=False)


def backbone(c: Dimensions) -> tuple[Block, list[int], int]:
    """The maps' network under the names of its library, the channels of each, and how many of them it hands on."""
    given = c.get("backbone_config") or {"model_type": "timm_backbone", "backbone": c.get("backbone") or "resnet50"}
    kind = given.get("model_type") if isinstance(given, dict) else given.model_type
    if kind == "timm_backbone":
        return *_timm(str(given.get("backbone") or "resnet50"), c.num_channels), 4
    if kind != "resnet":
        raise fault("model.backbone_config", f"a backbone of the type {kind!r} is not known for {c.model_type}")
    from memcalc.architectures import dimensions  # noqa: PLC0415 - of this kind of backbone alone

    inner = dimensions("resnet", dict(given))
    model = model_of(inner.but(architectures=["ResNetModel"]))
    stem, encoder, _pool = cast("Sequence", _frozen(model.body, {})).blocks
    stages = cast("Stack", cast("Sequence", encoder).blocks[0])
    layers = replace(stages, layers=tuple(sequence(stage, Yielded("")) for stage in stages.layers))
    blocks = stem, Yielded(""), Sequence(encoder.name, (layers,))
    return Sequence("backbone.model", blocks), [inner.embedding_size, *inner.hidden_sizes], 1


def _frozen(block: Block, seen: dict[int, Block]) -> Block:
    """The same with norms that are buffers, and convolutions that don't learn."""
    if id(block) not in seen:
        seen[id(block)] = _thawed_not(block, seen)
    return seen[id(block)]


def _thawed_not(block: Block, seen: dict[int, Block]) -> Block:
    if isinstance(block, Norm):
        return FrozenNorm(block.name, block.width)
    if type(block) is Conv:
        return FrozenConv(**{f.name: getattr(block, f.name) for f in fields(block) if f.init})
    changes: dict[str, Any] = {}
    for field in fields(block):
        value = getattr(block, field.name)
        if isinstance(value, Block):
            changes[field.name] = _frozen(value, seen)
        elif isinstance(value, tuple) and any(isinstance(item, Block) for item in value):
            changes[field.name] = tuple(_frozen(item, seen) for item in value)
    return replace(block, **changes) if changes else block


_DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3),
           "resnet152": (3, 8, 36, 3)}  # fmt: skip


def check_points(c: Dimensions, *heads: int) -> None:
    """RunInvalid for attention to points whose heads don't divide the width, or of more maps than there are to be halved to."""
    for count in heads:
        if c.d_model % count:
            raise fault(
                "model.d_model", f"embed_dim (d_model) must be divisible by num_heads, but got {c.d_model} and {count}"
            )
    if c.num_feature_levels > LEVELS:
        raise fault(
            "model.num_feature_levels",
            f"{c.num_feature_levels} maps, each half as wide as the last, are more than {LEVELS}",
        )


def _timm(name: str, channels: int) -> tuple[Block, list[int]]:
    """timm's ResNet (timm/models/resnet.py); of its stages the later three learn."""
    plain = name.split(".", maxsplit=1)[0]
    if plain not in _DEPTHS:
        raise fault("model.backbone_config", f"the backbone {name!r} is not known; known are: {', '.join(_DEPTHS)}")
    wide = 1 if plain in ("resnet18", "resnet34") else 4
    parts: list[Block] = [
        FrozenConv("conv1", channels, 64, (7, 7), 2, bias=False, padding=3), FrozenNorm("bn1", 64), Activation("", "relu"),
        Pool("", "max", 3, 2, 1),
    ]  # fmt: skip
    widths = [before := 64]
    for number, depth in enumerate(_DEPTHS[plain], 1):
        width, stride = 64 * 2 ** (number - 1), 1 if number == 1 else 2
        layers = [
            _timm_layer(before if i == 0 else width * wide, width, wide, stride if i == 0 else 1, number)
            for i in range(depth)
        ]
        parts += [stack(f"layer{number}", layers, "never"), Yielded("")]
        widths.append(before := width * wide)
    return Sequence("backbone.model", tuple(parts)), widths


def _timm_layer(before: int, width: int, wide: int, stride: int, number: int) -> Block:
    """relu(layer(x) + shortcut(x)): two convolutions of 3x3, or one between two of 1x1."""
    kind = Conv if number > 1 else FrozenConv
    last = width * wide

    def one(index: int, inputs: int, outputs: int, size: int, step: int) -> tuple[Block, ...]:
        conv = kind(f"conv{index}", inputs, outputs, (size, size), step, bias=False, padding=size // 2)
        return conv, FrozenNorm(f"bn{index}", outputs)

    act = Activation("", "relu")
    if wide == 1:
        layer = sequence(*one(1, before, width, 3, stride), act, *one(2, width, width, 3, 1))
    else:
        layer = sequence(
            *one(1, before, width, 1, 1), act, *one(2, width, width, 3, stride), act, *one(3, width, last, 1, 1)
        )
    if stride == 1 and before == last:
        return sequence(Shortcut("", layer), act)
    down = stack("downsample", [kind("", before, last, (1, 1), stride, bias=False), FrozenNorm("", last)], "never")
    return sequence(Shortcut("", layer, down), act)


def _encoder_layer(c: Dimensions) -> Sequence:
    mixer = _attention(c, "self_attn", c.encoder_attention_heads)
    return sequence(*_post(c, mixer, feed_forward(c, c.encoder_ffn_dim, "mlp")), LooksFinite(""))


def decoder_layer(c: Dimensions) -> Sequence:
    """DetrDecoderLayer: queries attend to each other, then to the map."""
    heads = c.decoder_attention_heads
    first, last = _post(c, _attention(c, "self_attn", heads), feed_forward(c, c.decoder_ffn_dim, "mlp"))
    mixer = _attention(c, "encoder_attn", heads, cross=True)
    return sequence(first, PostNorm("", (mixer, dropout(c)), norm(c, "encoder_attn_layer_norm")), last)


def _post(c: Dimensions, mixer: Block, feed: Block) -> tuple[Block, ...]:
    first = PostNorm("", (mixer, dropout(c)), norm(c, "self_attn_layer_norm"))
    return first, PostNorm("", (feed, dropout(c)), norm(c, "final_layer_norm"))


def _attention(c: Dimensions, name: str, heads: int, *, cross: bool = False) -> Attention:
    width = c.d_model
    q, k, v, out = (Linear(f"{letter}_proj", width, width, bias=True) for letter in "qkvo")
    return Attention(name, heads, heads, width // heads, q, k, v, out=out, causal=False, cross=cross, formula="detr",
                     dropout=float(c.attention_dropout), softmax="scores")  # fmt: skip
