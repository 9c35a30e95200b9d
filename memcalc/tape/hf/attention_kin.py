"""Attention of Llama's kin that do one thing in a way of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import attend, fused, heads, normed, project, separate
from memcalc.tape.hf.basic import stored
from memcalc.tape.hf.rotary import rotate, rotated, rotated_in_line, rotated_part
from memcalc.tape.rules import Around, rule, run
from memcalc.tensors import numbers

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Attention, "hunyuan")
def hunyuan(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """HunYuanDenseV1Attention.forward: queries and keys are normed behind their rotation."""
    q, k, v = (heads(run(t, part, x, around), n) for part, n in _projections(block))
    tables = around.tables(block.rotary_kind)
    if tables:
        q, k = rotate(block, q, k, tables)
    q = normed(t, block.q_norm, q, around)
    k = normed(t, block.k_norm, k, around)
    return project(t, block, attend(t, block, q, k, v, around), around)


def _projections(block: Attention) -> tuple[tuple[Block | None, int], ...]:
    return (block.q, block.heads), (block.k, block.kv_heads), (block.v, block.kv_heads)


@rule(Attention, "stablelm")
def stablelm(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """StableLmAttention.forward; with a LayerNorm for every head of the queries and keys, where there is one."""
    q, k, v = (heads(run(t, part, x, around), n) for part, n in _projections(block))
    q = per_head(t, block.q_norm, q, around)
    k = per_head(t, block.k_norm, k, around)
    q, k, _parts = rotated_in_line(q, k, around.tables(block.rotary_kind), block.rotary_dim)
    return project(t, block, attend(t, block, q, k, v, around), around)


def per_head(t: Tape, norms: Block | None, x: Value, around: Around) -> Value:
    """StableLmLayerNormPerHead.forward: the heads apart, each through its norm, and together again."""
    if norms is None:
        return x
    path, outer = t.path, t.instance
    (stack,) = norms.parts()
    normed_heads = []
    for index, part in enumerate(f.split(x, (1,) * x.shape[1], 1)):
        ((indices, norm),) = stack.groups()
        t.path, t.instance = f"{path}.{norms.name}.{stack.name}.{numbers(indices or [])}", f"{outer}/{index}"
        normed_heads.append(run(t, norm, part, around))
    t.path, t.instance = path, outer
    return f.cat(normed_heads, 1)


@rule(Attention, "phi")
def phi(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """PhiAttention.forward: the heads are normed, and part of their channels is rotated in line (modeling_phi.py)."""
    q, k, v = (heads(run(t, part, x, around), n) for part, n in _projections(block))
    q, k = normed(t, block.q_norm, q, around), normed(t, block.k_norm, k, around)
    q, k, _parts = rotated_in_line(q, k, around.tables(block.rotary_kind), block.rotary_dim)
    return project(t, block, attend(t, block, q, k, v, around), around)


@rule(Attention, "persimmon")
def persimmon(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """PersimmonAttention.forward: each head's query, key and value lie together, and are normed before they part."""
    b, s = x.shape[:2]
    qkv = f.view(run(t, block.qkv, x, around), b, s, block.heads, 3, block.head_dim)
    q, k, v = (f.select(qkv, 3) for _ in range(3))
    q = normed(t, block.q_norm, q, around)
    k = normed(t, block.k_norm, k, around)
    q, k, v = (f.transpose(part, 1, 2) for part in (q, k, v))
    q, k, _parts = rotated_in_line(q, k, around.tables(block.rotary_kind), block.rotary_dim)
    return project(t, block, attend(t, block, q, k, v, around), around)


