"""Cosmos: cubes of frames, whose layers are modulated through a narrow layer (diffusers, transformer_cosmos.py)."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.cosmos import CosmosLayer, FrameCubes, NarrowModulation, NormedTime
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import heads
from memcalc.tape.hf.diffusion import sinusoids
from memcalc.tape.hf.dit import modulated, norm, through, vectors
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


PIXELS = 8  # a side of what a latent one stands for


@rule(FrameCubes)
def frame_cubes(t: Tape, block: FrameCubes, x: Value, around: Around) -> Value:
    """The mask put beside the channels, CosmosRotaryPosEmbed, CosmosLearnablePositionalEmbed and CosmosPatchEmbed."""
    if block.masked:
        t.given((1, 1, *(PIXELS * side for side in x.shape[3:])), x.dtype)  # padding_mask
        small = t.new((1, 1, *x.shape[3:]), x.dtype)  # padding_mask_resized
        around.named.append(small)
        mask = t.new((x.shape[0], 1, *x.shape[2:]), x.dtype)
        x = f.cat((x, mask), 1)
        del mask
    batch, channels, *sizes = x.shape
    counts = tuple(size // part for size, part in zip(sizes, block.patch, strict=True))
    around.scene.sizes.append(counts)
    shape = (prod(counts), block.dim)
    around.scene.rotary = t.new(shape, "fp32"), t.new(shape, "fp32")
    if block.places:
        around.scene.places = _places(t, block, batch, counts)
        around.adds = around.scene.places.node is not None
    (ft, fh, fw), (pt, ph, pw) = counts, block.patch
    row = f.permute(f.reshape(x, batch, channels, ft, pt, fh, ph, fw, pw), 0, 2, 4, 6, 1, 3, 5, 7)
    row = f.reshape(row, batch, prod(counts), channels * prod(block.patch))
    return run(t, block.into, row, around)


def _places(t: Tape, block: FrameCubes, batch: int, counts: tuple[int, ...]) -> Value:
    """Learned vectors of frames, rows and columns, each repeated over the whole grid; their sum divided by its norm."""
    parts = []
    for axis, (table, count) in enumerate(zip(block.places, counts, strict=True)):
        own = f.narrow(t.weight(table.name, table.shape), 0, count)
        shape = [1, 1, 1, 1, own.shape[1]]
        shape[axis + 1] = count
        parts.append(_repeated(f.reshape(own, *shape), (batch, *counts)))
    total = f.add(f.add(parts[0], parts[1]), parts[2])
    total = f.reshape(total, batch, prod(counts), -1)
    length = f.vector_norm(total, -1, dtype="fp32")
    length = f.shift(f.reshape(length, *total.shape[:2], 1))
    return f.to(f.div(total, length), total.dtype)


def _repeated(x: Value, sizes: tuple[int, ...]) -> Value:
    """x.repeat over the axes that have one element."""
    return f.contiguous(f.expand(x, *sizes, x.shape[-1]))


@rule(NormedTime)
def normed_time(t: Tape, block: NormedTime, x: Value, around: Around) -> Value:
    """CosmosEmbedding.forward."""
    waves = sinusoids(t, x.shape[0], block.width)
    made = f.silu(run(t, block.first, waves, around))
    around.scene.shared = run(t, block.second, made, around)
    around.scene.vector = run(t, block.norm, waves, around)
    return x


@rule(NarrowModulation)
def narrow_modulation(t: Tape, block: NarrowModulation, x: Value, around: Around) -> Value:
    """CosmosAdaLayerNormZero.forward, CosmosAdaLayerNorm.forward: their vectors."""
    scene = around.scene
    made = run(t, block.second, run(t, block.first, f.silu(scene.vector), around), around)
    size = made.shape[-1]
    times = scene.shared if scene.shared.shape[-1] == size else f.narrow(scene.shared, -1, size)
    made = f.add(made, times)
    scene.chunks = [f.unsqueeze(part, 1) for part in f.chunk(made, block.chunks, -1)]
    return x


@rule(CosmosLayer)
def cosmos_layer(t: Tape, block: CosmosLayer, x: Value, around: Around) -> Value:
    """CosmosTransformerBlock.forward."""
    places = around.scene.places
    x = x if places is None else f.add(x, places)
    y = out = gate = None
    for modulation, mixer in zip(block.modulations, block.mixers, strict=True):
        shift, scale, gate = vectors(t, modulation, x, around)
        y = modulated(norm(x), scale, shift)
        out = through(t, mixer, y, around)
        x = f.add(x, f.mul(gate, out))
    del y, out, gate
    return x


@rule(Attention, "cosmos")
def attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """CosmosAttnProcessor2_0: keys and values once for every query head, by a copy."""
    read = around.encoder if block.cross and around.encoder is not None else x
    made = [run(t, part, source, around) for part, source in ((block.q, x), (block.k, read), (block.v, read))]
    q, k, v = (heads(part, block.heads) for part in made)
    made.clear()
    q, k = run(t, block.q_norm, q, around), run(t, block.k_norm, k, around)
    if not block.cross:
        q = turned(q, around)
        k = turned(k, around)
    k, v = f.repeat_interleave(k, 1, 3), f.repeat_interleave(v, 1, 3)
    out = f.transpose(f.attention(q, k, v), 1, 2)
    out = f.to(f.reshape(out, *out.shape[:2], -1), q.dtype)
    return run(t, block.out, out, around)


def turned(x: Value, around: Around) -> Value:
    """apply_rotary_emb(…, use_real_unbind_dim=-2): by halves, in fp32."""
    cos, sin = around.scene.rotary
    real, imaginary = f.unbind(f.reshape(x, *x.shape[:-1], 2, x.shape[-1] // 2), -2)
    other = f.cat((f.neg(imaginary), real))
    return f.to(f.add(f.mul(f.to(x, "fp32"), cos), f.mul(f.to(other, "fp32"), sin)), x.dtype)
