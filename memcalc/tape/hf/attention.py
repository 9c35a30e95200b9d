"""Attention as transformers runs it: projections, rotary embedding, and the interface eager / sdpa / flash."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.tape import functions as f
from memcalc.tape.hf import kernels
from memcalc.tape.hf.adapters import before, cached
from memcalc.tape.hf.basic import dropped
from memcalc.tape.hf.position_biases import biased_mask, position_bias
from memcalc.tape.hf.rotary import rotate, rotated_one_by_one, rotated_part
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.blocks.mla import Mla
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


BY_TOKEN = 3  # axes of [batch, seq, heads * dim]


@rule(Attention, "", "phi3small")
def attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """LlamaAttention.forward, and those of the same form (modeling_llama.py)."""
    q, k, v = separate(t, block, x, around) if block.q else fused(t, block, x, around)
    tables = around.tables(block.rotary_kind)
    if block.rotary_dim and tables:
        q, k = rotate(block, q, k, tables)
    if not returns_first(block):
        return project(t, block, attend(t, block, q, k, v, around), around)
    out = attend(t, block, q, k, v, around)
    del q, k, v
    around.handed.append(out)
    return project(t, block, out, around)


def returns_first(block: Attention) -> bool:
    """Whether the output projection is of a module that runs after the one with the others (BertSelfOutput).

    What the others' own module lists, it runs itself (`to_out.0` of diffusers).
    """
    first = block.q or block.qkv
    inner, outer = (part.name.rpartition(".")[0] if part else "" for part in (first, block.out))
    return inner not in {"", outer}


def separate(t: Tape, block: Attention, x: Value, around: Around) -> tuple[Value, Value, Value]:
    """Queries, keys and values from projections of their own: [batch, heads, seq, dim] each."""
    read = around.encoder if block.cross and around.encoder else x
    if block.clip:
        return clipped(t, block, x, around)
    if block.heads_first:
        return headed(t, block, x, around)
    unsloth = kernels.unsloths(t)
    if unsloth and read is x and unsloth.takes(t, block.q, block.k, block.v):
        q, k, v = unsloth.queries_keys_values(t, block, x)
        q, k = normed(t, block.q_norm, q, around), normed(t, block.k_norm, k, around)
        return heads(q, block.heads), heads(k, block.kv_heads), heads(v, block.kv_heads)
    q = normed(t, block.q_norm, run(t, block.q, x, around), around)
    q = q if block.cut == "all" else heads(q, block.heads)
    k = normed(t, block.k_norm, run(t, block.k, read, around), around)
    k = k if block.cut else heads(k, block.kv_heads)
    v = run(t, block.v, read, around)
    q = heads(q, block.heads) if block.cut == "all" else q
    return q, heads(k, block.kv_heads) if block.cut else k, heads(v, block.kv_heads)


def headed(t: Tape, block: Attention, x: Value, around: Around) -> tuple[Value, Value, Value]:
    """The same normed only when all three are cut into heads (Gemma3Attention.forward)."""
    q, k, v = (run(t, part, x, around) for part in (block.q, block.k, block.v) if part)
    q, k, v = heads(q, block.heads), heads(k, block.kv_heads), heads(v, block.kv_heads)
    q = run(t, block.q_norm, q, around) if block.q_norm else q
    k = run(t, block.k_norm, k, around) if block.k_norm else k
    v = run(t, block.v_norm, v, around) if block.v_norm else v
    return q, k, v


def clipped(t: Tape, block: Attention, x: Value, around: Around) -> tuple[Value, Value, Value]:
    """The same clamped in place, all three before they are cut into heads (OlmoAttention.forward, OlmoeAttention's)."""
    parts = (block.q, block.q_norm), (block.k, block.k_norm), (block.v, None)
    projected = [normed(t, norm, run(t, part, x, around), around) for part, norm in parts if part]
    q, k, v = (f.clamp_(part) for part in projected)
    return heads(q, block.heads), heads(k, block.kv_heads), heads(v, block.kv_heads)


def normed(t: Tape, norm: Block | None, x: Value, around: Around, dim: int = 0) -> Value:
    """A norm of queries or keys, over all heads together or (behind a view, which stays) each of them."""
    if norm is None:
        return x
    width = getattr(norm, "width", 0)
    if width in (0, x.shape[-1]):
        return run(t, norm, x, around)
    return run(t, norm, f.view(x, *x.shape[:-1], -1, width), around)


def fused(t: Tape, block: Attention, x: Value, around: Around) -> tuple[Value, Value, Value]:
    """Queries, keys and values as parts of one projection, cut along its columns (GPT-2's split)."""
    widths = [n * block.head_dim for n in (block.heads, block.kv_heads, block.kv_heads)]
    qkv = run(t, block.qkv, x, around)
    q, k, v = f.split(f.clamp(qkv) if block.clip else qkv, widths)
    k, v = heads(k, block.kv_heads), heads(v, block.kv_heads)
    return heads(q, block.heads), k, v


def project(t: Tape, block: Attention, out: Value, around: Around) -> Value:
    """[batch, seq, heads, dim] back to the hidden size."""
    out = f.contiguous(f.reshape(out, *out.shape[:2], -1))
    out = run(t, block.out, out, around)
    return dropped(t, out, block.out_dropout) if block.out_dropout else out


@rule(Attention, "gpt_neox")
def gpt_neox(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """GPTNeoXAttention.forward: each head's query, key and value lie together (modeling_gpt_neox.py)."""
    b, s = x.shape[:2]
    qkv = f.transpose(f.view(run(t, block.qkv, x, around), b, s, -1, 3 * block.head_dim), 1, 2)
    q, k, v = f.chunk(qkv, 3)
    q, k = rotated_part(q, k, around.rotary, block.rotary_dim)
    return project(t, block, attend(t, block, q, k, v, around), around)


@rule(Attention, "phi3")
def phi3(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """Phi3Attention.forward: three slices of one projection (modeling_phi3.py)."""
    qkv = run(t, block.qkv, x, around)
    q, k, v = (heads(f.narrow(qkv, -1, n * block.head_dim), n) for n in (block.heads, block.kv_heads, block.kv_heads))
    q, k = rotated_one_by_one(q, k, around.rotary, block.rotary_dim)
    return project(t, block, attend(t, block, q, k, v, around), around)


@rule(Attention, "opt")
def opt(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """OPTAttention.forward: queries are scaled before they are cut into heads (modeling_opt.py)."""
    q = heads(f.scale(run(t, block.q, x, around)), block.heads)
    k, v = run(t, block.k, x, around), run(t, block.v, x, around)
    k, v = heads(k, block.heads), heads(v, block.heads)
    return project(t, block, attend(t, block, q, k, v, around), around)


def heads(x: Value, count: int) -> Value:
    """[batch, seq, heads * dim], or one that is cut into them already, seen as [batch, heads, seq, dim]."""
    return f.transpose(f.view(x, *x.shape[:2], count, -1) if len(x.shape) == BY_TOKEN else x, 1, 2)


def attend(t: Tape, block: Attention, q: Value, k: Value, v: Value, around: Around) -> Value:
    """ALL_ATTENTION_FUNCTIONS[implementation]: [batch, seq, heads, dim]."""
    mask = None if block.cross else around.mask(block.window)
    if t.prefix:
        k, v = cached(t, k, v) if block.cross else before(t, k, v)
    if t.setting.attention == "eager" or eager_only(block, t.setting.attention):
        return eager(t, block, q, k, v, mask, around)
    if mask is None and not block.cross and t.setting.ways and t.setting.ways.context > 1:
        from memcalc.tape.hf.parallel import ring  # noqa: PLC0415 - few models are divided

        groups = block.heads // block.kv_heads if "repeat-kv" in t.setting.fused else 1
        return f.contiguous(f.transpose(ring(t, q, repeat_kv(k, groups), repeat_kv(v, groups)), 1, 2))
    if t.setting.attention == "flash" and not block.scores_bias:
        return flash(t, q, k, v)
    return sdpa(t, block, q, k, v, mask, around)


def flash(t: Tape, q: Value, k: Value, v: Value) -> Value:
    """flash_attention_forward (integrations/flash_attention.py): no mask, dropout by seed, heads grouped as they are.

    Queries in fp32 are cast with the rest: to autocast's dtype, else to that of the layer's weights. Narrower values are
    padded to the queries' width, and the output cut. Packed sequences are laid out token by token (_prepare_from_posids).
    """
    half = t.autocast or t.setting.compute
    if q.dtype == "fp32" and half in ("bf16", "fp16"):
        q, k, v = f.to(q, half), f.to(k, half), f.to(v, half)
    width = v.shape[-1]
    if width < q.shape[-1]:
        v = f.pad(v, -1, q.shape[-1] - width)
    if t.setting.packed:
        q, k, v = (f.transpose(f.contiguous(f.transpose(x, 1, 2)), 1, 2) for x in (q, k, v))
    return f.narrow(f.transpose(f.flash_attn(q, k, v), 1, 2), -1, width)


EAGER_ONLY = frozenset({  # classes without _supports_sdpa
    "bloom", "codegen", "gpt_neo", "gpt_neox_japanese", "gptj", "hy_v4", "mimo", "mpt", "openai-gpt", "xglm",
})  # fmt: skip


def eager_only(block: Attention | Mla, attention: str = "sdpa") -> bool:
    """Whether the library runs it eagerly whatever is asked for: no sdpa kernel caps scores or has sinks; flash has both."""
    if attention == "flash" and isinstance(block, Attention) and (block.softcap or block.sinks):
        return False
    if block.formula in EAGER_ONLY or not isinstance(block, Attention):
        return block.formula in EAGER_ONLY
    return bool(block.eager_only or block.softcap or block.sinks)


def repeat_kv(x: Value, times: int) -> Value:
    """Key/value heads repeated for the queries of their group: a copy."""
    if times == 1:
        return x
    b, h, s, d = x.shape
    return f.reshape(f.expand(f.unsqueeze(x, 2), b, h, times, s, d), b, h * times, s, d)


def eager(t: Tape, block: Attention, q: Value, k: Value, v: Value, mask: Value | None, around: Around) -> Value:
    """eager_attention_forward (modeling_llama.py; modeling_bert.py, which leaves the softmax in the scores' dtype)."""
    groups = block.heads // block.kv_heads
    keys, values = repeat_kv(k, groups), repeat_kv(v, groups)
    bias = position_bias(t, block, q, k, around)
    weights = f.scale(f.matmul(q, f.swap(keys)))
    if block.softcap:
        weights = f.scale(weights)
        weights = f.tanh(weights)
        weights = f.scale(weights)
    if bias is not None:
        weights = f.add(weights, bias)
    if mask is not None:
        weights = f.add(weights, mask)
    if block.sinks:
        return with_sinks(t, block, weights, values, around)
    weights = f.to(f.softmax(weights, "fp32"), q.dtype) if block.softmax == "fp32" else f.softmax(weights)
    if block.softmax == "values":
        weights = f.to(weights, v.dtype)
    weights = around.weights = f.dropout(weights, block.dropout)
    out = f.matmul(weights, values)
    out = f.contiguous(f.transpose(out, 1, 2))
    return out  # noqa: RET504 - the name lets go of what it stood for before the others do


def with_sinks(t: Tape, block: Attention, weights: Value, values: Value, around: Around) -> Value:
    """The rest of GptOssAttention's eager_attention_forward: a logit per head joins the scores, and is dropped again."""
    columns = weights.shape[-1]
    scores = f.cat((weights, sink_column(t, weights)))
    scores = f.subtract(scores, f.largest(scores))
    scores = f.narrow(f.softmax(scores, "fp32" if block.formula == "privacy" else scores.dtype), -1, columns)
    weights = around.weights = f.to(f.dropout(scores, block.dropout), values.dtype)
    out = f.matmul(weights, values)
    out = f.contiguous(f.transpose(out, 1, 2))
    return out  # noqa: RET504 - the name lets go of what it stood for before the others do


def sink_column(t: Tape, weights: Value) -> Value:
    """The sink of each head, as one more column of its scores."""
    b, h, s, _ = weights.shape
    return f.expand(f.reshape(t.weight("sinks", (h,)), 1, h, 1, 1), b, h, s, 1)


def sdpa(t: Tape, block: Attention, q: Value, k: Value, v: Value, mask: Value | None, around: Around) -> Value:
    """sdpa_attention_forward (integrations/sdpa_attention.py)."""
    groups = block.heads // block.kv_heads
    repeated = mask is not None or not k.shape[-1] == v.shape[-1] <= 256 or "repeat-kv" in t.setting.fused
    if groups > 1 and repeated:
        k, v = repeat_kv(k, groups), repeat_kv(v, groups)
    causal = block.causal and mask is None
    bias = position_bias(t, block, q, k, around)
    if bias is not None:
        mask, causal = biased_mask(t, bias, mask, causal=causal), False
    out = f.attention(q, k, v, mask, block.dropout, causal=causal)
    out = f.contiguous(f.transpose(out, 1, 2))
    return out  # noqa: RET504 - as above
