"""Images and sounds that become tokens of a text: the tower, the projector, where their output goes among the embeddings."""

from __future__ import annotations

from functools import partial
from math import prod
from typing import TYPE_CHECKING

from memcalc.blocks.multimodal import (
    Images,
    MaskedAlways,
    Matrix,
    PackedCrops,
    PooledTokens,
    Probabilities,
    ReadsImages,
    SecondGates,
    Sounds,
    UnitRows,
    Unseen,
    VisualWords,
)
from memcalc.tape import functions as f
from memcalc.tape.functions import maps
from memcalc.tape.hf.combinators import sequence
from memcalc.tape.hf.pictures import joined
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.multimodal import Crops
    from memcalc.tape.recorder import Tape
    from memcalc.tape.setting import Setting
    from memcalc.tape.values import Value


@rule(Images)
def images(t: Tape, block: Images, x: Value, around: Around) -> Value:
    """The images of each sequence, if it has any: they are looked at once the tokens are embedded."""
    if block.scattered and t.setting.images and (block.image or t.setting.image_size):
        around.sight = partial(looked_at, t, block, x.shape[:2], t.path)
    return x


def looked_at(t: Tape, block: Images, shape: tuple[int, ...], path: str, around: Around) -> Value:
    """get_image_features: what takes the place of the image tokens among the embeddings.

    Of the hidden states only the one that is read is captured (select_hidden_states, utils/output_capturing.py); the
    tower's last one is held as part of its output until the model returns.
    """
    s, inner, outer = t.setting, Around(), t.held
    here, t.path, around.sight = t.path, path, None
    tower, *rest = block.blocks
    inner.features, inner.asks, t.held = block.features or ((-1,) if block.grid else None), block.asks, []
    pixels = t.given(seen(block, s, shape[0] * s.images, inner), s.inputs or s.weights)
    y = run(t, tower, f.clone(pixels) if block.copied else f.to(pixels, s.weights), inner)
    states = list(inner.read.values()) if block.features else [y]  # its layers have run
    inner.read = {}
    if block.without_first:
        states = [f.narrow(state, 1, state.shape[1] - 1) for state in states]
    y = state = f.cat(states) if isinstance(block.feature, tuple) else states[0]
    around.grid = inner.grid
    for part in rest:
        y = run(t, part, y, around)
    y = f.reshape(y, y.shape[0], -1, y.shape[-1]) if len(y.shape) > 3 else y
    around.images = f.clone(y) if block.listed else y
    around.sighted = block.masked
    around.grid = None
    t.held = [*outer, *t.held, y, around.images, *inner.deep, *deepened(t, inner, around)]
    t.outputs += (state, y) if block.outer else ()
    around.named.append(around.images)
    if block.returned:
        t.outputs.append(around.images)
    if block.axes:
        around.positions = t.new((3, *shape), "int64")
    t.path = t.owner = here
    return around.images


def deepened(t: Tape, inner: Around, around: Around) -> list[Value]:
    """Copies of the states that the tower yields beside its output, which the text's first layers add up (Qwen3-VL)."""
    deep = [f.clone(feature) for feature in inner.deep]
    for index, feature in enumerate(deep):
        around.after[index] = partial(joined, t, feature)
    return deep


def seen(block: Images, s: Setting, count: int, inner: Around) -> tuple[int, ...]:
    """The shape of the pixels: images of one size, or of any, as they are or cut into rows of patches."""
    grid = block.grid
    if block.crops:
        rows, columns = block.crops.grid((s.image_size[0], s.image_size[1]))
        return count * (1 + rows * columns), 3, block.crops.side, block.crops.side
    if grid is None:
        return (count, *(block.image or (3, *s.image_size)))
    high, wide = s.image_size
    inner.ready, inner.grid = True, (count, *grid.of((high, wide), s.frames))
    if grid.rows:
        return prod(inner.grid), 3 * grid.frames * grid.patch**2
    return count, 3, inner.grid[2] * grid.patch, inner.grid[3] * grid.patch


