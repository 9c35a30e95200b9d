"""Gemma 4's text layers: normed values, keys that are values too, keys and values of earlier layers, experts beside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.basic import Norm
from memcalc.blocks.mlp import Experts, Moe
from memcalc.blocks.multimodal import PerLayerEmbeddings, PerLayerInput
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import attend, project
from memcalc.tape.hf.experts import choose, routed
from memcalc.tape.hf.rotary import rotate_half
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Norm, "gemma4")
def norm(t: Tape, block: Norm, x: Value, _: Around) -> Value:
    """Gemma4RMSNorm.forward: fp32 throughout, by pow(-0.5), times weight."""
    wide = f.to(x, "fp32")
    out = f.mul(wide, f.power(f.shift(f.mean(f.square(wide), -1))))
    del wide
    if block.kind == "rms":
        out = f.mul(out, f.to(t.weight("weight", (block.width,)), "fp32"))
    return f.to(out, x.dtype)


@rule(Attention, "gemma4")
def attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """Gemma4TextAttention.forward: heads are normed and rotated before they are transposed."""
    b, s = x.shape[:2]
    q = f.view(run(t, block.q, x, around), b, s, -1, block.head_dim)
    q = run(t, block.q_norm, q, around)
    q = rotated(q, block, around)
    q = f.transpose(q, 1, 2)
    if block.k:
        k = f.view(run(t, block.k, x, around), b, s, -1, block.head_dim)
        v = f.view(run(t, block.v, x, around), b, s, -1, block.head_dim) if block.v else k
        k = run(t, block.k_norm, k, around)
        k = rotated(k, block, around)
        k = f.transpose(k, 1, 2)
        v = f.transpose(run(t, block.v_norm, v, around), 1, 2)
        if block.sharing == "stores":
            around.shared[block.window > 0] = k, v  # in one dictionary for all layers, also when they are recomputed
    else:
        k, v = around.shared[block.window > 0]
    return project(t, block, attend(t, block, q, k, v, around), around)


def rotated(x: Value, block: Attention, around: Around) -> Value:
    """apply_rotary_pos_emb of [batch, seq, heads, dim]."""
    tables = around.tables(block.rotary_kind)
    if not tables:
        return x
    cos, sin = (f.unsqueeze(table, 2) for table in tables)
    return f.add(f.mul(x, cos), f.mul(rotate_half(x), sin))


@rule(Moe, "gemma4")
def mixture(t: Tape, block: Moe, x: Value, around: Around) -> Value:
    """The experts' half of Gemma4TextDecoderLayer.forward: weights times a learned scale of each expert."""
    rows = f.reshape(x, -1, x.shape[-1])
    weights, chosen = choose(t, block, rows, around)
    assert isinstance(block.experts, Experts)  # noqa: S101 - the architecture has made it so
    with inside(t, block.router):  # type: ignore[arg-type]
        scales = t.weight("per_expert_scale", (block.experts.experts,))
        weights = f.mul(weights, f.index(scales, chosen, chosen.shape))
    out = routed(t, block, run(t, block.into, rows, around), weights, chosen)
    return f.reshape(out, *x.shape)


@rule(PerLayerEmbeddings)
def per_layer_embeddings(t: Tape, block: PerLayerEmbeddings, x: Value, around: Around) -> Value:
    """get_per_layer_inputs and project_per_layer_inputs: [batch, seq, layers, width], and x as it was."""
    *table, projection, normed = block.blocks
    assert isinstance(normed, Norm)  # noqa: S101 - the architecture has made it so
    b, s = x.shape[:2]
    if not table:  # EmbeddingGemma2TextPLE.forward
        made = f.reshape(f.scale(run(t, projection, x, around)), b, s, -1, normed.width)
        around.per_layer = run(t, normed, made, around)
        return x
    own = f.reshape(run(t, table[0], around.tokens or t.given((b, s), "int64"), around), b, s, -1, normed.width)
    made = f.reshape(f.scale(run(t, projection, x, around)), *own.shape)
    around.per_layer = f.scale(f.add(run(t, normed, made, around), own))
    return x


@rule(PerLayerInput)
def per_layer_input(_: Tape, block: PerLayerInput, x: Value, around: Around) -> Value:
    """x times the layer's slice."""
    return f.mul(x, around.per_layer) if around.per_layer else x
