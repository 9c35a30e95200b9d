"""Speech: waveforms through strided convolutions, a weight-normed convolution for positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.basic import Norm
from memcalc.blocks.speech import WeightNormConv
from memcalc.tape import functions as f
from memcalc.tape.rules import Around, rule

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(WeightNormConv)
def position_conv(t: Tape, block: WeightNormConv, x: Value, _: Around) -> Value:
    """Wav2Vec2PositionalConvEmbedding.forward: over time, the one frame too many of an even kernel cut off."""
    direction = t.weight(
        "parametrizations.weight.original1", (block.outputs, block.inputs // block.conv_groups, *block.kernel)
    )
    length = t.weight("parametrizations.weight.original0", (1, 1, block.kernel[-1]))
    weight = f.weight_norm(direction, length)
    frames = x.shape[1]
    longer = frames + 1 - block.kernel[-1] % 2
    out = f.conv(f.transpose(x, 1, 2), weight, t.weight("bias", (block.outputs,)) if block.bias else None, (longer,))
    return f.transpose(f.narrow(out, -1, frames), 1, 2)


@rule(Norm, "frames")
def frames_norm(t: Tape, block: Norm, x: Value, _: Around) -> Value:
    """Wav2Vec2LayerNormConvLayer.forward: the channels put last, normed, and put back."""
    weight, bias = t.weight("weight", (block.width,)), t.weight("bias", (block.width,))
    return f.transpose(f.layer_norm(f.transpose(x, 1, 2), weight, bias), 1, 2)


@rule(Norm, "channel-groups")
def group_norm(t: Tape, block: Norm, x: Value, _: Around) -> Value:
    """nn.GroupNorm with a group for each channel."""
    return f.group_norm(x, t.weight("weight", (block.width,)), t.weight("bias", (block.width,)), block.width)
