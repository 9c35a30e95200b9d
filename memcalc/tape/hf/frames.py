"""UNets of videos: layers over time behind those of every frame (diffusers, unet_spatio_temporal_condition.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from memcalc.blocks.frames import MIX, FramesApart, FramesRes, FramesTogether, FramesTransformer, TimeBlock
from memcalc.tape import functions as f
from memcalc.tape.hf.activations import activate
from memcalc.tape.hf.diffusion import sinusoids
from memcalc.tape.hf.refining import one_of
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.base import Stack
    from memcalc.blocks.unet import ResBlock
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(FramesApart)
def frames_apart(_: Tape, block: FramesApart, x: Value, around: Around) -> Value:
    """UNetSpatioTemporalConditionModel.forward: sample.flatten(0, 1); what is told of a video, for each of its frames."""
    batch, channels, frames, *size = x.shape
    around.scene.frames = frames
    vector, encoder = cast("Value", around.scene.vector), cast("Value", around.encoder)
    around.scene.vector = f.repeat_interleave(vector, frames, 0)
    around.encoder = f.repeat_interleave(encoder, frames, 0)
    return f.reshape(x, batch * frames, channels, *size)


@rule(FramesTogether)
def frames_together(_: Tape, block: FramesTogether, x: Value, around: Around) -> Value:
    """sample.reshape(batch_size, num_frames, …)."""
    return f.reshape(x, -1, around.scene.frames, *x.shape[1:])


@rule(FramesRes)
def frames_res(t: Tape, block: FramesRes, x: Value, around: Around) -> Value:
    """SpatioTemporalResBlock.forward."""
    x = run(t, block.spatial, x, around)
    frames, (_, channels, *size) = around.scene.frames, x.shape
    own = f.permute(f.reshape(x, -1, frames, channels, *size), 0, 2, 1, 3, 4)
    with inside(t, cast("ResBlock", block.temporal)):
        later = _temporal(t, cast("ResBlock", block.temporal), own, around)
    x = f.permute(_mixed(t, own, later), 0, 2, 1, 3, 4)
    return f.reshape(x, -1, channels, *size)


def _temporal(t: Tape, block: ResBlock, x: Value, around: Around) -> Value:
    """TemporalResnetBlock.forward."""
    vector = cast("Value", around.scene.vector)
    vector = f.reshape(vector, x.shape[0], -1, vector.shape[-1])
    y = run(t, block.conv1, f.silu(run(t, block.norm1, x, around)), around)
    vector = run(t, block.time, activate(block.activation, vector), around)
    vector = f.permute(f.unsqueeze(f.unsqueeze(vector, 3), 4), 0, 2, 1, 3, 4)
    y = run(t, block.norm2, f.add(y, vector), around)
    return f.add(x, run(t, block.conv2, f.silu(y), around))


def _mixed(t: Tape, own: Value, later: Value) -> Value:
    """AlphaBlender.forward: a learned share of one and the rest of the other."""
    share = f.to(f.sigmoid(t.weight(MIX, (1,))), own.dtype)
    first = f.mul(share, own)
    return f.add(first, f.mul(f.shift(f.neg(share)), later))


@rule(FramesTransformer)
def frames_transformer(t: Tape, block: FramesTransformer, x: Value, around: Around) -> Value:
    """TransformerSpatioTemporalModel.forward."""
    images, width, *size = x.shape
    frames, encoder = around.scene.frames, cast("Value", around.encoder)
    tokens, videos = size[0] * size[1], images // frames
    told = f.select(f.reshape(encoder, videos, frames, *encoder.shape[1:]), 1)
    told = f.expand(f.unsqueeze(told, 1), videos, tokens, *told.shape[1:])
    later = around.copy()
    later.encoder = f.reshape(told, videos * tokens, *told.shape[2:])
    residual = x
    x = f.permute(run(t, block.norm, x, around), 0, 2, 3, 1)
    x = run(t, block.into, f.reshape(x, images, tokens, width), around)
    places = f.unsqueeze(run(t, block.places, sinusoids(t, images, block.width), around), 1)
    for index in range(len(cast("Stack", block.spatial).layers)):
        x = one_of(t, block.spatial, index, x, around)
        beside = one_of(t, block.temporal, index, f.add(x, places), later)
        x = _mixed(t, x, beside)
    x = run(t, block.out, x, around)
    x = f.contiguous(f.permute(f.reshape(x, images, *size, width), 0, 3, 1, 2))
    return f.add(x, residual)


@rule(TimeBlock)
def time_block(t: Tape, block: TimeBlock, x: Value, around: Around) -> Value:
    """TemporalBasicTransformerBlock.forward."""
    images, tokens, width = x.shape
    frames = around.scene.frames
    x = f.permute(f.reshape(x, -1, frames, tokens, width), 0, 2, 1, 3)
    x = f.reshape(x, -1, frames, width)
    given: Value | None = x
    for branch in block.branches:
        norm, inner = branch.parts()
        normed = run(t, norm, x, around)
        added = run(t, inner, normed, around)
        x = f.add(added, x)
    del given, normed, added
    x = f.permute(f.reshape(x, -1, tokens, frames, width), 0, 2, 1, 3)
    return f.reshape(x, images, tokens, width)
