"""ConvBERT (modeling_convbert.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.convbert import GroupedLinear, SpanAttention
from memcalc.tape import functions as f
from memcalc.tape.functions.maps import unfold
from memcalc.tape.hf.attention import heads
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(SpanAttention, "convbert")
def span_attention(t: Tape, block: SpanAttention, x: Value, around: Around) -> Value:
    """ConvBertSelfAttention.forward, and the projection behind it."""
    out = mixed(t, block, x, around)
    around.handed.append(out)
    return run(t, block.out, out, around)


def mixed(t: Tape, block: SpanAttention, x: Value, around: Around) -> Value:
    """What is named lasts until the function returns, the weights until the module has added up."""
    keys, values = run(t, block.k, x, around), run(t, block.v, x, around)
    conv = f.transpose(separable(t, block, x, around), 1, 2)
    queries = run(t, block.q, x, around)
    q, k, v = (heads(part, block.heads) for part in (queries, keys, values))
    product = f.mul(conv, queries)
    spans = convolved(t, block, x, product, around)
    scores = f.scale(f.matmul(q, f.swap(k)))
    mask = around.mask(0)
    if mask is not None:
        scores = f.add(scores, mask)
    weights = f.dropout(f.softmax(scores), block.dropout)
    around.handed.append(weights)
    out = f.contiguous(f.permute(f.matmul(weights, v), 0, 2, 1, 3))
    out = f.cat((out, f.reshape(spans, *out.shape)), 2)
    del product, scores
    return f.view(out, *x.shape[:2], -1)


def separable(t: Tape, block: SpanAttention, x: Value, around: Around) -> Value:
    """SeparableConv1D.forward: the bias is added in place."""
    out = run(t, block.pointwise, run(t, block.depthwise, f.transpose(x, 1, 2), around), around)
    bias = next(param for param in block.extra if param.name.endswith("bias"))
    return f.add_(out, t.weight(bias.name, bias.shape))


def convolved(t: Tape, block: SpanAttention, x: Value, product: Value, around: Around) -> Value:
    """The span of every token, unfolded, times the kernel of its own."""
    batch, seq, _ = x.shape
    kernels = f.softmax(f.reshape(run(t, block.kernels, product, around), -1, block.size, 1))
    spans = f.contiguous(f.transpose(run(t, block.spans, x, around), 1, 2))
    width = spans.shape[1]
    spans = unfold(f.unsqueeze(spans, -1), (batch, width * block.size, seq))
    spans = f.reshape(f.transpose(spans, 1, 2), batch, -1, width, block.size)
    spans = f.matmul(f.reshape(spans, -1, block.head_dim, block.size), kernels)
    return f.reshape(spans, -1, width)


@rule(GroupedLinear)
def grouped_linear(t: Tape, block: GroupedLinear, x: Value, _: Around) -> Value:
    """GroupedLinearLayer.forward."""
    n = block.groups_of
    weight = t.weight("weight", (n, block.inputs // n, block.outputs // n))
    rows = f.permute(f.reshape(x, -1, n, block.inputs // n), 1, 0, 2)
    out = f.permute(f.matmul(rows, weight), 1, 0, 2)
    out = f.reshape(out, x.shape[0], -1, block.outputs)
    return f.add(out, t.weight("bias", (block.outputs,)))
