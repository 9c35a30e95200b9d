"""Rotary positions (Su et al. 2021): tables made once before the layers, and the ways families rotate by them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from memcalc.tape import functions as f
from memcalc.tape.hf import kernels

if TYPE_CHECKING:
    from memcalc.blocks.attention import Attention
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value

    Tables: TypeAlias = tuple[Value, Value]


def rotary_tables(t: Tape, batch: int, seq: int, dim: int, dtype: str) -> Tables:
    """LlamaRotaryEmbedding.forward: cos and sin [batch, seq, dim], made in fp32 and cast to `dtype`."""
    with t.no_grad():
        positions = t.new((batch, seq, 1), "fp32")
        frequencies = t.given((1, 1, dim // 2), "fp32"), t.given((1, 1, dim // 2), "fp32")  # inv_freq and the original
        half = f.mul(positions, frequencies[0])
        del positions
        angles = f.cat((half, half))
        cos = f.scale(f.scale(angles))
        sin = f.scale(f.scale(angles))
        return f.to(cos, dtype), f.to(sin, dtype)


def cached_tables(t: Tape, batch: int, seq: int, dim: int, dtype: str) -> Tables:
    """torchtitan's Qwen3: cos and sin side by side in a buffer that every layer is called with (precompute_rope_cache).

    FSDP casts that for each of them (_cast_forward_inputs).
    """
    t.given((seq, 2 * dim), "fp32", ".rope_cache")
    if t.sharder is not None:
        t.sharder.handed = (seq, 2 * dim)
    return t.given((batch, seq, dim), dtype, ".rope_cache"), t.given((batch, seq, dim), dtype, ".rope_cache")


def tables_of_axes(t: Tape, batch: int, seq: int, dim: int, dtype: str) -> Tables:
    """Qwen2_5_VLRotaryEmbedding.forward: angles by time, row and column, of which each channel takes one."""
    with t.no_grad():
        positions = t.new((3, batch, seq, 1), "fp32")
        frequencies = t.given((1, 1, dim // 2), "fp32"), t.given((1, 1, dim // 2), "fp32")
        angles = f.mul(positions, f.unsqueeze(frequencies[0], 0))
        del positions
        cos = f.scale(f.scale(angles))
        sin = f.scale(f.scale(angles))
        sin = _of_axes(sin)
        cos = _of_axes(cos)
        return f.to(cos, dtype), f.to(sin, dtype)


def _of_axes(angles: Value) -> Value:
    half = f.cat((f.select(angles, 0),))
    return f.cat((half, half))


def rotate(block: Attention, q: Value, k: Value, tables: Tables) -> tuple[Value, Value]:
    """Queries and keys [batch, heads, seq, head_dim], rotated as the block says."""
    match block.rotation:
        case "pairs":
            return by_pairs(q, k, tables, block.rotary_dim)
        case "pairs-whole":
            return by_whole_pairs(q, k, tables)
        case "pairs-joined":
            return by_joined_pairs(q, k, tables, block.rotary_dim)
        case "pairs-fp32":
            return by_pairs_in_fp32(q, k, tables)
        case "spread":
            return by_pairs_spread(q, k, tables)
        case "fp32":
            return rotated_in_fp32(q, k, tables)
        case "fp32-all":
            return rotated_all_in_fp32(q, k, tables)
        case "joined":
            return rotated_part(q, k, tables, block.rotary_dim, lasting=True)
        case _:
            q_embed, k_embed = rotated(q, k, tables, block.rotary_dim)
            return (f.to(q_embed, q.dtype), f.to(k_embed, k.dtype)) if block.rotary_fp32 else (q_embed, k_embed)


def rotated(q: Value, k: Value, tables: Tables, dim: int = 0) -> tuple[Value, Value]:
    """apply_rotary_pos_emb; where fewer than all channels are rotated the rest is put back behind them."""
    if dim and dim < q.shape[-1]:
        return rotated_part(q, k, tables, dim)
    if kernels.takes(q.tape, "rope"):
        return kernels.rope(q, k, tables)
    if "rope-in-pairs" in q.tape.setting.fused:
        return by_stacked_pairs(q, tables), by_stacked_pairs(k, tables)
    cos, sin = (f.unsqueeze(table, 1) for table in tables)
    q_embed = f.add(f.mul(q, cos), f.mul(rotate_half(q), sin))
    k_embed = f.add(f.mul(k, cos), f.mul(rotate_half(k), sin))
    return q_embed, k_embed


def by_stacked_pairs(x: Value, tables: Tables) -> Value:
    """torchtune's RotaryPositionalEmbeddings.forward: neighbours in fp32, rotated apart and stacked, cast back.

    (torchtune 0.6.1, modules/position_embeddings.py; torchtitan's apply_rotary_emb does it with complex numbers.)
    """
    cos, sin = (f.narrow(f.unsqueeze(table, 2), -1, table.shape[-1] // 2) for table in tables)
    wide = f.to(f.transpose(x, 1, 2), "fp32")  # before the heads are put first
    half = wide.shape[-1] // 2
    even, odd = f.narrow(wide, -1, half), f.narrow(wide, -1, half)
    del wide
    first = f.subtract(f.mul(even, cos), f.mul(odd, sin))
    second = f.add(f.mul(odd, cos), f.mul(even, sin))
    return f.transpose(f.to(f.cat((first, second)), x.dtype), 1, 2)


def rotated_in_fp32(q: Value, k: Value, tables: Tables) -> tuple[Value, Value]:
    """ModernBERT's apply_rotary_pos_emb: queries and keys in fp32, cast for each product (modeling_modernbert.py)."""
    cos, sin = (f.unsqueeze(table, 1) for table in tables)
    q_embed, k_embed = (f.add(f.mul(f.to(x, "fp32"), cos), f.mul(rotate_half(f.to(x, "fp32")), sin)) for x in (q, k))
    return f.to(q_embed, q.dtype), f.to(k_embed, k.dtype)


def rotated_all_in_fp32(q: Value, k: Value, tables: Tables) -> tuple[Value, Value]:
    """HunyuanVL's apply_rotary_pos_emb: queries, keys and tables in fp32, cast once (modeling_hunyuan_vl.py)."""
    wide = f.to(q, "fp32"), f.to(k, "fp32")
    cos, sin = (f.to(f.unsqueeze(table, 1), "fp32") for table in tables)
    q_embed, k_embed = (f.add(f.mul(x, cos), f.mul(rotate_half(x), sin)) for x in wide)
    return f.to(q_embed, q.dtype), f.to(k_embed, k.dtype)


def rotated_part(q: Value, k: Value, tables: Tables | None, dim: int, *, lasting: bool = False) -> tuple[Value, Value]:
    """apply_rotary_pos_emb of the first `dim` channels of each head, and a copy that joins the others to them.

    `lasting` where what has been rotated keeps its name beside the copy (modeling_nemotron.py).
    """
    if tables is None:
        return q, k
    if kernels.takes(q.tape, "rope"):
        return kernels.rope(q, k, tables)
    (q_rot, q_pass), (k_rot, k_pass) = parted(q, dim), parted(k, dim)
    q_embed, k_embed = rotated(q_rot, k_rot, tables)
    if lasting:
        return f.cat((q_embed, q_pass)), f.cat((k_embed, k_pass))
    q_embed = f.cat((q_embed, q_pass))
    k_embed = f.cat((k_embed, k_pass))
    return q_embed, k_embed


def rotated_one_by_one(q: Value, k: Value, tables: Tables | None, dim: int) -> tuple[Value, Value]:
    """The same of the queries, and only then of the keys (modeling_phi3.py)."""
    if tables is None or kernels.takes(q.tape, "rope"):
        return rotated_part(q, k, tables, dim)
    cos, sin = (f.unsqueeze(table, 1) for table in tables)
    (q_rot, q_pass), (k_rot, k_pass) = parted(q, dim), parted(k, dim)
    q_embed = f.cat((f.add(f.mul(q_rot, cos), f.mul(rotate_half(q_rot), sin)), q_pass))
    k_embed = f.cat((f.add(f.mul(k_rot, cos), f.mul(rotate_half(k_rot), sin)), k_pass))
    return q_embed, k_embed


def rotated_in_line(q: Value, k: Value, tables: Tables | None, dim: int) -> tuple[Value, Value, tuple[Value, ...]]:
    """The same in the attention's own forward: queries, keys, and their parts, which keep their names to its end.

    The last part comes first: a tuple lets go of what it holds from its end.
    """
    if tables is None:
        return q, k, ()
    (q_rot, q_pass), (k_rot, k_pass) = parted(q, dim), parted(k, dim)
    q_rot, k_rot = rotated(q_rot, k_rot, tables)
    return f.cat((q_rot, q_pass)), f.cat((k_rot, k_pass)), (k_pass, k_rot, q_pass, q_rot)


def parted(x: Value, dim: int) -> tuple[Value, Value]:
    """The first `dim` channels and the others, each a view."""
    return f.narrow(x, -1, dim), f.narrow(x, -1, x.shape[-1] - dim)


def rotate_half(x: Value) -> Value:
    """cat((-x2, x1))."""
    half = x.shape[-1] // 2
    x1, x2 = f.narrow(x, -1, half), f.narrow(x, -1, x.shape[-1] - half)
    return f.cat((f.neg(x2), x1))


def by_pairs(q: Value, k: Value, tables: Tables, dim: int) -> tuple[Value, Value]:
    """GLM's apply_rotary_pos_emb: half of each table repeated for every pair, in every layer (modeling_glm.py).

    The other channels, even where there are none, are joined to them by a copy.
    """
    (q_rot, q_pass), (k_rot, k_pass) = parted(q, dim), parted(k, dim)
    q_embed, k_embed = by_whole_pairs(q_rot, k_rot, tables)
    q_embed = f.cat((q_embed, q_pass))
    k_embed = f.cat((k_embed, k_pass))
    return q_embed, k_embed


def by_joined_pairs(q: Value, k: Value, tables: Tables, dim: int) -> Tables:
    """GLM-4V's apply_rotary_pos_emb: tables that were made for pairs (modeling_glm4v.py)."""
    cos, sin = (f.unsqueeze(table, 1) for table in tables)
    (q_rot, q_pass), (k_rot, k_pass) = parted(q, dim), parted(k, dim)
    q_embed = f.add(f.mul(q_rot, cos), f.mul(rotate_pairs(q_rot), sin))
    k_embed = f.add(f.mul(k_rot, cos), f.mul(rotate_pairs(k_rot), sin))
    q_embed = f.cat((q_embed, q_pass))
    k_embed = f.cat((k_embed, k_pass))
    return q_embed, k_embed


def by_whole_pairs(q: Value, k: Value, tables: Tables) -> tuple[Value, Value]:
    """Helium's apply_rotary_pos_emb (modeling_helium.py)."""
    cos, sin = spread(tables)
    return f.add(f.mul(q, cos), f.mul(rotate_pairs(q), sin)), f.add(f.mul(k, cos), f.mul(rotate_pairs(k), sin))


def spread(tables: Tables) -> Tables:
    """table[..., : half].repeat_interleave(2): copies [batch, 1, seq, dim]."""
    cos, sin = (f.clone(f.unsqueeze(table, 1)) for table in tables)
    return cos, sin


def by_pairs_in_fp32(q: Value, k: Value, tables: Tables) -> tuple[Value, Value]:
    """Ernie's apply_rotary_pos_emb: each product in fp32, the sum cast back (modeling_ernie4_5.py)."""
    cos, sin = spread(tables)
    q_embed, k_embed = (f.add(f.mul(f.to(x, "fp32"), cos), f.mul(f.to(rotate_pairs(x), "fp32"), sin)) for x in (q, k))
    return f.to(q_embed, q.dtype), f.to(k_embed, k.dtype)


def by_pairs_spread(q: Value, k: Value, tables: Tables) -> tuple[Value, Value]:
    """Cohere's apply_rotary_pos_emb: queries and keys in fp32, tables that were made for pairs (modeling_cohere.py)."""
    dtype = q.dtype
    q, k = f.to(q, "fp32"), f.to(k, "fp32")
    cos, sin = (f.unsqueeze(table, 1) for table in tables)
    q_embed = f.add(f.mul(q, cos), f.mul(rotate_pairs(q), sin))
    k_embed = f.add(f.mul(k, cos), f.mul(rotate_pairs(k), sin))
    return f.to(q_embed, dtype), f.to(k_embed, dtype)


def rotate_pairs(x: Value) -> Value:
    """stack((-x[1::2], x[::2]), -1), flattened: a copy like rotate_half's."""
    half = x.shape[-1] // 2
    even, odd = f.narrow(x, -1, half), f.narrow(x, -1, half)
    return f.reshape(f.stack((f.neg(odd), even), -1), *x.shape)


def interleaved(q: Value, k: Value, tables: tuple[Value, Value], heads: int = 1) -> tuple[Value, Value]:
    """apply_rotary_pos_emb_interleave: even and odd channels, each times half of the tables; `heads` is the axis of the heads."""
    half = q.shape[-1] // 2
    cos, sin = (f.unsqueeze(f.narrow(table, -1, half), heads) for table in tables)
    q_embed, k_embed = (_interleaved(x, cos, sin, half) for x in (q, k))
    return q_embed, k_embed


def _interleaved(x: Value, cos: Value, sin: Value, half: int) -> Value:
    even, odd = f.narrow(x, -1, half), f.narrow(x, -1, half)
    first = f.subtract(f.mul(even, cos), f.mul(odd, sin))
    second = f.add(f.mul(odd, cos), f.mul(even, sin))
    return f.cat((first, second))


def halved(q: Value, k: Value, tables: tuple[Value, Value], heads: int = 1) -> tuple[Value, Value]:
    """apply_rotary_pos_emb of parts of queries and keys."""
    cos, sin = (f.unsqueeze(table, heads) for table in tables)
    return f.add(f.mul(q, cos), f.mul(rotate_half(q), sin)), f.add(f.mul(k, cos), f.mul(rotate_half(k), sin))
