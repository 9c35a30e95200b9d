"""YOLOS: a ViT that detects by a hundred tokens of its own (Fang et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.vision import (
    class_name,
    dropout,
    grid,
    image,
    labels,
    made,
    pair,
    patches,
    prediction_head,
    unknown_class,
)
from memcalc.architectures.vit import nested_layer, pooler
from memcalc.blocks.base import Sequence, repeat, sequence
from memcalc.blocks.basic import Norm
from memcalc.blocks.detection import BetweenLayers, LastTokens, StretchedPositions
from memcalc.blocks.image import Prefix
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions


@architecture("yolos")
def yolos(c: Dimensions) -> Model:
    """A class token, patches and detection tokens; positions stretched to every image, also between the layers."""
    hidden, count = c.hidden_size, c.num_detection_tokens
    places, tokens = grid(c), grid(c) + 1 + count
    around = (1, count, pair(c.image_size)[0] // c.patch_size, pair(c.image_size)[1] // c.patch_size)
    start = sequence(
        sequence(patches(c, "projection"), name="patch_embeddings"), Prefix("cls_token", (1, 1, hidden)),
        Prefix("detection_tokens", (1, count, hidden)),
        StretchedPositions("position_embeddings", (1, tokens, hidden), around=around), dropout(c), name="embeddings",
    )  # fmt: skip
    between = BetweenLayers("interpolation.mid_position_embeddings", (c.num_hidden_layers - 1, 1, 1 + places + count, hidden),
                            around=around) if c.use_mid_position_embeddings else None  # fmt: skip
    layers = sequence(between, repeat("layer", c.num_hidden_layers, nested_layer(c)), name="encoder")
    body = sequence(start, layers, Norm("layernorm", hidden, "layer"))
    if class_name(c).endswith("ForObjectDetection"):
        base = Sequence("vit", (*body.blocks, LastTokens("", count)))
        classes = prediction_head("class_labels_classifier", hidden, labels(c) + 1, 3)
        boxes = prediction_head("bbox_predictor", hidden, 4, 3)
        return Model(sequence(base, classes, boxes), "detection", image=image(_shown(c)), loss_fp32=False)
    if not class_name(c).endswith("Model"):
        raise unknown_class(c)
    return made(_shown(c), sequence(*body.blocks, pooler(c)), "encoder")


def _shown(c: Dimensions) -> Dimensions:
    """With the size of the images it is shown, where that is not the table's."""
    return c.but(image_size=c.pixels) if c.get("pixels") else c
