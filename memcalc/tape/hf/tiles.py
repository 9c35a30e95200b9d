"""Llama 3.2 Vision: a tower of tiles, and layers of the text that attend to what it yields (modeling_mllama.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.tiles import SightedRows, TanhGate, TiledImages, TiledTower, TilePatchPositions, TilePositions
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import eager, heads, project, sdpa
from memcalc.tape.hf.basic import stored
from memcalc.tape.rules import Around, gone, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value

MULTIPLE = 8  # to which a tile's patches are padded


@rule(TiledImages)
def tiled_images(t: Tape, block: TiledImages, x: Value, around: Around) -> Value:
    """MllamaModel.forward ahead of the text; its variables are there until it returns."""
    s, outer = t.setting, t.held
    count = x.shape[0] * s.images
    if not count:
        return x
    tower, project_in = block.blocks
    pixels = t.given((count, block.tiles, *block.image), s.inputs or s.weights)
    _ids, _mask = t.given((count,), "int64"), t.given((count, block.tiles), "int64")
    t.held = []
    y = run(t, tower, pixels, Around())
    states = run(t, project_in, y, around)
    patches = y.shape[2]
    states = f.reshape(states, -1, patches, states.shape[-1])
    around.seen = (states, *seen_mask(t, x, s.images * block.tiles, patches))
    t.held = [*outer, y, *around.seen]
    return x


def seen_mask(t: Tape, tokens: Value, tiles: int, patches: int) -> tuple[Value, Value]:
    """_prepare_cross_attention_mask: of every token and patch, and of the tokens that see any."""
    (batch, seq), dtype = tokens.shape[:2], stored(t)
    mask = f.repeat_interleave(t.given((batch, seq, 1, tiles), "int64"), patches, 3)
    mask = f.reshape(mask, batch, 1, seq, tiles * patches)
    inverted = f.to(t.new(mask.shape, "fp32"), dtype)
    mask = f.masked_fill(inverted, f.to(inverted, "bool"))
    rows = f.compare(t.new((batch, 1, seq), "bool") if f.compare(mask) else mask)
    return mask, f.unsqueeze(f.to(rows, dtype), -1)


@rule(TiledTower)
def tiled_tower(t: Tape, block: TiledTower, pixels: Value, around: Around) -> Value:
    """MllamaVisionModel.forward."""
    cut, pre, token, places, before, layers, behind, post, whole = block.blocks
    images, tiles = pixels.shape[:2]
    x = f.reshape(f.to(pixels, stored(t)), images * tiles, *pixels.shape[2:])
    x = embeds = run(t, cut, x, around)
    patches, width = x.shape[1:]
    x = run(t, pre, f.reshape(x, images, tiles, patches, width), around)
    x = run(t, token, f.reshape(x, images * tiles, patches, width), around)
    patches += 1
    x = run(t, places, f.reshape(x, images, tiles, patches, width), around)
    x = run(t, before, x, around)
    padded = patches + -patches % MULTIPLE
    x = f.pad(x, 2, padded - patches)
    mask = tile_mask(t, images, tiles, padded)
    x = f.reshape(x, images, -1, width)
    inner, chosen = _inner(mask), []
    for index in sorted(set(block.at)):
        inner.after[index] = lambda state: chosen.append(state) or state  # type: ignore[func-returns-value]
    x = run(t, layers, x, inner)
    x = run(t, behind, x, around)
    x = run(t, post, f.reshape(x, images, tiles, padded, width), around)
    x = run(t, whole, f.reshape(x, images, -1, width), _inner(mask))
    x = f.narrow(f.reshape(x, images, tiles, padded, width), 2, patches)
    beside = f.stack(chosen, -1)
    beside = f.narrow(f.reshape(beside, images, tiles, padded, -1), 2, patches)
    out = f.cat((x, beside))
    gone(t.held)
    del embeds
    return out


def _inner(mask: Value) -> Around:
    """What a stack of layers is given; every output is held in a list."""
    inner = Around()
    inner.ready = inner.keeps = True
    inner.masks = {0: mask}
    return inner


def tile_mask(t: Tape, images: int, tiles: int, padded: int) -> Value:
    """_prepare_aspect_ratio_attention_mask: all pairs of patches of an image, [images, 1, all, all]."""
    dtype = stored(t)
    mask = f.repeat(f.to(t.new((images, tiles, 1, 1), "int64"), dtype), padded, 2)
    mask = f.reshape(f.shift(mask), images, tiles * padded, 1)
    pairs = f.matmul(mask, f.transpose(mask, 1, 2))
    return f.unsqueeze(f.scale(pairs), 1)


@rule(TilePositions)
def tile_positions(t: Tape, block: TilePositions, x: Value, around: Around) -> Value:
    """MllamaPrecomputedAspectRatioEmbedding.forward."""
    table = t.weight("embedding.weight", (block.ratios, block.tiles * block.width))
    places = f.embedding(t.given((x.shape[0],), "int64", ".ratios"), table)
    places = f.reshape(places, -1, block.tiles, 1, block.width)
    places = f.mul(places, f.tanh(t.weight("gate", (1,))))
    return f.add(x, places)


@rule(TilePatchPositions)
def tile_patch_positions(t: Tape, block: TilePatchPositions, x: Value, around: Around) -> Value:
    """MllamaPrecomputedPositionEmbedding.forward."""
    patches, width, count = block.patches, block.width, block.tiles * block.patches * block.width
    gate = t.weight("gate", (1,))
    own = f.mul(f.subtract(t.new((), gate.dtype), f.tanh(gate)), t.weight("embedding", (patches, width)))
    x = f.add(x, f.reshape(own, 1, 1, patches, width))
    ratios = t.given((x.shape[0],), "int64", ".ratios")
    tiles = f.embedding(ratios, t.weight("tile_embedding.weight", (block.ratios, count)))
    tiles = f.reshape(tiles, x.shape[0], block.tiles, patches, width)
    gated = f.mul(f.tanh(gate), tiles)
    return f.add(x, gated)


@rule(TanhGate)
def tanh_gate(t: Tape, block: TanhGate, x: Value, around: Around) -> Value:
    """gate.tanh() * hidden_states."""
    return f.mul(f.tanh(t.weight("", block.shape)), x)


@rule(SightedRows)
def sighted_rows(_: Tape, block: SightedRows, x: Value, around: Around) -> Value:
    """full_text_row_masked_out_mask[:, 0] * hidden_states."""
    assert around.seen  # noqa: S101 - the layer is left out where there are no images
    rows = around.seen[2]
    return f.mul(f.reshape(rows, x.shape[0], x.shape[1], 1), x)


@rule(Attention, "mllama-cross")
def cross_attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """MllamaTextCrossAttention.forward."""
    assert around.seen  # noqa: S101 - as above
    states, mask, _ = around.seen
    q = run(t, block.q_norm, heads(run(t, block.q, x, around), block.heads), around)
    k, v = (f.reshape(run(t, part, states, around), x.shape[0], -1, block.kv_heads * block.head_dim)
            for part in (block.k, block.v))  # fmt: skip
    k = run(t, block.k_norm, heads(k, block.kv_heads), around)
    v = heads(v, block.kv_heads)
    mixed = eager if t.setting.attention == "eager" else sdpa
    return project(t, block, mixed(t, block, q, k, v, mask, around), around)
