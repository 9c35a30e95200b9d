"""MiniMax-M3's sparse attention without its kernel: chosen blocks of keys as a mask (modeling_minimax_m3_vl.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from memcalc.blocks.attention import Attention
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import attend, heads, normed, project, separate
from memcalc.tape.hf.rotary import rotated_part
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.mla import Indexer
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Attention, "minimax_m3")
def minimax_m3(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """MiniMaxM3VLAttention.forward: where an indexer chooses blocks of keys, a mask of every head's."""
    q, k, v = separate(t, block, x, around)
    tables = around.tables(block.rotary_kind)
    if tables:  # it joins the rest of a head to what is rotated, also where nothing is left
        q, k = rotated_part(q, k, tables, block.rotary_dim)
    if not block.before:
        return project(t, block, attend(t, block, q, k, v, around), around)
    indexer, given = cast("Indexer", block.before[0]), around.copy()
    chosen = choose(t, indexer, x, around)
    if t.setting.attention != "flash":  # else the kernel takes what is chosen
        made = block.heads, q.dtype
        given.masks = {block.window: block_mask(t, indexer, chosen, made, around.mask(block.window))}
    return project(t, block, attend(t, block, q, k, v, given), around)


def choose(t: Tape, block: Indexer, x: Value, around: Around) -> Value:
    """MiniMaxM3VLIndexer.forward: scores in fp32, the largest of every block of keys; the best blocks for each query."""
    b, s = x.shape[:2]
    count = -(-s // block.block)
    with inside(t, block):
        q = heads(normed(t, block.q_norm, run(t, block.q, x, around), around), block.heads)
        k = heads(normed(t, block.k_norm, run(t, block.k, x, around), around), 1)
        tables = around.rotary
        q, k = rotated_part(q, k, tables, min(block.rope, block.head_dim)) if tables else (q, k)
    scores = f.matmul(f.to(q, "fp32"), f.swap(f.to(k, "fp32")))
    future = t.new((b, 1, s, s), "bool")
    scores = f.masked_fill(scores, future)
    if s % block.block:
        scores = f.pad(scores, -1, -s % block.block)
    scores = f.view(scores, b, block.heads, s, count, block.block)
    best = f.amax(scores)
    found, indices = f.topk(best, min(block.top_k // block.block, count))
    return f.masked_fill(indices, f.compare(found))


def block_mask(t: Tape, block: Indexer, chosen: Value, made: tuple[int, str], mask: Value | None) -> Value:
    """build_block_mask: [batch, heads, seq, seq], of the dtype of the queries."""
    (all_heads, dtype), (b, n, s, _) = made, chosen.shape
    count = -(-s // block.block)
    safe = f.masked_fill(chosen, f.compare(chosen))
    bias = t.new((b, n, s, count + 1), dtype)
    bias = f.narrow(bias, -1, count)
    keep = f.narrow(f.repeat_interleave(f.compare(bias), block.block, 3), -1, s)
    keep = f.repeat_interleave(keep, all_heads // n, 1)
    future = f.compare(mask) if mask is not None and mask.dtype != "bool" else t.new((b, 1, s, s), "bool")
    keep = f.add(keep, f.compare(future) if mask is None else future)
    out = f.masked_fill(t.new(keep.shape, dtype), f.compare(keep))
    del safe, bias, future, keep
    return out
