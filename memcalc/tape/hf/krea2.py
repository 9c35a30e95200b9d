"""Krea 2: text fused over a language model's layers, gated attention under a mask (diffusers, transformer_krea2.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.basic import Norm
from memcalc.blocks.diffusion import ModulatedBlock
from memcalc.blocks.fusing import FusedTexts, RowMask
from memcalc.tape import functions as f
from memcalc.tape.hf.dit import by_head, normed, text, through
from memcalc.tape.hf.flux import rotated
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Norm, "krea2")
def norm(t: Tape, block: Norm, x: Value, _: Around) -> Value:
    """Krea2RMSNorm.forward: F.rms_norm(hidden_states.float(), weight=self.weight + 1.0)."""
    wide, weight = f.to(x, "fp32"), f.shift(t.weight("weight", (block.width,)))
    root = f.rsqrt(f.mean(f.square(wide), -1))
    out = f.mul(f.mul(wide, root), weight)
    del wide, root
    return f.to(out, x.dtype)


@rule(FusedTexts)
def fused_texts(t: Tape, block: FusedTexts, x: Value, around: Around) -> Value:
    """Krea2TextFusion.forward; a mask hides the padding from its refiners."""
    scene, states = around.scene, text(around)
    batch, length = states.shape[:2]
    around.encoder, scene.mask = None, None
    y = f.reshape(states, batch * length, block.kept, block.width)
    del states
    y = run(t, block.layerwise, y, around)
    y = f.permute(f.reshape(y, batch, length, block.kept, block.width), 0, 1, 3, 2)
    y = f.squeeze(run(t, block.projector, y, around), -1)
    scene.mask = t.given((batch, 1, 1, length), "bool", ".encoder_attention_mask")
    around.encoder = run(t, block.refiners, y, around)
    return x


@rule(RowMask)
def row_mask(t: Tape, _: RowMask, x: Value, around: Around) -> Value:
    """cat([encoder_attention_mask, image_mask])[:, None, None, :]; where the tokens are is given, too."""
    t.given((x.shape[1] + text(around).shape[1], 3), "fp32", ".position_ids")
    shown = t.new((x.shape[0], 1, 1, x.shape[1]), "bool")
    around.named.append(shown)
    around.scene.mask = f.cat((around.scene.mask, shown))
    return x


@rule(ModulatedBlock, "krea2")
def layer(t: Tape, block: ModulatedBlock, x: Value, around: Around) -> Value:
    """Krea2TransformerBlock.forward."""
    assert block.table  # noqa: S101 - it has one
    table = t.weight(block.table.name, block.table.shape)
    whole = f.add(f.reshape(around.scene.shared, x.shape[0], 1, 6, -1), table)
    scale, shift, gate, scale_mlp, shift_mlp, gate_mlp = f.unbind(whole, -2)
    first, second = block.norms
    attended = run(t, block.mixer, placed(t, first, x, (scale, shift), around), around)
    x = f.add(x, f.mul(gate, attended))
    fed = through(t, block.feed, placed(t, second, x, (scale_mlp, shift_mlp), around), around)
    out = f.add(x, f.mul(gate_mlp, fed))
    del whole, attended, fed
    return out


def placed(t: Tape, block: Block, x: Value, vectors: tuple[Value, Value], around: Around) -> Value:
    """(1.0 + scale) * norm(x) + shift."""
    scale = f.shift(vectors[0])
    return f.add(f.mul(scale, run(t, block, x, around)), vectors[1])


@rule(Attention, "krea2")
def attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """Krea2AttnProcessor.__call__: keys and values repeated for every query head."""
    own = [run(t, part, x, around) for part in (block.q, block.k, block.v) if part]
    own = [by_head(part, count) for part, count in zip(own, (block.heads, block.kv_heads, block.kv_heads), strict=True)]
    gate = run(t, block.gate, x, around)
    own = normed(t, own, (block.q_norm, block.k_norm), around)
    for i in range(2) if block.rotary_dim else ():
        own[i] = rotated(own[i], around.scene.rotary)
    for i in (1, 2) if block.kv_heads < block.heads else ():
        own[i] = f.repeat_interleave(own[i], block.heads // block.kv_heads, 2)
    q, k, v = (f.transpose(part, 1, 2) for part in own)
    out = f.transpose(f.attention(q, k, v, around.scene.mask), 1, 2)
    out = f.mul(f.reshape(out, *out.shape[:2], -1), f.sigmoid(gate))
    return run(t, block.out, out, around)
