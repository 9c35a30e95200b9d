"""HiDream-I1: text that is new to every layer, experts whose rows are picked by masks (transformer_hidream_image.py)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Stack
from memcalc.blocks.diffusion import ModulatedBlock
from memcalc.blocks.hidream import LayerTexts, PatchOutput, PickedExperts, TextLayers, TurnTables
from memcalc.blocks.joint import JointAttention, JointBlock
from memcalc.tape import functions as f
from memcalc.tape.functions.inplace import put_
from memcalc.tape.hf.dit import by_head, joint, modulated, norm, text, through, vectors
from memcalc.tape.hf.layers import under_name
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(LayerTexts)
def layer_texts(t: Tape, block: LayerTexts, x: Value, around: Around) -> Value:
    """caption_projection: of the states of every layer of Llama, and of T5's."""
    scene, other = around.scene, text(around)
    kept = t.given((block.kept, *other.shape[:2], block.widths[0]), t.setting.weights)
    *projections, last = block.projections
    scene.texts = [run(t, into, f.select(kept, 0), around) for into in projections]
    scene.texts.append(run(t, last, other, around))
    around.encoder = f.cat((scene.texts[-1], scene.texts[-2]), 1)
    around.named[:0] = scene.texts
    return x


@rule(TurnTables)
def turn_tables(t: Tape, block: TurnTables, x: Value, around: Around) -> Value:
    """HiDreamImageEmbedND.forward: [batch, tokens, 1, pairs, 2, 2] in fp32."""
    batch, own = x.shape[0], text(around).shape[1] // 2  # T5's and one of Llama's; a layer is shown another of these
    tokens = x.shape[1] + 3 * own
    around.named.append(t.new((batch, tokens, 3), "fp32"))  # ids
    tables = []
    for dim in block.axes:
        wide = t.new((batch, tokens, dim // 2, 4), "fp64")
        tables.append(f.reshape(f.to(wide, "fp32"), batch, tokens, dim // 2, 2, 2))
        del wide
    around.scene.turning = f.unsqueeze(f.cat(tables, 2), 2)
    return x


@rule(TextLayers)
def text_layers(t: Tape, block: TextLayers, x: Value, around: Around) -> Value:
    """The layers; before each, its states of the text are put behind the other tokens, and behind it they go again."""
    assert isinstance(block.joint, Stack) and isinstance(block.row, Stack)  # noqa: S101, PT018 - as its architecture has it
    texts, tokens, count = around.scene.texts, x.shape[1], len(block.joint.layers)
    both, row = _Row(texts[:count]), _Row(texts[count:-1])
    both.size, around.scene.texts = text(around).shape[1], []
    del texts
    around.encoder = both.joined(text(around))
    given = [x]
    del x
    given.append(_through(t, block.joint, given, around, lambda i, y: both.beside(i, y, around)))
    row.size = tokens + both.size
    around.named.append(text(around))
    whole = f.cat((given.pop(), text(around)), 1)
    if not block.row.layers:
        around.named.append(whole)
        around.encoder = None
        return f.narrow(whole, 1, tokens)
    if around.scene.shown is not None:
        more = t.new((whole.shape[0], both.size + row.texts[0].shape[1]), whole.dtype)
        around.scene.shown = f.cat((around.scene.shown, more), 1)
        del more
    around.encoder, whole = None, row.joined(whole)
    given.append(whole)
    del whole
    out = f.narrow(_through(t, block.row, given, around, row.next), 1, tokens)
    around.named.append(out)
    return out


def _through(t: Tape, layers: Stack, given: list[Value], around: Around, then: Callable[[int, Value], Value]) -> Value:
    """The layers, `then` behind each: told apart where each one's states of the text ask for a gradient of their own."""
    if around.named[0].node:
        around.after = {i: partial(then, i) for i in range(len(layers.layers))}
    else:
        around.each = then
    x = under_name(t, layers, given, around)
    around.after, around.each = {}, None
    return x


class _Row:
    """A row of tokens to which each layer's states are added, and taken off again."""

    def __init__(self, texts: list[Value]) -> None:
        self.texts, self.size, self.last = texts, 0, len(texts) - 1
        self.held: Value | None = None  # what the last layer was given, by its name

    def joined(self, row: Value) -> Value:
        return f.cat((row, self.texts.pop(0)), 1)

    def next(self, index: int, row: Value) -> Value:
        row = f.narrow(row, 1, self.size)
        return self.joined(row) if index < self.last else row

    def beside(self, index: int, x: Value, around: Around) -> Value:
        """The same with the second stream."""
        around.encoder = self.held = self.next(index, text(around))
        return x


@rule(JointBlock, "hidream")
def joint_block(t: Tape, block: JointBlock, x: Value, around: Around) -> Value:
    """HiDreamImageTransformerBlock.forward; what it is given of the text has a name in the model."""
    assert block.modulation and block.attention  # noqa: S101, PT018 - it has both
    before = context = text(around)
    made = vectors(t, block.modulation, x, around)
    own, other = made[:6], made[6:]
    del made
    y = modulated(f.to(norm(x), x.dtype), own[1], own[0])
    z = modulated(f.to(norm(context), x.dtype), other[1], other[0])
    attended, context_attended = joint(t, block.attention, y, z, around)
    assert context_attended is not None  # noqa: S101 - its text tokens go on
    x = f.add(f.mul(own[2], attended), x)
    context = f.add(f.mul(other[2], context_attended), context)
    y = modulated(f.to(norm(x), y.dtype), own[4], own[3])
    z = modulated(f.to(norm(context), y.dtype), other[4], other[3])
    fed = f.mul(own[5], through(t, block.mlp, y, around))
    context_fed = f.mul(other[5], through(t, block.context_mlp, z, around))
    out = f.add(fed, x)
    around.encoder = f.add(context_fed, context)
    del y, z, attended, context_attended, fed, context_fed, before
    return out


@rule(ModulatedBlock, "hidream")
def single_block(t: Tape, block: ModulatedBlock, x: Value, around: Around) -> Value:
    """HiDreamImageSingleTransformerBlock.forward."""
    assert block.modulation  # noqa: S101 - it has its own
    own, dtype = vectors(t, block.modulation, x, around), x.dtype
    y = modulated(f.to(norm(x), dtype), own[1], own[0])
    attended = run(t, block.mixer, y, around)
    x = f.add(f.mul(own[2], attended), x)
    y = modulated(f.to(norm(x), dtype), own[4], own[3])
    fed = f.mul(own[5], through(t, block.feed, f.to(y, dtype), around))
    out = f.add(fed, x)
    del y, attended, fed
    return out


@rule(JointAttention, "hidream")
def joint_attention(t: Tape, block: JointAttention, x: Value, around: Around) -> Value:
    """HiDreamAttnProcessor: image tokens before text tokens."""
    context = text(around)
    own = _projected(t, (block.q, block.k, block.v), (block.q_norm, block.k_norm), x, around)
    own = _shown([by_head(part, block.heads) for part in own], around)
    other = _projected(t, block.context, block.context_norms, context, around)
    other = [by_head(part, block.heads) for part in other]
    q, k, v = (f.cat((a, b), 1) for a, b in zip(own, other, strict=True))
    out = _attended(q, k, v, around.scene.turning)
    mine, rest = f.split(out, (x.shape[1], context.shape[1]), 1)
    del out
    mine = run(t, block.out, mine, around)
    around.encoder = run(t, block.context_out, rest, around)
    return mine


@rule(Attention, "hidream")
def attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """HiDreamAttnProcessor over one row."""
    own = _projected(t, (block.q, block.k, block.v), (block.q_norm, block.k_norm), x, around)
    own = _shown([by_head(part, block.heads) for part in own], around)
    q, k, v = own
    own.clear()
    return run(t, block.out, _attended(q, k, v, around.scene.turning), around)


def _projected(t: Tape, parts: tuple[object, ...], norms: tuple[object, ...], x: Value, around: Around) -> list[Value]:
    """Queries and keys normed across heads and cast back, and values."""
    made = []
    for part, kind in zip(parts, (*norms, None), strict=True):
        out = run(t, part, x, around)  # type: ignore[arg-type]  # blocks
        made.append(f.to(run(t, kind, out, around), x.dtype) if kind else out)  # type: ignore[arg-type]  # blocks
        del out
    return made


def _shown(parts: list[Value], around: Around) -> list[Value]:
    """Queries, keys and values, the keys of what fills an image up set to zero."""
    shown = around.scene.shown
    if shown is not None:
        parts[1] = f.mul(parts[1], f.view(shown, *shown.shape, 1, 1))
    return parts


def _attended(q: Value, k: Value, v: Value, table: Value) -> Value:
    """apply_rope, and the fused kernel: [batch, tokens, width]."""
    q, k = _turned(q, k, table)
    out = f.attention(f.transpose(q, 1, 2), f.transpose(k, 1, 2), f.transpose(v, 1, 2))
    out = f.reshape(f.transpose(out, 1, 2), out.shape[0], out.shape[2], -1)
    return f.to(out, q.dtype)


def _turned(q: Value, k: Value, table: Value) -> tuple[Value, Value]:
    """apply_rope: pairs times two by two numbers, in fp32."""
    wide = [f.reshape(f.to(part, "fp32"), *part.shape[:-1], part.shape[-1] // 2, 1, 2) for part in (q, k)]
    first, second = f.select(table, -1), f.select(table, -1)
    turned = [f.add(f.mul(first, f.select(part, -1)), f.mul(second, f.select(part, -1))) for part in wide]
    out = [f.to(f.reshape(made, *part.shape), part.dtype) for made, part in zip(turned, (q, k), strict=True)]
    return out[0], out[1]


@rule(PickedExperts)
def picked_experts(t: Tape, block: PickedExperts, x: Value, around: Around) -> Value:
    """MOEFeedForwardSwiGLU.forward, as many rows to each expert."""
    assert block.experts and block.router  # noqa: S101, PT018 - it has both
    (router,) = block.router.parts() or (block.router,)
    flat = f.reshape(x, -1, x.shape[-1])
    scores = f.softmax(f.linear(flat, t.weight(router.name, router.shape)))  # type: ignore[attr-defined]  # a Raw
    weights, _index = f.topk(scores, block.top)
    del scores
    row = _silently(t, block, flat, around) if block.silent else _weighed(t, block, flat, weights, around)
    y = f.to(f.reshape(row, *x.shape), x.dtype)
    del row
    return f.add(y, run(t, block.shared, x, around))


def _weighed(t: Tape, block: PickedExperts, x: Value, weights: Value, around: Around) -> Value:
    """Every row once for each of its experts, which write into an empty tensor; the weighed sum of a row's."""
    rows, width = x.shape
    x = f.repeat_interleave(x, block.top, 0)
    made = t.new(x.shape, x.dtype)
    parts = block.experts.parts()  # type: ignore[union-attr]  # the caller has looked
    count = x.shape[0] // len(parts)
    for expert in parts:
        where = t.new((x.shape[0],), "bool")
        out = f.to(run(t, expert, f.index(x, where, (count, width)), around), x.dtype)
        made = put_(made, t.new((x.shape[0],), "bool"), out)
        del out, where
    return f.total(f.mul(f.reshape(made, rows, block.top, width), f.unsqueeze(weights, -1)), 1)


def _silently(t: Tape, block: PickedExperts, x: Value, around: Around) -> Value:
    """moe_infer, without a graph."""
    (rows, width), parts = x.shape, block.experts.parts()  # type: ignore[union-attr]  # the caller has looked
    with t.no_grad(), inside(t, block.experts):  # type: ignore[arg-type]  # as above
        cache = t.new(x.shape, x.dtype)
        order, tokens = t.new((rows * block.top,), "int64"), t.new((rows * block.top,), "int64")
        count = rows * block.top // len(parts)
        taken = out = None
        for expert in parts:
            taken = f.index(x, t.new((count,), "int64"), (count, width))
            out = run(t, expert, taken, around)
            cache = f.to(cache, out.dtype)
            _where = t.new((count, width), "int64")
            del _where
        del taken, out, order, tokens
    return cache


@rule(PatchOutput)
def patch_output(_: Tape, block: PatchOutput, x: Value, around: Around) -> Value:
    """unpatchify: in training all at once; else image by image."""
    rows, columns = around.scene.sizes.pop()
    batch, size = x.shape[0], block.patch
    if not block.singly:
        x = f.permute(f.reshape(x, batch, x.shape[1], size, size, -1), 0, 4, 1, 2, 3)
        return f.reshape(x, batch, x.shape[1], -1, size**2)
    made = [
        f.clone(f.reshape(part, 1, rows, columns, size, size, -1))
        for part in (f.narrow(f.select(x, 0), 0, rows * columns) for _i in range(batch))
    ]
    out = f.cat([f.reshape(part, 1, -1, rows * size, columns * size) for part in made], 0)
    made.clear()
    return out
