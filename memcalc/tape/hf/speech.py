"""Speech: strided convolutions of waveforms, a weight-normed one for positions, attention with gated biases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.basic import Norm
from memcalc.blocks.speech import (
    ChannelsFirst,
    FeatureProjection,
    FirstTwo,
    GatedBiasAttention,
    LayerSum,
    LocalPositions,
    OddFrames,
    Squeezed,
    Statistics,
    TimeDelay,
    WeightNormConv,
)
from memcalc.tape import functions as f
from memcalc.tape.functions import maps
from memcalc.tape.hf.activations import activate
from memcalc.tape.hf.position_biases import log_buckets, looked_up
from memcalc.tape.hf.vision import sizes
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.attention import Attention
    from memcalc.blocks.base import Block
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(WeightNormConv)
def position_conv(t: Tape, block: WeightNormConv, x: Value, _: Around) -> Value:
    """Wav2Vec2PositionalConvEmbedding.forward: over time, the one frame too many of an even kernel cut off."""
    return f.transpose(placed(t, block, f.transpose(x, 1, 2)), 1, 2)


def placed(t: Tape, block: WeightNormConv, x: Value) -> Value:
    """The convolution over time of [batch, width, frames], its weight normalised, and the cut behind it."""
    direction = t.weight(
        "parametrizations.weight.original1", (block.outputs, block.inputs // block.conv_groups, *block.kernel)
    )
    length = t.weight("parametrizations.weight.original0", (1, 1, block.kernel[-1]))
    weight = f.weight_norm(direction, length)
    (longer,) = sizes(block, x.shape[2:])
    out = f.conv(x, weight, t.weight("bias", (block.outputs,)) if block.bias else None, (longer,))
    return f.narrow(out, -1, longer - 1 + block.kernel[-1] % 2)


@rule(Squeezed)
def squeezed(t: Tape, block: Squeezed, x: Value, around: Around) -> Value:
    """SEWEncoder.forward; what the model and it have names for is held to its end."""
    assert isinstance(block.places, WeightNormConv)  # noqa: S101 - it is made with one
    frames, turned = x.shape[1], f.transpose(x, 1, 2)
    with inside(t, block.places):
        places = activate(block.activation, placed(t, block.places, turned))
    pooled = maps.average_pool(turned, (frames // block.factor,))
    least = min(places.shape[-1], pooled.shape[-1])
    t.held += (x, places, pooled)
    around.holds = True
    out = f.transpose(f.add(f.narrow(pooled, -1, least), f.narrow(places, -1, least)), 1, 2)
    for part in block.blocks:
        out = run(t, part, out, around)
    out = activate(block.activation, run(t, block.spread, out, around))
    out = f.reshape(out, out.shape[0], -1, x.shape[2])
    return f.pad(out, 1, frames - out.shape[1]) if out.shape[1] < frames else out


@rule(FeatureProjection)
def feature_projection(t: Tape, block: FeatureProjection, x: Value, around: Around) -> Value:
    """Wav2Vec2FeatureProjection.forward; the model holds the features, normed or as they came (HubertModel.forward)."""
    parts = list(block.blocks)
    features = run(t, parts.pop(0), x, around) if isinstance(parts[0], Norm) else x
    if block.yields:
        around.outputs.append(features)
    else:
        t.held.append(x)
    out = features
    for part in parts:
        out = run(t, part, out, around)
    return out


@rule(LocalPositions)
def local_positions(t: Tape, block: LocalPositions, x: Value, around: Around) -> Value:
    """Wav2Vec2Encoder.forward before its layers."""
    places = x
    for part in block.blocks:
        places = run(t, part, places, around)
    t.held += (x, places)
    around.holds = True
    return f.add(x, places)


@rule(FirstTwo)
def first_two(_: Tape, block: FirstTwo, x: Value, around: Around) -> Value:
    """(sequence_output[:, 0] + sequence_output[:, 1]) / 2 (ASTModel.forward)."""
    around.outputs.append(x)
    return f.scale(f.add(f.select(x, 1), f.select(x, 1)))


@rule(LayerSum)
def layer_sum(t: Tape, block: LayerSum, x: Value, around: Around) -> Value:
    """(stack(hidden_states, dim=1) * softmax(layer_weights)).sum(dim=1) (Wav2Vec2ForSequenceClassification.forward)."""
    states = [state for state in around.outputs if state.shape == x.shape]  # what an adapter makes is shorter
    stacked = f.stack(states[-block.shape[0] :], 1, block.shape[0])
    weights = f.softmax(t.weight("", block.shape))
    return f.total(f.mul(stacked, f.view(weights, -1, 1, 1)), 1)


@rule(Norm, "frames")
def frames_norm(t: Tape, block: Norm, x: Value, _: Around) -> Value:
    """Wav2Vec2LayerNormConvLayer.forward: the channels put last, normed, and put back."""
    weight, bias = (t.weight(n, (block.width,)) if block.kind == "layer" else None for n in ("weight", "bias"))
    return f.transpose(f.layer_norm(f.transpose(x, 1, 2), weight, bias), 1, 2)


@rule(ChannelsFirst)
def channels_first(t: Tape, block: ChannelsFirst, x: Value, around: Around) -> Value:
    """Data2VecAudioPositionalConvEmbedding.forward."""
    x = f.transpose(x, 1, 2)
    for part in block.blocks:
        x = run(t, part, x, around)
    return f.transpose(x, 1, 2)


@rule(OddFrames)
def odd_frames(_: Tape, block: OddFrames, x: Value, around: Around) -> Value:
    """Wav2Vec2SamePadLayer.forward."""
    return x if block.size % 2 else f.narrow(x, 2, x.shape[2] - 1)


@rule(Norm, "channel-groups")
def group_norm(t: Tape, block: Norm, x: Value, _: Around) -> Value:
    """nn.GroupNorm with a group for each channel."""
    return f.group_norm(x, t.weight("weight", (block.width,)), t.weight("bias", (block.width,)), block.width)


@rule(GatedBiasAttention, "wavlm")
def gated_bias_attention(t: Tape, block: GatedBiasAttention, x: Value, around: Around) -> Value:
    """WavLMAttention.forward: the bias of the first layer, each head's times a gate of its own queries."""
    b, s, _ = x.shape
    if around.bias is None:
        around.bias = f.view(f.repeat(looked_up(t, block, x, x, log_buckets), b), b * block.heads, s, s)
    gate = run(t, block.gate_rows, f.transpose(f.view(x, b, s, block.heads, -1), 1, 2), around)
    first, second = f.chunk(f.sigmoid(f.total(f.view(gate, b, block.heads, s, 2, 4), -1)), 2)
    constant = t.weight("gru_rel_pos_const", (1, block.heads, 1, 1))
    gate = f.shift(f.mul(first, f.shift(f.mul(second, constant))))
    return multi_head(t, block, x, f.mul(f.reshape(gate, b * block.heads, -1, 1), around.bias), around)


