"""Attention in one call: the fused kernels, and scaled_dot_product_attention as it runs without one."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from memcalc.tape.autograd import Gradients, Node, record, save
from memcalc.tape.functions.arithmetic import add, scale
from memcalc.tape.functions.casts import lower, to
from memcalc.tape.functions.pointwise import dropout
from memcalc.tape.functions.products import matmul, swap
from memcalc.tape.functions.reduce import softmax
from memcalc.tape.functions.shaping import contiguous, expand, reshape, unsqueeze
from memcalc.tape.keeping import output
from memcalc.tape.values import Shape, Value, dense_like

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape


def flash(q: Value, k: Value, v: Value, mask: Value | None = None) -> Value:
    """Fused attention of [batch, heads, tokens, channels]: saves q, k, v, its output and a log-sum-exp a row.

    The output lies in memory like q, the gradients as [batch, tokens, heads, channels] (torch/_meta_registrations.py).
    """
    node = record(q.tape, _flash_backward, (q, k, v), (mask, k, q, v))
    q.tape.multiplied(_attended(q, k, v), kernel=True)
    out = output(q.tape, "attention", q.shape, q.dtype, dense_like(q.shape, q.strides))
    out.node = node
    save(q.tape, node, output(q.tape, "attention", q.shape[:3], "fp32"))
    save(q.tape, node, out)
    return out


def _attended(q: Value, k: Value, v: Value) -> int:
    """FLOPs of two products of all pairs of tokens: a fused kernel that skips what is masked does half of them."""
    return 2 * prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1])


def _flash_backward(node: Node, g: Value) -> Gradients:
    """Five products for two: the scores are made again (Dao 2023, FlashAttention-2, 3.2)."""
    _mask, k, q, v, *_ = node.load()
    q.tape.multiplied(5 * _attended(q, k, v) // 2, kernel=True)
    made = []
    for x in (q, k, v):
        b, h, s, d = x.shape
        made.append(g.tape.new(x.shape, x.dtype, dense_like(x.shape, (s * h * d, d, h * d, 1))))
    return tuple(made)


def flash_attn(q: Value, k: Value, v: Value) -> Value:
    """flash_attn_func of [batch, heads, tokens, channels] views, for which no mask is ever made (flash-attn 2.8, flash_api.cpp).

    Saves q, k, v, its output, which lies in memory like q (torch::empty_like), a log-sum-exp a row and the random state;
    dropout is drawn again in the backward pass. Of packed sequences it is told where each begins (flash_attn_varlen_func).
    """
    node = record(q.tape, _flash_attn_backward, (q, k, v), (q, k, v))
    q.tape.multiplied(_attended(q, k, v), kernel=True)
    out = output(q.tape, "attention", q.shape, q.dtype, dense_like(q.shape, q.strides))
    out.node = node
    save(q.tape, node, out)
    save(q.tape, node, output(q.tape, "attention", q.shape[:3], "fp32"))
    save(q.tape, node, output(q.tape, "attention", (2,), "int64"))
    if q.tape.setting.packed:
        save(q.tape, node, q.tape.new((q.tape.setting.packed + 1,), "int32"))
    return out


def _flash_attn_backward(node: Node, g: Value) -> Gradients:
    """mha_bwd: an fp32 sum of the queries' gradient, a number a row, and gradients of keys and values for every query head.

    Rows are rounded up to 128 (mha_varlen_bwd: 128 more for each sequence), channels to 32 (64 beyond 128 of them).
    """
    q, k, v, *_ = node.load()
    q.tape.multiplied(5 * _attended(q, k, v) // 2, kernel=True)
    made = [q.tape.new(x.shape, x.dtype, dense_like(x.shape, x.strides)) for x in (q, k, v)]
    b, h, s, d = q.shape
    step, sequences = 32 if d <= 128 else 64, q.tape.setting.packed
    rows, channels = s + 128 * sequences if sequences else -(-s // 128) * 128, -(-d // step) * step
    work = [q.tape.new((b, h, rows), "fp32"), q.tape.new((b, rows, h, channels), "fp32")]
    if k.shape[1] != h:
        work += [q.tape.new((b, k.shape[2], h, d), q.dtype) for _ in range(2)]
    del work, g
    return tuple(made)


def _by_tokens(shape: Shape) -> Shape:
    """Strides of [batch, tokens, heads, channels] seen as [batch, heads, tokens, channels]."""
    _, h, s, d = shape
    return (s * h * d, d, h * d, 1)


def attention(
    q: Value, k: Value, v: Value, mask: Value | None = None, p: float = 0.0, *, causal: bool = False, gqa: bool = True
) -> Value:
    """F.scaled_dot_product_attention: the fused kernel where it applies, else plain operations in fp32.

    The fused kernel wants no dropout, heads of one width whose channels lie side by side, and a mask without a gradient
    (sdp_utils_cpp.cpp, use_flash_attention_cpp). Key/value heads may be fewer than query heads with `gqa`; without, fewer
    are broadcast.
    """
    q, k, v, mask = lower(q), lower(k), lower(v), mask and lower(mask)
    p = 0.0 if q.tape.setting.evaluating else p
    converted = mask and mask.dtype == "bool"
    if mask and converted:  # convert_boolean_attn_mask (aten/src/ATen/native/transformers/attention.cpp)
        mask = q.tape.new(mask.shape, q.dtype)
    fits = q.shape[-1] == v.shape[-1] and all(x.strides is None or x.strides[-1] == 1 for x in (q, k, v))
    if p == 0 and fits and not (mask and mask.node) and (gqa or k.shape[1] == q.shape[1]):
        out = flash(q, k, v, mask)
        if converted:
            del mask  # which is the calling function's
        del k, q, v  # copies that autocast has made
        return out
    tape = q.tape
    autocast, tape.autocast = tape.autocast, ""  # what a torch function calls inside is not cast again
    try:
        out, weights = _plain_attention(q, k, v, mask, p, causal=causal, gqa=gqa)
        del weights, mask  # which is the calling function's
        return out
    finally:
        tape.autocast = autocast


def _plain_attention(
    q: Value, k: Value, v: Value, mask: Value | None, p: float, *, causal: bool, gqa: bool
) -> tuple[Value, Value]:
    """_scaled_dot_product_attention_math (aten/src/ATen/native/transformers/attention.cpp): (output, weights)."""
    dtype = q.dtype
    q32, k32, v32 = to(q, "fp32"), to(k, "fp32"), to(v, "fp32")
    scaled = scale(q32)
    if causal:
        mask = _triangle(q.tape, q.shape[-2], k.shape[-2])
    keys, values = k32, v32
    if gqa and k.shape[1] != q.shape[1]:
        keys, values = _repeated(k32, q.shape[1]), _repeated(v32, q.shape[1])
    scores = matmul(scaled, scale(swap(keys)))
    if mask is not None:
        scores = add(scores, mask)
    scores = softmax(scores)
    scores = dropout(scores, p)
    weights = to(scores, dtype)
    out = to(matmul(scores, values), dtype)
    del scores, values, keys, scaled, mask, v32, k32, q32  # as C++ lets go of what a function has named: the last first
    return out, weights


def _triangle(tape: Tape, rows: int, columns: int) -> Value:
    """The causal mask as floats, by way of booleans."""
    ones = tape.new((rows, columns), "bool")
    allowed = tape.new(ones.shape, "bool")
    del ones
    numbers = tape.new((), "fp32"), tape.new((), "fp32")
    mask = tape.new(allowed.shape, "fp32")
    del numbers, allowed
    return mask


def _repeated(x: Value, heads: int) -> Value:
    """repeat_interleave of key/value heads."""
    b, h, s, d = x.shape
    return reshape(contiguous(expand(unsqueeze(x, 2), b, h, heads // h, s, d)), b, heads, s, d)