@rule(Attention, "diffllama")
def diffllama(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """DiffLlamaAttention.forward: attention to each half of the values, and the difference of its halves, normed."""
    q, k, v = separate(t, block, x, around)
    tables = around.tables(block.rotary_kind)
    if tables:
        q, k = rotated(q, k, tables)
    v1, v2 = (f.cat((half, half), 1) for half in f.chunk(v, 2, 1))
    first = attend(t, block, q, k, v1, around)
    second = attend(t, block, q, k, v2, around)
    out = f.cat((first, second))
    first, second = f.chunk(out, 2, 2)
    weight = f.shift(f.subtract(learned_factor(t, block, 1, q.dtype), learned_factor(t, block, 2, q.dtype)))
    out = f.subtract(first, f.mul(weight, second))
    out = f.scale(root_mean_square(out))
    return run(t, block.out, f.reshape(out, *x.shape[:2], -1), around)


def root_mean_square(x: Value) -> Value:
    """nn.RMSNorm without a weight, where it isn't one kernel: in fp32, cast back (aten/src/ATen/native/layer_norm.cpp)."""
    wide = f.to(x, "fp32")
    return f.to(f.mul(wide, f.rsqrt(f.shift(f.mean(f.square(wide), -1)))), x.dtype)


def learned_factor(t: Tape, block: Attention, which: int, dtype: str) -> Value:
    """exp(sum(lambda_q * lambda_k))."""
    q, k = (t.weight(f"lambda_{name}{which}", (block.head_dim,)) for name in "qk")
    return f.to(f.exp(f.total(f.to(f.mul(q, k), "fp32"), -1)), dtype)


@rule(Attention, "gpt2-upcast")
def gpt2_upcast(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """GPT2Attention._upcast_and_reordered_attn, where eager attention is asked for: scores by one product in fp32."""
    q, k, v = fused(t, block, x, around)
    if t.setting.attention != "eager":
        return project(t, block, attend(t, block, q, k, v, around), around)
    b, h, s, d = q.shape
    weights = t.new((b * h, s, s), "fp32")
    queries, keys = f.reshape(q, b * h, s, d), f.reshape(f.swap(k), b * h, d, s)
    before, t.autocast = t.autocast, ""
    weights = f.reshape(f.baddbmm(weights, f.to(queries, "fp32"), f.to(keys, "fp32")), b, h, s, s)
    t.autocast = before
    mask = around.mask(block.window)
    if mask is not None:
        weights = f.add(weights, mask)
    weights = f.softmax(weights)
    weights = f.to(weights, v.dtype)
    weights = around.weights = f.dropout(weights, block.dropout)
    return project(t, block, f.transpose(f.matmul(weights, v), 1, 2), around)


@rule(Attention, "openai-gpt")
def openai_gpt(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """OpenAI GPT's Attention._attn: a buffer of ones and zeros instead of a mask (modeling_openai.py)."""
    q, k, v = fused(t, block, x, around)
    weights = f.scale(f.matmul(q, f.swap(k)))
    seq = x.shape[1]
    seen = t.given((1, 1, t.context, t.context), stored(t), "bias")
    seen = f.narrow(f.narrow(seen, -1, seq), -2, seq)
    weights = f.add(f.mul(weights, seen), f.scale(f.shift(seen)))
    weights = f.softmax(weights)
    weights = f.dropout(weights, block.dropout)
    out = f.contiguous(f.transpose(f.matmul(weights, v), 1, 2))
    return project(t, block, out, around)


@rule(Attention, "gpt_neox_japanese")
def gpt_neox_japanese(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """GPTNeoXJapaneseAttention.forward: scores by one product that adds zeros; the last layer's has a bias behind it."""
    b, s = x.shape[:2]
    h, d = block.heads, block.head_dim
    qkv = f.view(run(t, block.qkv, x, around), b, s, h, 3 * d)
    q, k, v = (f.transpose(f.narrow(qkv, -1, d), 1, 2) for _ in range(3))
    q, k = rotated_part(q, k, around.tables(block.rotary_kind), block.rotary_dim)
    out = neox_scores(t, block, q, k, v, around)
    out = run(t, block.out, f.reshape(f.contiguous(f.transpose(out, 1, 2)), b, s, h * d), around)
    for bias in block.extra:
        out = f.add(out, f.expand(t.weight(bias.name, bias.shape), *out.shape))
    return out


def neox_scores(t: Tape, block: Attention, q: Value, k: Value, v: Value, around: Around) -> Value:
    """GPTNeoXJapaneseAttention._attn."""
    b, h, s, d = q.shape
    q, k = f.view(q, b * h, s, d), f.view(k, b * h, s, d)
    zeros = t.new((b * h, s, s), q.dtype)
    weights = f.view(f.baddbmm(zeros, q, f.swap(k)), b, h, s, s)
    mask = around.mask(0)
    if mask is not None:
        weights = f.add(weights, mask)
    weights = f.to(f.dropout(f.softmax(weights), block.dropout), v.dtype)
    return f.matmul(weights, v)
