"""Sparse attention as transformers runs it without its kernel: an indexer's choice of keys becomes a mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.mla import Indexer
from memcalc.tape import functions as f
from memcalc.tape.hf.rotary import rotate_half
from memcalc.tape.rules import Around, inside, run

if TYPE_CHECKING:
    from memcalc.blocks.mla import Mla
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


def sparse(t: Tape, block: Mla, x: Value, latent: Value | None, around: Around) -> Around:
    """DeepseekV32Attention.forward between its products: what the layer sees, with the mask of the chosen keys.

    A layer that reuses the choice of the one before makes a mask of its own of it.
    """
    mask = around.mask(0)
    if mask is None or not (block.indexer or block.reuses):
        return around
    given = around.copy()
    with t.no_grad():
        if isinstance(block.indexer, Indexer) and latent is not None:
            choose(t, block.indexer, x, latent, mask, around)
        given.masks = {0: chosen_mask(t, x, mask)}
    return given


def choose(t: Tape, block: Indexer, x: Value, latent: Value, mask: Value, around: Around) -> None:
    """DeepseekV32Indexer.forward: scores in fp32 of every key for every query and head, summed up; the best of them."""
    b, s = x.shape[:2]
    with inside(t, block):
        q = f.view(run(t, block.q, latent, around), b, s, block.heads, block.head_dim)
        k = f.unsqueeze(run(t, block.k_norm, run(t, block.k, x, around), around), 2)
        q, k = rotated(q, block.rope, around), f.squeeze(rotated(k, block.rope, around), 2)
        scores = f.scale(f.matmul(f.to(q, "fp32"), f.unsqueeze(f.to(f.swap(k), "fp32"), 1)))
        scores = f.relu(scores)
        weights = f.scale(f.to(run(t, block.weights, x, around), "fp32"))
        found = f.squeeze(f.matmul(f.unsqueeze(weights, -2), scores), -2)
        found = f.masked_fill(found, f.compare(mask)) if mask.dtype == "bool" else f.add(found, f.select(mask, 1))
        _, indices = f.topk(found, min(block.top_k, s))
        f.to(indices, "int32")


def rotated(x: Value, dim: int, around: Around) -> Value:
    """The first `dim` channels of [batch, seq, heads, channels] rotated by halves."""
    rot, rest = f.split(x, (dim, x.shape[-1] - dim))
    if around.rotary:
        cos, sin = (f.unsqueeze(table, 2) for table in around.rotary)
        rot = f.add(f.mul(rot, cos), f.mul(rotate_half(rot), sin))
    return f.cat((rot, rest))


def chosen_mask(t: Tape, x: Value, mask: Value) -> Value:
    """True at the keys not chosen, and the mask without those."""
    b, s = x.shape[:2]
    ones = t.new((b, s, s), "bool")
    left_out = t.new((b, 1, s, s), "bool")
    del ones
    if mask.dtype != "bool":
        return f.masked_fill(mask, left_out)
    inverse = f.compare(left_out)
    out = t.new((b, 1, s, s), "bool")
    del inverse
    return out
