"""LLaVA and kin: an image encoder, a small projector, a language model (Liu et al. 2023)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from memcalc.architectures import architecture
from memcalc.architectures.multimodal import image_text, tied, tower
from memcalc.architectures.vision import grid, image, pair
from memcalc.blocks.base import Sequence, Stack, Stray, Unused, sequence
from memcalc.blocks.basic import Activation, Linear, Norm, Raw
from memcalc.blocks.image import MergeNeighbours
from memcalc.blocks.multimodal import (
    Crops,
    Grid,
    Images,
    Matrix,
    PackedCrops,
    PooledTokens,
    SecondGates,
    Unfolded,
)
from memcalc.blocks.towers import EachImage
from memcalc.errors import fault

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("llava")
def llava(c: Dimensions) -> Model:
    """CLIP's image tokens through a two-layer projector (Liu et al. 2023)."""
    whole = c.vision_config.traits.whole_images
    read = {"feature": _feature(c, -2), "listed": True, "scattered": True,
            "without_first": c.get("vision_feature_select_strategy", "default") == "default",
            "grid": Grid(pair(c.vision_config.patch_size)[0], up=True, rows=False) if whole else None}  # fmt: skip
    return image_text(c, _images(c, _projector(c), **read), tower(c.text_config, "language_model"), tie=tied(c))


@architecture("vipllava")
def vipllava(c: Dimensions) -> Model:
    """Some of CLIP's hidden states side by side, normed, through a two-layer projector (Cai et al. 2023)."""
    inputs = c.vision_config.hidden_size * _features(c)
    layers = Norm("projector_layernorm", inputs, "layer"), *_two_layers(c, inputs)
    project = Sequence("multi_modal_projector", layers)
    images = _images(c, project, feature=_feature(c, -2), scattered=True, without_first=True)
    return image_text(c, images, tower(c.text_config, "language_model"), tie=bool(c.tie_word_embeddings))


@architecture("video_llava")
def video_llava(c: Dimensions) -> Model:
    """LLaVA with a second tower, for videos, which batches of images leave alone (Lin et al. 2023)."""
    first = c.get("vision_feature_select_strategy", "default") == "default"
    images = _images(c, _projector(c), name="image_tower", feature=_feature(c, -2), scattered=True, without_first=first)
    videos = Unused("", (tower(c.vision_config, "video_tower"),))
    text = tower(c.text_config, "language_model")
    return image_text(c, images, text, tie=bool(c.tie_word_embeddings), extra=(videos,))


def _feature(c: Dimensions, default: int) -> int | tuple[int, ...]:
    """Which hidden state of the tower the projector reads, or which of them side by side."""
    layer = c.get("vision_feature_layer", default)
    return layer if isinstance(layer, int) else tuple(layer)


@architecture("llava_next", "llava_onevision", "llava_next_video")
def llava_next(c: Dimensions) -> Model:
    """LLaVA on several crops of an image; a learned token ends each row of patches (Liu et al. 2024, Li et al. 2024)."""
    if c.get("spatial_pool_mode", "average") not in ("average", "max"):
        raise fault("model.spatial_pool_mode", "frames that a convolution shrinks are not known")
    v = c.vision_config
    tie = tied(c) if c.traits.ties_as_text else bool(c.tie_word_embeddings)
    most = re.fullmatch(r"anyres_max_(\d+)", str(c.get("vision_aspect_ratio")))
    crops = Crops(
        tuple(pair(size) for size in c.get("image_grid_pinpoints") or [[v.image_size] * 2]), pair(v.image_size)[0],
        pair(v.image_size)[0] // pair(v.patch_size)[0], int(most[1]) if most else 0,
    )  # fmt: skip
    images = _images(
        c, sequence(_projector(c), PackedCrops("", c.text_config.hidden_size, crops)), tokens=0, crops=crops,
        feature=_feature(c, -2), scattered=True, listed=True, copied=True,
        without_first=c.get("vision_feature_select_strategy", "default") == "default",
    )  # fmt: skip
    return image_text(c, images, tower(c.text_config, "language_model"), tie=tie, extra=(_newline(c),))


def _newline(c: Dimensions) -> Raw:
    return Raw("image_newline", (c.text_config.hidden_size,))


def _images(
    c: Dimensions,
    projector: Block,
    *,
    tokens: int = -1,
    name: str = "vision_tower",
    **more: Any,  # noqa: ANN401 - fields of Images
) -> Images:
    """The image tower and the projector; as many tokens as patches where nothing else is said."""
    v = c.vision_config
    count = tokens if tokens >= 0 else grid(v) if "image_size" in v else 0
    shape = () if more.get("grid") or more.get("crops") else image(v)
    return Images("", (_read_at(tower(v, name), more.get("feature")), projector), shape, count, **more)


