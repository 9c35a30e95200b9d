"""Image and text encoders trained against each other: CLIP (Radford et al. 2021), SigLIP (Zhai et al. 2023) and kin."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture, dimensions
from memcalc.architectures.vision import (
    attention,
    class_name,
    encoder_layer,
    grid,
    image,
    image_classifier,
    labels,
    layer_norms,
    made,
    mlp,
    pair,
    patches,
    unknown_class,
)
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Param, Residual, Sequence, repeat, sequence
from memcalc.blocks.basic import Embedding, Linear, Norm, Raw, Select
from memcalc.blocks.image import Aside, Prefix
from memcalc.blocks.seq2seq import Fork
from memcalc.blocks.towers import FilledRows
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions


@architecture("clip", "metaclip_2")
def clip(c: Dimensions) -> Model:
    """Both towers, each pooled and projected to `projection_dim`; their cosines times a learned temperature."""
    text, vision = tower(c, "text_config"), tower(c, "vision_config")
    name = class_name(c)
    if "TextModel" in name:
        return clip_text(text.but(architectures=[name]))
    if "VisionModel" in name:
        return clip_vision(vision.but(architectures=[name]))
    if name.endswith("ForImageClassification"):
        base = clip_vision_tower(vision, pooled=False)
        return image_classifier(
            vision.but(num_labels=labels(c)), Sequence("vision_model", base), vision.hidden_size, "mean of rest"
        )
    words = Sequence("text_model", clip_text_tower(text)), Linear("text_projection", text.hidden_size, c.projection_dim)
    pixels = (
        Sequence("vision_model", clip_vision_tower(vision)),
        Linear("visual_projection", vision.hidden_size, c.projection_dim),
    )
    towers = Fork("", (sequence(*words), sequence(*pixels)))
    return both(c, sequence(towers, Raw("logit_scale", ())), text.max_position_embeddings, vision)


def tower(c: Dimensions, key: str) -> Dimensions:
    """A tower's dimensions; where an old config also has `<key>_dict`, that one counts (CLIPConfig.__post_init__)."""
    old = c.get(f"{key}_dict")
    inner: Dimensions = c[key]
    return dimensions(inner.model_type, old) if old else inner


def both(c: Dimensions, body: Block, context: int, vision: Dimensions) -> Model:
    """The model of both towers, for texts of up to so many tokens."""
    if not class_name(c).endswith("Model"):
        raise unknown_class(c)
    return Model(body, "image-text", context=context, image=_rows(vision) or image(vision))


@architecture("clip_text_model", "metaclip_2_text_model")
def clip_text(c: Dimensions) -> Model:
    """CLIP's text tower: causal attention, the state of the last token pooled; with its projection where asked for."""
    body = sequence(*clip_text_tower(c))
    if class_name(c).endswith("WithProjection"):
        body = sequence(Sequence("text_model", body.blocks), Linear("text_projection", c.hidden_size, c.projection_dim))
    return Model(body, "encoder", context=c.max_position_embeddings)


@architecture("clip_vision_model", "metaclip_2_vision_model", "chinese_clip_vision_model", "altclip_vision_model")
def clip_vision(c: Dimensions) -> Model:
    """CLIP's image tower: a ViT with a norm before its layers; with its projection where asked for."""
    body = sequence(*clip_vision_tower(c))
    if class_name(c).endswith("WithProjection"):
        inner = Sequence("vision_model", body.blocks)
        body = sequence(inner, Linear("visual_projection", c.hidden_size, c.projection_dim))
    return made(c, body, "encoder")


def layer(c: Dimensions, *, causal: bool = False) -> Sequence:
    """A pre-norm layer, CLIP's names: layer_norm1, self_attn, layer_norm2, mlp."""
    mixer = attention(c, "self_attn", out="out_proj", causal=causal, cut="all")
    return encoder_layer(mixer, mlp(c), layer_norms(c, "layer_norm1", "layer_norm2"))


def layers(c: Dimensions, *, causal: bool = False) -> Sequence:
    """`encoder.layers`."""
    return sequence(repeat("layers", c.num_hidden_layers, layer(c, causal=causal)), name="encoder")


def text_embeddings(c: Dimensions) -> Sequence:
    """Token and position embeddings, added."""
    words = Embedding("token_embedding", c.vocab_size, c.hidden_size)
    places = Embedding("position_embedding", c.max_position_embeddings, c.hidden_size, index="positions")
    return sequence(words, places, name="embeddings")


def clip_text_tower(c: Dimensions) -> tuple[Block, ...]:
    """Embeddings, causal layers, a final norm, the end-of-text token's state."""
    end = Norm("final_layer_norm", c.hidden_size, "layer")
    return (text_embeddings(c), layers(c, causal=True), end, Select("", "end"))


