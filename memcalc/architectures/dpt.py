"""DPT and Depth Anything: a ViT whose states are fused to a map of depths or classes (Ranftl et al. 2021, Yang et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.vision import class_name, dropout, grid, image, labels, pair, patches, unknown_class
from memcalc.architectures.vit import dinov2, nested_layer
from memcalc.blocks.base import Block, Residual, Sequence, Unused, given, repeat, sequence, stack
from memcalc.blocks.basic import Activation, Conv, Dropout, Linear, Norm
from memcalc.blocks.dense import DensePredictor, Fusion, Neck, ResizedPositions, Scaled
from memcalc.blocks.image import Aside, Positions, Prefix
from memcalc.errors import fault
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions

LOSS = "transformers' class has no loss: the mean of the depths is taken"
AUXILIARY = 0.1  # the dropout of DPTAuxiliaryHead


@architecture("depth_anything")
def depth_anything(c: Dimensions) -> Model:
    """DINOv2's normed states, fused; the head enlarges its map to the image's size midway."""
    if not class_name(c).endswith("ForDepthEstimation"):
        raise unknown_class(c)
    inner = c.backbone_config
    shown = pair(c.get("image_size") or inner.image_size)
    tower, norm, taken = _dinov2(c, inner, shown)
    patch = pair(c.patch_size)[0]
    rows, columns = (side // patch for side in shown)
    wide, narrow = c.fusion_hidden_size, c.head_hidden_size
    end = "relu" if c.depth_estimation_type == "relative" else "sigmoid"
    body = DensePredictor(
        "", tower, norm, _neck(c, c.reassemble_hidden_size, (rows, columns), "ignore", doubled=False),
        _conv("head.conv1", wide, wide // 2),
        sequence(_conv("head.conv2", wide // 2, narrow), Activation("", "relu"), Conv("head.conv3", narrow, 1, (1, 1)),
                 Activation("", end), Scaled("")),
        None, taken, (rows * patch, columns * patch),
    )  # fmt: skip
    return Model(body, "segmentation", image=(image(inner)[0], *shown), loss_fp32=False, notes=(LOSS,))


@architecture("dpt")
def dpt(c: Dimensions) -> Model:
    """A ViT of its own, or a DINOv2; every pixel's depth, or its class, with a second head that helps in training."""
    if c.is_hybrid:
        raise fault("model.is_hybrid", "DPT behind a convolutional backbone is not known")
    shown, classes = c, class_name(c).endswith("ForSemanticSegmentation")
    if not classes and not class_name(c).endswith("ForDepthEstimation"):
        raise unknown_class(c)
    if c.gives("backbone_config") and c.get("backbone_config") and not classes:
        shown = c.backbone_config
        tower, norm, taken = _dinov2(c, shown)
    else:
        tower, norm, taken = _own(c)
    map_ = _map(shown)
    neck = _neck(c, shown.hidden_size, map_, c.readout_type, doubled=True, act=c.hidden_act)
    before, after, second = _classes(c) if classes else _depths(c)
    body = DensePredictor("", tower, norm, neck, before, after, second, taken, classes=classes)
    return Model(body, "segmentation", image=image(shown), loss_fp32=False, notes=() if classes else (LOSS,))


def _map(c: Dimensions) -> tuple[int, int]:
    (high, wide), (patch_high, patch_wide) = pair(c.image_size), pair(c.patch_size)
    return high // patch_high, wide // patch_wide


def _dinov2(c: Dimensions, inner: Dimensions, shown: tuple[int, ...] = ()) -> tuple[Block, Block, tuple[int, ...]]:
    """DINOv2 up to its last layer, its norm, and behind which layers its states are taken."""
    if "use_swiglu_ffn" not in inner or "num_register_tokens" in inner or inner.get("reshape_hidden_states", True):
        raise fault(
            "model.backbone_config", "only DINOv2's states as they are (reshape_hidden_states: false) are known here"
        )
    begin, encoder, norm = dinov2(inner.but(architectures=["Dinov2Backbone"])).body.parts()
    if shown and shown != pair(inner.image_size):
        places = ResizedPositions(
            "position_embeddings", (1, grid(inner) + 1, inner.hidden_size), map=_map(inner.but(image_size=list(shown)))
        )
        begin = Sequence("embeddings", tuple(places if isinstance(part, Positions) else part for part in begin.parts()))
    names = inner.get("out_features")
    chosen = [int(str(name).removeprefix("stage")) for name in names] if names else list(inner.get("out_indices") or [])
    taken = _checked(c, [index % (inner.num_hidden_layers + 1) for index in chosen], inner.num_hidden_layers)
    norm = Sequence("backbone", (norm,))
    return (
        Sequence("backbone", (begin, encoder)),
        norm if inner.get("apply_layernorm", True) else Unused("", (norm,)),
        taken,
    )


def _checked(c: Dimensions, taken: list[int], layers: int) -> tuple[int, ...]:
    """RunInvalid where states are wanted that are not looked at here."""
    if len(taken) != len(c.neck_hidden_sizes) or not taken or min(taken) < 1 or max(taken) != layers:
        raise fault("model", "the neck takes as many states as it has sizes, the last layer's among them")
    if c.head_in_index not in (-1, len(taken) - 1):
        raise fault("model.head_in_index", "the head reads the last of the fused maps")
    return tuple(taken)


