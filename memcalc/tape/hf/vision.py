"""Images: patches as tokens, learned tokens and positions, what a head reads."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.basic import Conv, Select
from memcalc.blocks.image import Aside, ChannelScale, DropPath, Embedded, FixedPositions, Flatten, Positions, Prefix
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import attend, heads, project, separate
from memcalc.tape.hf.basic import asking
from memcalc.tape.rules import Around, rule, run
from memcalc.tape.units import hooked

DROP_PATH = "(drop path)"  # the name of a module that no tensor is named after

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Conv)
def conv(t: Tape, block: Conv, x: Value, around: Around) -> Value:
    """nn.Conv1d, 2d or 3d."""
    first, second = (block.inputs, block.outputs) if block.transposed else (block.outputs, block.inputs)
    weight = t.weight("weight", (first, second // block.conv_groups, *block.kernel))
    bias = t.weight("bias", (block.outputs,)) if block.bias else None
    out = f.conv(x, weight, bias, sizes(block, x.shape[2:]))
    return asking(t, out) if around.asks or (block.embeds and t.weights.adapters) else out


def sizes(block: Conv, given: tuple[int, ...]) -> tuple[int, ...]:
    """The size of the map a convolution puts out (torch.nn.Conv2d's formula, and ConvTranspose2d's)."""
    axes = len(given)
    stride, padding = _each(block.stride, axes), _each(block.padding, axes)
    reach = [block.dilation * (kernel - 1) for kernel in block.kernel]
    if block.transposed:
        return tuple((n - 1) * s - 2 * p + r + 1 for n, s, p, r in zip(given, stride, padding, reach, strict=True))
    return tuple((n + 2 * p - r - 1) // s + 1 for n, s, p, r in zip(given, stride, padding, reach, strict=True))


def _each(value: int | tuple[int, ...], axes: int) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,) * axes


@rule(Flatten)
def flatten(_: Tape, block: Flatten, x: Value, around: Around) -> Value:
    """x.flatten(2).transpose(1, 2); x.flatten(1)."""
    if block.whole:
        return f.reshape(x, x.shape[0], -1)
    if around.scene and not block.inner:
        around.scene.map = around.scene.maps[prod(x.shape[2:])] = x.shape[2:]
        around.scene.sizes.append(x.shape[2:])
    tokens = f.transpose(f.reshape(x, *x.shape[:2], -1), 1, 2)
    return f.contiguous(tokens) if block.copied else tokens


@rule(Attention, "segformer")
def reduced_attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """SegformerAttention.forward: keys and values of a smaller map."""
    q = heads(run(t, block.q, x, around), block.heads)
    read = x
    for part in block.before:
        read = run(t, part, read, around)
    k, v = (heads(run(t, part, read, around), block.heads) for part in (block.k, block.v))
    return project(t, block, attend(t, block, q, k, v, around), around)


@rule(Attention, "mobilevit")
def named_scores(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """MobileViTSelfAttention.forward, which has names for the scores as well; then its output's projection."""
    q, k, v = separate(t, block, x, around)
    scores = f.scale(f.matmul(q, f.swap(k)))
    probabilities = f.dropout(f.softmax(scores), block.dropout)
    out = f.contiguous(f.transpose(f.matmul(probabilities, v), 1, 2))
    del q, k, v, scores, probabilities
    return project(t, block, out, around)


@rule(Prefix)
def prefix(t: Tape, block: Prefix, x: Value, around: Around) -> Value:
    """Learned tokens put before the others (ViTEmbeddings.forward)."""
    tokens = f.expand(t.weight("", block.shape), x.shape[0], *(block.shape[1:] or (1, *block.shape)))
    return f.cat((tokens, x), 1)


@rule(Positions)
def positions(t: Tape, block: Positions, x: Value, around: Around) -> Value:
    """A table added to the tokens."""
    return f.add(x, t.weight("", block.shape))


@rule(FixedPositions)
def fixed_positions(t: Tape, block: FixedPositions, x: Value, around: Around) -> Value:
    """VideoMAEEmbeddings.forward."""
    return f.add(x, t.new((1, block.tokens, block.width), x.dtype))


@rule(ChannelScale)
def channel_scale(t: Tape, block: ChannelScale, x: Value, around: Around) -> Value:
    """LayerScale, by a module of its own where its name says so; in place where it is a buffer (Gemma 4's layer_scalar)."""

    def scaled(x: Value) -> Value:
        return f.mul(x, t.weight("", block.shape))

    if block.buffer:
        return f.scale_(x)
    return hooked(t, t.path.rpartition(".")[0], scaled, x) if "." in block.name else scaled(x)


@rule(Aside)
def aside(t: Tape, block: Aside, x: Value, around: Around) -> Value:
    """SiglipVisionModel's pooler in SiglipForImageClassification: an output of the tower, there until the model returns."""
    out = x
    for part in block.blocks:
        out = run(t, part, out, around)
    t.outputs.append(out)
    return x


@rule(Embedded)
def embedded(t: Tape, block: Embedded, x: Value, around: Around) -> Value:
    """make_inputs_require_grads, where the hook is not on a convolution."""
    return asking(t, x) if t.weights.adapters else x


@rule(DropPath)
def drop_path(t: Tape, block: DropPath, x: Value, around: Around) -> Value:
    """A random factor for each sample (…DropPath.forward)."""
    return hooked(t, f"{t.path}.{DROP_PATH}", _thinned if block.p else lambda given: given, x)


def _thinned(x: Value) -> Value:
    kept = f.shift(f.shift(x.tape.new((x.shape[0], *(1 for _ in x.shape[1:])), x.dtype)))
    return f.mul(f.scale(x), kept)


@rule(Select)
def select(t: Tape, block: Select, x: Value, around: Around) -> Value:
    """What a head reads of the tokens."""
    match block.what:
        case "mean":
            return f.mean(x, *((2, 3) if len(x.shape) == 4 else (1,)), keep=False)
        case "mean of rest":
            return f.mean(f.narrow(x, 1, x.shape[1] - 1), 1, keep=False)
        case "first+mean":
            return f.cat((f.select(x, 1), f.mean(f.narrow(x, 1, x.shape[1] - 1), 1, keep=False)))
        case "end" | "last":  # looked up (CLIPTextModel.forward, GenericForSequenceClassification.forward)
            return f.index(x, t.new((x.shape[0],), "int64"), (x.shape[0], x.shape[-1]))
        case _:
            return f.select(x, 1)
