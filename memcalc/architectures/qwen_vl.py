"""Qwen's models of images and text: 2-VL, 2.5-VL, 3-VL and 3.5, a ViT of its own before Qwen's decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.multimodal import image_text, tied, tower
from memcalc.architectures.qwen import qwen2, qwen3
from memcalc.architectures.qwen_moe import qwen3_moe
from memcalc.architectures.vision import mlp, pair
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Sequence, repeat, residual, sequence, stack
from memcalc.blocks.basic import Activation, Conv, Linear, Norm
from memcalc.blocks.image import MergeNeighbours
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.multimodal import ConvTokens, DeepStack, Grid, GridOrder, GridPositions, GridRotary, Images
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions


@architecture("qwen2_vl", "qwen2_5_vl")
def qwen2_vl(c: Dimensions) -> Model:
    """Qwen2-VL (Wang et al. 2024) and Qwen2.5-VL (Bai et al. 2025)."""
    return image_text(c, images(c), tower(c.text_config, "language_model"), tie=tied(c))


@architecture("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")
def qwen3_vl(c: Dimensions) -> Model:
    """Qwen3-VL, whose tower also feeds the first layers of the text (DeepStack), and Qwen3.5."""
    seen = images(c, asks=False)
    return image_text(c, seen, tower(c.text_config, "language_model"), tie=bool(c.tie_word_embeddings))


@architecture("qwen2_vl_text", "qwen2_5_vl_text", "qwen2_5_omni_text")
def qwen2_vl_text(c: Dimensions) -> Model:
    """Qwen 2's decoder, its rotary positions on three axes."""
    return qwen2(c.but(position_axes=3))


@architecture("qwen3_vl_text")
def qwen3_vl_text(c: Dimensions) -> Model:
    """Qwen 3's decoder, its rotary positions on three axes."""
    return qwen3(c.but(position_axes=3))


@architecture("qwen3_vl_moe_text", "qwen3_omni_moe_text")
def qwen3_vl_moe_text(c: Dimensions) -> Model:
    """Qwen 3's mixture of experts, its rotary positions on three axes."""
    return qwen3_moe(c.but(position_axes=3))


def images(c: Dimensions, *, asks: bool = True, axes: bool = True) -> Images:
    """The tower of images and videos of any size; `asks` where its class names what embeds patches (_input_embed_layer)."""
    v = c.vision_config
    grid = Grid(pair(v.patch_size)[0], v.spatial_merge_size, _first(v.temporal_patch_size))
    return Images("", (tower(v, "visual"),), scattered=True, grid=grid, asks=asks, axes=axes, returned=False,
                  copied=bool(c.get("pads_images")))  # fmt: skip


@architecture("qwen2_vl_vision")
def qwen2_vl_vision(c: Dimensions) -> Model:
    """LayerNorms and plain MLPs; `hidden_size` is the text's."""
    v = c.but(hidden_size=c.embed_dim)
    layer = _layer(v, mlp(v, int(v.hidden_size * v.mlp_ratio)), "layer")
    return _visual(v, (repeat("blocks", c.depth, layer), _merger(v, c.hidden_size, "layer")), bias=False)


@architecture("qwen2_5_vl_vision", "qwen2_5_omni_vision_encoder", "exaone4_5_vision")
def qwen2_5_vl_vision(c: Dimensions) -> Model:
    """RMSNorms, gated MLPs, attention within windows but for a few layers."""
    hidden, width = c.hidden_size, c.intermediate_size
    gate, up = (Linear(name, hidden, width, bias=True) for name in ("gate_proj", "up_proj"))
    feed = Mlp("mlp", up, Linear("down_proj", width, hidden, bias=True), gate, activation=c.hidden_act, width=width)
    side = c.window_size // pair(c.patch_size)[0]
    full, local = _layer(c, feed, "rms"), _layer(c, feed, "rms", side**2)
    layers: list[Block] = [full if i in c.fullatt_block_indexes else local for i in range(c.depth)]
    order, back = GridOrder("", c.spatial_merge_size), GridOrder("", back=True)
    return _visual(c, (order, stack("blocks", layers), _merger(c, c.out_hidden_size, "rms"), back), bias=False)


