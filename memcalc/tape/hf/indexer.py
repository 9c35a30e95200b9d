"""Sparse attention as transformers runs it without its kernel: an indexer's choice of keys becomes a mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.mla import Indexer
from memcalc.tape import functions as f
from memcalc.tape.hf.rotary import halved, interleaved
from memcalc.tape.rules import Around, inside, run

if TYPE_CHECKING:
    from memcalc.blocks.mla import Mla
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


def sparse(t: Tape, block: Mla, x: Value, latent: Value | None, around: Around) -> tuple[Around, list[Value]]:
    """DeepseekV32Attention.forward between its products: what the layer sees, with the mask of the chosen keys.

    A layer that reuses the choice of the one before makes a mask of its own of it. The choice and what is left out have
    names that live until the function returns.
    """
    mask = around.mask(0)
    if mask is None or not (block.indexer or block.reuses):
        return around, []
    given = around.copy()
    with t.no_grad():
        indices = around.choice
        if isinstance(block.indexer, Indexer) and latent is not None:
            indices = choose(t, block.indexer, x, latent, mask, around)
        names = [indices] if indices else []
        if block.hands_on:
            around.summed += [around.choice] if around.choice else []
            around.choice = indices
        names.append(left_out(t, x, indices))
        given.masks = {0: chosen_mask(t, mask, names[-1])}
    return given, names


def choose(t: Tape, block: Indexer, x: Value, latent: Value, mask: Value, around: Around) -> Value:
    """DeepseekV32Indexer.forward: scores in fp32 of every key for every query and head, summed up; the best of them."""
    b, s = x.shape[:2]
    with inside(t, block):
        q = f.view(run(t, block.q, latent, around), b, s, block.heads, block.head_dim)
        k = f.unsqueeze(run(t, block.k_norm, run(t, block.k, x, around), around), 2)
        rotate, sizes = interleaved if block.interleaved else halved, (block.rope, block.head_dim - block.rope)
        (q_rot, q_rest), (k_rot, k_rest) = (f.split(part, sizes) for part in (q, k))
        if around.rotary:
            q_rot, k_rot = rotate(q_rot, k_rot, around.rotary, 2)
        q = f.cat((q_rot, q_rest))
        k = f.squeeze(f.cat((k_rot, k_rest)), 2)
        scores = f.scale(f.matmul(f.to(q, "fp32"), f.unsqueeze(f.to(f.swap(k), "fp32"), 1)))
        scores = f.relu(scores)
        weights = f.scale(f.to(run(t, block.weights, x, around), "fp32"))
        found = f.squeeze(f.matmul(f.unsqueeze(weights, -2), scores), -2)
        mask = f.select(mask, 1)
        found = f.masked_fill(found, f.compare(mask)) if mask.dtype == "bool" else f.add(found, mask)
        _, indices = f.topk(found, min(block.top_k, s))
        return f.to(indices, "int32")


def left_out(t: Tape, x: Value, indices: Value | None) -> Value:
    """True at the keys that are not chosen, [batch, 1, seq, seq]."""
    b, s = x.shape[:2]
    ones = t.new((b, s, s), "bool")
    where = t.new(indices.shape, "int64") if indices else None
    made = t.new((b, 1, s, s), "bool")
    del ones, where
    return made


def chosen_mask(t: Tape, mask: Value, unseen: Value) -> Value:
    """The mask without the keys left out."""
    if mask.dtype != "bool":
        return f.masked_fill(mask, unseen)
    inverse = f.compare(unseen)
    out = t.new(unseen.shape, "bool")
    del inverse
    return out
