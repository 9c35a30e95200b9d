"""OWL-ViT and OWLv2: CLIP's towers that find what texts name, a box for every patch (Minderer et al. 2022, 2023)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.clip import clip_text_tower, clip_vision_tower
from memcalc.architectures.vision import class_name, image, made, patches, unknown_class
from memcalc.blocks.base import Block, Sequence, Stray, Unused, sequence
from memcalc.blocks.basic import Activation, Linear, Norm, Raw
from memcalc.blocks.vocabulary import BothTowers, HiddenTable, OpenDetector, TextClasses
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions

LOSS = "transformers' class has no loss: the mean of its logits and boxes is taken"


@architecture("owlvit")
def owlvit(c: Dimensions) -> Model:
    """A box and cosines with the texts for every patch; `max_text_queries` is how many texts are asked of each image."""
    return _detector(c, "owlvit")


@architecture("owlv2")
def owlv2(c: Dimensions) -> Model:
    """The same with a third head, which says of every patch whether it is an object."""
    return _detector(c, "owlv2", _boxes("objectness_head", c.vision_config.hidden_size, 1))


@architecture("owlvit_text_model", "owlv2_text_model")
def owlvit_text(c: Dimensions) -> Model:
    """CLIP's text tower, of sixteen tokens."""
    return Model(sequence(Sequence("text_model", clip_text_tower(c))), "encoder", context=c.max_position_embeddings)


@architecture("owlvit_vision_model", "owlv2_vision_model")
def owlvit_vision(c: Dimensions) -> Model:
    """CLIP's image tower, of larger images."""
    return made(c, sequence(Sequence("vision_model", (*_patches(c), *_pooled(c)))), "encoder")


def _detector(c: Dimensions, prefix: str, objects: Block | None = None) -> Model:
    if not class_name(c).endswith("ForObjectDetection"):
        raise unknown_class(c)
    text, vision = c.text_config, c.vision_config
    width = vision.hidden_size
    towers = BothTowers(
        prefix, Sequence("vision_model", _patches(vision)), Norm("vision_model.post_layernorm", width, "layer"),
        Sequence("text_model", _words(text)), Stray("", (Linear("visual_projection", width, c.projection_dim),)),
        Linear("text_projection", text.hidden_size, c.projection_dim), Unused("", (Raw("logit_scale", ()),)),
        c.max_text_queries,
    )  # fmt: skip
    classes = TextClasses(
        "class_head", Linear("dense0", width, text.hidden_size, bias=True), Linear("logit_shift", width, 1, bias=True),
        Linear("logit_scale", width, 1, bias=True),
    )  # fmt: skip
    body = OpenDetector("", towers, Norm("layer_norm", width, "layer"), classes, _boxes("box_head", width, 4), objects)
    longest = text.max_position_embeddings
    return Model(body, "image-text", context=longest, image=image(vision), loss_fp32=False, notes=(LOSS,))


def _patches(c: Dimensions) -> tuple[Block, ...]:
    """The image tower up to its last layer."""
    start, before, layers, *_ = clip_vision_tower(c)
    _, *rest = start.parts()
    cut = patches(c, "patch_embedding", bias=False, embeds=False, looked=2)
    return Sequence("embeddings", (cut, *rest)), replace(before, name="pre_layernorm"), layers


def _words(c: Dimensions) -> tuple[Block, ...]:
    """The text tower, whose table is not shown as that of the detector."""
    start, *rest = clip_text_tower(c)
    _, places = start.parts()
    return Sequence("embeddings", (HiddenTable("token_embedding", c.vocab_size, c.hidden_size), places)), *rest


def _pooled(c: Dimensions) -> tuple[Block, ...]:
    """What it makes of its first token, an output that the loss doesn't read."""
    return clip_vision_tower(c, pooled=False)[3:]


def _boxes(name: str, width: int, outputs: int) -> Sequence:
    """OwlViTBoxPredictionHead."""
    return sequence(Linear("dense0", width, width, bias=True), Activation("", "gelu"),
                    Linear("dense1", width, width, bias=True), Activation("", "gelu"),
                    Linear("dense2", width, outputs, bias=True), name=name)  # fmt: skip
