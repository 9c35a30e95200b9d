"""Rotary tables (Su et al. 2021), computed once before the layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape import functions as f

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


def rotary_tables(t: Tape, batch: int, seq: int, dim: int, dtype: str) -> tuple[Value, Value]:
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
