"""SpeechT5 (modeling_speecht5.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.speecht5 import DistanceTable, ScaledPositions, SpectrogramPostnet, SpectrogramPrenet, Waveform
from memcalc.tape import functions as f
from memcalc.tape.autograd import Leaf
from memcalc.tape.hf.attention import heads
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Attention, "speecht5")
def attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """SpeechT5Attention.forward: heads folded into the batch, a bias of distances added in place."""
    b, s, width = x.shape
    read = around.encoder if block.cross and around.encoder else x
    q = f.scale(run(t, block.q, x, around))
    k, v = (heads(run(t, part, read, around), block.heads) for part in (block.k, block.v))
    q, k, v = (f.reshape(part, b * block.heads, -1, block.head_dim) for part in (heads(q, block.heads), k, v))
    weights = f.bmm(f.lower(q), f.lower(f.swap(k)))
    bias = None
    if around.table is not None:
        bias = f.matmul(f.transpose(q, 0, 1), f.swap(around.table))
        bias = f.view(f.transpose(bias, 0, 1), *weights.shape)
        weights = f.add_(weights, bias)
    mask = None if block.cross else around.mask(block.window)
    if mask is not None:
        weights = f.view(f.add(f.view(weights, b, block.heads, s, -1), mask), b * block.heads, s, -1)
    weights = f.softmax(weights)
    dropped = f.dropout(weights, block.dropout)
    out = f.bmm(f.lower(dropped), f.lower(v))
    out = f.reshape(f.transpose(f.view(out, b, block.heads, s, -1), 1, 2), b, s, width)
    return run(t, block.out, out, around)


@rule(Waveform)
def waveform(t: Tape, block: Waveform, x: Value, _: Around) -> Value:
    """SpeechT5FeatureEncoder.forward, before its convolutions."""
    x = f.unsqueeze(x, 1)
    x.node = Leaf(t, x)
    return x


@rule(ScaledPositions)
def scaled_positions(t: Tape, block: ScaledPositions, x: Value, _: Around) -> Value:
    """SpeechT5ScaledPositionalEncoding.forward, up to its dropout."""
    table = t.given((1, block.rows, block.width), t.setting.weights, "pe")
    rows = f.narrow(table, 1, x.shape[1])
    return f.add(x, f.mul(t.weight("alpha", ()), rows))


@rule(DistanceTable)
def distance_table(t: Tape, block: DistanceTable, x: Value, around: Around) -> Value:
    """SpeechT5RelativePositionalEncoding.forward: [seq, seq, head_dim]."""
    places = f.shift(f.scale(f.scale(t.new((x.shape[1], x.shape[1]), "int64"))))
    around.table = run(t, block.table, places, Around())
    t.held.append(around.table)
    return x


@rule(SpectrogramPrenet)
def prenet(t: Tape, block: SpectrogramPrenet, x: Value, around: Around) -> Value:
    """SpeechT5SpeechDecoderPrenet.forward; one mask of dropout serves all sequences."""
    batch, frames = x.shape[0], x.shape[1] // block.every
    x = t.new((batch, frames, block.bins), t.setting.weights)
    t.held.append(x)
    for layer in block.layers.parts() if block.layers else ():
        x = f.relu(run(t, layer, x, around))
        mask = f.repeat(f.unsqueeze(t.new(x.shape[1:], x.dtype), 0), batch)
        x = f.scale(f.scale(f.where(f.compare(mask), x, t.new((), x.dtype))))
    x = run(t, block.positions, run(t, block.last, x, around), around)
    x = f.dropout(x, block.later)
    if block.speaker is None:
        return x
    voice = t.new((batch, block.speaker.inputs - x.shape[-1]), x.dtype)
    x = f.cat((x, f.expand(f.unsqueeze(voice, 1), -1, frames, -1)), -1)
    return f.relu(run(t, block.speaker, x, around))


@rule(SpectrogramPostnet)
def postnet(t: Tape, block: SpectrogramPostnet, x: Value, around: Around) -> Value:
    """SpeechT5SpeechDecoderPostnet.forward, of which all three are outputs, and the spectrogram's part of the loss."""
    before = f.view(run(t, block.frames, x, around), x.shape[0], -1, block.bins)
    mended = f.add(before, f.transpose(run(t, block.convs, f.transpose(before, 1, 2), around), 1, 2))
    ends = f.view(run(t, block.ends, x, around), x.shape[0], -1)
    around.outputs += (before, mended, ends, x)
    return spectrogram_loss(t, before, mended)


def spectrogram_loss(t: Tape, before: Value, mended: Value) -> Value:
    """SpeechT5SpectrogramLoss.forward: distances of what is not padding, before and after the convolutions."""
    labels = t.given(before.shape, t.setting.weights)
    padding = t.new(labels.shape, "bool")
    labels = f.clone(labels)
    first, last = f.clone(before), f.clone(mended)
    loss = f.add(distance(last, labels), distance(first, labels))
    del padding
    return f.view(loss, 1, 1)


def distance(x: Value, y: Value) -> Value:
    """F.l1_loss."""
    return f.mean(f.absolute(f.subtract(x, y)), *range(len(x.shape)), keep=False)
