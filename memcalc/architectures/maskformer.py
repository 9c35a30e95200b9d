"""MaskFormer: segments as masks of learned queries that a DETR decoder tells apart (Cheng et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.detr import decoder_layer
from memcalc.architectures.mask2former import GROUPS, MAPS, OBJECTS, embedder
from memcalc.architectures.pyramid import pyramid
from memcalc.architectures.vision import class_name, image, labels, unknown_class
from memcalc.blocks.base import Stack, repeat, stack
from memcalc.blocks.basic import Activation, Conv, Linear, Norm, Raw
from memcalc.blocks.masking import MapFinder
from memcalc.errors import fault
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions


@architecture("maskformer")
def maskformer(c: Dimensions) -> Model:
    """Maps joined from the smallest up; queries attend to the smallest, and are held against the pixels of the largest."""
    if not class_name(c).endswith("ForInstanceSegmentation"):
        raise unknown_class(c)
    inner = c.decoder_config
    if inner.model_type != "detr":
        raise fault("model.decoder_config", f"a decoder of the type {inner.model_type!r} is not known: detr alone is")
    if c.use_auxiliary_loss or inner.get("auxiliary_loss"):
        raise fault("model.use_auxiliary_loss", "of MaskFormer only the loss of its last layer is known")
    base, channels = pyramid(c, "model.pixel_level_module.encoder", MAPS, older=True)
    width, size, above = inner.d_model, c.fpn_feature_size, channels[-2::-1]
    project = Conv("model.transformer_module.input_projection", channels[-1], width, (1, 1))
    weights = Raw("criterion.empty_weight", (labels(c) + 1,), buffer=True, dtype="fp32")
    body = MapFinder(
        "", base, _fused(f"{FPN}.stem", channels[-1], size),
        tuple(_lateral(f"{FPN}.layers.{i}.proj", before, size) for i, before in enumerate(above)),
        tuple(_fused(f"{FPN}.layers.{i}.block", size, size) for i in range(len(above))),
        Conv("model.pixel_level_module.decoder.mask_projection", size, c.mask_feature_size, (3, 3), padding=1),
        project if channels[-1] != width else None,
        repeat("model.transformer_module.decoder.layers", inner.decoder_layers, decoder_layer(inner)),
        Norm("model.transformer_module.decoder.layernorm", width, "layer"),
        Linear("class_predictor", width, labels(c) + 1, bias=True),
        embedder("mask_embedder", width, c.mask_feature_size), weights, inner.num_queries, width,
    )  # fmt: skip
    return Model(body, "detection", image=image(c), loss_fp32=False, objects=OBJECTS)


FPN = "model.pixel_level_module.decoder.fpn"


def _lateral(name: str, before: int, width: int) -> Stack:
    return stack(
        name, [Conv("", before, width, (1, 1), bias=False), Norm("", width, "group", "group", GROUPS)], "never"
    )


def _fused(name: str, before: int, width: int) -> Stack:
    conv = Conv("", before, width, (3, 3), bias=False, padding=1)
    return stack(name, [conv, Norm("", width, "group", "group", GROUPS), Activation("", "relu")], "never")
