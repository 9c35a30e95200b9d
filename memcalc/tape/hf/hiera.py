"""Hiera: windows that lie together, queries and streams pooled by maxima (modeling_hiera.py)."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from memcalc.blocks.hiera import MaskUnitAttention, PoolingLayer, Unrolled
from memcalc.tape import functions as f
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Unrolled)
def unrolled(t: Tape, block: Unrolled, x: Value, around: Around) -> Value:
    """unroll: a copy for every stride; what was embedded keeps a name until the model returns."""
    t.held.append(x)
    around.ready = True
    (batch, tokens, width), (rows, columns) = x.shape, block.map
    x = f.view(x, batch, rows, columns, width)
    for down, across in block.strides:
        rows, columns = rows // down, columns // across
        x = f.permute(f.view(x, -1, rows, down, columns, across, width), 0, 2, 4, 1, 3, 5)
        x = f.reshape(x, -1, rows, columns, width)
    return f.reshape(x, batch, tokens, width)


@rule(MaskUnitAttention)
def mask_unit_attention(t: Tape, block: MaskUnitAttention, x: Value, around: Around) -> Value:
    """HieraMaskUnitAttention.forward."""
    batch, tokens, _ = x.shape
    each = block.stride * block.window or tokens
    qkv = run(t, block.qkv, x, around)
    dim = qkv.shape[-1] // (3 * block.heads)
    qkv = f.permute(f.reshape(qkv, batch, each, tokens // each, 3, block.heads, dim), 3, 0, 4, 2, 1, 5)
    q, k, v = f.unbind(qkv, 0)
    if block.stride > 1:
        q = f.maxima(f.view(q, *q.shape[:3], block.stride, each // block.stride, dim), 3)
    weights = f.matmul(f.scale(q), f.swap(k))
    weights = f.softmax(weights)
    out = f.matmul(weights, v)
    out = f.reshape(f.transpose(out, 1, 3), batch, prod(out.shape[2:4]), -1)
    out = run(t, block.out, out, around)
    del qkv, q, k, v, weights  # names of the function
    return out


@rule(PoolingLayer)
def pooling_layer(t: Tape, block: PoolingLayer, x: Value, around: Around) -> Value:
    """HieraLayer.forward."""
    normed = run(t, block.before, x, around)
    if block.widen:
        x = run(t, block.widen, normed, around)
        x = f.maxima(f.view(x, x.shape[0], block.stride, -1, x.shape[-1]), 1)
    normed = run(t, block.mixer, normed, around)
    x = f.add(x, run(t, block.drop, normed, around))
    y = run(t, block.after, x, around)
    y = run(t, block.feed, y, around)
    out = f.add(x, run(t, block.drop, y, around))
    del normed
    return out
