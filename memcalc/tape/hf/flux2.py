"""FLUX.2: two streams, then one row, modulated by vectors made once for all layers (diffusers, transformer_flux2.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.joint import JointAttention, JointBlock, OneRow, SingleBlock
from memcalc.blocks.mlp import Mlp
from memcalc.tape import functions as f
from memcalc.tape.hf.activations import activate
from memcalc.tape.hf.dit import by_head, clipped, joint, modulated, norm, normed, text, through
from memcalc.tape.hf.flux import flux_attend
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(OneRow)
def one_row(_: Tape, block: OneRow, x: Value, around: Around) -> Value:
    """Text tokens before image tokens; or image tokens alone again."""
    if block.back:
        if block.named == "both":
            around.named.pop()
        return f.narrow(x, 1, x.shape[1] - around.scene.image)
    context = text(around)
    around.scene.image, around.encoder = context.shape[1], None
    around.named += {"both": (context, x), "text": (context,)}.get(block.named, ())
    return f.cat((context, x), 1)


def shared(around: Around, name: str, count: int) -> list[Value]:
    """Flux2Modulation.split: views of the vectors [batch, 1, width] that all layers share."""
    return list(f.chunk(f.unsqueeze(around.scene.made[name], 1), count))


@rule(JointBlock, "flux2")
def joint_block(t: Tape, block: JointBlock, x: Value, around: Around) -> Value:
    """Flux2TransformerBlock.forward."""
    assert block.attention  # noqa: S101 - it has one
    own, other = (shared(around, f"double_stream_modulation_{name}", 6) for name in ("img", "txt"))
    context = text(around)
    y, z = modulated(norm(x), own[1], own[0]), modulated(norm(context), other[1], other[0])
    outputs = joint(t, block.attention, y, z, around)
    assert outputs[1] is not None  # noqa: S101 - its text tokens go on
    attended = f.mul(own[2], outputs[0])
    x = f.add(x, attended)
    y = modulated(norm(x), own[4], own[3])
    fed = through(t, block.mlp, y, around)
    x = f.add(x, f.mul(own[5], fed))
    context_attended = f.mul(other[2], outputs[1])
    context = f.add(context, context_attended)
    z = modulated(norm(context), other[4], other[3])
    context_fed = through(t, block.context_mlp, z, around)
    around.encoder = clipped(f.add(context, f.mul(other[5], context_fed)))
    del outputs, attended, fed, context_attended, context_fed, y, z
    return x


@rule(JointAttention, "flux2")
def joint_attention(t: Tape, block: JointAttention, x: Value, around: Around) -> Value:
    """Flux2AttnProcessor: text tokens, then image tokens, rotated together; each part of the output projected as a view."""
    context = text(around)
    own = [run(t, part, x, around) for part in (block.q, block.k, block.v) if part]
    other = [run(t, part, context, around) for part in block.context]
    own = normed(t, [by_head(part, block.heads) for part in own], (block.q_norm, block.k_norm), around)
    other = normed(t, [by_head(part, block.heads) for part in other], block.context_norms, around)
    for i, part in enumerate(other):
        own[i] = f.cat((part, own[i]), 1)
    out = flux_attend(own, around)
    rest, mine = f.split(out, (context.shape[1], x.shape[1]), 1)
    found = run(t, block.context_out, rest, around)
    mine = run(t, block.out, mine, around)
    around.encoder = found
    return mine


@rule(SingleBlock, "flux2")
def single_block(t: Tape, block: SingleBlock, x: Value, around: Around) -> Value:
    """Flux2SingleTransformerBlock.forward."""
    shift, scale, gate = shared(around, "single_stream_modulation", 3)
    y = modulated(norm(x), scale, shift)
    attended = parallel(t, block, y, around)
    out = clipped(f.add(x, f.mul(gate, attended)))
    del y, attended
    return out


def parallel(t: Tape, block: SingleBlock, x: Value, around: Around) -> Value:
    """Flux2ParallelSelfAttnProcessor: queries, keys, values and the MLP's inner layer from one projection."""
    mixer = block.attention.parts()[0] if block.attention else None
    assert isinstance(mixer, Attention)  # noqa: S101 - it holds one
    width = mixer.heads * mixer.head_dim
    both = run(t, block.up, x, around)
    qkv, inner = f.split(both, (3 * width, both.shape[-1] - 3 * width))
    parts = [by_head(part, mixer.heads) for part in f.chunk(qkv, 3)]
    before, t.path = t.path, f"{t.path}.{block.attention.name}" if block.attention else t.path
    parts = normed(t, parts, (mixer.q_norm, mixer.k_norm), around)
    t.path = before
    out = flux_attend(parts, around)
    return run(t, block.out, f.cat((out, gated(inner))), around)


def gated(x: Value) -> Value:
    """Flux2SwiGLU.forward: slices of the two halves, each with a gradient as large as both."""
    half = x.shape[-1] // 2
    return f.mul(activate("silu", f.narrow(x, -1, half)), f.narrow(x, -1, half))


@rule(Mlp, "flux2")
def feed_forward(t: Tape, block: Mlp, x: Value, around: Around) -> Value:
    """Flux2FeedForward.forward."""
    x = run(t, block.up, x, around)
    x = gated(x)
    return run(t, block.down, x, around)
