"""Z-Image: tokens padded to whole groups, a row for every sample, sandwich norms (diffusers, transformer_z_image.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.diffusion import ModulatedBlock
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.streams import PaddedTokens, PatchRows, WholeRows
from memcalc.tape import functions as f
from memcalc.tape.hf.dit import by_head, normed, text, through, vectors
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(PatchRows)
def patch_rows(t: Tape, block: PatchRows, x: Value, around: Around) -> Value:
    """_patchify_image of every sample: a copy each; here of all, [batch, patches, channels · patch²]."""
    batch, channels, rows, columns = x.shape
    rows, columns = rows // block.patch, columns // block.patch
    around.scene.sizes.append((rows, columns))
    if block.filled and rows != columns:
        return _filled(t, block, x, around)
    x = f.permute(f.reshape(x, batch, channels, rows, block.patch, columns, block.patch), 0, 2, 4, 3, 5, 1)
    return f.reshape(x, batch, rows * columns, -1)


def _filled(t: Tape, block: PatchRows, x: Value, around: Around) -> Value:
    """patchify of sides that differ (HiDream): the squares copied into zeros for all tokens that there may be."""
    batch, channels, (rows, columns), size = x.shape[0], x.shape[1], around.scene.sizes[-1], block.patch
    around.scene.shown = t.new((batch, block.filled), x.dtype)
    whole = t.new((batch, channels, block.filled, size**2), x.dtype)
    x = f.permute(f.reshape(x, batch, channels, rows, size, columns, size), 0, 1, 2, 4, 3, 5)
    x = f.reshape(x, batch, channels, rows * columns, size**2)
    return f.reshape(f.permute(whole, 0, 2, 3, 1), batch, block.filled, -1)


@rule(PaddedTokens)
def padded_tokens(t: Tape, block: PaddedTokens, x: Value, around: Around) -> Value:
    """torch.cat, the embedder, and _prepare_sequence."""
    given = text(around) if block.text else x
    batch, length = given.shape[0], -(-given.shape[1] // block.multiple) * block.multiple
    if length > given.shape[1]:
        given = t.new((batch, length, given.shape[2]), given.dtype)
    row = f.clone(f.reshape(given, batch * length, -1))
    del given
    for part in block.blocks:
        row = run(t, part, row, around)
    made = laid_apart(t, block, row, batch)
    del row
    for axis, (size, dim) in enumerate(zip(block.places, block.axes, strict=True)):
        t.given((size, dim), "fp32", f".freqs_cis.{axis}")
    tables = [t.new((batch * length, dim), "fp32") for dim in block.axes]
    whole = f.cat(tables)
    tables.clear()
    around.scene.tables[length] = t.new((batch, length, whole.shape[-1]), "fp32")
    del whole
    if not block.text:
        return made
    around.encoder = made
    return x


def laid_apart(t: Tape, block: PaddedTokens, row: Value, batch: int) -> Value:
    """where(mask, pad_token, feats), split, and pad_sequence."""
    assert block.pad  # noqa: S101 - it has one
    length, width = row.shape[0] // batch, row.shape[1]
    row = f.cat(f.split(row, (length,) * batch, 0), 0)
    place, t.path = t.path, block.pad.name
    token = t.weight("", block.pad.shape)
    t.path = place
    row = f.where(t.new((row.shape[0], 1), "bool"), token, row)
    made = t.new((batch, length, width), row.dtype)
    for part in f.split(row, (length,) * batch, 0):
        made = f.assign(made, part)
    return made


@rule(WholeRows)
def whole_rows(t: Tape, block: WholeRows, x: Value, around: Around) -> Value:
    """_build_unified_sequence: image and text of each sample put together; or (`back`) its image, a copy of each, stacked."""
    scene, batch = around.scene, x.shape[0]
    if block.back:
        parts = (f.narrow(part, 0, x.shape[1] - scene.image) for part in f.unbind(x))
        return f.stack([f.clone(part) for part in parts])
    context = text(around)
    pads = x.shape[1] - scene.sizes[-1][0] * scene.sizes[-1][1]
    scene.image = context.shape[1] + pads
    rows = [f.cat((f.select(x, 0), f.select(context, 0)), 0) for _ in range(batch)]
    made = t.new((batch, *rows[0].shape), rows[0].dtype)
    for row in rows:
        made = f.assign(made, row)
    width = next(iter(scene.tables.values())).shape[-1]
    scene.tables[made.shape[1]] = t.new((batch, made.shape[1], width), "fp32")
    around.named += x, context
    around.encoder = None
    return made


@rule(ModulatedBlock, "z-image")
def layer(t: Tape, block: ModulatedBlock, x: Value, around: Around) -> Value:
    """ZImageTransformerBlock.forward."""
    first, second, third, fourth = block.norms
    if not block.modulation:
        attended = run(t, block.mixer, run(t, first, x, around), around)
        x = f.add(x, run(t, second, attended, around))
        return f.add(x, run(t, fourth, through(t, block.feed, run(t, third, x, around), around), around))
    scale, gate, scale_mlp, gate_mlp = vectors(t, block.modulation, x, around)
    gate, gate_mlp = f.tanh(gate), f.tanh(gate_mlp)
    scale, scale_mlp = f.shift(scale), f.shift(scale_mlp)
    attended = run(t, block.mixer, f.mul(run(t, first, x, around), scale), around)
    x = f.add(x, f.mul(gate, run(t, second, attended, around)))
    fed = [through(t, block.feed, f.mul(run(t, third, x, around), scale_mlp), around)]
    out = f.add(x, f.mul(gate_mlp, run(t, fourth, fed.pop(), around)))
    del attended
    return out


@rule(Attention, "z-image")
def attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """ZSingleStreamAttnProcessor: pairs as complex numbers times those of the table, in fp32."""
    own = [run(t, part, x, around) for part in (block.q, block.k, block.v) if part]
    own = normed(t, [by_head(part, block.heads) for part in own], (block.q_norm, block.k_norm), around)
    table = f.unsqueeze(around.scene.tables[x.shape[1]], 2)
    for i in range(2):
        own[i] = f.to(f.mul(f.to_contiguous(own[i], "fp32"), table), own[i].dtype)
    q, k, v = (f.transpose(part, 1, 2) for part in own)
    dtype = q.dtype
    out = f.transpose(f.attention(q, k, v), 1, 2)
    del q, k, v
    return run(t, block.out, f.to(f.reshape(out, *out.shape[:2], -1), dtype), around)


@rule(Mlp, "z-image")
def feed_forward(t: Tape, block: Mlp, x: Value, around: Around) -> Value:
    """FeedForward.forward: both halves are there before the gate is activated."""
    return run(t, block.down, gating(run(t, block.gate, x, around), run(t, block.up, x, around)), around)


def gating(gate: Value, up: Value) -> Value:
    """_forward_silu_gating, which holds what it is given."""
    return f.mul(f.silu(gate), up)
