"""Position biases of T5 and its kin: tables read by buckets of distances, added to the scores (modeling_t5.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape import functions as f
from memcalc.tape.autograd import Leaf
from memcalc.tape.rules import Around, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.blocks.attention import Attention
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


def position_bias(t: Tape, block: Attention, q: Value, k: Value, around: Around) -> Value | None:
    """T5Attention.compute_bias by the first layer of a stack, for all of them; zeros where no layer has a table."""
    if not block.scores_bias:
        return None
    if block.own_bias:
        return (
            looked_up(t, block, q, k)
            if block.bias_table
            else t.new((1, block.heads, q.shape[-2], k.shape[-2]), q.dtype)
        )
    bias = around.cross_bias if block.cross else around.bias
    if bias is None:
        bias = looked_up(t, block, q, k) if block.bias_table else blank(t, block, q, k)
        around.hands = True
        if block.cross:
            around.cross_bias = bias
        else:
            around.bias = bias
    return bias


def looked_up(t: Tape, block: Attention, q: Value, k: Value, bucketed: Callable[[Value], Value] | None = None) -> Value:
    """T5Attention.compute_bias: a table [buckets, heads] read by the bucket of every distance: [1, heads, seq, seq]."""
    rows, columns = q.shape[-2], k.shape[-2]
    context, memory = t.new((rows,), "int64"), t.new((columns,), "int64")
    distances = t.new((rows, columns), "int64")
    bucket = bucketed(distances) if bucketed else buckets(distances, both=not block.causal)
    values = run(t, block.bias_table, bucket, Around())
    del context, memory
    return f.unsqueeze(f.permute(values, 2, 0, 1), 0)


def buckets(distances: Value, *, both: bool) -> Value:
    """T5Attention._relative_position_bucket, on integers as wide as the distances."""
    if both:
        sides = f.shift(f.scale(f.to(f.compare(distances), "int64")))
        distances = f.scale(distances)
    else:
        distances = f.scale(f.add(distances, f.scale(distances)))
    _small = f.compare(distances)
    far = f.shift(f.to(f.scale(f.scale(f.scale(f.scale(f.to(distances, "fp32"))))), "int64"))
    far = f.add(far, f.scale(far))
    return f.add_(sides, f.add(distances, far)) if both else f.shift(f.add(distances, far))


def log_buckets(distances: Value) -> Value:
    """WavLMAttention._relative_positions_bucket: the same, with names for what is still in floats."""
    sides = f.scale(f.to(f.compare(distances), "int64"))
    distances = f.scale(distances)
    small = f.compare(distances)
    logs = f.scale(f.scale(f.scale(f.scale(f.to(distances, "fp32")))))
    far = f.to(f.shift(logs), "int64")
    far = f.add(far, f.scale(far))
    sides = f.add_(sides, f.add(distances, far))
    del distances, small, logs, far
    return sides


def blank(t: Tape, block: Attention, q: Value, k: Value) -> Value:
    """Zeros, which ask for a gradient where layers are checkpointed (T5Attention.forward)."""
    bias = t.new((1, block.heads, q.shape[-2], k.shape[-2]), q.dtype)
    if t.setting.checkpoint:
        bias.node = Leaf(t, bias)
    return bias


def biased_mask(t: Tape, bias: Value, mask: Value | None, *, causal: bool) -> Value:
    """create_position_bias_mask: the bias, with -inf where nothing may be seen, in one contiguous tensor."""
    if mask is None and causal:
        mask = t.new((1, 1, *bias.shape[-2:]), "bool")
    if mask is not None:
        bias = f.where_filled(bias, mask)
    return f.contiguous(bias)
