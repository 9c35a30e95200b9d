"""XLNet: tokens before the batch, Transformer-XL's relative attention (modeling_xlnet.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.basic import Dropout
from memcalc.blocks.relative import RelativeAttention, TokensFirst
from memcalc.tape import functions as f
from memcalc.tape.hf.layers import under_name
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(TokensFirst)
def tokens_first(t: Tape, block: TokensFirst, x: Value, around: Around) -> Value:
    """XLNetModel.forward: tokens [seq, batch], positions dropped out like words, and turned back in the end."""
    *first, layers, last = block.blocks
    x = t.new((x.shape[1], x.shape[0]), "int64")
    t.held.append(x)
    words, *first = first
    x = run(t, words, x, around)
    t.held.append(x)
    for part in first:
        x = run(t, part, x, around)
    p = last.p if isinstance(last, Dropout) else 0.0
    around.table = f.dropout(positions(t, x, causal=block.causal), p)
    around.bias = mask(t, x) if block.causal else None
    around.holds = True
    given = [x]
    del x
    x = under_name(t, layers, given, around)  # type: ignore[arg-type]  # they are a stack
    out = run(t, last, x, around)
    return f.contiguous(f.transpose(out, 0, 1))


def mask(t: Tape, x: Value) -> Value:
    """create_mask, and the one without the tokens themselves; the model keeps both until it returns."""
    seq, dtype = x.shape[0], x.dtype
    t.new((seq, seq), "fp32")
    every, others = t.new((seq, seq, 1, 1), dtype), t.new((seq, seq, 1, 1), dtype)
    t.held += every, others
    return f.permute(others, 2, 3, 0, 1)


def positions(t: Tape, x: Value, *, causal: bool) -> Value:
    """relative_positional_encoding: sinusoids in fp32 of every distance, the same for all sequences."""
    seq, batch, width = x.shape
    count = seq + 1 if causal else 2 * seq
    angles = t.new((count, width // 2), "fp32")
    table = f.cat((f.scale(angles), f.scale(angles)), -1)
    return f.expand(f.unsqueeze(table, 1), count, batch, width)


@rule(RelativeAttention, "xlnet")
def attention(t: Tape, block: RelativeAttention, x: Value, around: Around) -> Value:
    """XLNetRelativeAttention.forward of one stream: all it names lasts until the norm behind it has run."""
    q, k, v = (f.einsum("ibh,hnd->ibnd", x, own(t, block, name)) for name in "qkv")
    kernel = own(t, block, "r")
    assert around.table is not None  # noqa: S101 - made before the layers
    places = f.einsum("ibh,hnd->ibnd", f.to(around.table, kernel.dtype), kernel)
    out = core(t, block, q, k, v, places, around.bias)
    around.handed += (q, k, v, places, out)
    return f.einsum("ibnd,hnd->ibh", out, own(t, block, "o"))


def core(t: Tape, block: RelativeAttention, q: Value, k: Value, v: Value, places: Value, mask: Value | None) -> Value:
    """rel_attn_core: scores of contents, and of positions shifted to their pairs."""
    contents = f.einsum("ibnd,jbnd->bnij", f.add(q, bias(t, block, "w")), k)
    shifted = f.einsum("ibnd,jbnd->bnij", f.add(q, bias(t, block, "r")), places)
    shifted = rel_shift(shifted, contents.shape[3])
    scores = f.scale(f.shift(f.add(contents, shifted)))
    scores = scores if mask is None else f.subtract(scores, f.scale(f.lower(mask)))
    weights = f.softmax(scores)
    weights = f.dropout(weights, block.dropout)
    out = f.einsum("bnij,jbnd->ibnd", weights, v)
    del contents, scores
    return out


def rel_shift(x: Value, length: int) -> Value:
    """rel_shift_bnij: rows and columns exchanged in name, the first row dropped, the last columns left out."""
    b, n, rows, columns = x.shape
    x = f.reshape(x, b, n, columns, rows)
    x = f.reshape(f.narrow(x, 2, columns - 1), b, n, rows, columns - 1)
    return f.gather(x, x.tape.new((length,), "int64"), (b, n, rows, length))


def own(t: Tape, block: RelativeAttention, name: str) -> Value:
    """A projection [width, heads, channels]."""
    return t.weight(name, next(param.shape for param in block.extra if param.name == name))


def bias(t: Tape, block: RelativeAttention, name: str) -> Value:
    """A bias of every head's queries."""
    return t.weight(f"r_{name}_bias", (block.heads, block.head_dim))