def clip_vision_tower(c: Dimensions, *, pooled: bool = True) -> tuple[Block, ...]:
    """Patches, a class token, positions, a norm, layers; the class token pooled and normed, for nobody where not `pooled`."""
    start = sequence(
        patches(c, "patch_embedding", bias=False, looked=1),
        Prefix("class_embedding", (c.hidden_size,)),
        Embedding("position_embedding", grid(c) + 1, c.hidden_size, index="positions"),
        name="embeddings",
    )
    before, after = (Norm(name, c.hidden_size, "layer") for name in ("pre_layrnorm", "post_layernorm"))
    return (start, before, layers(c), *((Select(""), after) if pooled else (Aside("", (Select(""), after)),)))


@architecture("siglip", "siglip2")
def siglip(c: Dimensions) -> Model:
    """Both towers, each pooled; their cosines times a learned temperature, plus a learned bias."""
    text, vision = c.text_config, c.vision_config
    name = class_name(c)
    if name.endswith("TextModel"):
        return siglip_text(text)
    if name.endswith("VisionModel"):
        return siglip_vision(vision)
    tower = Sequence("vision_model", siglip_vision_tower(vision))
    if name.endswith("ForImageClassification"):
        base = _without_head(siglip_vision_tower(vision))
        model = image_classifier(vision.but(num_labels=labels(c)), base, vision.hidden_size, "mean")
        return replace(model, image=_rows(vision) or model.image)
    towers = Fork("", (Sequence("text_model", siglip_text_tower(text)), tower))
    body = sequence(towers, Raw("logit_scale", (1,)), Raw("logit_bias", (1,)))
    return both(c, body, text.max_position_embeddings, vision)


@architecture("siglip_text_model", "siglip2_text_model")
def siglip_text(c: Dimensions) -> Model:
    """SigLIP's text tower: full attention, the last token pooled through a linear head."""
    return Model(sequence(*siglip_text_tower(c)), "encoder", context=c.max_position_embeddings)


@architecture("siglip_vision_model", "siglip2_vision_model")
def siglip_vision(c: Dimensions) -> Model:
    """SigLIP's image tower: a ViT without class token, pooled by an attention of one learned query."""
    if class_name(c).endswith("ForImageClassification"):
        model = image_classifier(c, _without_head(siglip_vision_tower(c)), c.hidden_size, "mean")
    else:
        model = made(c, sequence(*siglip_vision_tower(c)), "encoder")
    return replace(model, image=_rows(c) or model.image)


def _without_head(tower: tuple[Block, ...]) -> Sequence:
    """The tower, what pools its tokens for nobody put aside."""
    kept = tuple(Aside("", (block,)) if block.name == "head" else block for block in tower)
    return Sequence("vision_model", kept)


def siglip_text_tower(c: Dimensions) -> tuple[Block, ...]:
    """Embeddings, layers, a final norm, the last token's state through `head`."""
    head = Linear("head", c.hidden_size, c.get("projection_size") or c.hidden_size, bias=True)
    return (text_embeddings(c), layers(c), Norm("final_layer_norm", c.hidden_size, "layer"), Select("", "last"), head)


def _rows(c: Dimensions) -> tuple[int, ...]:
    """(patches, pixels of each) of an image that comes cut into patches, of any aspect ratio; () for others (SigLIP 2)."""
    return (c.num_patches, pair(c.patch_size)[0] ** 2 * c.num_channels) if "num_patches" in c else ()


def siglip_vision_tower(c: Dimensions) -> tuple[Block, ...]:
    """Patches, positions, layers, a norm, and the pooling head where the config has one."""
    rows = _rows(c)
    if rows:
        cut = Linear("patch_embedding", rows[1], c.hidden_size, bias=True)
        start: Block = FilledRows("embeddings", (cut, Embedding("position_embedding", c.num_patches, c.hidden_size)))
    else:
        places = Embedding("position_embedding", grid(c), c.hidden_size, index="positions")
        start = sequence(patches(c, "patch_embedding", looked=1), places, name="embeddings")
    after = Norm("post_layernorm", c.hidden_size, "layer")
    return (start, layers(c), after, *((pooling_head(c),) if c.get("vision_use_head", True) else ()))


def pooling_head(c: Dimensions) -> Sequence:
    """One learned query attends over all tokens (nn.MultiheadAttention), then a residual MLP."""
    hidden = c.hidden_size
    mixer = multihead("attention", hidden, c.num_attention_heads)
    feed = Residual("", (Norm("layernorm", hidden, "layer"), mlp(c)))
    return sequence(Raw("probe", (1, 1, hidden)), mixer, feed, name="head")


def multihead(name: str, width: int, heads: int) -> Attention:
    """torch.nn.MultiheadAttention of queries that read other tokens."""
    return Attention(
        name, heads, heads, width // heads, out=Linear("out_proj", width, width, bias=True),
        extra=(Param("in_proj_weight", (3 * width, width)), Param("in_proj_bias", (3 * width,))),
        causal=False, cross=True, formula="torch-multihead",
    )  # fmt: skip