@architecture("qwen3_vl_vision", "qwen3_vl_moe_vision", "qwen3_5_vision", "qwen3_5_moe_vision")
def qwen3_vl_vision(c: Dimensions) -> Model:
    """Learned positions besides rotary ones; some layers' states merged for the text's first layers (DeepStack)."""
    return _deep_visual(c, "deepstack_merger_list", _merger3(c, "", after=True), _merger3(c, "merger"))


@architecture("qwen3_omni_moe_vision_encoder")
def qwen3_omni_vision(c: Dimensions) -> Model:
    """The same with Qwen2.5's mergers."""
    deep = _merger(c, c.out_hidden_size, "layer", name="", after=True)
    return _deep_visual(c, "merger_list", deep, _merger(c, c.out_hidden_size, "layer"))


def _deep_visual(c: Dimensions, name: str, deep: Block, merger: Block) -> Model:
    layer = _layer(c, mlp(c, names=("linear_fc1", "linear_fc2")), "layer")
    places = GridPositions("pos_embed", c.num_position_embeddings, c.hidden_size)
    at = tuple(c.get("deepstack_visual_indexes") or ())
    taken = DeepStack(name, (deep,) * len(at), at=at) if at else None
    return _visual(c, (taken, repeat("blocks", c.depth, layer), merger), bias=True, places=places)


def _visual(c: Dimensions, layers: tuple[Block | None, ...], *, bias: bool, places: Block | None = None) -> Model:
    """Patches of two frames, the layers, and the merger that makes tokens of the text."""
    kernel = (_first(c.temporal_patch_size), *pair(c.patch_size))
    conv = Conv("proj", c.in_channels, c.hidden_size, kernel, kernel, bias=bias, looked=1)
    cut = sequence(ConvTokens("", conv), name="patch_embed")
    return Model(sequence(cut, places, GridRotary("", c.hidden_size // c.num_heads), *layers), "encoder")


def _first(value: int | list[int]) -> int:
    return value[0] if isinstance(value, list) else value


def _layer(c: Dimensions, feed: Block, norm: str, local: int = 0) -> Sequence:
    """norm1, attn (qkv fused but in Omni), norm2, mlp; attention among the patches of an image, or of a window of it."""
    hidden, heads, apart, few = c.hidden_size, c.num_heads, c.traits.separate_qkv, c.get("num_key_value_heads")
    kv, dim = few or heads, hidden // heads
    q, k, v = (Linear(name, hidden, hidden, bias=True) if apart else None for name in "qkv")
    mixer = Attention(
        "attn", heads, kv, dim, q, k, v,
        qkv=None if apart else Linear("qkv", hidden, hidden + 2 * kv * dim, bias=True),
        out=Linear("proj", hidden, hidden, bias=True), rotary_dim=dim, causal=False, window=local,
        formula="exaone-vision" if few else "qwen-vision",
    )  # fmt: skip
    first, second = Norm("norm1", hidden, norm), Norm("norm2", hidden, norm)  # type: ignore[arg-type]
    return sequence(residual(first, mixer), residual(second, feed))


def _merger(c: Dimensions, outputs: int, norm: str, *, name: str = "merger", after: bool = False) -> Sequence:
    """Four neighbouring tokens, normed and concatenated (or normed together), through two linear layers."""
    wide = c.hidden_size * c.spatial_merge_size**2
    first, second = Linear("0", wide, wide, bias=True), Linear("2", wide, outputs, bias=True)
    layers = Sequence("mlp", (first, Activation("", "gelu"), second))
    ln = Norm("ln_q", wide if after else c.hidden_size, norm)  # type: ignore[arg-type]
    merge = MergeNeighbours("", c.spatial_merge_size)
    return sequence(*((merge, ln) if after else (ln, merge)), layers, name=name)


def _merger3(c: Dimensions, name: str, *, after: bool = False) -> Sequence:
    """The same with Qwen3-VL's names; the DeepStack ones norm the four together."""
    wide = c.hidden_size * c.spatial_merge_size**2
    norm, merge = Norm("norm", wide if after else c.hidden_size, "layer"), MergeNeighbours("", c.spatial_merge_size)
    first, second = (
        Linear("linear_fc1", wide, wide, bias=True),
        Linear("linear_fc2", wide, c.out_hidden_size, bias=True),
    )
    return sequence(*((merge, norm) if after else (norm, merge)), first, Activation("", "gelu"), second, name=name)
