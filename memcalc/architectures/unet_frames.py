"""UNetSpatioTemporalConditionModel: a UNet whose blocks also look along time (Stable Video Diffusion, Blattmann et al. 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from memcalc.architectures import architecture
from memcalc.architectures.diffusers import (
    attention,
    conv3,
    denoiser,
    embedded,
    feed_forward,
    group_norm,
    latent,
    res_block,
)
from memcalc.blocks.base import Block, Recomputed, Sequence, repeat, residual, sequence, stack
from memcalc.blocks.basic import Activation, Conv, Linear, Norm
from memcalc.blocks.frames import FramesApart, FramesRes, FramesTogether, FramesTransformer, TimeBlock
from memcalc.blocks.image import Join, Keep, Resample
from memcalc.blocks.unet import BasicBlock, ResBlock
from memcalc.errors import fault

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model

GROUPS = 32  # of every group norm (SpatioTemporalResBlock, TransformerSpatioTemporalModel)
CONTEXT = 1  # token: the image that the video begins with, embedded (StableVideoDiffusionPipeline)
SIZE = (72, 128)  # of a latent: 576 x 1024 pixels (StableVideoDiffusionPipeline.__call__)
KINDS = ("DownBlockSpatioTemporal", "UpBlockSpatioTemporal")
ATTENDING = ("CrossAttnDownBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal")


class Level(NamedTuple):
    """One resolution: whether its layers attend, and their dimensions."""

    attends: bool
    width: int
    layers: int
    heads: int
    context: int
    depths: tuple[int, ...]
    wide: int


@architecture("UNetSpatioTemporalConditionModel")
def unet_frames(c: Dimensions) -> Model:
    """conv_in, levels down (each state kept), a middle, levels up (each kept state joined), conv_out: of every frame."""
    widths = list(c.block_out_channels)
    down, up = _levels(c, c.down_block_types), _levels(c, list(c.up_block_types)[::-1])[::-1]
    wide, back = 4 * widths[0], widths[::-1]
    side = c.get("sample_size")
    size = tuple(side) if isinstance(side, (list, tuple)) else SIZE
    return denoiser(
        c, embedded("time_embedding", widths[0], wide),
        embedded("add_embedding", c.projection_class_embeddings_input_dim, wide, given=True), FramesApart(""),
        conv3("conv_in", c.in_channels, widths[0]), Keep(""),
        stack("down_blocks", [_down(level, [widths[0], *widths][i], last=i == len(down) - 1)
                              for i, level in enumerate(down)], "never"),
        _middle(down[-1]),
        stack("up_blocks", [_up(level, back[max(i - 1, 0)], back[min(i + 1, len(back) - 1)], last=i == len(up) - 1)
                            for i, level in enumerate(up)], "never"),
        group_norm("conv_norm_out", widths[0], GROUPS), Activation("", "silu"),
        conv3("conv_out", widths[0], c.out_channels), FramesTogether(""),
        text=CONTEXT, image=latent(c, (c.num_frames, *size)),
    )  # fmt: skip


def _each(value: Any, count: int) -> list[Any]:  # noqa: ANN401 - numbers, lists of them, or one for all
    return list(value) if isinstance(value, (list, tuple)) else [value] * count


def _levels(c: Dimensions, kinds: list[str]) -> list[Level]:
    """The levels from the largest map on."""
    for kind in kinds:
        if kind not in (*KINDS, *ATTENDING):
            raise fault("model.down_block_types", f"the block {kind!r} is not known")
    count = len(c.block_out_channels)
    rows = zip(kinds, c.block_out_channels, _each(c.layers_per_block, count), _each(c.num_attention_heads, count),
               _each(c.cross_attention_dim, count), _each(c.transformer_layers_per_block, count), strict=True)  # fmt: skip
    return [
        Level(
            kind in ATTENDING, width, layers, heads, context, tuple(_each(depth, layers)), 4 * c.block_out_channels[0]
        )
        for kind, width, layers, heads, context, depth in rows
    ]


def _down(level: Level, before: int, *, last: bool) -> Sequence:
    """Residual (and attention) layers, each state kept; a strided convolution halves the map."""
    blocks: list[Block | None] = []
    for i in range(level.layers):
        res = _residual(f"resnets.{i}", before if i == 0 else level.width, level)
        blocks += [Recomputed("", (res,)), _attention(i, level, level.depths[i]), Keep("")]
    if last:
        return sequence(*blocks)
    return sequence(*blocks, conv3("downsamplers.0.conv", level.width, level.width, 3, 2), Keep(""))


def _up(level: Level, below: int, skip: int, *, last: bool) -> Sequence:
    """Layers that first join a kept state, one more than down; then the map doubled and convolved."""
    blocks: list[Block | None] = []
    for i in range(level.layers + 1):
        joined = (below if i == 0 else level.width) + (skip if i == level.layers else level.width)
        res = Recomputed("", (_residual(f"resnets.{i}", joined, level),))
        blocks += [Join("", first=i == 0), res, _attention(i, level, level.depths[min(i, level.layers - 1)])]
    if last:
        return sequence(*blocks)
    return sequence(*blocks, Resample(""), conv3("upsamplers.0.conv", level.width, level.width))


def _middle(level: Level) -> Sequence:
    """A residual block, attention, a residual block, all of the last level's width."""
    first, second = (_residual(f"resnets.{i}", level.width, level) for i in range(2))
    attends = _attention(0, level._replace(attends=True), level.depths[-1])
    return sequence(first, attends, Recomputed("", (second,)), name="mid_block")


def _residual(name: str, before: int, level: Level) -> FramesRes:
    """SpatioTemporalResBlock."""
    width = level.width
    spatial = res_block("spatial_res_block", before, width, time=level.wide, groups=GROUPS)
    temporal = ResBlock(
        "temporal_res_block", group_norm("norm1", width, GROUPS), _along_time("conv1", width),
        Linear("time_emb_proj", level.wide, width, bias=True), group_norm("norm2", width, GROUPS), _along_time("conv2", width),
    )  # fmt: skip
    return FramesRes(name, spatial, temporal)


def _along_time(name: str, width: int) -> Conv:
    return Conv(name, width, width, (3, 1, 1), padding=(1, 0, 0))


def _attention(index: int, level: Level, depth: int) -> FramesTransformer | None:
    """TransformerSpatioTemporalModel."""
    if not level.attends:
        return None
    width = level.width
    branches = tuple(residual(Norm(f"norm{i}", width, "layer"), part) for i, part in enumerate(_branches(level), 1))
    first = residual(Norm("norm_in", width, "layer"), feed_forward("ff_in", width))
    return FramesTransformer(
        f"attentions.{index}", group_norm("norm", width, GROUPS), Linear("proj_in", width, width, bias=True),
        repeat("transformer_blocks", depth, BasicBlock("", branches)),
        stack("temporal_transformer_blocks", [TimeBlock("", (first, *branches))] * depth, "never"),
        sequence(Linear("linear_1", width, 4 * width, bias=True), Activation("", "silu"),
                 Linear("linear_2", 4 * width, width, bias=True), name="time_pos_embed"),
        Linear("proj_out", width, width, bias=True), width,
    )  # fmt: skip


def _branches(level: Level) -> tuple[Block, Block, Block]:
    width, heads = level.width, level.heads
    return (attention("attn1", width, heads, width // heads),
            attention("attn2", width, heads, width // heads, level.context), feed_forward("ff", width))  # fmt: skip
