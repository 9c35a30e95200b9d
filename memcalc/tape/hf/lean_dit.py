"""Lean diffusion transformers: LTX-Video and Sana (diffusers, transformer_ltx.py, sana_transformer.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.diffusion import GatedMap
from memcalc.blocks.video import VideoTables
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import heads
from memcalc.tape.hf.dit import by_head
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(VideoTables)
def video_tables(t: Tape, block: VideoTables, x: Value, around: Around) -> Value:
    """LTXVideoRotaryPosEmbed.forward: cos and sin [batch, tokens, width] of three coordinates, in fp32."""
    batch, tokens = x.shape[:2]
    angles = t.new((batch, tokens, block.width // 6 * 3), "fp32")
    shape = (batch, tokens, block.width)
    cos, sin = (f.clone(t.new(shape, "fp32")) if block.width % 6 else t.new(shape, "fp32") for _ in range(2))
    del angles
    around.scene.rotary = cos, sin
    return x


@rule(Attention, "ltx")
def ltx_attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """LTXVideoAttnProcessor: queries and keys normed and rotated across all heads; the text under a mask of padding."""
    read = around.encoder if block.cross and around.encoder is not None else x
    q, k, v = (
        run(t, part, source, around) for part, source in ((block.q, x), (block.k, read), (block.v, read)) if part
    )
    mask = padding(t, block, read) if block.cross else None
    q, k = run(t, block.q_norm, q, around), run(t, block.k_norm, k, around)
    if block.rotary_dim:
        q = rotated(q, around.scene.rotary)
        k = rotated(k, around.scene.rotary)
    q, k, v = (f.transpose(by_head(part, block.heads), 1, 2) for part in (q, k, v))
    out = f.transpose(f.attention(q, k, v, mask), 1, 2)
    return run(t, block.out, f.to(f.reshape(out, *out.shape[:2], -1), q.dtype), around)


def padding(t: Tape, block: Attention, read: Value) -> Value:
    """prepare_attention_mask: the text's mask once for every head [batch, heads, 1, tokens]."""
    return t.new((read.shape[0], block.heads, 1, read.shape[1]), t.setting.weights)


def rotated(x: Value, tables: tuple[Value, Value]) -> Value:
    """apply_rotary_emb: by neighbouring pairs of all channels, in fp32 (transformer_ltx.py)."""
    real, imaginary = f.unbind(f.reshape(x, *x.shape[:-1], x.shape[-1] // 2, 2), -1)
    turned = f.reshape(f.stack((f.neg(imaginary), real), -1), *x.shape)
    out = f.add(f.mul(f.to(x, "fp32"), tables[0]), f.mul(f.to(turned, "fp32"), tables[1]))
    return f.to(out, x.dtype)


@rule(GatedMap)
def gated_map(_: Tape, block: GatedMap, x: Value, around: Around) -> Value:
    """GLUMBConv.forward: hidden_states, gate = chunk(hidden_states, 2, dim=1); hidden_states * silu(gate)."""
    x, gate = f.chunk(x, 2, 1)
    return f.mul(x, f.silu(gate))


@rule(Attention, "sana-linear")
def sana_linear(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """SanaLinearAttnProcessor2_0: relu in place of a softmax, so that keys and values are multiplied first; in fp32."""
    q, k, v = (run(t, part, x, around) for part in (block.q, block.k, block.v) if part)
    q = run(t, block.q_norm, q, around) if block.q_norm else q
    k = run(t, block.k_norm, k, around) if block.k_norm else k
    q, k, v = (f.swap(heads(part, block.heads)) for part in (q, k, v))
    q, k = f.relu(q), f.relu(f.swap(k))
    q, k, v = f.to(q, "fp32"), f.to(k, "fp32"), f.to(v, "fp32")
    v = f.pad(v, 2, 1)
    scores = f.matmul(v, k)
    out = f.matmul(scores, q)
    out = f.div(f.narrow(out, 2, block.head_dim), f.shift(f.narrow(out, 2, 1)))
    out = f.transpose(f.reshape(out, out.shape[0], -1, out.shape[-1]), 1, 2)
    out = f.dropout(run(t, block.out, f.to(out, x.dtype), around), block.out_dropout)
    return f.clamp(out) if x.dtype == "fp16" else out


@rule(Attention, "sana-cross")
def sana_cross(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """SanaAttnProcessor2_0: the fused kernel, the text under a mask of padding."""
    read = around.encoder if around.encoder is not None else x
    mask = padding(t, block, read)
    q, k, v = (
        run(t, part, source, around) for part, source in ((block.q, x), (block.k, read), (block.v, read)) if part
    )
    q = run(t, block.q_norm, q, around) if block.q_norm else q
    k = run(t, block.k_norm, k, around) if block.k_norm else k
    q, k, v = (heads(part, block.heads) for part in (q, k, v))
    out = f.transpose(f.attention(q, k, v, mask), 1, 2)
    out = run(t, block.out, f.to(f.reshape(out, *out.shape[:2], -1), q.dtype), around)
    return f.scale(f.dropout(out, block.out_dropout))
