"""UNet2DConditionModel: residual and transformer blocks down, through the middle and up again (Rombach et al. 2022)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from memcalc.architectures import architecture
from memcalc.architectures.diffusers import (
    attention,
    conv3,
    denoiser,
    feed_forward,
    group_norm,
    map_attention,
    res_block,
)
from memcalc.architectures.unet_conditions import conditions, time_width
from memcalc.blocks.base import Block, Recomputed, Sequence, Stack, Sum, repeat, residual, sequence, stack
from memcalc.blocks.basic import Activation, Linear, Norm
from memcalc.blocks.image import Flatten, Join, Keep, Pad, Resample, Unflatten
from memcalc.blocks.unet import BasicBlock, SpatialTransformer
from memcalc.errors import fault

if TYPE_CHECKING:
    from memcalc.blocks.unet import ResBlock
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


CLIP_TOKENS = 77  # what the pipelines of Stable Diffusion cut and pad every prompt to


class Level(NamedTuple):
    """One resolution of the UNet: its block's type and dimensions."""

    kind: str
    width: int
    layers: int
    heads: int
    context: int
    depths: tuple[int, ...]
    only_cross: bool


@architecture("UNet2DConditionModel")
def unet(c: Dimensions) -> Model:
    """conv_in, levels down (each state kept), a middle, levels up (each kept state joined), conv_out."""
    widths, groups = c.block_out_channels, c.norm_num_groups
    down, up = levels(c), up_levels(c)
    end = (group_norm("conv_norm_out", widths[0], groups), Activation("", c.act_fn)) if groups else ()
    return denoiser(
        c, *conditions(c), conv3("conv_in", c.in_channels, widths[0], c.conv_in_kernel), Keep(""),
        down_levels(c, down),
        middle(c, down[-1]),
        stack("up_blocks", [up_level(c, level, before, skip, last=i == len(up) - 1)
                            for i, (level, before, skip) in enumerate(upwards(up, widths))], "never"),
        *end, conv3("conv_out", widths[0], c.out_channels, c.conv_out_kernel),
        text=0 if c.get("encoder_hid_dim_type") == "image_proj" else CLIP_TOKENS,
    )  # fmt: skip


def _each(value: Any, count: int) -> list[Any]:  # noqa: ANN401 - numbers, lists of them, or one for all
    return list(value) if isinstance(value, (list, tuple)) else [value] * count


def levels(c: Dimensions) -> list[Level]:
    """The levels down; attention_head_dim is the number of heads, by an old mistake diffusers keeps to."""
    n = len(c.down_block_types)
    layers, depths = _each(c.layers_per_block, n), _each(c.transformer_layers_per_block, n)
    heads, contexts = _each(c.attention_head_dim, n), _each(c.get("cross_attention_dim"), n)
    rows = zip(c.down_block_types, c.block_out_channels, layers, heads, contexts, depths,
               _each(c.only_cross_attention, n), strict=False)  # fmt: skip
    return [
        Level(kind, width, count, head, context, tuple(_each(depth, count)), only)
        for kind, width, count, head, context, depth, only in rows
    ]


def up_levels(c: Dimensions) -> list[Level]:
    """The levels up: those down in reverse, each with a layer more."""
    given = c.get("reverse_transformer_layers_per_block")
    down = levels(c)[::-1]
    raw = given or _each(c.transformer_layers_per_block, len(down))[::-1]
    return [
        level._replace(kind=kind, layers=level.layers + 1, depths=tuple(_each(depth, level.layers + 1)))
        for level, kind, depth in zip(down, c.up_block_types, raw, strict=False)
    ]


def upwards(up: list[Level], widths: list[int]) -> list[tuple[Level, int, int]]:
    """(level, width that comes from below, width of the last skip) of each level up."""
    back = widths[::-1]
    return [(level, back[max(i - 1, 0)], back[min(i + 1, len(back) - 1)]) for i, level in enumerate(up)]


