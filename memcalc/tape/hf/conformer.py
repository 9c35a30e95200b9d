"""Conformer layers: attention with relative or rotary positions of its own, the convolution module (Gulati et al. 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from memcalc.blocks.attention import Attention
from memcalc.blocks.basic import Conv
from memcalc.blocks.speech import ConformerConvolution, HeardSoFar, Subsampled
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import attend, heads, project, separate
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.base import Stack
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Attention, "conformer-relative", "conformer-relative_key", "conformer-rotary")
def attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """Wav2Vec2BertSelfAttention.forward: what positions add to the scores is handed on as their bias."""
    read = rotated(t, block, x) if block.formula == "conformer-rotary" else x
    q, k = (heads(run(t, part, read, around), block.heads) for part in (block.q, block.k))
    v = heads(run(t, block.v, x, around), block.heads)
    if block.formula == "conformer-relative":
        q, around.bias = relative(t, block, q)
    elif block.formula == "conformer-relative_key":
        around.bias = by_keys(t, block, q, around)
    out = attend(t, block, q, k, v, around)
    around.bias = None
    return run(t, block.out, f.reshape(out, *x.shape[:2], -1), around)


def relative(t: Tape, block: Attention, q: Value) -> tuple[Value, Value]:
    """_apply_relative_position_encoding: projected sinusoids of every distance, shifted so that they meet their pairs."""
    b, n, s, d = q.shape
    table = t.given((1, 2 * block.positions - 1, n * d), q.dtype, ".relative positions")
    places = f.narrow(table, 1, 2 * s - 1)
    projected = run(t, block.bias_table, places, Around())
    projected = f.permute(f.view(projected, 1, 2 * s - 1, n, d), 0, 2, 3, 1)
    biased = f.add(q, f.view(t.weight("pos_bias_v", (n, d)), 1, n, 1, d))
    scores = f.matmul(biased, projected)
    scores = f.view(f.pad(scores, -1, 1), b, n, 2 * s, s)
    scores = f.view(f.narrow(scores, 2, 2 * s - 1), b, n, s, 2 * s - 1)
    scores = f.narrow(scores, -1, s)
    scores = f.scale(scores)
    return f.add(q, f.view(t.weight("pos_bias_u", (n, d)), 1, n, 1, d)), scores


def by_keys(t: Tape, block: Attention, q: Value, around: Around) -> Value:
    """_apply_relative_key_position_encoding: queries times an embedding of each distance."""
    s = q.shape[2]
    rows, columns = t.new((s, 1), "int64"), t.new((1, s), "int64")
    distance = t.new((s, s), "int64")
    distance = f.scale(distance)
    places = run(t, block.bias_table, f.shift(distance), around)
    places = f.to(places, q.dtype)
    scores = f.einsum("bhld,lrd->bhlr", q, places)
    del rows, columns
    return f.scale(scores)


def rotated(t: Tape, block: Attention, x: Value) -> Value:
    """_apply_rotary_embedding, of the hidden states before they are projected."""
    b, s, width = x.shape
    half = block.head_dim // 2
    table = t.given((2, s, 1, 1, block.head_dim), x.dtype, ".rotary positions")
    cos, sin = (f.select(table, 0) for _ in range(2))
    x = f.transpose(f.view(x, b, s, block.heads, block.head_dim), 0, 1)
    begin, end = f.narrow(x, -1, half), f.narrow(x, -1, block.head_dim - half)
    turned = f.cat((f.neg(end), begin), -1)
    x = f.add(f.mul(x, cos), f.mul(turned, sin))
    return f.view(f.transpose(x, 0, 1), b, s, width)


@rule(ConformerConvolution)
def convolution(t: Tape, block: ConformerConvolution, x: Value, around: Around) -> Value:
    """Wav2Vec2BertConvolutionModule.forward, Wav2Vec2ConformerConvolutionModule.forward."""
    first, wide, deep, norm, act, narrow, *rest = block.blocks
    x = f.transpose(run(t, first, x, around), 1, 2)
    x = run(t, wide, x, around)
    x = f.glu(x, 1)
    if block.masked and around.padding is not None:
        seen = f.compare(around.padding)  # torch.all(~attention_mask, dim=2)
        padded = t.new((x.shape[0], 1, x.shape[2]), "bool")
        del seen
        x = f.masked_fill(x, padded)
    if block.ahead:
        x = f.pad(x, -1, block.ahead)
    x = run(t, deep, x, around)
    x = f.transpose(run(t, norm, f.transpose(x, 1, 2), around), 1, 2) if block.turned else run(t, norm, x, around)
    x = run(t, act, x, around)
    x = run(t, narrow, x, around)
    for part in rest:
        x = run(t, part, x, around)
    return f.transpose(x, 1, 2)


@rule(Subsampled)
def subsampled(t: Tape, block: Subsampled, x: Value, around: Around) -> Value:
    """ParakeetEncoderSubsamplingConv2D.forward, then ParakeetEncoder.forward up to its layers (modeling_parakeet.py)."""
    out = f.unsqueeze(x, 1)
    *maps, project_out = block.blocks
    for part in maps:
        out = run(t, part, out, around)
        if block.masked and isinstance(part, Conv):
            out = f.mul_(out, t.new((out.shape[0], 1, out.shape[2], 1), "bool"))
    out = f.reshape(f.transpose(out, 1, 2), out.shape[0], out.shape[2], -1)
    out = f.scale(run(t, project_out, out, around))
    around.table = f.dropout(distances(t, out), block.places_dropout)
    out = f.dropout(out, block.dropout)
    if block.masked:
        frames = out.shape[1]
        around.padding = t.new((out.shape[0], 1, frames, frames), "bool")
    around.holds, around.ready = True, True
    return out


def distances(t: Tape, x: Value) -> Value:
    """ParakeetEncoderRelPositionalEncoding.forward: sines and cosines of all distances, for every sequence."""
    batch, rows, half = x.shape[0], 2 * x.shape[1] - 1, x.shape[2] // 2
    with t.no_grad():
        angles = t.new((rows, half), "fp32")
        sines, cosines = t.new((batch, rows, half), "fp32"), t.new((batch, rows, half), "fp32")
        table = f.view(f.stack((sines, cosines), -1), batch, rows, 2 * half)
        del angles
        return f.to(table, x.dtype)


@rule(Attention, "parakeet")
def parakeet(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """ParakeetEncoderAttention.forward: scores against distances are handed on as a mask (modeling_parakeet.py)."""
    assert around.table is not None  # noqa: S101 - the subsampling has run
    n, d = block.heads, block.head_dim
    q, k, v = separate(t, block, x, around)
    contents, places = (f.add(q, f.view(t.weight(f"bias_{name}", (n, d)), 1, n, 1, d)) for name in "uv")
    keys = run(t, block.bias_table, around.table, Around())
    keys = f.view(keys, x.shape[0], -1, n, d)
    scores = shifted(f.matmul(places, f.permute(keys, 0, 2, 3, 1)))
    scores = f.scale(f.narrow(scores, -1, x.shape[1]))
    if around.padding is not None:
        scores = f.masked_fill_(scores, f.compare(around.padding))
    around.bias = scores
    out = attend(t, block, contents, k, v, around)
    around.bias = None
    return project(t, block, out, around)


def shifted(scores: Value) -> Value:
    """_rel_shift: one column more in front, cut into rows of another length, of which the first is left out."""
    b, n, rows, columns = scores.shape
    scores = f.view(f.pad(scores, -1, 1), b, n, columns + 1, rows)
    return f.view(f.narrow(scores, 2, columns), b, n, rows, columns)


@rule(Attention, "granite-speech")
def granite_speech(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """GraniteSpeechConformerAttention.forward: among blocks of frames, the last of them padded and masked."""
    batch, frames, size = *x.shape[:2], block.group
    rest = frames % size
    x = f.pad(x, 1, size - rest) if rest else x
    q, (k, v) = run(t, block.q, x, around), f.chunk(run(t, block.k, x, around), 2)
    q, k, v = (f.transpose(f.reshape(part, -1, size, block.heads, block.head_dim), 1, 2) for part in (q, k, v))
    places = run(t, block.bias_table, t.given((size, size), "int64", ".attention_dists"), Around())
    bias = f.scale(f.einsum("bhcd,crd->bhcr", q, places))
    if rest:
        bias = f.masked_fill_(bias, t.new((size, size), "bool"))
    given = [f.lower(part) for part in (q, k, v, bias)]
    before, t.autocast = t.autocast, ""  # the kernel's own products are cast no further
    out = by_products(*given)
    t.autocast = before
    out = f.reshape(f.transpose(out, 1, 2), batch, x.shape[1], -1)
    return run(t, block.out, f.narrow(out, 1, frames), around)


def by_products(q: Value, k: Value, v: Value, bias: Value) -> Value:
    """_scaled_dot_product_attention_math: in fp32 where what it is given is narrower; queries and keys scaled, both."""
    narrow = q.dtype
    q, k, v = (f.to(part, "fp32") for part in (q, k, v))
    scaled = f.scale(q)
    scores = f.matmul(scaled, f.scale(f.swap(k)))
    scores = f.add(scores, bias)
    weights = f.softmax(scores)
    del scores
    handed = f.to(weights, narrow)
    out = f.to(f.matmul(weights, v), narrow)
    del scaled, v, k, q, handed
    return out


@rule(HeardSoFar)
def heard_so_far(t: Tape, block: HeardSoFar, x: Value, around: Around) -> Value:
    """GraniteSpeechCTCEncoder.forward: hidden_states += out_mid(softmax(out(hidden_states.clone())))."""
    start, layers, letters, back = block.blocks
    x, path = run(t, start, x, around), t.path

    def heard(x: Value) -> Value:
        t.path, before = path, t.path
        said = f.softmax(run(t, letters, f.clone(x), Around()))
        x = f.add_(x, run(t, back, said, Around()))
        t.path = t.owner = before
        return x

    around.after = {len(cast("Stack", layers).layers) // 2 - 1: heard}
    x = run(t, layers, x, around)
    around.after = {}
    return x