def _own(c: Dimensions) -> tuple[Block, Block, tuple[int, ...]]:
    """DPTModel: positions resized to every image, states as they are; its norm leads nowhere."""
    places = ResizedPositions("position_embeddings", (1, grid(c) + 1, c.hidden_size), map=_map(c))
    begin = sequence(
        sequence(patches(c, "projection"), name="patch_embeddings"), Prefix("cls_token", (1, 1, c.hidden_size)), places,
        dropout(c), name="embeddings",
    )  # fmt: skip
    layers = sequence(repeat("layer", c.num_hidden_layers, nested_layer(c)), name="encoder")
    norm = Aside("", (Sequence("dpt", (Norm("layernorm", c.hidden_size, "layer"),)),))
    taken = _checked(c, [index + 1 for index in c.backbone_out_indices], c.num_hidden_layers)
    return Sequence("dpt", (begin, layers)), norm, taken


def _conv(name: str, before: int, width: int, *, bias: bool = True) -> Conv:
    return Conv(name, before, width, (3, 3), 1, bias=bias, padding=1)


def _neck(c: Dimensions, hidden: int, size: tuple[int, int], readout: str, *, doubled: bool, act: str = "gelu") -> Neck:
    count, wide = len(c.neck_hidden_sizes), c.fusion_hidden_size
    resize: list[Block] = [_resize(hidden, width, factor)
                           for width, factor in zip(c.neck_hidden_sizes, c.reassemble_factors, strict=False)]  # fmt: skip
    read = sequence(stack("", [Linear("", 2 * hidden, hidden, bias=True), Activation("", act)], "never"))
    first = Fusion("", Conv("projection", wide, wide, (1, 1)), Unused("", (_residual(c, "residual_layer1"),)),
                   _residual(c, "residual_layer2"))  # fmt: skip
    later = Fusion("", first.project, _residual(c, "residual_layer1"), first.second)
    return Neck(
        "neck", stack("reassemble_stage.layers", resize, "never"),
        stack("reassemble_stage.readout_projects", [read] * count, "never") if readout == "project" else None,
        stack("convs", [_conv("", width, wide, bias=False) for width in c.neck_hidden_sizes], "never"),
        stack("fusion_stage.layers", [first, *[later] * (count - 1)], "never"), size, readout, doubled,  # type: ignore[arg-type]
    )  # fmt: skip


def _resize(hidden: int, width: int, factor: float) -> Sequence:
    """DPTReassembleLayer: enlarged by a transposed convolution, as it is, or halved."""
    resize = None
    if factor > 1:
        resize = Conv("resize", width, width, (int(factor),) * 2, int(factor), transposed=True)
    elif factor < 1:
        resize = Conv("resize", width, width, (3, 3), int(1 / factor), padding=1)
    return sequence(Conv("projection", hidden, width, (1, 1)), resize)


def _residual(c: Dimensions, name: str) -> Sequence:
    """DPTPreActResidualLayer: x + two convolutions."""
    wide, normed = c.fusion_hidden_size, bool(c.get("use_batch_norm_in_fusion_residual"))
    told = c.get("use_bias_in_fusion_residual")
    bias = not normed if told is None else bool(told)
    parts: list[Block] = []
    for number in (1, 2):
        norm = Norm(f"batch_norm{number}", wide, "batch", "batch") if normed else None
        parts += given(Activation("", "relu"), _conv(f"convolution{number}", wide, wide, bias=bias), norm)
    return sequence(Residual("", tuple(parts)), name=name)


def _depths(c: Dimensions) -> tuple[Block, Block | None, Block | None]:
    """DPTDepthEstimationHead: two parts, between which its map is enlarged."""
    wide = c.fusion_hidden_size
    first = sequence(_conv("projection", 256, 256), Activation("", "relu")) if c.add_projection else sequence()
    begin = Sequence("head", (*first.blocks, _conv("head.0", wide, wide // 2)))
    end = (
        _conv("head.2", wide // 2, 32),
        Activation("", "relu"),
        Conv("head.4", 32, 1, (1, 1)),
        Activation("", "relu"),
    )
    return begin, Sequence("head", end), None


def _classes(c: Dimensions) -> tuple[Block, Block | None, Block | None]:
    """DPTSemanticSegmentationHead, and DPTAuxiliaryHead."""
    second = _told(c, "auxiliary_head", AUXILIARY) if c.use_auxiliary_head else None
    return _told(c, "head", float(c.semantic_classifier_dropout)), None, second


def _told(c: Dimensions, name: str, dropped: float) -> Sequence:
    wide = c.fusion_hidden_size
    parts: list[Block] = [
        _conv("", wide, wide, bias=False), Norm("", wide, "batch", "batch"), Activation("", "relu"), Dropout("", dropped),
        Conv("", wide, labels(c), (1, 1)),
    ]  # fmt: skip
    return sequence(stack("head", parts, "never"), name=name)