def residual_block(c: Dimensions, name: str, inputs: int, outputs: int, **more: bool) -> ResBlock:
    """ResnetBlock2D, with the time embedding of this UNet."""
    wide = time_width(c) * (2 if c.class_embeddings_concat else 1)
    scaled = c.resnet_time_scale_shift == "scale_shift"
    return res_block(name, inputs, outputs, time=wide, groups=c.norm_num_groups, act=c.act_fn,
                     dropout=c.dropout, scale_shift=scaled, **more)  # fmt: skip


def _attends(c: Dimensions, level: Level, index: int, before: Sequence | None = None) -> Sequence | None:
    """What follows a residual block of this level; the same as the one before where nothing differs but its number."""
    if before and level.depths[index] == level.depths[index - 1]:
        return replace(before, name=f"attentions.{index}")
    return _attention(c, level, index, level.width)


def _attention(c: Dimensions, level: Level, index: int, width: int) -> Sequence | None:
    """A transformer, plain cross attention, or nothing."""
    kind, name = level.kind, f"attentions.{index}"
    if kind in ("DownBlock2D", "UpBlock2D", "ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"):
        return None
    if kind in ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D", "UNetMidBlock2DCrossAttn"):
        if c.dual_cross_attention or c.attention_type != "default":
            raise fault("model.attention_type", "dual and gated (GLIGEN) attention are not known")
        return _spatial_transformer(c, name, width, level, level.depths[index])
    if kind in ("SimpleCrossAttnDownBlock2D", "SimpleCrossAttnUpBlock2D", "UNetMidBlock2DSimpleCrossAttn"):
        return _added_kv(c, name, width, level)
    if kind in ("AttnDownBlock2D", "AttnUpBlock2D"):
        return map_attention(name, width, width // level.heads, c.norm_num_groups)
    raise fault("model.down_block_types", f"the block {kind!r} is not known")


def _spatial_transformer(c: Dimensions, name: str, width: int, level: Level, depth: int) -> Sequence:
    """Transformer2DModel: group norm, in, `depth` blocks over the pixels as tokens, out, x + it."""
    linear = bool(c.use_linear_projection)
    into = Linear("proj_in", width, width, bias=True) if linear else conv3("proj_in", width, width, 1)
    out = Linear("proj_out", width, width, bias=True) if linear else conv3("proj_out", width, width, 1)
    blocks = repeat("transformer_blocks", depth, _transformer_block(width, level))
    inside = (
        (Flatten(""), into, blocks, out, Unflatten("")) if linear else (into, Flatten(""), blocks, Unflatten(""), out)
    )
    return sequence(SpatialTransformer("", (group_norm("norm", width, c.norm_num_groups), *inside)), name=name)


def _transformer_block(width: int, level: Level) -> BasicBlock:
    """BasicTransformerBlock: self-attention, cross-attention, GEGLU, each x + f(norm(x))."""
    heads, dim = level.heads, width // level.heads
    branches = (attention("attn1", width, heads, dim, level.context if level.only_cross else 0),
                attention("attn2", width, heads, dim, level.context),
                feed_forward("ff", width))  # fmt: skip
    return BasicBlock("", tuple(residual(Norm(f"norm{i}", width, "layer"), f) for i, f in enumerate(branches, 1)))


def _added_kv(c: Dimensions, name: str, width: int, level: Level) -> Sequence:
    """Attention of pixels to themselves and the context, group norm first (DeepFloyd IF; AttnAddedKVProcessor2_0)."""
    dim, context = level.heads, level.context
    norms = {"layer_norm": Norm("norm_cross", width, "layer"), "group_norm": group_norm("norm_cross", context, 32)}
    mixer = attention("", width, width // dim, dim, bias=True, formula="added-kv")
    added = (norms.get(str(c.get("cross_attention_norm"))), Linear("add_k_proj", context, width, bias=True),
             Linear("add_v_proj", context, width, bias=True))  # fmt: skip
    first = group_norm("group_norm", width, c.norm_num_groups)
    mixer = replace(mixer, before=(first, *(block for block in added if block)))
    mixer = replace(mixer, k=None, v=None) if level.only_cross else mixer
    attended = sequence(Flatten(""), mixer, Unflatten("", copied=False))
    return sequence(Sum("", (attended, sequence())), name=name)


def down_levels(c: Dimensions, down: list[Level]) -> Stack:
    """The way down: every level, each but the last halving the map."""
    befores = [c.block_out_channels[0], *c.block_out_channels]
    made: list[Block] = [
        down_level(c, level, before, last=i == len(down) - 1)
        for i, (level, before) in enumerate(zip(down, befores, strict=False))
    ]
    return stack("down_blocks", made, "never")


def down_level(c: Dimensions, level: Level, before: int, *, last: bool) -> Sequence:
    """Residual (and attention) layers, each state kept; a strided convolution (or block) halves the map."""
    blocks: list[Block | None] = []
    attends = None
    for i in range(level.layers):
        attends = _attends(c, level, i, attends)
        res = residual_block(c, f"resnets.{i}", before if i == 0 else level.width, level.width)
        blocks += [Recomputed("", (res,)), attends, Keep("")]
    if last:
        return sequence(*blocks)
    if level.kind in ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D") or resampled(
        c, level, "downsample_type"
    ):
        shrink: Block = residual_block(c, "downsamplers.0", level.width, level.width, down=True)
    else:
        shrink = conv3("downsamplers.0.conv", level.width, level.width, 3, 2, c.downsample_padding)
    return sequence(*blocks, None if c.downsample_padding else Pad("", 1), shrink, Keep(""))


def resampled(c: Dimensions, level: Level, key: str) -> bool:
    """Whether a level with attention to itself alone is resized by a residual block, as a config may ask."""
    return level.kind in ("AttnDownBlock2D", "AttnUpBlock2D") and c.get(key) == "resnet"


def up_level(c: Dimensions, level: Level, below: int, skip: int, *, last: bool) -> Sequence:
    """Layers that first join a kept state; then the map doubled and convolved."""
    blocks: list[Block | None] = []
    attends = None
    for i in range(level.layers):
        joined = (below if i == 0 else level.width) + (skip if i == level.layers - 1 else level.width)
        attends = _attends(c, level, i, attends)
        res = Recomputed("", (residual_block(c, f"resnets.{i}", joined, level.width),))
        blocks += [Join("", first=i == 0), res, attends]
    if last:
        return sequence(*blocks)
    if level.kind in ("ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D") or resampled(c, level, "upsample_type"):
        return sequence(*blocks, residual_block(c, "upsamplers.0", level.width, level.width, up=True))
    return sequence(*blocks, Resample(""), conv3("upsamplers.0.conv", level.width, level.width))


def middle(c: Dimensions, level: Level) -> Sequence | None:
    """A residual block, attention, a residual block, all of the last level's width."""
    kind, width = c.get("mid_block_type"), c.block_out_channels[-1]
    if kind is None:
        return None
    first = residual_block(c, "resnets.0", width, width)
    if kind == "UNetMidBlock2D":
        return sequence(first, name="mid_block")
    level = level._replace(kind=kind, only_cross=kind == "UNetMidBlock2DSimpleCrossAttn" and _middle_only_cross(c))
    second: Block = residual_block(c, "resnets.1", width, width)
    second = second if kind == "UNetMidBlock2DSimpleCrossAttn" else Recomputed("", (second,))
    return sequence(first, _attention(c, level, 0, width), second, name="mid_block")


def _middle_only_cross(c: Dimensions) -> bool:
    given = c.get("mid_block_only_cross_attention")
    return bool(given) if given is not None else c.only_cross_attention is True
