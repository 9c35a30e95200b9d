"""Multi-head latent attention (transformers, modeling_deepseek_v3.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.mla import Mla
from memcalc.tape import functions as f
from memcalc.tape.hf import kernels
from memcalc.tape.hf.attention import attend, project
from memcalc.tape.hf.indexer import sparse
from memcalc.tape.hf.rotary import halved, interleaved
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Mla, "", "deepseek_v2")
def latent(t: Tape, block: Mla, x: Value, around: Around) -> Value:
    """DeepseekV3Attention.forward."""
    b, s = x.shape[:2]
    compressed_q = None if block.q else run(t, block.q_norm, run(t, block.q_a, x, around), around)
    q = run(t, block.q, x, around) if compressed_q is None else run(t, block.q_b, compressed_q, around)
    looked = block.indexer or block.reuses
    if not looked:
        del compressed_q  # only an indexer reads it again, by a name
    q = f.transpose(f.view(q, b, s, block.heads, block.head_dim), 1, 2)
    q_pass, q_rot = f.split(q, (block.nope, block.rope))
    compressed = run(t, block.kv_a, x, around)
    kv, k_rot = f.split(compressed, (block.kv_rank, block.rope))
    kv = f.view(run(t, block.kv_norm, kv, around), b, 1, s, block.kv_rank)
    k_rot = f.reshape(k_rot, b, 1, s, block.rope)
    complex_ = block.formula == "deepseek_v2" or "complex-rope" in t.setting.fused
    if around.rotary:
        rotate = complex_rotated if complex_ else interleaved if block.interleaved else halved
        q_rot, k_rot = rotate(q_rot, k_rot, around.rotary)
    q = f.cat((q_pass, q_rot))
    k, v = expanded(t, block, kv, k_rot, around)
    seen, names = sparse(t, block, x, compressed_q, around) if looked else (around, [])
    out = attend(t, kernel(block), q, k, v, seen)
    if block.gate:
        gate = f.unsqueeze(f.sigmoid(run(t, block.gate, x, around)), -1)
        out = f.mul(out, gate)
    out = project(t, kernel(block), out, around)
    names.clear()
    return out


def expanded(t: Tape, block: Mla, kv: Value, k_rot: Value, around: Around) -> tuple[Value, Value]:
    """expand_kv: keys and values of every head; the keys, and the rotated part with them, are copied into a new tensor.

    torchtitan's concatenates them (models/deepseek_v3/model/model.py).
    """
    b, _, s, _ = kv.shape
    wide = f.transpose(f.view(run(t, block.kv_b, kv, around), b, s, block.heads, block.nope + block.value), 1, 2)
    k_nope, v = f.split(wide, (block.nope, block.value))
    k_rot = f.expand(k_rot, b, block.heads, s, block.rope)
    if "complex-rope" in t.setting.fused:
        return f.cat((k_nope, k_rot)), v
    keys = t.new((b, block.heads, s, block.nope + block.rope), wide.dtype)
    keys = f.assign(keys, k_nope)
    return f.assign(keys, k_rot), v


def complex_rotated(q: Value, k: Value, tables: tuple[Value, Value], heads: int = 1) -> tuple[Value, Value]:
    """apply_rotary_emb: complex products in fp32 (modeling_deepseek_v2.py); `heads` is the axis of the heads.

    torchtitan's, with one copy less, or one kernel where it is compiled (models/deepseek_v3/model/model.py).
    """
    own = "complex-rope" in q.tape.setting.fused
    if own and kernels.takes(q.tape, "rope"):
        return kernels.rope(q, k, tables)
    angles = f.unsqueeze(tables[0], heads)
    q_out, k_out = (f.to(f.mul(_in_pairs(x, own=own), angles), x.dtype) for x in (q, k))
    return q_out, k_out


def _in_pairs(x: Value, *, own: bool) -> Value:
    """Channels in fp32, which neighbours of can be seen as complex numbers."""
    return f.to_contiguous(x, "fp32") if own else f.contiguous(f.to(x, "fp32"))


def kernel(block: Mla) -> Attention:
    """The part of it that is ordinary attention."""
    return Attention(
        "", block.heads, block.heads, block.head_dim, out=block.out, causal=block.causal, dropout=block.dropout,
        window=block.window,
    )  # fmt: skip