def multi_head(t: Tape, block: Attention, x: Value, bias: Value, around: Around) -> Value:
    """F.multi_head_attention_forward with separate projections, its weights averaged over the heads for the caller."""
    b, s, width = x.shape
    x = f.transpose(x, 0, 1)
    parts = [part for part in (block.q, block.k, block.v) if part]
    biases = f.chunk(f.cat([own(t, part, "bias", width) for part in parts]), 3)
    rows = [f.linear(x, own(t, part, "weight", width, width), start) for part, start in zip(parts, biases, strict=True)]
    q, k, v = (f.transpose(f.view(part, s, b * block.heads, -1), 0, 1) for part in rows)
    del rows
    weights = f.dropout(f.softmax(f.baddbmm(bias, f.scale(q), f.swap(k))), block.dropout)
    out = f.reshape(f.contiguous(f.transpose(f.bmm(weights, v), 0, 1)), s * b, width)
    assert block.out  # noqa: S101 - every attention has one
    out = f.linear(out, own(t, block.out, "weight", width, width), own(t, block.out, "bias", width))
    out = f.view(out, s, b, width)
    around.weights = f.mean(f.view(weights, b, block.heads, s, s), 1, keep=False)
    return f.transpose(out, 0, 1)


@rule(TimeDelay)
def time_delay(t: Tape, block: TimeDelay, x: Value, _: Around) -> Value:
    """TDNNLayer.forward: F.conv1d by the weight of its linear layer, read as [outputs, inputs, size]."""
    kernel = block.kernel
    assert kernel  # noqa: S101 - every layer has one
    weight, bias = own(t, kernel, "weight", kernel.outputs, kernel.inputs), own(t, kernel, "bias", kernel.outputs)
    weight = f.transpose(f.view(weight, kernel.outputs, block.size, -1), 1, 2)
    length = x.shape[1] - (block.size - 1) * block.dilation
    return f.transpose(f.conv(f.transpose(x, 1, 2), weight, bias, (length,)), 1, 2)


@rule(Statistics)
def statistics(_: Tape, block: Statistics, x: Value, around: Around) -> Value:
    """Wav2Vec2ForXVector.forward: statistic_pooling of sequences that are told of no padding."""
    mean = f.mean(x, 1, keep=False)
    return f.cat((mean, f.deviation(x, 1)), -1)


def own(t: Tape, part: Block, name: str, *shape: int) -> Value:
    """A tensor of a linear layer that another function multiplies by."""
    with inside(t, part):
        return t.weight(name, shape)
