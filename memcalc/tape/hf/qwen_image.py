"""Qwen-Image: two streams of tokens, each normed and rotated by itself, whose steps all have names (diffusers)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.joint import ComplexRotary, JointAttention, JointBlock
from memcalc.tape import functions as f
from memcalc.tape.hf.dit import both, clipped, joint, modulated, norm, text, through, vectors
from memcalc.tape.rules import Around, gone, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(JointBlock, "qwen-image", "qwen-image-edit")
def qwen_block(t: Tape, block: JointBlock, x: Value, around: Around) -> Value:
    """QwenImageTransformerBlock.forward, whose steps all have names of their own, which last to its end."""
    assert block.modulation and block.context_modulation and block.attention  # noqa: S101, PT018
    own, other, context = *both_vectors(t, block, x, around), text(around)
    names = [norm(x)]
    y, gate = placed(t, block, names[0], own[:3])
    names += y, norm(context)
    z = modulated(names[2], other[1], other[0])
    attended, context_attended = joint(t, block.attention, y, z, around)
    assert context_attended is not None  # noqa: S101 - its text tokens go on
    x = f.add(x, f.mul(gate, attended))
    context = f.add(context, f.mul(other[2], context_attended))
    names += z, attended, context_attended, norm(x), gate
    y, gate = placed(t, block, names[-2], own[3:])
    fed = through(t, block.mlp, y, around)
    x = f.add(x, f.mul(gate, fed))
    names += y, fed, norm(context)
    z = modulated(names[-1], other[4], other[3])
    fed = through(t, block.context_mlp, z, around)
    around.encoder = clipped(f.add(context, f.mul(other[5], fed)))
    x = clipped(x)
    names += z, fed
    del y, z, fed, gate, attended, context_attended
    gone(names)
    return x


def both_vectors(t: Tape, block: JointBlock, x: Value, around: Around) -> tuple[list[Value], list[Value]]:
    """img_mod(temb) and txt_mod(temb); where there are two times, the text has the first."""
    scene, before = around.scene, around.scene.vector
    scene.vector = given = before if scene.whole is None else scene.whole
    own = vectors(t, block.modulation, x, around)  # type: ignore[arg-type]  # it has one
    if block.formula == "qwen-image-edit":
        scene.vector = f.chunk(given, 2, 0)[0]
    other = vectors(t, block.context_modulation, x, around)  # type: ignore[arg-type]  # it has one
    scene.vector = before
    return own, other


def placed(t: Tape, block: JointBlock, x: Value, parts: list[Value]) -> tuple[Value, Value]:
    """_modulate: x (1 + scale) + shift, and the gate; of two times' vectors each token takes those of its own (`index`)."""
    if block.formula == "qwen-image-edit":
        batch, tokens = x.shape[:2]
        parts = [
            f.where(t.new((batch, tokens, 1), "bool"), f.narrow(part, 0, batch), f.narrow(part, 0, batch))
            for part in parts
        ]
    shift, scale, gate = parts
    return modulated(x, scale, shift), gate


@rule(JointAttention, "qwen-image")
def qwen_joint(t: Tape, block: JointAttention, x: Value, around: Around) -> Value:
    """QwenDoubleStreamAttnProcessor2_0: each stream normed and rotated by itself, text tokens before image tokens."""
    context = text(around)
    own, other = both(t, block, x, context, around)
    for parts, table in zip((own, other), around.scene.rotary, strict=True):
        for i in range(2):
            parts[i] = turned(parts[i], table)
    q, k, v = (f.transpose(f.cat((a, b), 1), 1, 2) for a, b in zip(other, own, strict=True))
    out = f.transpose(f.attention(q, k, v), 1, 2)
    out = f.to(f.reshape(out, *out.shape[:2], -1), q.dtype)
    rest, mine = f.narrow(out, 1, context.shape[1]), f.narrow(out, 1, x.shape[1])
    mine = run(t, block.out, f.contiguous(mine), around)
    around.encoder = run(t, block.context_out, f.contiguous(rest), around) if block.context_out else None
    return mine


def turned(x: Value, table: Value) -> Value:
    """apply_rotary_emb_qwen: pairs as complex numbers, times others of length one, in fp32, and cast back."""
    rotated = f.to_contiguous(x, "fp32")
    out = f.mul(rotated, f.unsqueeze(table, 1))
    return f.to(out, x.dtype)


@rule(ComplexRotary)
def complex_rotary(t: Tape, block: ComplexRotary, x: Value, around: Around) -> Value:
    """QwenEmbedRope.forward: the image's numbers are put together anew, of ones that are kept; the text's are kept."""
    tokens = around.encoder.shape[1] if around.encoder is not None else 0
    image = t.new((x.shape[1], block.dim), "fp32")
    t.given((x.shape[1], block.dim), "fp32", ".frequencies")
    table = t.given((4096, block.dim), "fp32", ".pos_freqs")  # of positions behind the middle, and before it
    t.given((4096, block.dim), "fp32", ".neg_freqs")
    around.scene.rotary = image, f.narrow(table, 0, tokens)
    return x
