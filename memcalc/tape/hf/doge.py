"""Doge (modeling_doge.py): a mask that is learned, residuals scaled by channel, and neurons as experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import DynamicAttention
from memcalc.blocks.doge import NeuronExperts, ScaledResidual
from memcalc.tape import functions as f
from memcalc.tape.hf.activations import activate
from memcalc.tape.hf.attention import eager, project, repeat_kv, sdpa, separate
from memcalc.tape.hf.rotary import rotate
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(ScaledResidual)
def scaled_residual(t: Tape, block: ScaledResidual, x: Value, around: Around) -> Value:
    """Half of DogeDecoderLayer.forward."""
    y = x
    for part in block.blocks:
        y = run(t, part, y, around)
    return f.add(f.mul(t.weight(block.weight, (block.width,)), x), y)


@rule(DynamicAttention, "doge")
def dynamic(t: Tape, block: DynamicAttention, x: Value, around: Around) -> Value:
    """DogeAttention.forward."""
    b, s = x.shape[:2]
    q, k, v = separate(t, block, x, around)
    tables = around.tables(block.rotary_kind)
    if tables:
        q, k = rotate(block, q, k, tables)
    steps = run(t, block.gate, f.reshape(f.transpose(v, 1, 2), b, s, -1), around)
    steps = f.transpose(f.exp(f.mul(t.weight("A", (block.kv_heads,)), f.softplus(steps))), 1, 2)
    mask = repeat_kv(masked(t, block, steps, x, around), block.heads // block.kv_heads)
    attend = eager if t.setting.attention == "eager" else sdpa
    return project(t, block, attend(t, block, q, k, v, mask, around), around)


def masked(t: Tape, block: DynamicAttention, steps: Value, x: Value, around: Around) -> Value:
    """DogeAttention.prepare_dynamic_mask: [batch, key/value heads, seq, seq]; the largest `keep` of each row, if more."""
    b, heads, s = steps.shape
    mask = f.expand(f.unsqueeze(steps, 2), b, heads, s, s)
    given = around.mask(block.window)
    if given is not None:
        floats = t.new(given.shape, x.dtype) if given.dtype == "bool" else given
        mask = f.masked_fill(mask, f.compare(floats))
        del floats
    if s <= block.keep:
        return mask
    active = t.new(mask.shape, x.dtype)
    _, indices = f.topk(mask, block.keep)
    active = t.new(active.shape, active.dtype)
    mask = f.masked_fill(mask, f.compare(active))
    del indices
    return mask


@rule(NeuronExperts)
def neurons(t: Tape, block: NeuronExperts, x: Value, around: Around) -> Value:
    """DogeCDMoE.forward."""
    b, s, hidden = x.shape
    logits = f.view(run(t, block.router, x, around), 2, b * s, -1)
    weights, indices, _names = retrieved(t, block, logits)
    down, up = (
        f.embedding(indices, t.weight(f"{name}_embed.weight", (block.experts, hidden))) for name in ("down", "up")
    )
    found = f.view(f.matmul(down, f.view(x, b * s, hidden, 1)), b * s, -1)
    found = f.mul(activate(block.activation, found), weights)
    states = f.view(f.matmul(f.view(found, b * s, 1, -1), up), b, s, -1)
    inner = f.mul(activate(block.activation, run(t, block.gate, x, around)), run(t, block.up, x, around))
    return f.add(run(t, block.down, inner, around), states)


def retrieved(t: Tape, block: NeuronExperts, logits: Value) -> tuple[Value, Value, tuple[Value, ...]]:
    """The weights of the chosen neurons, and which they are: the best sums of a score of either set of keys.

    Last is what else has a name in the forward pass.
    """
    rows, keys = logits.shape[1], block.keys
    scores, where = f.topk(logits, keys)
    first, second = f.unbind(scores)
    sums = f.reshape(f.add(f.unsqueeze(first, -1), f.unsqueeze(second, -2)), rows, keys * keys)
    places = t.new((rows, keys * keys), "int64")
    best, position = f.topk(sums, block.top_k)
    indices = t.new((rows, block.top_k), "int64")
    return f.softmax(best), indices, (scores, where, sums, places, best, position)
