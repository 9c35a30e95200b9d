"""Wan's layers, which keep the stream in the weights' dtype and work in fp32 (diffusers, transformer_wan.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.basic import Norm
from memcalc.blocks.diffusion import ModulatedBlock
from memcalc.blocks.video import GridTables, WideModulate
from memcalc.tape import functions as f
from memcalc.tape.hf.dit import by_head, norm, through
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


WAN_TEXT = 512  # transformer_wan.py, WanAttnProcessor


@rule(GridTables)
def grid_tables(t: Tape, block: GridTables, x: Value, around: Around) -> Value:
    """WanRotaryPosEmbed.forward: cos and sin [1, tokens, 1, channels], put together from the buffers of three axes."""
    frames, rows, columns = (n // patch for n, patch in zip(x.shape[2:], block.patch, strict=True))
    tokens = frames * rows * columns
    for name in ("freqs_cos", "freqs_sin"):
        t.given((block.longest, block.dim), "fp32", f".{name}")
    tables = [t.new((1, tokens, 1, block.dim), "fp32") for _ in range(2)]
    around.scene.rotary = tables[0], tables[1]
    return x


@rule(ModulatedBlock, "wan")
def wan_block(t: Tape, block: ModulatedBlock, x: Value, around: Around) -> Value:
    """WanTransformerBlock.forward."""
    assert block.table and block.cross  # noqa: S101, PT018 - it has both
    dtype, shared = x.dtype, f.reshape(around.scene.shared, x.shape[0], 6, -1)
    made = f.add(t.weight(block.table.name, block.table.shape), f.to(shared, "fp32"))
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = f.chunk(made, 6, 1)
    del made, shared
    y = wide_norm(x, scale, shift)
    attended = run(t, block.mixer, y, around)
    x = f.to(f.add(f.to(x, "fp32"), f.mul(attended, gate)), dtype)
    y = f.to(run(t, block.norms[1], f.to(x, "fp32"), around) if len(block.norms) > 1 else f.to(x, "fp32"), dtype)
    attended = run(t, block.cross, y, around)
    x = f.add(x, attended)
    y = wide_norm(x, scale_mlp, shift_mlp)
    fed = through(t, block.feed, y, around)
    out = f.to(f.add(f.to(x, "fp32"), f.mul(f.to(fed, "fp32"), gate_mlp)), dtype)
    del attended, y, fed
    return out


def wide_norm(x: Value, scale: Value, shift: Value) -> Value:
    """(norm(x.float()) * (1 + scale) + shift).type_as(x)."""
    return f.to(f.add(f.mul(norm(f.to(x, "fp32")), f.shift(scale)), shift), x.dtype)


@rule(WideModulate)
def wide_modulate(_: Tape, block: WideModulate, x: Value, around: Around) -> Value:
    """The same with the last modulation's vectors (WanTransformer3DModel.forward)."""
    shift, scale = around.scene.chunks
    around.scene.chunks = []
    return wide_norm(x, scale, shift)


@rule(Norm, "fp32-layer")
def wide_layer_norm(t: Tape, block: Norm, x: Value, _: Around) -> Value:
    """FP32LayerNorm.forward: its weights in fp32, too."""
    if block.kind == "none":
        return f.to(f.layer_norm(f.to(x, "fp32"), None, None), x.dtype)
    weight, bias = (f.to(t.weight(name, (block.width,)), "fp32") for name in ("weight", "bias"))
    return f.to(f.layer_norm(f.to(x, "fp32"), weight, bias), x.dtype)


@rule(Attention, "wan")
def wan_attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """WanAttnProcessor: normed across all heads; of text and image states, the latter by keys and values of their own."""
    image, read = None, x
    if block.cross:
        assert around.encoder is not None  # noqa: S101 - it reads some
        read = around.encoder
        if block.before and around.scene.image:
            image, read = apart(read)
    q, k, v = (run(t, part, source, around) for part, source in ((block.q, x), (block.k, read), (block.v, read)))
    q = run(t, block.q_norm, q, around)
    k = run(t, block.k_norm, k, around)
    q, k, v = (by_head(part, block.heads) for part in (q, k, v))
    if block.rotary_dim:
        q = turned_in_place(t, q, around)
        k = turned_in_place(t, k, around)
    beside = seen(t, block, q, image, around) if image is not None else None
    out = attended(q, k, v)
    out = out if beside is None else f.add(out, beside)
    out = run(t, block.out, out, around)
    del q, k, v
    return out


def apart(states: Value) -> tuple[Value, Value]:
    """States of an image and of the text, which is taken for 512 tokens long, whatever it is."""
    count = len(range(states.shape[1])[: states.shape[1] - WAN_TEXT])
    return f.narrow(states, 1, count), f.narrow(states, 1, states.shape[1] - count)


def seen(t: Tape, block: Attention, q: Value, image: Value, around: Around) -> Value:
    """What the queries read of an image's states."""
    into_keys, into_values, key_norm = block.before
    k, v = run(t, into_keys, image, around), run(t, into_values, image, around)
    k = run(t, key_norm, k, around)
    return attended(q, by_head(k, block.heads), by_head(v, block.heads))


def attended(q: Value, k: Value, v: Value) -> Value:
    """dispatch_attention_fn of [batch, tokens, heads, channels]: [batch, tokens, width], in the queries' dtype."""
    q, k, v = (f.transpose(part, 1, 2) for part in (q, k, v))
    out = f.transpose(f.attention(q, k, v), 1, 2)
    return f.to(f.reshape(out, *out.shape[:2], -1), q.dtype)


def turned_in_place(t: Tape, x: Value, around: Around) -> Value:
    """WanAttnProcessor's apply_rotary_emb: even and odd channels rotated apart in fp32, each put into an empty tensor."""
    first, second = f.unbind(f.reshape(x, *x.shape[:-1], x.shape[-1] // 2, 2), -1)
    cos, sin = (
        f.select(f.reshape(table, *table.shape[:-1], table.shape[-1] // 2, 2), -1) for table in around.scene.rotary
    )
    out = t.new(x.shape, x.dtype)
    out = f.assign(out, f.subtract(f.mul(first, cos), f.mul(second, sin)))
    return f.assign(out, f.add(f.mul(first, sin), f.mul(second, cos)))