def _read_at(block: Block, feature: int | tuple[int, ...] | None) -> Block:
    """The tower of which hidden_states[feature] is read: the layers behind that, and what follows them, run for nothing."""
    if feature is None:
        return block
    if isinstance(block, Stack):
        at = max(state % (len(block.layers) + 1) for state in (feature if isinstance(feature, tuple) else (feature,)))
        return replace(block, layers=(*block.layers[:at], *_strays(block.layers[at:])))
    if isinstance(block, Sequence):
        for index, part in enumerate(block.blocks):
            read = _read_at(part, feature)
            if read is not part:
                return replace(block, blocks=(*block.blocks[:index], read, *_strays(block.blocks[index + 1 :])))
    return block


def _strays(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    """Each of them as a stray; like ones the same."""
    strays = {id(block): Stray("", (block,)) for block in blocks}
    return tuple(strays[id(block)] for block in blocks)


def _features(c: Dimensions) -> int:
    """How many of the tower's layers the projector reads side by side."""
    layers = c.get("vision_feature_layer", -1)
    return 1 if isinstance(layers, int) else len(layers)


def _two_layers(c: Dimensions, inputs: int, *, bias: bool = True) -> tuple[Block, ...]:
    wide = c.text_config.hidden_size
    first, second = Linear("linear_1", inputs, wide, bias), Linear("linear_2", wide, wide, bias)
    return first, Activation("", c.projector_hidden_act), second


def _projector(c: Dimensions) -> Sequence:
    inputs = c.vision_config.hidden_size * _features(c)
    return Sequence("multi_modal_projector", _two_layers(c, inputs, bias=bool(c.multimodal_projector_bias)))


@architecture("paligemma")
def paligemma(c: Dimensions) -> Model:
    """SigLIP's image tokens through one linear layer, Gemma on top (Beyer et al. 2024)."""
    linear = Linear("linear", c.vision_config.hidden_size, c.projection_dim, bias=True)
    images = _images(c, sequence(linear, name="multi_modal_projector"), masked=True, scattered=True)
    return image_text(c, images, tower(c.text_config, "language_model"), tie=bool(c.tie_word_embeddings))


@architecture("gemma3")
def gemma3(c: Dimensions) -> Model:
    """SigLIP's image tokens pooled to `mm_tokens_per_image`, normed, projected; Gemma 3 on top."""
    wide, hidden = c.vision_config.hidden_size, c.text_config.hidden_size
    side = int(grid(c.vision_config) ** 0.5)
    pool = PooledTokens("", side, side // int(c.mm_tokens_per_image**0.5))
    projector = sequence(
        pool, Norm("mm_soft_emb_norm", wide, "rms", "gemma"),
        Matrix("mm_input_projection_weight", (wide, hidden)), name="multi_modal_projector",
    )  # fmt: skip
    images = _images(c, projector, tokens=c.mm_tokens_per_image, masked=True, scattered=True)
    return image_text(c, images, tower(c.text_config, "language_model"), tie=bool(c.tie_word_embeddings))


@architecture("mistral3")
def mistral3(c: Dimensions) -> Model:
    """Pixtral's image tokens merged two by two, through a two-layer projector, Mistral on top."""
    wide, merge = c.vision_config.hidden_size, c.spatial_merge_size
    patches = sequence(Unfolded("", merge), Linear("merging_layer", wide * merge**2, wide), name="patch_merger")
    layers = _two_layers(c, wide * _features(c), bias=bool(c.multimodal_projector_bias))
    projector = sequence(Norm("norm", wide, "rms"), patches, *layers, name="multi_modal_projector")
    images = _images(c, projector, tokens=0, feature=_feature(c, -1), listed=True, scattered=True,
                     grid=Grid(pair(c.vision_config.patch_size)[0], merge, up=True, rows=False))  # fmt: skip
    return image_text(c, images, tower(c.text_config, "language_model"), tie=bool(c.tie_word_embeddings))


@architecture("internvl")
def internvl(c: Dimensions) -> Model:
    """InternViT's tokens shuffled four to one, normed, through a two-layer projector (Chen et al. 2024)."""
    factor = int(1 / c.downsample_ratio)
    inputs = c.vision_config.hidden_size * factor**2
    norm = Norm("layer_norm", inputs, "layer")
    shuffle = MergeNeighbours("", factor, shuffled=True)
    projector = sequence(shuffle, norm, *_two_layers(c, inputs), name="multi_modal_projector")
    layer, first = c.get("vision_feature_layer", -1), c.get("vision_feature_select_strategy", "default") == "default"
    images = _images(
        c, projector, tokens=grid(c.vision_config) // factor**2, scattered=layer == -1, without_first=first
    )
    return image_text(c, images, tower(c.text_config, "language_model"), tie=bool(c.tie_word_embeddings))


@architecture("idefics3", "smolvlm")
def idefics3(c: Dimensions) -> Model:
    """SigLIP's tokens shuffled `scale_factor`² to one and projected; a Llama on top (Laurençon et al. 2024)."""
    factor, wide = c.scale_factor, c.vision_config.hidden_size
    shuffle = sequence(Linear("proj", wide * factor**2, c.text_config.hidden_size), name="modality_projection")
    connector = sequence(MergeNeighbours("", factor, shuffled=True), shuffle, name="connector")
    count = grid(c.vision_config) // factor**2
    images = _images(c, connector, tokens=count, name="vision_model", scattered=True, listed=True,
                     copied=True, asks=False)  # fmt: skip
    return image_text(c, images, tower(c.text_config, "text_model"), tie=bool(c.tie_word_embeddings))


PATCHES = 1024  # of a tile, or of a small image filled up (tile_size, max_image_tokens of image_processing_lfm2_vl.py)


@architecture("lfm2_vl")
def lfm2_vl(c: Dimensions) -> Model:
    """SigLIP 2's patches shuffled `downsample_factor`² to one, normed and projected; LFM2 on top."""
    inputs, wide, bias = c.vision_config.hidden_size * c.downsample_factor**2, c.projector_hidden_size, c.projector_bias
    normed = (Norm("layer_norm", inputs, "layer"),) if c.projector_use_layernorm else ()
    first, second = Linear("linear_1", inputs, wide, bias), Linear("linear_2", wide, c.text_config.hidden_size, bias)
    shuffle = MergeNeighbours("", c.downsample_factor, shuffled=True, loose=True)
    project = sequence(
        shuffle, *normed, first, Activation("", c.projector_hidden_act), second, name="multi_modal_projector"
    )
    pixels = pair(c.vision_config.patch_size)[0] ** 2 * (c.vision_config.get("num_channels") or 3)
    tower_and_more = tower(c.vision_config, "vision_tower"), EachImage("", (project,))
    images = Images("", tower_and_more, (PATCHES, pixels), PATCHES // c.downsample_factor**2, scattered=True)
    return image_text(c, images, tower(c.text_config, "language_model"), tie=bool(c.tie_word_embeddings))


@architecture("lighton_ocr")
def lighton_ocr(c: Dimensions) -> Model:
    """Mistral 3's way of merging Pixtral's tokens, Qwen 3 on top (LightOn 2025)."""
    wide, merge, hidden = c.vision_config.hidden_size, c.spatial_merge_size, c.text_config.hidden_size
    patches = sequence(Unfolded("", merge), Linear("merging_layer", wide * merge**2, wide), name="patch_merger")
    first, second = Linear("linear_1", wide, hidden), Linear("linear_2", hidden, hidden)
    layers = Norm("norm", wide, "rms"), patches, first, Activation("", "gelu"), second
    images = _images(c, sequence(*layers, name="vision_projection"), tokens=0, name="vision_encoder", listed=True, scattered=True,
                     grid=Grid(pair(c.vision_config.patch_size)[0], merge, up=True, rows=False))  # fmt: skip
    return image_text(c, images, tower(c.text_config, "language_model"), tie=tied(c))


@architecture("aya_vision")
def aya_vision(c: Dimensions) -> Model:
    """SigLIP's tokens shuffled four to one, normed, through a gated projector; Command R7B on top (Cohere 2025)."""
    layer, first = _feature(c, -1), c.get("vision_feature_select_strategy", "full") == "default"
    norm = Norm("layernorm", c.vision_config.hidden_size * c.downsample_factor**2, "layer")
    return _shuffled(c, norm, feature=layer if layer != -1 else None, without_first=first)


@architecture("cohere2_vision")
def cohere2_vision(c: Dimensions) -> Model:
    """The same without that norm, of the tower's last layer (Cohere 2025)."""
    return _shuffled(c, None)


def _shuffled(c: Dimensions, norm: Norm | None, **read: Any) -> Model:  # noqa: ANN401 - what Images takes
    factor, hidden = c.downsample_factor, c.text_config.hidden_size
    inputs, middle = c.vision_config.hidden_size * factor**2, c.get("alignment_intermediate_size") or hidden
    projector = sequence(
        MergeNeighbours("", factor, shuffled=True, loose=True), norm,
        Linear("linear_1", inputs, middle, bias=True), SecondGates(""), Linear("linear_2", middle // 2, hidden, bias=True),
        name="multi_modal_projector",
    )  # fmt: skip
    images = _images(c, projector, tokens=grid(c.vision_config) // factor**2, scattered=True, **read)
    return image_text(c, images, tower(c.text_config, "language_model"), tie=tied(c))