@rule(PackedCrops)
def packed_crops(t: Tape, block: PackedCrops, x: Value, around: Around) -> Value:
    """LlavaNextModel.pack_image_features: of each image by itself; all of them in one row of tokens."""
    crops, (high, wide) = block.crops, t.setting.image_size
    assert crops  # noqa: S101 - a tower that cuts images has them
    tiles = prod(crops.grid((high, wide))) + 1
    newline = t.weight("image_newline", (block.width,))
    made = [packed(crops, (high, wide), part, newline) for part in f.split(x, (tiles,) * (x.shape[0] // tiles), 0)]
    return f.cat(made, 0)


def packed(crops: Crops, size: tuple[int, int], tiles: Value, newline: Value) -> Value:
    """[tokens, width] of one image: the whole of it, then the map of its tiles."""
    (rows, columns), side, width = crops.grid(size), crops.patches, tiles.shape[-1]
    base, rest = f.select(tiles, 0), f.narrow(tiles, 0, rows * columns)
    x = f.contiguous(f.permute(f.view(rest, rows, columns, side, side, width), 4, 0, 2, 1, 3))
    x = f.reshape(x, width, rows * side, columns * side)
    high, wide = crops.unpadded(size)
    x = f.narrow(x, 1, high) if high < x.shape[1] else f.narrow(x, 2, wide)
    if (small := crops.shrunk(size)) != (high, wide):
        x = f.reshape(maps.interpolate(f.unsqueeze(x, 0), small), width, *small)
    ends = f.expand(f.reshape(newline, width, 1, 1), width, x.shape[1], 1)
    x = f.cat((x, ends), -1)
    return f.cat((base, f.transpose(f.reshape(x, width, -1), 0, 1)), 0)


@rule(ReadsImages)
def reads_images(t: Tape, block: ReadsImages, x: Value, around: Around) -> Value:
    """MllamaTextModel.forward: a batch of text alone passes by."""
    return sequence(t, block, x, around) if around.seen is not None else x


@rule(Unseen)
def unseen(_: Tape, __: Unseen, x: Value, ___: Around) -> Value:
    """A batch of text alone, in a model that could see."""
    return x


@rule(Sounds)
def sounds(_: Tape, __: Sounds, x: Value, ___: Around) -> Value:
    """A batch of text alone: nothing is heard."""
    return x


@rule(SecondGates)
def second_gates(_: Tape, block: SecondGates, x: Value, around: Around) -> Value:
    """AyaVisionMultiModalProjector.forward: act(gate) * x."""
    first, gate = f.chunk(x, 2)
    return f.mul(f.silu(gate), first)


@rule(Probabilities)
def probabilities(_: Tape, __: Probabilities, x: Value, around: Around) -> Value:
    """Ovis2VisionModel.forward, tokenize_function softmax."""
    return f.softmax(x)


@rule(VisualWords)
def visual_words(t: Tape, block: VisualWords, x: Value, around: Around) -> Value:
    """Ovis2Model.get_image_features: zeros for the words around images, whose rows are looked up, too, for its output."""
    table = t.weight("weight", block.shape)
    x = f.cat((x, t.new((*x.shape[:-1], block.marks), x.dtype)))
    out = f.matmul(x, table)
    t.held.append(f.embedding(t.new((block.marks,), "int64"), table))
    return out


@rule(MaskedAlways)
def masked_always(_: Tape, __: MaskedAlways, x: Value, around: Around) -> Value:
    """Gemma4UnifiedModel.forward: which tokens are of one image is told, if only that none is."""
    around.sighted = True
    return x


@rule(UnitRows)
def unit_rows(_: Tape, __: UnitRows, x: Value, around: Around) -> Value:
    """ColPaliForRetrieval.forward: embeddings / embeddings.norm(dim=-1, keepdim=True)."""
    return f.div(x, f.vector_norm(x, -1))


@rule(Matrix)
def matrix(t: Tape, block: Matrix, x: Value, _: Around) -> Value:
    """torch.matmul(x, weight): tokens as rows, no copy of the weight for each image."""
    out = f.bmm(f.lower(f.reshape(x, 1, -1, x.shape[-1])), f.lower(f.unsqueeze(t.weight("", block.shape), 0)))
    return f.reshape(out, *x.shape[:-1], -1)


@rule(PooledTokens)
def pooled_tokens(_: Tape, block: PooledTokens, x: Value, around: Around) -> Value:
    """Gemma3MultiModalProjector.forward: as a map, pooled, as tokens again."""
    batch, width = x.shape[0], x.shape[-1]
    x = f.contiguous(f.reshape(f.transpose(x, 1, 2), batch, width, block.side, block.side))
    side = block.side // block.kernel
    return f.transpose(f.reshape(maps.average_pool(x, (side, side)), batch, width, -1), 1, 2)
